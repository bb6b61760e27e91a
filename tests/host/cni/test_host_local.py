"""The reservations of a network: what is on disk, who shares it, and what a crash leaves."""

import fcntl
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sampan.host.cni import host_local
from sampan.host.cni.host_local import Book
from sampan.model.errors import Exhausted, SampanError, Unavailable
from sampan.wire.cni_builtin import HostLocal
from sampan.wire.cni_ranges import RangeConf, parse_sets
from tests.host.cni.lab import PLUGINS

NET = "net1"


def ipam(root: Path, *subnets: str) -> HostLocal:
    sets = parse_sets([[RangeConf(subnet=subnet)] for subnet in subnets or ("10.7.0.0/29",)])
    return HostLocal(sets, (), str(root), "")


def take(conf: HostLocal, container_id: str, ifname: str = "eth0") -> list[str]:
    return [each.cidr for each in host_local.add(conf, NET, container_id, ifname)[0]]


def files(root: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode() for path in (root / NET).iterdir() if path.name != "lock"}


def test_a_reservation_is_written_as_the_reference_plugin_writes_it(tmp_path: Path) -> None:
    assert take(ipam(tmp_path), "c1") == ["10.7.0.2/29"]
    assert files(tmp_path) == {"10.7.0.2": "c1\r\neth0", "last_reserved_ip.0": "10.7.0.2"}
    assert (tmp_path / NET / "10.7.0.2").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / NET / "lock").exists()


def test_addresses_go_round(tmp_path: Path) -> None:
    conf = ipam(tmp_path)
    for i, expected in enumerate([2, 3, 4, 5, 6, 2, 3]):
        assert take(conf, f"c{i}") == [f"10.7.0.{expected}/29"]
        host_local.release(conf, NET, f"c{i}", "eth0")


def test_one_address_comes_from_each_set(tmp_path: Path) -> None:
    assert take(ipam(tmp_path, "10.7.0.0/29", "fd00::/120"), "c1") == ["10.7.0.2/29", "fd00::2/120"]
    assert files(tmp_path)["last_reserved_ip.1"] == "fd00::2"


def test_when_one_set_is_used_up_the_other_keeps_its_address(tmp_path: Path) -> None:
    conf = ipam(tmp_path, "fd00::/120", "10.7.0.0/30")
    take(conf, "c1")
    with pytest.raises(Exhausted, match=r"10\.7\.0\.1-10\.7\.0\.2"):
        take(conf, "c2")
    assert sorted(name for name in files(tmp_path) if ":" in name) == ["fd00::2"]


def test_an_attachment_has_one_address_until_it_is_released(tmp_path: Path) -> None:
    conf = ipam(tmp_path)
    take(conf, "c1")
    with pytest.raises(Unavailable, match=r"c1 already has 10\.7\.0\.2"):
        take(conf, "c1")
    assert take(conf, "c1", "eth1") == ["10.7.0.3/29"]
    host_local.release(conf, NET, "c1", "eth0")
    assert take(conf, "c1") == ["10.7.0.4/29"]


@pytest.mark.parametrize("known", [(), ("10.7.0.2",), ("10.7.0.3",), ("10.7.0.2", "10.7.0.3", "10.7.0.9")])
def test_release_takes_only_what_is_the_attachments_own(tmp_path: Path, known: tuple[str, ...]) -> None:
    conf = ipam(tmp_path)
    take(conf, "c1")
    take(conf, "c2")
    host_local.release(conf, NET, "c1", "eth0", known)
    left = set(files(tmp_path)) - {"last_reserved_ip.0"}
    assert left == ({"10.7.0.2", "10.7.0.3"} if known == ("10.7.0.3",) else {"10.7.0.3"})


def test_release_without_a_directory_makes_none(tmp_path: Path) -> None:
    host_local.release(ipam(tmp_path / "absent"), NET, "c1", "eth0")
    assert not (tmp_path / "absent").exists()
    assert not host_local.holds(ipam(tmp_path / "absent"), NET, "c1", "eth0")
    assert host_local.collect(ipam(tmp_path / "absent"), NET, lambda *_: True) == []


def test_reservations_without_an_interface_of_old_plugins_count(tmp_path: Path) -> None:
    (tmp_path / NET).mkdir()
    (tmp_path / NET / "10.7.0.2").write_text("c1\n")
    conf = ipam(tmp_path)
    assert host_local.holds(conf, NET, "c1", "eth0")
    assert take(conf, "c2") == ["10.7.0.3/29"]
    host_local.release(conf, NET, "c1", "eth0")
    assert not (tmp_path / NET / "10.7.0.2").exists()


def test_a_reservation_whose_writer_died_is_free(tmp_path: Path) -> None:
    (tmp_path / NET).mkdir()
    (tmp_path / NET / "10.7.0.2").touch()
    (tmp_path / NET / ".sampan.new").write_text("half")
    assert take(ipam(tmp_path), "c1") == ["10.7.0.2/29"]
    assert ".sampan.new" not in files(tmp_path)


