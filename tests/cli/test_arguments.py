"""Options of `run` and what they become."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments


@pytest.mark.parametrize(
    ("text", "ip", "host", "inner", "protocol"),
    [
        ("8080:80", "", 8080, 80, cri.TCP),
        ("53:53/udp", "", 53, 53, cri.UDP),
        ("1:65535/SCTP", "", 1, 65535, cri.SCTP),
        ("127.0.0.1:8080:80", "127.0.0.1", 8080, 80, cri.TCP),
        ("[::1]:8080:80/tcp", "::1", 8080, 80, cri.TCP),
    ],
)
def test_ports(text: str, ip: str, host: int, inner: int, protocol: int) -> None:
    assert arguments.port(text) == cri.PortMapping(
        protocol=protocol,  # type: ignore[arg-type]
        host_port=host,
        container_port=inner,
        host_ip=ip,
    )


@pytest.mark.parametrize(
    "text",
    [
        "80",
        "",
        ":80",
        "80:",
        "0:80",
        "80:0",
        "65536:1",
        "a:b",
        "1:2/icmp",
        "999.1.1.1:1:2",
        "::1:1:2",
        "１:2",
        "1:2\n",
    ],
)
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        arguments.port(text)


def test_mounts() -> None:
    assert arguments.mount("/a:/b", "/here") == cri.Mount(host_path="/a", container_path="/b")
    assert arguments.mount("a/x:/b:ro", "/here") == cri.Mount(
        host_path="/here/a/x", container_path="/b", readonly=True
    )
    shared = arguments.mount("/a:/b:rw,rshared", "/here")
    assert (shared.readonly, shared.propagation) == (False, cri.PROPAGATION_BIDIRECTIONAL)


@pytest.mark.parametrize("text", ["/a", "", "/a:", ":/b", "/a:b", "/a:/b:", "/a:/b:rx", "/a:/b:ro:c"])
def test_mounts_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        arguments.mount(text, "/here")


def test_variables() -> None:
    assert arguments.variable("A=b=c", {}) == cri.KeyValue(key="A", value=b"b=c")
    assert arguments.variable("A=", {"A": "x"}) == cri.KeyValue(key="A", value=b"")
    assert arguments.variable("A", {"A": "x\udcff"}) == cri.KeyValue(key="A", value=b"x\xff")
    for text in ("", "=x", "A"):
        with pytest.raises(ValueError):
            arguments.variable(text, {})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        ("100MiB", 100 << 20),
        ("64kb", 64 << 10),
        ("4096", 4096),
        ("1 G", 1 << 30),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert arguments.memory(text) == count


@pytest.mark.parametrize("text", ["", "m", "-1m", "0", "1x", "1e9", "1_000", "٣m", "0.0000001b"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        arguments.memory(text)


@pytest.mark.parametrize(
    ("text", "quota"), [("1", 100_000), ("0.5", 50_000), ("2.25", 225_000), ("0.01", 1000)]
)
def test_processors(text: str, quota: int) -> None:
    assert arguments.cpu_quota(text) == quota


@pytest.mark.parametrize("text", ["", "0", "0.001", "-1", "1,5", "many", "99999"])
def test_processors_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        arguments.cpu_quota(text)


def test_users() -> None:
    by_id, with_group, by_name = (cri.LinuxContainerSecurityContext() for _ in range(3))
    arguments.user("0", by_id)
    arguments.user("1000:2000", with_group)
    arguments.user("www-data", by_name)
    assert by_id == cri.LinuxContainerSecurityContext(run_as_user=cri.Int64Value(value=0))
    assert with_group.run_as_group.value == 2000
    assert by_name == cri.LinuxContainerSecurityContext(run_as_username="www-data")


@pytest.mark.parametrize("text", ["", "4294967295", "0:2147483648", "a:b", "1:", "-1", "a b", "1:2:3"])
def test_users_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        arguments.user(text, cri.LinuxContainerSecurityContext())


@pytest.mark.parametrize("text", ["", "Web", "a_b", "-a", "a-", "a/b", "..", "a" * 64, "a\n"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        arguments.name(text)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("busybox", "busybox-x1"),
        ("registry.test:5000/team/My_App:1.2", "my-app-x1"),
        ("a/b@sha256:" + "0" * 64, "b-x1"),
        ("sha256:" + "0" * 64, "sha256-x1"),
        ("---", "run-x1"),
    ],
)
def test_made_up_names_are_names(image: str, name: str) -> None:
    assert arguments.name(arguments.name_from(image, "x1")) == name


@pytest.mark.parametrize(
    ("given", "words"), [((), ()), (("--", "sh", "--"), ("sh", "--")), (("sh", "-c", "x"), ("sh", "-c", "x"))]
)
def test_a_command_may_follow_two_dashes(given: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert arguments.words(given) == words
