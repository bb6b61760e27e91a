"""`make demo` shows what it promises and leaves nothing, also when it is interrupted half way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.demo import NETWORK, PAGE
from tests import census

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[1]


def scope(directory: Path) -> census.Scope:
    return census.Scope(
        roots=(directory,), words=(NETWORK.bridge,), bridges=(NETWORK.bridge,), subnets=("10.77.",)
    )


def start(directory: Path) -> "subprocess.Popen[str]":
    """The demo with `directory` for its temporary files."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "scripts.demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_demo_serves_its_page_and_leaves_nothing(short_tmp: Path) -> None:
    before = census.take(scope(short_tmp))
    with start(short_tmp) as demo:
        said = demo.communicate(timeout=120)[0]
    assert demo.returncode == 0, said
    assert PAGE in said
    assert "response:200" in said
    assert census.diff(before, census.take(scope(short_tmp))) == ""


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_an_interrupted_demo_leaves_nothing(short_tmp: Path, step: int) -> None:
    before = census.take(scope(short_tmp))
    with start(short_tmp) as demo:
        assert demo.stdout
        said = ""
        while f"{step}. " not in said:
            piece = demo.stdout.read(1)
            assert piece, said
            said += piece
        demo.send_signal(signal.SIGINT)
        said += demo.communicate(timeout=120)[0]
    assert demo.returncode == 130, said
    assert census.diff(before, census.take(scope(short_tmp))) == ""