@pytest.mark.parametrize("last", ["", "nonsense", "192.0.2.1", "10.7.0.2\n", "fd00::1"])
def test_a_damaged_memory_of_the_last_address_does_no_harm(tmp_path: Path, last: str) -> None:
    (tmp_path / NET).mkdir()
    (tmp_path / NET / "last_reserved_ip.0").write_text(last)
    assert take(ipam(tmp_path), "c1") == ["10.7.0.3/29" if "10.7" in last else "10.7.0.2/29"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / NET).mkdir()
    (tmp_path / NET / "README").write_text("c1\r\neth0")
    conf = ipam(tmp_path)
    take(conf, "c1")
    host_local.release(conf, NET, "c1", "eth0")
    assert host_local.collect(conf, NET, lambda *_: False) == []
    assert (tmp_path / NET / "README").exists()


def test_collecting_keeps_the_living(tmp_path: Path) -> None:
    conf = ipam(tmp_path)
    for container_id in ("alive", "dead"):
        take(conf, container_id)
    (tmp_path / NET / "10.7.0.6").touch()
    assert sorted(host_local.collect(conf, NET, lambda id_, ifname: (id_, ifname) == ("alive", "eth0"))) == [
        "10.7.0.3",
        "10.7.0.6",
    ]
    assert host_local.holds(conf, NET, "alive", "eth0")


def test_a_lock_that_is_never_let_go_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_local, "LOCK_SECONDS", 0.02)
    (tmp_path / NET).mkdir()
    with (tmp_path / NET / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=f"{tmp_path}/{NET}/lock"):
            take(ipam(tmp_path), "c1")
    with Book(str(tmp_path), NET).locked():
        stuck: list[SampanError] = []

        def second() -> None:
            try:
                take(ipam(tmp_path), "c1")
            except SampanError as error:
                stuck.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert "was not free" in str(stuck[0])
    assert take(ipam(tmp_path), "c1")


def test_threads_and_programs_never_share_an_address(tmp_path: Path) -> None:
    conf = ipam(tmp_path, "10.7.0.0/24")
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda i: take(conf, f"c{i}")[0], range(100)))
    assert len(set(taken)) == 100
    assert len(files(tmp_path)) == 101


def reference(command: str, root: Path, container_id: str, *subnets: str) -> dict[str, Any]:
    """The reference plugin on the same directory."""
    conf = {
        "cniVersion": "1.0.0",
        "name": NET,
        "type": "bridge",
        "ipam": {
            "type": "host-local",
            "dataDir": str(root),
            "ranges": [[{"subnet": subnet}] for subnet in subnets],
        },
    }
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": "/run/netns/none",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGINS),
    }
    done = subprocess.run(
        [str(PLUGINS / "host-local")],
        input=json.dumps(conf).encode(),
        env=env,
        capture_output=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout or b"{}")
    return answer


@pytest.mark.root
@pytest.mark.skipif(
    not (PLUGINS / "host-local").exists(), reason="containernetworking-plugins is not installed"
)
@pytest.mark.parametrize("subnets", [("10.7.0.0/29",), ("10.7.0.0/28", "fd00::/124"), ("fd00:0:0:1::/64",)])
def test_the_reference_plugin_and_we_take_turns_on_one_directory(
    tmp_path: Path, subnets: tuple[str, ...]
) -> None:
    """Two of each in turn must give what four of one kind give, in order, down to the bytes on disk."""
    ours, theirs, mixed = tmp_path / "ours", tmp_path / "theirs", tmp_path / "mixed"
    for i in range(4):
        id_ = f"c{i}"
        taken = take(ipam(ours, *subnets), id_)
        assert [ip["address"] for ip in reference("ADD", theirs, id_, *subnets)["ips"]] == taken
        if i % 2:
            assert [ip["address"] for ip in reference("ADD", mixed, id_, *subnets)["ips"]] == taken
        else:
            assert take(ipam(mixed, *subnets), id_) == taken
    assert files(ours) == files(theirs) == files(mixed)
    assert "duplicate allocation" in reference("ADD", ours, "c0", *subnets)["msg"]
    with pytest.raises(Unavailable):
        take(ipam(theirs, *subnets), "c0")
    for i in range(4):
        reference("DEL", ours, f"c{i}", *subnets)
        host_local.release(ipam(theirs, *subnets), NET, f"c{i}", "eth0")
    for root in (ours, theirs):
        assert {name for name in files(root) if not name.startswith("last_")} == set()


def test_a_symbolic_link_in_the_book_is_not_followed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    (tmp_path / NET).mkdir()
    (tmp_path / NET / ".sampan.new").symlink_to(canary)
    with pytest.raises(OSError):
        take(ipam(tmp_path), "c1")
    assert canary.read_text() == "untouched"
