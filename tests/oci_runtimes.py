"""The OCI runtimes that tests run, and what they do where one is not installed."""

import shutil

import pytest

RUNTIMES = ("crun", "runc")


def require(name: str) -> None:
    """Skip the test, saying why, if this runtime is not on the machine."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed; scripts/bootstrap.sh test installs it")
