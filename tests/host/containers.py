"""Real containers for tests: busybox bundles below a short temporary directory, and a census of what they
leave."""

import asyncio
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan.config import Handler, Paths
from sampan.host.cgroup.container_cgroup import ContainerCgroup, machine_layout
from sampan.host.oci.runtime import OciConmon
from sampan.host.processes import find, read_small
from sampan.host.threads import in_thread
from sampan.runtime.ports import Launch, Launched
from sampan.wire import cgroup_paths
from tests import cgroup_drivers

CAPABILITIES = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"]
NAMESPACES = ("pid", "mount", "ipc", "uts", "network")


def spec(root: Path, cgroup: str, args: list[str], **process: Any) -> dict[str, Any]:
    """A small OCI config: a read-only root, private namespaces, no network."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
            **process,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64m"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "resources": {},
        },
    }


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something is so; looking is all there is for what happens in other processes."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Lab:
    """One test's own runtime: state and cgroup parent have names that nobody else has."""

    def __init__(self, directory: Path, driver: str = cgroup_paths.CGROUPFS, runtime: str = "crun") -> None:
        self.paths = Paths(directory / "root", directory / "state")
        self.handler = Handler(runtime, runtime, "conmon", self.paths.state / "runtime" / runtime)
        self.driver = driver
        self.oci = OciConmon(self.paths, systemd_cgroup=driver == cgroup_paths.SYSTEMD)
        self.parent = cgroup_drivers.parent(driver, f"sampan_test_{uuid.uuid4().hex[:12]}")
        self.logs = directory / "logs"
        self.root = directory / "busybox"
        self.ids: list[str] = []
        self.logs.mkdir()
        self._make_root()

    def _make_root(self) -> None:
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            (self.root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.root / "bin/busybox")
        for name in (
            "sh",
            "sleep",
            "true",
            "cat",
            "echo",
            "yes",
            "head",
            "tail",
            "tr",
            "setsid",
            "kill",
            "ls",
        ):
            (self.root / "bin" / name).symlink_to("busybox")
        (self.root / "bin/plain").write_text("not a program")

    def launch(self, *args: str, config: dict[str, Any] | None = None, **options: Any) -> Launch:
        """A bundle on disk that runs `args`; `config` is laid over the OCI config's top-level objects."""
        id = uuid.uuid4().hex * 2
        self.ids.append(id)
        bundle = self.paths.bundle(id)
        bundle.mkdir(parents=True)
        content = spec(self.root, cgroup_paths.cgroups_path(self.driver, self.parent, id), list(args))
        for key, value in (config or {}).items():
            content[key] = {**content.get(key, {}), **value}
        content["process"]["terminal"] = options.get("terminal", False)
        (bundle / "config.json").write_text(json.dumps(content))
        self.log(id).touch(mode=0o640)
        return Launch(id, bundle, self.handler, **{"log": self.log(id), **options})

    async def run(self, *args: str, **options: Any) -> tuple[Launch, Launched]:
        """A started container."""
        launch = self.launch(*args, **options)
        launched = await self.oci.create(launch)
        await self.oci.start(self.handler, launch.id)
        return launch, launched

    def process(self, *args: str) -> dict[str, Any]:
        """An exec's process object."""
        process: dict[str, Any] = spec(self.root, "", list(args))["process"]
        return process

    def log(self, id: str) -> Path:
        """Where the container's log is."""
        return self.logs / f"{id}.log"

    def leftovers(self) -> list[str]:
        """Everything that containers of this lab have left on the machine, bundles and their config aside."""
        found = [f"process {pid}: {words}" for pid, words in self.processes()]
        for top in machine_layout().hierarchies:
            found += [str(path) for path in Path(top, self.parent.strip("/")).glob("*/")]
        for folder in (self.paths.exits, self.paths.attach, self.handler.root):
            found += [str(path) for path in folder.glob("*")]
        for id in self.ids:
            found += [str(path) for path in self.paths.bundle(id).glob("*") if path.name != "config.json"]
        return sorted(found)

    def processes(self) -> list[tuple[int, str]]:
        """Every live process that is in one of our cgroups, or has one of our ids or paths on its command
        line."""
        marks = [self.parent.encode(), str(self.paths.state).encode(), *(id.encode() for id in self.ids)]
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = read_small(entry / "cmdline") + read_small(entry / "cgroup")
                # a zombie is its parent's to bury, which may be the machine's process 1
                if any(mark in words for mark in marks) and find(int(entry.name)) is not None:
                    found.append((int(entry.name), words.replace(b"\0", b" ").decode(errors="replace")))
            except OSError:
                continue
        return found

    async def close(self) -> None:
        """Remove everything, whatever the test has left."""
        for id in self.ids:
            await self.oci.delete(self.handler, id)
        assert await in_thread(self._remove_parent)

    def _remove_parent(self) -> bool:
        if self.driver == cgroup_paths.SYSTEMD:
            cgroup_drivers.stop_slice(self.parent)
        parent = ContainerCgroup(self.parent)
        parent.kill()
        return parent.remove()
