"""A private sampand: everything it owns lies in one temporary directory and is gone when its user is done.

The demo, `make run`, the benchmark and the conformance tests all start the daemon through this file, so that
none of them meets a runtime that is installed on the machine. Not part of the product.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from sampan.api import cri_pb2 as pb
from sampan.api import cri_pb2_grpc as rpc

START_SECONDS = 60
ENDING = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge of its own with a subnet of its own, as a conflist of the four reference plugins."""

    bridge: str  # at most 15 characters, the kernel's limit
    subnet: str

    def conflist(self, data: Path) -> dict[str, Any]:
        """Bridge with masquerade and hairpin, host-local addresses, port mappings: as the budgets assume."""
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self.subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(data),
        }
        bridge = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipMasq": True,
            "promiscMode": False,
            "hairpinMode": True,
            "ipam": ipam,
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": self.bridge, "plugins": [bridge, portmap]}


@dataclass(slots=True)
class Daemon:
    """A running private daemon. `directory` holds its config, log, root, state and address reservations."""

    directory: Path
    network: Network
    process: "subprocess.Popen[bytes] | None" = None
    stubs: "Stubs | None" = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.directory / "cri.sock"

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def log(self) -> Path:
        return self.directory / "sampand.log"

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def cri(self) -> "Stubs":
        """A client of this daemon, connected at first use."""
        if self.stubs is None:
            self.stubs = Stubs(self.endpoint)
        return self.stubs

    def words(self) -> str:
        """The last lines of the log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return "(no log)"


class Stubs:
    """The two services of one endpoint, blocking."""

    def __init__(self, endpoint: str) -> None:
        options = [("grpc.max_receive_message_length", 64 << 20)]
        self.channel = grpc.insecure_channel(endpoint, options=options)
        self.runtime = rpc.RuntimeServiceStub(self.channel)
        self.images = rpc.ImageServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()


def platform_architecture() -> str:
    """This machine in the words of image configs (GOARCH)."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def write_config(daemon: Daemon, certs: Sequence[Path], level: str, nri: bool) -> None:
    """config.toml and the conflist, in the daemon's directory."""
    daemon.directory.chmod(0o711)  # what is in a user namespace has to find its root in there
    conf_dir = daemon.directory / "net.d"
    conf_dir.mkdir()
    conflist = daemon.network.conflist(daemon.directory / "addresses")
    (conf_dir / "10-private.conflist").write_text(json.dumps(conflist, indent=1))
    lines = [
        f"root = {json.dumps(str(daemon.root))}",
        f"state = {json.dumps(str(daemon.state))}",
        f"listen = {json.dumps(daemon.endpoint)}",
        f"log_level = {json.dumps(level)}",
        "[registry]",
        f"config_paths = {json.dumps([str(path) for path in certs])}",
        "[cni]",
        f"conf_dir = {json.dumps(str(conf_dir))}",
        "[nri]",
        f"enable = {json.dumps(nri)}",
        f"socket = {json.dumps(str(daemon.directory / 'nri.sock'))}",
    ]
    daemon.config.write_text("\n".join(lines) + "\n")


def start(
    daemon: Daemon,
    log: int | None = None,
    environment: dict[str, str] | None = None,
    program: Sequence[Path | str] = (),
) -> None:
    """Start sampand, or a test's variant of it, and wait until it answers. Its output goes to its log file, or to
    descriptor `log`."""
    program = program or [Path(sys.executable).with_name("sampand")]
    with daemon.log.open("ab") as output:
        daemon.process = subprocess.Popen(
            [*program, "--config", daemon.config],
            stdin=subprocess.DEVNULL,
            stdout=output if log is None else log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ^C is ours to handle: pods go first, the daemon last
            env={**os.environ, **(environment or {})},
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if daemon.process.poll() is not None:
            raise RuntimeError(f"sampand ended with code {daemon.process.returncode}:\n{daemon.words()}")
        if daemon.socket.exists() and answers(daemon):
            return
        time.sleep(0.02)
    raise RuntimeError(f"sampand did not answer within {START_SECONDS} s:\n{daemon.words()}")


def answers(daemon: Daemon) -> bool:
    try:
        daemon.cri.runtime.Status(pb.StatusRequest(), timeout=START_SECONDS, wait_for_ready=True)
    except grpc.RpcError:
        return False
    return True


def stop(daemon: Daemon) -> None:
    """SIGTERM, and SIGKILL for one that does not end. Pods live on; `remove_pods` is for them."""
    if daemon.stubs is not None:
        daemon.stubs.close()
        daemon.stubs = None
    if daemon.process is None or daemon.process.poll() is not None:
        return
    daemon.process.terminate()
    try:
        daemon.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.process.kill()
        daemon.process.wait()


def remove_pods(daemon: Daemon) -> None:
    """Every pod, through the interface; one that cannot be removed does not keep the others."""
    if daemon.process is None or daemon.process.poll() is not None:
        return
    runtime = daemon.cri.runtime
    with contextlib.suppress(grpc.RpcError):
        for pod in runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=10).items:
            with contextlib.suppress(grpc.RpcError):
                runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod.id), timeout=30)
                runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=30)


