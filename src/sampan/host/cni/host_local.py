"""The addresses of a network on disk, shared with the reference plugin `host-local`, file for file.

`<data dir>/<network>/<address>` holds "<container id>\\r\\n<interface>", `last_reserved_ip.<set>` the
address given out last, and every change is made under flock(2) of `lock`; so either program may serve the
network in turn. Blocking; for threads. Source: the reference plugin's disk backend.
"""

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from sampan.model.errors import Exhausted, Unavailable
from sampan.tasks import step_now
from sampan.wire.cni_builtin import HostLocal, resolv_conf
from sampan.wire.cni_ranges import Address, Candidate, RangeSet, candidates
from sampan.wire.cni_result import NO_DNS, Dns

DEFAULT_DIR = "/var/lib/cni/networks"
LOCK_SECONDS = 30.0  # another program that holds the lock this long is stuck
_LAST = "last_reserved_ip."
_NEW = ".sampan.new"  # written whole and then renamed: no reservation is ever seen without its owner
_ADDRESS = re.compile(r"[0-9a-f][0-9a-f.:]*|::[0-9a-f.:]*")
_mutexes: dict[str, threading.Lock] = {}  # before flock, so that our own threads queue instead of trying


def owner(container_id: str, ifname: str) -> str:
    """The content of a reservation."""
    return f"{container_id}\r\n{ifname}"


class Book:
    """One network's addresses. Every method but `locked` needs the lock."""

    def __init__(self, data_dir: str, network: str) -> None:
        self.path = f"{data_dir or DEFAULT_DIR}/{network}"

    @contextmanager
    def locked(self, create: bool = True) -> Iterator[None]:
        """Hold the network's lock. Unavailable if somebody does not let go of it; FileNotFoundError if
        there is no such directory and it is not to be created."""
        if create:
            os.makedirs(self.path, 0o755, exist_ok=True)  # noqa: PTH103 - on the way of every pod; Path costs more
        mutex = _mutexes.setdefault(self.path, threading.Lock())
        if not mutex.acquire(timeout=LOCK_SECONDS):
            raise self._stuck()
        try:
            fd = os.open(f"{self.path}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o750)
            try:
                self._flock(fd)
                yield
            finally:
                os.close(fd)
        finally:
            mutex.release()

    def _flock(self, fd: int) -> None:
        """flock(2) has no time limit of its own; others hold the lock for milliseconds."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._stuck() from None
                time.sleep(0.002)
            else:
                return

    def _stuck(self) -> Unavailable:
        return Unavailable(
            f"the address lock {self.path}/lock was not free for {LOCK_SECONDS:.0f} s: see who holds it"
        )

    def owners(self) -> dict[str, str]:
        """Every reserved address and the content of its reservation."""
        names = (name for name in os.listdir(self.path) if _ADDRESS.fullmatch(name))  # noqa: PTH208
        return {name: self._read(name) for name in names}

    def held(self, container_id: str, ifname: str, among: Iterable[str] = ()) -> list[str]:
        """The addresses that an attachment holds; only those of `among` are looked at if there are any."""
        reserved = {name: self._read(name) for name in among} or self.owners()
        return [
            name
            for name, content in reserved.items()
            if content in (owner(container_id, ifname), container_id)
        ]

    def reserve(self, ranges: RangeSet, place: int, content: str, reserved: dict[str, str]) -> Candidate:
        """Take the next free address of range set number `place`; Exhausted if there is none.

        An empty reservation counts as free: its writer died before naming the owner, and holds no lock any
        more.
        """
        for candidate in candidates(ranges, self._last(place)):
            name = str(candidate.address)
            if not reserved.get(name):
                self._write(name, content)
                self._write(f"{_LAST}{place}", name)
                return candidate
        spans = ", ".join(f"{each.start}-{each.end}" for each in ranges)
        raise Exhausted(f"no address is free in {spans}; {self.path} holds the reservations")

    def release(self, names: Iterable[str]) -> None:
        """Give addresses back."""
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}/{name}")  # noqa: PTH108

    def _last(self, place: int) -> Address | None:
        try:
            return ip_address(self._read(f"{_LAST}{place}"))
        except ValueError:
            return None

    def _read(self, name: str) -> str:
        try:
            fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return ""
        try:
            return os.read(fd, 4096).decode(errors="replace").strip()
        finally:
            os.close(fd)

    def _write(self, name: str, content: str) -> None:
        new = f"{self.path}/{_NEW}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)
        os.rename(new, f"{self.path}/{name}")  # noqa: PTH104


def add(ipam: HostLocal, network: str, container_id: str, ifname: str) -> tuple[list[Candidate], Dns]:
    """Reserve one address of each range set for an attachment, or none.

    Unavailable if it holds one already: ADD twice without a DEL between is forbidden (CNI specification,
    ADD).
    """
    dns = resolv_conf(Path(ipam.resolv_conf).read_text()) if ipam.resolv_conf else NO_DNS
    book = Book(ipam.data_dir, network)
    content = owner(container_id, ifname)
    step_now("cni.hostlocal.reserve", container_id)
    with book.locked():
        reserved = book.owners()
        for name, holder in reserved.items():
            if holder in (content, container_id):
                raise Unavailable(
                    f"{container_id} already has {name} in network {network}: it was not detached"
                )
        taken: list[Candidate] = []
        try:
            for place, ranges in enumerate(ipam.sets):
                taken.append(book.reserve(ranges, place, content, reserved))
        except BaseException:
            book.release(str(each.address) for each in taken)
            raise
    return taken, dns


def release(ipam: HostLocal, network: str, container_id: str, ifname: str, known: Iterable[str] = ()) -> None:
    """Give back what an attachment holds. `known`, its addresses, spares the search for them. Idempotent."""
    book = Book(ipam.data_dir, network)
    step_now("cni.hostlocal.release", container_id)
    with suppress(FileNotFoundError), book.locked(create=False):
        book.release(book.held(container_id, ifname, known))


def collect(ipam: HostLocal, network: str, alive: Callable[[str, str], bool]) -> list[str]:
    """Give back the addresses of every attachment (container id, ifname) that is not alive; the addresses."""
    book = Book(ipam.data_dir, network)
    with suppress(FileNotFoundError), book.locked(create=False):
        stale = [name for name, content in book.owners().items() if not alive(*_holder(content))]
        book.release(stale)
        return stale
    return []


def holds(ipam: HostLocal, network: str, container_id: str, ifname: str) -> bool:
    """Whether the attachment holds an address."""
    book = Book(ipam.data_dir, network)
    with suppress(FileNotFoundError), book.locked(create=False):
        return bool(book.held(container_id, ifname))
    return False


def _holder(content: str) -> tuple[str, str]:
    container_id, _, ifname = content.partition("\r\n")
    return container_id, ifname
