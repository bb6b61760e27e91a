"""A network of a test's own, with names nobody else uses, and what is left of it."""

import json
import re
import shlex
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from sampan.host.cni import bridge, nftables, portmap
from sampan.host.cni.links import Links
from sampan.host.cni.network import CniNetwork
from sampan.host.syscalls import CLONE_NEWNET, setns
from sampan.runtime.ports import Attached, Attachment, PortMapping

PLUGINS = Path("/usr/lib/cni")
T = TypeVar("T")


class Lab:
    """Build with a short temporary directory; `close` removes all of it."""

    def __init__(self, root: Path) -> None:
        self.tag = uuid.uuid4().hex[:8]
        self.name = f"test-{self.tag}"
        self.bridge = f"tb{self.tag}"
        self.conf_dir = root / "net.d"
        self.conf_dir.mkdir()
        self.data_dir = root / "networks"
        self.v4 = f"10.{200 + int(self.tag[:2], 16) % 50}.{int(self.tag[2:4], 16)}"
        self.v6 = str(ip_address(f"fd{self.tag[:2]}:{self.tag[2:6]}:{self.tag[4:8]}::"))[:-1]
        self._namespaces: list[str] = []
        self._pods: list[str] = []
        self._networks: list[CniNetwork] = []

    @property
    def reservations(self) -> Path:
        return self.data_dir / self.name

    def conf(self, dual: bool = False, **changes: Any) -> dict[str, Any]:
        """A bridge network with published ports; `changes` are of the bridge plugin."""
        ranges = [[{"subnet": f"{self.v4}.0/24"}]]
        routes = [{"dst": "0.0.0.0/0"}]
        if dual:
            ranges.append([{"subnet": f"{self.v6}:/64"}])
            routes.append({"dst": "::/0"})
        plugin = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": ranges,
                "routes": routes,
                "dataDir": str(self.data_dir),
            },
            **changes,
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": self.name, "plugins": [plugin, portmap]}

    def write(self, conf: dict[str, Any], file: str = "10-test.conflist") -> bytes:
        text = json.dumps(conf).encode()
        (self.conf_dir / file).write_bytes(text)
        return text

    def network(self, builtin: bool = True, bin_dirs: Sequence[Path] = (PLUGINS,)) -> CniNetwork:
        self._networks.append(CniNetwork(self.conf_dir, bin_dirs, builtin=builtin))
        return self._networks[-1]

    def pod(self, conflist: bytes, *ports: PortMapping, netns: str | None = None) -> Attachment:
        """A pod that is not attached yet, with a namespace of its own."""
        self._pods.append(uuid.uuid4().hex * 2)
        return Attachment(
            pod_id=self._pods[-1],
            netns=self.netns() if netns is None else netns,
            name="web-0",
            namespace="default",
            uid="u-1",
            conflist=conflist,
            port_mappings=ports,
        )

    def netns(self) -> str:
        name = f"t{self.tag}{len(self._namespaces)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._namespaces.append(name)
        return f"/run/netns/{name}"

    def drop(self, netns: str) -> None:
        """Unpin a namespace, as a reboot or a stray umount does."""
        name = Path(netns).name
        subprocess.run(["ip", "netns", "del", name], check=True)
        self._namespaces.remove(name)

    def leftovers(self, *pods: Attachment) -> list[str]:
        """What there is of attachments in this network: reservations, bridge ports, published ports."""
        left = sorted(str(path) for path in self.reservations.glob("[0-9a-f]*"))
        with Links() as links:
            found = links.all()
            ours = {link.index for link in found if link.name == self.bridge}
            left += [link.name for link in found if link.master in ours and ours]
            left += [
                bridge.host_end(pod.pod_id, "eth0")
                for pod in pods
                if links.get(bridge.host_end(pod.pod_id, "eth0"))
            ]
        with nftables.opened() as tables:
            owners = {pod.pod_id for pod in pods}
            for name in nftables.MAPS:
                left += [
                    f"{name} {e.owner}" for e in tables.elements(name) if e.owner.partition("/")[0] in owners
                ]
        rules = output("iptables-save", "-t", "nat")
        left += [line for line in rules.splitlines() if any(pod.pod_id[:20] in line for pod in pods)]
        return left

    async def close(self) -> None:
        for network in self._networks:
            await network.close()
        self.clear()

    def clear(self) -> None:
        for name in list(self._namespaces):
            self.drop(name)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)
        for pod_id in self._pods:
            portmap.remove(self.name, pod_id, "eth0")
        chain = ""
        for line in output("nft", "list", "table", "inet", nftables.TABLE).splitlines():
            if match := re.match(r"\tchain (\w+_\w+) ", line):
                chain = match[1]
            elif chain and f'"network {self.name}' in line:
                run("nft", "delete", "chain", "inet", nftables.TABLE, chain)
                chain = ""
        self._clear_iptables()
        nftables.close()

    def _clear_iptables(self) -> None:
        """The executed plugins leave theirs when the namespace is gone before DEL."""
        mine = [line for line in output("iptables-save", "-t", "nat").splitlines() if self.name in line]
        chains = {match[0] for line in mine if (match := re.search(r"CNI-[0-9a-f]{24}", line))}
        for line in mine:
            if "-j CNI-" in line:
                run("iptables", "-w", "-t", "nat", *shlex.split(line.replace("-A ", "-D ", 1)))
        for chain in chains:
            run("iptables", "-w", "-t", "nat", "-F", chain)
            run("iptables", "-w", "-t", "nat", "-X", chain)


def attached(pod: Attachment, outcome: Attached) -> Attachment:
    """The attachment as the runtime records it after ADD."""
    return replace(pod, result=outcome.result)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def inside(netns: str, work: Callable[[], T]) -> T:
    """Do something in a network namespace; sockets made there stay there."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        with Path(netns).open() as pinned:
            setns(pinned.fileno(), CLONE_NEWNET)
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


class Echo:
    """A server in a pod that answers with the caller's address, on TCP and UDP, IPv4 or IPv6."""

    def __init__(self, netns: str, port: int, family: int = socket.AF_INET) -> None:
        host = "0.0.0.0" if family == socket.AF_INET else "::"
        self._tcp = inside(
            netns, lambda: socket.create_server((host, port), family=socket.AddressFamily(family))
        )
        self._udp = inside(netns, lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._udp.bind((host, port))
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._serve_tcp, self._serve_udp)
        ]
        for thread in self._threads:
            thread.start()

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, caller = self._tcp.accept()
            except OSError:
                return
            with connection:
                connection.sendall(caller[0].encode())

    def _serve_udp(self) -> None:
        while True:
            try:
                data, caller = self._udp.recvfrom(100)
            except OSError:
                return
            if not data:
                return
            self._udp.sendto(caller[0].encode(), caller)

    def close(self) -> None:
        for server in (self._tcp, self._udp):
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            server.close()
        for thread in self._threads:
            thread.join(5)


def ask_tcp(host: str, port: int, family: int = socket.AF_INET) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((host, port))
        return client.recv(100).decode()


def ask_udp(host: str, port: int, family: int = socket.AF_INET) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((host, port))
        client.send(b"?")
        return client.recv(100).decode()
