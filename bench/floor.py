"""The floor of the machine at hand: what the parts of a pod cost by hand, to report beside any timing.

The reference CNI plugins executed for ADD and DEL on a network like the benchmark's, and a bare `crun run`.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.private_daemon import Network

NETWORK = Network("sampan-floor0", "10.79.0.0/16")
ROUNDS = 12
PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def floor() -> dict[str, float]:
    """Medians in ms: cni_add and cni_del where the plugins are installed, crun_run."""
    with tempfile.TemporaryDirectory(prefix="sampan-floor-") as directory:
        found = {"crun_run": statistics.median(bare_crun(Path(directory)))}
        with contextlib.suppress(StopIteration):
            plugins = next(path for path in PLUGINS if (path / "bridge").exists())
            add, delete = zip(*attachments(plugins, Path(directory)), strict=True)
            found |= {"cni_add": statistics.median(add), "cni_del": statistics.median(delete)}
        return found


def attachments(plugins: Path, directory: Path) -> Iterator[tuple[float, float]]:
    """(ADD, DEL) of the whole chain, for one namespace after another, none removed before the end."""
    conflist = NETWORK.conflist(directory / "addresses")
    names = [f"{NETWORK.bridge}-{number}" for number in range(ROUNDS)]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            chain = Chain(plugins, conflist, name)
            yield milliseconds(chain.add), milliseconds(chain.delete)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", NETWORK.bridge], check=False, capture_output=True)


class Chain:
    """The plugins of a conflist for one namespace (CNI spec, section 2: execution protocol)."""

    def __init__(self, plugins: Path, conflist: dict[str, Any], name: str) -> None:
        self.plugins, self.conflist, self.name = plugins, conflist, name
        self.result: dict[str, Any] | None = None

    def add(self) -> None:
        for plugin in self.conflist["plugins"]:
            self.result = json.loads(self.call("ADD", plugin))

    def delete(self) -> None:
        for plugin in reversed(self.conflist["plugins"]):
            self.call("DEL", plugin)

    def call(self, command: str, plugin: dict[str, Any]) -> bytes:
        named = {"cniVersion": self.conflist["cniVersion"], "name": self.conflist["name"]}
        given = {**plugin, **named, **({"prevResult": self.result} if self.result else {})}
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.name,
            "CNI_NETNS": f"/run/netns/{self.name}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugins),
        }
        argv = [self.plugins / plugin["type"]]
        done = subprocess.run(
            argv, input=json.dumps(given).encode(), capture_output=True, env=environment, check=True
        )
        return done.stdout


def bare_crun(directory: Path) -> list[float]:
    """`crun run` of busybox true, in ms."""
    (directory / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "rootfs/bin/busybox")
    subprocess.run(["crun", "spec"], cwd=directory, check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/busybox", "true"]}
    (directory / "config.json").write_text(json.dumps(config))
    name = f"sampan-floor-{os.getpid()}"

    def run() -> None:
        subprocess.run(["crun", "run", name], cwd=directory, check=True)

    return [milliseconds(run) for _ in range(ROUNDS)]
