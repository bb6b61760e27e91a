"""The cgroup drivers that this machine can be tested with, and what tests do with them."""

import asyncio
import subprocess

from sampan.host.cgroup import cgroups

# systemd only where it is what `auto` means: on cgroup v1 it is nobody's choice
DRIVERS = tuple(dict.fromkeys(["cgroupfs", asyncio.run(cgroups.detect()).driver]))


def parent(driver: str, name: str) -> str:
    """A cgroup parent of this name (without a dash, which would nest a slice) as the driver wants it."""
    return f"{name}.slice" if driver == "systemd" else f"/{name}"


def stop_slice(parent: str) -> None:
    """Stop a slice, with all that is in it; systemd keeps one until it is told to, as it keeps the kubelet's."""
    subprocess.run(["systemctl", "stop", parent], check=True, capture_output=True)