@contextlib.contextmanager
def private_daemon(
    network: Network,
    *,
    certs: Sequence[Path] = (),
    level: str = "info",
    nri: bool = False,
    log: int | None = None,
) -> Iterator[Daemon]:
    """A daemon for the length of a `with`; then its pods, itself, its bridge and its directory go."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, ENDING
    )  # no ^C between making the directory and owing its removal
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="sampan-")), network)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        write_config(daemon, certs, level, nri)
        start(daemon, log)
        yield daemon
    finally:
        with uninterrupted():
            remove_pods(daemon)
            stop(daemon)
            sweep(daemon)


def sweep(daemon: Daemon) -> None:
    """What outlives the daemon by design (the bridge), and what a daemon that crashed could have left."""
    kill_leftovers(daemon.directory)
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{daemon.directory}/"):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", daemon.network.bridge], check=False, capture_output=True)
    remove_rules(f"network {daemon.network.bridge}")
    shutil.rmtree(daemon.directory, ignore_errors=True)


def remove_rules(comment: str) -> None:
    """The chains of a network, by their rules' comment; and the table itself if nobody else can use it."""
    table = "inet sampan"
    listed = subprocess.run(
        ["nft", "--json", "list", "table", *table.split()], capture_output=True, check=False
    )
    if listed.returncode:
        return
    rules = [entry["rule"] for entry in json.loads(listed.stdout)["nftables"] if "rule" in entry]
    for chain in {rule["chain"] for rule in rules if rule.get("comment") == comment}:
        command = f"flush chain {table} {chain}; delete chain {table} {chain}"
        subprocess.run(["nft", command], check=False, capture_output=True)
    others = [
        rule
        for rule in rules
        if rule.get("comment", "").startswith("network ") and rule["comment"] != comment
    ]
    if not others and not other_daemons():
        subprocess.run(["nft", f"delete table {table}"], check=False, capture_output=True)


def other_daemons() -> bool:
    """Whether any sampand runs on this machine."""
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if any(
                Path(word).name == "sampand" for word in words.read_text(errors="replace").split("\0")[:3]
            ):
                return True
    return False


def kill_leftovers(directory: Path) -> None:
    """Containers, monitors and helpers: only a crashed daemon leaves any."""
    for pid in processes_of(directory):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def processes_of(directory: Path) -> list[int]:
    """Processes that belong to a daemon: the path is in their command line or below their root mount."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            roots = [
                line for line in (entry / "mountinfo").read_text().splitlines() if line.split()[4] == "/"
            ]
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            if any(f"{directory}/" in text for text in (words, *roots)):
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A second ^C must not cut the clean-up short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """`make run`: a daemon in the foreground, debug log on the terminal, until ^C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    own = os.getpid() % 200  # two of these may run side by side
    network = Network(f"sampan-run{own}", f"10.78.{own}.0/24")
    certs = [Path("/etc/sampan/certs.d"), Path("/etc/containerd/certs.d")]
    with private_daemon(network, certs=certs, level="debug", log=2) as daemon:
        print(
            f"sampand is ready. In another shell:\n\n  export SAMPAN_ENDPOINT={daemon.endpoint}", flush=True
        )
        print("  .venv/bin/sampan info\n\n^C ends it, and removes its pods.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            assert daemon.process is not None
            daemon.process.wait()


if __name__ == "__main__":
    main()
