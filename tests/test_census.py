"""The census itself: it must see what a runtime can leave behind, else the leak tests prove nothing."""

import os
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import census

SLEEPER = "import sys; sys.stdin.read()"


def test_nothing_done_is_nothing_found(tmp_path: Path) -> None:
    scope = census.Scope(words=(), roots=(tmp_path,), daemon=os.getpid())
    assert census.diff(census.take(scope), census.take(scope)) == ""


def test_a_difference_says_what_and_which_way() -> None:
    before, after = {"links": Counter(["a", "b"])}, {"links": Counter(["b", "c", "c"])}
    assert census.diff(before, after) == "links: left behind: c (x2)\nlinks: vanished: a"


def test_files_and_directories_are_seen_and_ignored_ones_are_not(tmp_path: Path) -> None:
    scope = census.Scope(words=(), roots=(tmp_path,), ignore=("*-wal",))
    before = census.take(scope)
    (tmp_path / "pods/p1").mkdir(parents=True)
    (tmp_path / "state.db-wal").touch()
    found = census.diff(before, census.take(scope)).splitlines()
    assert found == [f"files: left behind: {tmp_path}/pods/", f"files: left behind: {tmp_path}/pods/p1/"]


def test_rows_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    scope = census.Scope(words=(), databases=(path,))
    before = census.take(scope)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE pods (id TEXT)")
        database.execute("INSERT INTO pods VALUES ('p1')")
        database.commit()
    assert census.diff(before, census.take(scope)) == "rows: left behind: pods 'p1'"


def test_address_reservations_are_seen(tmp_path: Path) -> None:
    scope = census.Scope(words=(), reservations=(tmp_path,))
    before = census.take(scope)
    (tmp_path / "lock").touch()
    (tmp_path / "last_reserved_ip.0").write_text("10.0.0.2")
    (tmp_path / "10.0.0.2").write_text("pod1\r\neth0")
    assert census.diff(before, census.take(scope)).splitlines() == [
        f"reservations: left behind: {tmp_path}/10.0.0.2 held by pod1"
    ]


def test_a_process_below_a_root_is_seen(tmp_path: Path) -> None:
    scope = census.Scope(words=(), roots=(tmp_path,))
    before = census.take(scope)
    argv = [sys.executable, "-c", SLEEPER, f"{tmp_path}/pods/x"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        found = census.diff(before, census.take(scope))
        process.communicate()
    assert found.startswith(f"processes: left behind: {process.pid} ")
    assert census.diff(before, census.take(scope)) == ""


def test_descriptors_and_threads_of_a_daemon_are_seen(tmp_path: Path) -> None:
    scope = census.Scope(words=(), daemon=os.getpid())
    before = census.take(scope)
    with (tmp_path / "open").open("w"):
        found = census.diff(before, census.take(scope))
    assert found == f"descriptors: left behind: {tmp_path}/open"


@pytest.fixture
def name() -> Iterator[str]:
    """A unique name for kernel objects, which are gone afterwards in any case."""
    unique = f"cs{uuid.uuid4().hex[:8]}"
    try:
        yield unique
    finally:
        subprocess.run(["ip", "link", "delete", unique], check=False, capture_output=True)
        subprocess.run(["nft", "delete", "table", "ip", unique], check=False, capture_output=True)
        for top in census.hierarchies():
            if (top / unique).is_dir():
                (top / unique).rmdir()


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@pytest.mark.root
def test_a_bridge_its_ports_and_addresses_are_seen(name: str) -> None:
    scope = census.Scope(words=(), bridges=(name,))
    before = census.take(scope)
    run("ip", "link", "add", name, "type", "bridge")
    run("ip", "address", "add", "10.99.99.1/24", "dev", name)
    run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
    try:
        run("ip", "link", "set", f"{name}a", "master", name)
        found = census.diff(before, census.take(scope)).splitlines()
    finally:
        run("ip", "link", "delete", f"{name}a")
    assert f"links: left behind: {name}" in found
    assert f"addresses: left behind: 10.99.99.1/24 on {name}" in found
    assert sum(f"port of {name}" in line for line in found) == 1


@pytest.mark.root
def test_nftables_rules_are_seen_and_counters_are_not(name: str) -> None:
    scope = census.Scope(words=(name,))
    run(
        "nft",
        f"add table ip {name}; add chain ip {name} c; add rule ip {name} c counter packets 3 bytes 9 accept",
    )
    before = census.take(scope)
    run("nft", f"flush chain ip {name} c; add rule ip {name} c counter packets 5 bytes 7 accept")
    assert census.diff(before, census.take(scope)) == ""
    run("nft", f"add rule ip {name} c ip saddr 10.99.99.0/24 drop")
    assert "10.99.99.0" in census.diff(before, census.take(scope))


@pytest.mark.root
def test_cgroups_are_seen_in_every_hierarchy(name: str) -> None:
    scope = census.Scope(words=(), cgroups=(f"/{name}",))
    before = census.take(scope)
    tops = list(census.hierarchies())
    for top in tops:
        (top / name).mkdir()
    found = census.diff(before, census.take(scope)).splitlines()
    assert found == sorted(f"cgroups: left behind: {top}/{name}" for top in tops)


@pytest.mark.root
def test_mounts_and_pinned_namespaces_are_seen(tmp_path: Path) -> None:
    scope = census.Scope(words=(), roots=(tmp_path,), ignore=("*",))
    (tmp_path / "net").touch()
    (tmp_path / "shm").mkdir()
    before = census.take(scope)
    try:
        run("mount", "--bind", "/proc/self/ns/net", f"{tmp_path}/net")
        run("mount", "-t", "tmpfs", "tmpfs", f"{tmp_path}/shm")
        found = census.diff(before, census.take(scope)).splitlines()
    finally:
        run("umount", f"{tmp_path}/net")
        run("umount", f"{tmp_path}/shm")
    assert len(found) == 2
    assert found[0].startswith("mounts: left behind: nsfs net:[")
    assert found[1] == f"mounts: left behind: tmpfs {tmp_path}/shm"
    assert census.diff(before, census.take(scope)) == ""
