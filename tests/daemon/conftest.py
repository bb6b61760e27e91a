"""A whole daemon on a socket of its own, with a network and an image of its own, and short words for its RPCs."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from scripts import private_daemon
from tests import census, cgroup_drivers, images

IMAGE = "localhost/box:1"
SECONDS = 30.0  # for a call that hangs


class Live:
    """A private sampand that may be killed and started again, and a client of it."""

    def __init__(self, number: int, driver: str) -> None:
        network = private_daemon.Network(f"smpt{number}", f"10.214.{number}.0/24")
        self.own = private_daemon.Daemon(Path(tempfile.mkdtemp(prefix="sampan-")), network)
        self.faults = self.own.directory / "faults"
        private_daemon.write_config(self.own, [self.own.directory / "certs.d"], "debug", nri=False)
        with self.own.config.open("a") as config:
            config.write(f'[cgroup]\ndriver = "{driver}"\n')
        self.cgroup_parent = cgroup_drivers.parent(driver, network.bridge)
        self.program: list[str | Path] = []  # instead of sampand

    def start(self) -> None:
        """Start it; steps are recorded, and met by the faults that a test writes to `faults`."""
        private_daemon.start(self.own, environment={"SAMPAN_FAULTS": str(self.faults)}, program=self.program)

    def ended(self, seconds: float = 20) -> int:
        """Wait until the process ends by itself (a fault killed it)."""
        self._disconnect()
        assert self.own.process is not None
        return self.own.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self._disconnect()
        if self.own.process is not None:
            self.own.process.send_signal(signal.SIGKILL)
            self.own.process.wait(20)

    def _disconnect(self) -> None:
        if self.own.stubs is not None:
            self.own.stubs.close()
            self.own.stubs = None

    @property
    def runtime(self) -> rpc.RuntimeServiceStub:
        return self.own.cri.runtime

    @property
    def images(self) -> rpc.ImageServiceStub:
        return self.own.cri.images

    def census(self) -> census.Census:
        """Everything of it on this machine, but its descriptors, its threads and what a log may hold."""
        own = self.own
        return census.take(
            census.Scope(
                roots=(own.root, own.state),
                words=(own.directory.name,),
                bridges=(own.network.bridge,),
                subnets=(own.network.subnet.rpartition(".")[0] + ".",),
                reservations=(own.directory / "addresses",),
                cgroups=(self.cgroup_parent,),
                daemon=own.pid,
                ignore=("*/state.db-*",),
            )
        )

    def pod(self, name: str = "web", **more: Any) -> str:
        return self.runtime.RunPodSandbox(
            cri.RunPodSandboxRequest(config=self.pod_config(name, **more)), timeout=SECONDS
        ).pod_sandbox_id

    def pod_config(
        self, name: str = "web", *, pid: "cri.NamespaceMode.ValueType" = cri.CONTAINER, **more: Any
    ) -> cri.PodSandboxConfig:
        options = cri.NamespaceOption(pid=pid)
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="tests"),
            hostname=name,
            log_directory=str(self.own.directory / "logs" / name),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=self.cgroup_parent,
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=options),
            ),
        )
        config.MergeFrom(cri.PodSandboxConfig(**more))
        return config

    def container(self, pod: str, *command: str, name: str = "app", **more: Any) -> str:
        request = cri.CreateContainerRequest(
            pod_sandbox_id=pod, config=self.container_config(*command, name=name, **more)
        )
        return self.runtime.CreateContainer(request, timeout=SECONDS).container_id

    def container_config(
        self,
        *command: str,
        name: str = "app",
        pid: "cri.NamespaceMode.ValueType" = cri.CONTAINER,
        **more: Any,
    ) -> cri.ContainerConfig:
        options = cri.NamespaceOption(pid=pid)
        context = cri.LinuxContainerSecurityContext(namespace_options=options)
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=IMAGE),
            command=list(command) or ["sleep", "100000"],
            log_path=f"{name}.log",
            linux=cri.LinuxContainerConfig(security_context=context),
        )
        config.MergeFrom(cri.ContainerConfig(**more))
        return config

    def started(self, pod: str, *command: str, name: str = "app", **more: Any) -> str:
        id = self.container(pod, *command, name=name, **more)
        self.runtime.StartContainer(cri.StartContainerRequest(container_id=id), timeout=SECONDS)
        return id

    def status(self, id: str) -> cri.ContainerStatus:
        return self.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id)).status

    def until_exited(self, id: str, seconds: float = 20) -> cri.ContainerStatus:
        deadline = time.monotonic() + seconds
        while (status := self.status(id)).state != cri.CONTAINER_EXITED:
            assert time.monotonic() < deadline, f"container {id} still runs"
            time.sleep(0.01)
        return status

    def life(self) -> None:
        """Every verb once, in order, each acknowledged before the next; nothing is left but what a first use makes."""
        pod = self.pod("k")
        container = self.container(pod)
        self.runtime.StartContainer(cri.StartContainerRequest(container_id=container), timeout=SECONDS)
        self.exec(container, "true")
        self.runtime.StopContainer(
            cri.StopContainerRequest(container_id=container, timeout=0), timeout=SECONDS
        )
        self.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container), timeout=SECONDS)
        self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
        self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)

    def logged(self, id: str) -> list[str]:
        """The content of the container's log, a line an entry."""
        return [line.split(" ", 3)[3] for line in Path(self.status(id).log_path).read_text().splitlines()]

    def until_logged(self, id: str, seconds: float = 20) -> list[str]:
        """The same, as soon as there is something: conmon writes it in its own time."""
        deadline = time.monotonic() + seconds
        while not (lines := self.logged(id)):
            assert time.monotonic() < deadline, f"container {id} logs nothing"
            time.sleep(0.01)
        return lines

    def exec(self, id: str, *command: str, timeout: int = 20) -> cri.ExecSyncResponse:
        return self.runtime.ExecSync(cri.ExecSyncRequest(container_id=id, cmd=list(command), timeout=timeout))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of a busybox image."""
    path = tmp_path_factory.mktemp("archive") / "box.tar"
    path.write_bytes(images.oci_layout({IMAGE: images.busybox()}))
    return path


@pytest.fixture
def daemon(archive: Path, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A running daemon with the image localhost/box:1; all of it is gone afterwards, also after a failure.

    It has the cgroup driver of this machine, or the one that the test gives as the parameter.
    """
    live = Live(os.getpid() % 200 + 20, getattr(request, "param", cgroup_drivers.DRIVERS[-1]))
    try:
        live.start()
        import_image(live, archive)
        yield live
    finally:
        with private_daemon.uninterrupted():
            clean_up(live)


def import_image(live: Live, archive: Path) -> None:
    """Import an archive as `sampan import` does."""
    argv = [sys.executable, "-m", "sampan", "--endpoint", live.own.endpoint, "import", str(archive)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def clean_up(live: Live) -> None:
    """Remove everything through a daemon without faults, then the daemon and what is its by design."""
    try:
        live.faults.unlink(missing_ok=True)
        if live.own.process is None or live.own.process.poll() is not None:
            live._disconnect()
            live.start()
        private_daemon.remove_pods(live.own)
    finally:
        private_daemon.stop(live.own)
        private_daemon.sweep(live.own)
        if live.cgroup_parent.endswith(".slice"):
            cgroup_drivers.stop_slice(live.cgroup_parent)
