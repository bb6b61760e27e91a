"""A census of all that a runtime owns on a machine, taken before and after: a difference is a leak or a loss.

    before = census.take(scope)
    ...
    assert census.diff(before, census.take(scope)) == ""

It reads the kernel's own lists, never the runtime's. Entries are identities (which mount, which process), not
counts, so that one leak cannot hide behind one loss. `Scope` says what belongs to the runtime under test.
"""

import contextlib
import json
import os
import re
import sqlite3
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from scripts.private_daemon import processes_of

Census = dict[str, Counter[str]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What to count. Anything named by `words` counts wherever it turns up."""

    roots: tuple[Path, ...] = ()  # root and state directories: mounts, files, processes below them
    words: tuple[str, ...] = ("sampan",)  # in mounts, links, nftables, cgroup names
    bridges: tuple[str, ...] = ()  # these links, their ports and addresses
    subnets: tuple[str, ...] = ()  # starts of addresses ("10.88."), in nftables
    reservations: tuple[Path, ...] = ()  # host-local's directories
    cgroups: tuple[str, ...] = ()  # parents, relative to each hierarchy: all below them counts
    databases: tuple[Path, ...] = ()  # rows of every table
    daemon: int | None = None  # its descriptors and threads; it is no process of ours
    ignore: tuple[str, ...] = ()  # shell patterns of file paths that may come and go


def take(scope: Scope) -> Census:
    """Everything in scope now, by category."""
    return {
        "mounts": Counter(mounts(scope)),
        "links": Counter(links(scope)),
        "addresses": Counter(addresses(scope)),
        "nftables": Counter(nftables(scope)),
        "reservations": Counter(reservations(scope)),
        "cgroups": Counter(cgroups(scope)),
        "processes": Counter(processes(scope)),
        "files": Counter(files(scope)),
        "rows": Counter(rows(scope)),
        "descriptors": Counter(descriptors(scope)),
        "threads": Counter(threads(scope)),
        "devices": Counter(devices()),
    }


def diff(before: Census, after: Census) -> str:
    """One line for each thing that came or went; empty if nothing did."""
    lines = []
    for category in before:
        for sign, change in (
            ("left behind", after[category] - before[category]),
            ("vanished", before[category] - after[category]),
        ):
            lines += [f"{category}: {sign}: {text}{times(n)}" for text, n in sorted(change.items())]
    return "\n".join(lines)


def without_threads(found: Census) -> Census:
    """For a daemon that goes on: its pools make a thread when they first need one more, and keep it."""
    return {category: things for category, things in found.items() if category != "threads"}


def times(count: int) -> str:
    return f" (x{count})" if count > 1 else ""


def ours(text: str, scope: Scope) -> bool:
    return any(word in text for word in (*scope.words, *map(str, scope.roots)))


def mounts(scope: Scope) -> Iterator[str]:
    """Mounts in our roots or of our names; a pinned namespace shows as nsfs with its kind."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        inside, target = fields.split()[3:5]
        kind = rest.split()[0]
        if ours(target, scope) or ours(rest, scope):
            yield f"{kind} {inside if kind == 'nsfs' else ''} {target}".replace("  ", " ")


def ip(*arguments: str) -> list[dict[str, object]]:
    out = subprocess.run(["ip", "-json", *arguments], check=True, capture_output=True).stdout
    found: list[dict[str, object]] = json.loads(out or b"[]")
    return [entry for entry in found if entry]


def links(scope: Scope) -> Iterator[str]:
    """Our bridges and their ports, and links of our names. A veth's index tells it from its successor."""
    for link in ip("link", "show"):
        name, master = str(link["ifname"]), str(link.get("master", ""))
        if name in scope.bridges:
            yield name
        elif master in scope.bridges or ours(f"{name} {link.get('ifalias', '')}", scope):
            yield f"{name} (index {link['ifindex']}, port of {master or 'nothing'})"


def addresses(scope: Scope) -> Iterator[str]:
    for link in ip("address", "show"):
        if link["ifname"] in scope.bridges:
            held = link["addr_info"]
            assert isinstance(held, list)
            yield from (
                f"{a['local']}/{a['prefixlen']} on {link['ifname']}" for a in held if a["scope"] == "global"
            )


def nftables(scope: Scope) -> Iterator[str]:
    """Tables, chains, rules and elements with our names or addresses, without counters. Needs root."""
    if os.geteuid() != 0:
        return
    out = subprocess.run(["nft", "--json", "list", "ruleset"], check=True, capture_output=True).stdout
    for entry in json.loads(out)["nftables"]:
        ((kind, body),) = entry.items()
        if kind == "metainfo":
            continue
        elements = body.pop("elem", []) if kind in ("map", "set") else []
        where = (
            f"{kind} {body.get('family')} {body.get('table', '')} {body.get('name', body.get('chain', ''))}"
        )
        texts = [f"{where} {bare(body)}", *(f"element of {where} {bare(element)}" for element in elements)]
        for text in texts:
            if ours(text, scope) or any(subnet in text for subnet in (*scope.subnets, *scope.bridges)):
                yield text


def bare(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    text = re.sub(r'"(packets|bytes|handle|index)": \d+(, )?', "", text)
    return text if len(text) < 500 else text[:500] + "..."


def reservations(scope: Scope) -> Iterator[str]:
    """host-local's files but its bookkeeping (lock, last address)."""
    for top in scope.reservations:
        for path in sorted(top.rglob("*")) if top.is_dir() else []:
            if path.is_file() and path.name != "lock" and not path.name.startswith("last_reserved_ip"):
                yield f"{path} held by {path.read_text().split()[0]}"


def hierarchies() -> Iterator[Path]:
    """Where cgroup controllers are mounted, v1 and v2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind = line.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            yield Path(target)


def cgroups(scope: Scope) -> Iterator[str]:
    """Groups by path; not those in which nothing but processes of another runtime lives."""
    own = {pid for root in scope.roots for pid in processes_of(root)}
    for top in hierarchies():
        for directory, _, _ in os.walk(top):
            below = os.path.relpath(directory, top)
            if ours(below, scope) or any((below + "/").startswith(f"{p.strip('/')}/") for p in scope.cgroups):
                with contextlib.suppress(OSError):  # gone meanwhile
                    members = set(map(int, Path(directory, "cgroup.procs").read_text().split()))
                    if not members or not scope.roots or members & own:
                        yield f"{top}/{below}"


def processes(scope: Scope) -> Iterator[str]:
    """Containers, monitors and helpers; the daemon itself is not one of them."""
    for pid in {pid for root in scope.roots for pid in processes_of(root)} - {scope.daemon}:
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state, started = stat.rpartition(")")[2].split()[0], stat.rpartition(")")[2].split()[19]
            yield f"{pid} (started at tick {started}{', zombie' if state == 'Z' else ''}) {words[:300]}"


def files(scope: Scope) -> Iterator[str]:
    """Every path below the roots, not entering what is mounted there."""
    for root in scope.roots:
        if not root.is_dir():
            continue
        device = root.stat().st_dev
        for directory, inner, names in os.walk(root):
            for name in [*inner, *names]:
                path = Path(directory, name)
                if not any(fnmatch(str(path), pattern) for pattern in scope.ignore):
                    yield f"{path}{'/' if name in inner else ''}"
            inner[:] = [name for name in inner if on(Path(directory, name), device)]


def on(path: Path, device: int) -> bool:
    try:
        return path.lstat().st_dev == device
    except OSError:
        return False


def rows(scope: Scope) -> Iterator[str]:
    """Every row by table and first column."""
    for path in scope.databases:
        if not path.exists():
            continue
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    yield f"{table} {row[0]!r}"


def descriptors(scope: Scope) -> Iterator[str]:
    """What the daemon holds open; sockets and pipes count by kind, since their numbers mean nothing."""
    for target in links_in(scope, "fd"):
        yield re.sub(r":\[\d+\]$", "", target)


def links_in(scope: Scope, directory: str) -> Iterator[str]:
    top = Path(f"/proc/{scope.daemon}/{directory}")
    for entry in top.iterdir() if scope.daemon else []:
        with contextlib.suppress(OSError):
            yield str(entry.readlink())


def threads(scope: Scope) -> Iterator[str]:
    for entry in Path(f"/proc/{scope.daemon}/task").iterdir() if scope.daemon else []:
        with contextlib.suppress(OSError):
            yield (entry / "comm").read_text().strip()


def devices() -> Iterator[str]:
    """Whose the machine's own device files are: a runtime hands them to containers, never over to them."""
    for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx"):
        found = Path("/dev", name).stat()
        yield f"/dev/{name} of {found.st_uid}:{found.st_gid}, mode {stat.S_IMODE(found.st_mode):o}"


def categories(census: Census, names: Sequence[str]) -> Census:
    """Only these categories, for a comparison that a restart of the daemon must survive."""
    return {name: census[name] for name in names}
