# ruff: noqa: E501 - one row of a table, one line
"""What a request's fields can be made to do, a test for each known way (ids are rows of our list of vulnerabilities).

C1 sysctls that smuggle · C2 sysctls of a shared namespace · C3 annotations that command the OCI runtime · C4 log paths ·
C5 names and ids as paths · C6 host names and DNS · C7 seccomp files · C8 capabilities · C9 groups · C10 mount paths ·
C11 mount options · C12 devices · C13 output without end · C14 arguments taken for flags · C15 resources and cgroup
paths · C16 user namespaces · C17 ports · C18 sizes and numbers nobody expects.

Not here: C12's environment of vendor hooks (hooks come from CDI, whose tests are those of `spec.cdi`).
"""

import concurrent.futures
import contextlib
import os
import random
import re
import socket
import stat
import string
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import grpc
import pytest
from google.protobuf import json_format

from sampan.api import cri_pb2 as cri
from sampan.model.errors import SampanError
from sampan.model.paths import Paths
from sampan.spec import capabilities, validate
from sampan.spec.facts import Host
from sampan.wire.spdy import session as spdy
from sampan.wire.upgrade import Kind, Refused
from tests import census, images, machine
from tests.attacks import connected
from tests.daemon.conftest import Live, import_image
from tests.security import ways
from tests.security.conftest import SECRET, Containers, code_of, linux, process_status, user_image
from tests.security.ways import each_handler, each_way

pytestmark = pytest.mark.root

INVALID, MISSING, DONE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OK
HOST = Host(
    capabilities=capabilities.KNOWN,
    controllers=frozenset({"cpu", "cpuset", "memory", "hugetlb", "pids", "io"}),
)
POD: dict[str, Any] = {"metadata": {"name": "web", "uid": "u", "namespace": "shop"}}
CONTAINER: dict[str, Any] = {"metadata": {"name": "app"}, "image": {"image": "app:1"}}


def accepted_pod(change: dict[str, Any]) -> bool:
    """Whether the rules would make a pod of this."""
    try:
        validate.check_pod(json_format.ParseDict(POD | change, cri.PodSandboxConfig()), HOST)
    except SampanError:
        return False
    return True


def accepted(change: dict[str, Any], pod: dict[str, Any] | None = None) -> bool:
    """Whether the rules would make a container of this."""
    of_pod = json_format.ParseDict(POD | (pod or {}), cri.PodSandboxConfig())
    try:
        validate.check_container(
            json_format.ParseDict(CONTAINER | change, cri.ContainerConfig()), of_pod, HOST
        )
    except SampanError:
        return False
    return True


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory that nothing may touch."""

    def seen() -> list[tuple[str, int, int, int, bytes]]:
        found = []
        for path in sorted(tmp_path.glob("**/*")):
            facts = path.lstat()
            text = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
            found.append((str(path), facts.st_mode, facts.st_ino, facts.st_mtime_ns, text))
        return found

    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "file").write_text("untouched")
    before = seen()
    yield tmp_path / "canary"
    assert seen() == before


# --- C1, C2: sysctls (CVE-2022-0811, CVE-2022-0532) -------------------------------------------------------------

TARGETS = (
    "kernel.core_pattern",
    "kernel/core_pattern",
    "kernel.modprobe",
    "vm.swappiness",
    "fs.file-max",
    "kernel.panic",
)
NAMESPACED = "kernel.shm_rmid_forced"
SMUGGLED: list[tuple[str, str]] = [
    *((NAMESPACED, f"1{glue}{target}=|/x") for glue in ("+", "\n", "\r", "\0", ";", "\t\n", " + ", "|", "&") for target in TARGETS[:2]),
    *((f"{NAMESPACED}=1{glue}{target}", "|/x") for glue in ("+", "\n", " ", ",") for target in TARGETS[:2]),
    *((target, "1") for target in TARGETS),
    *((f"{name}{target}", "1") for name in ("net.", "net/", "net..", "net./") for target in ("/../kernel/panic", "..kernel.panic")),
    *((name, "1") for name in (
        "net.ipv4/../../kernel/panic", "net/ipv4/../../kernel.panic", "/kernel.msgmax", ".kernel.msgmax", "kernel.msgmax.", "kernel..msgmax",
        "kernel.msgmax ", " kernel.msgmax", "kernel. msgmax", "kernel.msgmax\n", "KERNEL.MSGMAX", "kernel", "", "net", "net.", "fs.mqueue",
    )),
    *((NAMESPACED, value) for value in ("", " ", "1 ", " 1", "a=b", "$(x)", "`x`", "\x7f", "1" * 2000, "é")),
]  # fmt: skip


def sysctl_pod(daemon: Live, name: str, value: str, **options: Any) -> Callable[[], object]:
    context = cri.LinuxSandboxSecurityContext(
        namespace_options=cri.NamespaceOption(pid=cri.CONTAINER, **options)
    )
    config = cri.LinuxPodSandboxConfig(sysctls={name: value}, security_context=context)
    return lambda: daemon.pod("smuggler", linux=config)


def test_c1_no_sysctl_carries_another(daemon: Live) -> None:
    assert len(SMUGGLED) >= 60
    before = machine.sysctls()
    assert len(before) > 300
    answers = {(name, value): code_of(sysctl_pod(daemon, name, value))[0] for name, value in SMUGGLED}
    assert {one: code for one, code in answers.items() if code is not INVALID} == {}
    after = machine.sysctls()
    assert {
        path: (text, after.get(path)) for path, text in before.items() if after.get(path, text) != text
    } == {}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"network": cri.NODE}) for name in ("net.ipv4.ip_forward", "net/ipv4/ip_forward", "net.core.somaxconn")),
        *((name, {"ipc": cri.NODE}) for name in ("kernel.msgmax", "kernel/msgmax", "kernel.sem", "fs.mqueue.msg_max", "fs/mqueue/msg_max")),
    ],
)  # fmt: skip
def test_c2_a_sysctl_of_a_shared_namespace_is_the_hosts(
    daemon: Live, name: str, options: dict[str, Any]
) -> None:
    before = machine.sysctls()
    code, words = code_of(sysctl_pod(daemon, name, "1", **options))
    assert code is INVALID and "host" in words
    after = machine.sysctls()
    assert {path: text for path, text in before.items() if after.get(path, text) != text} == {}


# --- C3: annotations (CVE-2024-3154, CVE-2023-6476, CVE-2026-53492) -----------------------------------------------

COMMANDS = {
    f"{key}{tail}": f"/{SECRET}"
    for key in (
        "org.systemd.property.MemoryMax", "run.oci.hooks.stdout", "run.oci.hooks.stderr", "run.oci.keep_original_groups",
        "run.oci.seccomp.plugins", "run.oci.seccomp.receiver", "run.oci.seccomp_bpf_data", "run.oci.handler",
        "run.oci.systemd.force_cgroup_v1", "run.oci.systemd.subgroup", "run.oci.delegate-cgroup", "run.oci.pidfd_receiver",
        "run.oci.mount_context_type", "krun.cpus", "krun.use_passt", "org.criu.config", "module.wasm.image/variant",
        "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.Devices", "io.containerd.x", "bundle", "native.cgroupdriver",
    )
    for tail in ("", ".x")
}  # fmt: skip


def test_c3_no_annotation_of_a_request_reaches_the_oci_runtime(containers: Containers, daemon: Live) -> None:
    chance = random.Random(3)
    letters = string.ascii_letters + string.digits + "./_- \n\té"
    asked = COMMANDS | {
        "".join(chance.choices(letters, k=chance.randint(1, 60))): SECRET for _ in range(1000)
    }
    pod = daemon.pod("annotated", annotations=asked, labels=asked)
    id = containers(pod=pod, annotations=asked, labels=asked)
    status = daemon.status(id)
    assert dict(status.annotations) == asked and dict(status.labels) == asked
    sandbox = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod)).status
    assert dict(sandbox.annotations) == asked and dict(sandbox.labels) == asked
    written = b"".join(path.read_bytes() for path in daemon.own.directory.glob(f"**/{id}/**/config.json"))
    assert written and SECRET.encode() not in written
    assert not Path(f"/{SECRET}").exists()


def test_c3_the_daemons_environment_reaches_no_tool_and_no_container(
    containers: Containers, daemon: Live
) -> None:
    id = containers()
    assert SECRET.encode() not in daemon.exec(id, "env").stdout
    ours = [
        entry for entry in Path("/proc").glob("[0-9]*")
        if id.encode() in (entry / "cmdline").read_bytes() and b"conmon" in (entry / "cmdline").read_bytes()
    ]  # fmt: skip
    assert len(ours) == 1
    assert SECRET.encode() not in (ours[0] / "environ").read_bytes()


# --- C4: log paths (CVE-2025-0750, conmon) ------------------------------------------------------------------------


def test_c4_log_paths_stay_where_logs_belong(daemon: Live, pod: str, canary: Path) -> None:
    names = (
        "../x", "/abs", "a/../../x", "a:b.log", "x\n", "x\0", "a//b", "./a", "a/.", "a/..", "..", ".", "/", "a/", "x" * 256, "a/" * 2200 + "b",
        "\x7f", "a\tb", "../../canary/file", f"{canary}/file",
    )  # fmt: skip
    answers = {name[:40]: code_of(daemon.container, pod, log_path=name)[0] for name in names}
    assert {name: code for name, code in answers.items() if code is not INVALID} == {}
    directories = (
        "relative",
        "/var/log/../../x",
        "/",
        "/a:b",
        "/a\nb",
        f"{canary}/../../x",
        "/x" * 2100,
        "/\x7f",
    )
    answers = {name[:40]: code_of(daemon.pod, "logs", log_directory=name)[0] for name in directories}
    assert {name: code for name, code in answers.items() if code is not INVALID} == {}


@pytest.mark.parametrize("kind", ["symlink", "directory link", "fifo", "directory", "device"])
def test_c4_what_lies_at_the_log_path_is_not_followed(
    daemon: Live, pod: str, canary: Path, kind: str
) -> None:
    logs = daemon.own.directory / "logs" / "shared"
    path = logs / f"planted-{kind.replace(' ', '-')}.log"
    relative = path.name
    match kind:
        case "symlink":
            path.symlink_to(canary / "file")
        case "directory link":
            path.symlink_to(canary)
            relative = f"{path.name}/new.log"
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    began = time.monotonic()
    code, _ = code_of(daemon.container, pod, name="planted", log_path=relative)
    assert code is INVALID and time.monotonic() - began < 5


# --- C5: identifiers (never a path) ---------------------------------------------------------------------------------

IDS = (
    "../x",
    "../../etc/passwd",
    "a" * 63,
    "f" * 64,
    "x" * 1000,
    "a b",
    "a\n",
    "%2e%2e",
    "..",
    "/",
    "-h",
    "*",
    "0x1",
    "é" * 10,
)
POD_RPCS = ("PodSandboxStatus", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStats")
CONTAINER_RPCS = ("ContainerStatus", "StartContainer", "StopContainer", "RemoveContainer", "ReopenContainerLog", "ContainerStats", "ExecSync", "UpdateContainerResources")  # fmt: skip


def test_c5_an_id_that_is_none_is_never_more_than_not_found(daemon: Live, pod: str, canary: Path) -> None:
    assert len(IDS) * len([*POD_RPCS, *CONTAINER_RPCS]) >= 100
    before = lasting(daemon)
    for rpc in (*POD_RPCS, *CONTAINER_RPCS):
        expected = {MISSING, INVALID, *([DONE] if rpc.startswith(("Stop", "Remove")) else [])}
        for id in ("", *IDS):
            request = getattr(cri, f"{rpc}Request")(
                **{"pod_sandbox_id" if rpc in POD_RPCS else "container_id": id}
            )
            code, words = code_of(getattr(daemon.runtime, rpc), request, timeout=20)
            assert code in expected and len(words) < 400, (rpc, id, code, words)
    assert census.diff(before, lasting(daemon)) == ""


def lasting(daemon: Live) -> census.Census:
    """What does not come and go by itself."""
    kinds = ("mounts", "processes", "cgroups", "files")
    return {kind: items for kind, items in daemon.census().items() if kind in kinds}


def test_c5_metadata_is_data() -> None:
    bad = ("../x", "a/b", "a\0b", "a\nb", "x" * 1000, "", " ", ".", "..", "-x", "é")
    for name in bad:
        assert not accepted({"metadata": {"name": name}}), name
        assert not accepted_pod({"metadata": {**POD["metadata"], "name": name}}), name
    for field in ("uid", "namespace"):
        for value in ("../x", "a/b", "a\0b", "a\nb", "x" * 1000, "a;b", "a=b"):
            assert not accepted_pod({"metadata": {**POD["metadata"], field: value}}), (field, value)
    assert not accepted({"metadata": None}) and not accepted_pod({"metadata": None})


# --- C6: host names and DNS -------------------------------------------------------------------------------------


def test_c6_no_name_makes_a_line_of_its_own(containers: Containers, daemon: Live) -> None:
    for name in (
        "a\n127.0.0.1 x",
        "a b",
        "a" * 65,
        "-a",
        "a-",
        "a..b",
        ".",
        "a_b",
        "é",
        "a\0",
        "a\n",
        "a\tb",
        "a;b",
    ):
        assert not accepted_pod({"hostname": name}), name
    for dns in (
        {"servers": ["1.1.1.1\nsearch evil"]}, {"servers": ["x"]}, {"servers": ["1.1.1.1 2.2.2.2"]}, {"servers": ["1.1.1.256"]},
        {"servers": ["::1%eth0\nx"]}, {"searches": ["a b"]}, {"searches": ["a\nnameserver 6.6.6.6"]}, {"searches": ["-a"]},
        {"options": ["x\nnameserver 6.6.6.6"]}, {"options": ["a b"]}, {"options": [""]}, {"options": ["\x7f"]},
        {"searches": ["a"] * 1000}, {"servers": ["1.1.1.1"] * 1000}, {"options": ["x"] * 1000}, {"options": ["x" * 5000]},
    ):  # fmt: skip
        assert not accepted_pod({"dns_config": dns}), str(dns)[:100]
    good = cri.DNSConfig(
        servers=["10.0.0.10", "fd00::a"], searches=["a.local", "b.local."], options=["ndots:5", "edns0"]
    )
    id = containers(pod=daemon.pod("named", dns_config=good, hostname="web-0.x"))
    text = "search a.local b.local.\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5 edns0\n"
    assert daemon.exec(id, "cat", "/etc/resolv.conf").stdout.decode() == text
    assert daemon.exec(id, "cat", "/etc/hostname").stdout == b"web-0.x\n"


# --- C7: seccomp files (CVE-2023-2431) --------------------------------------------------------------------------

RULE = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [%s]}'
Localhost = cri.SecurityProfile.Localhost


def test_c7_a_file_that_cannot_be_enforced_is_an_error(daemon: Live, pod: str, tmp_path: Path) -> None:
    contents = {
        "empty": "", "text": "hello", "list": "[]", "no-action": "{}", "bad-action": '{"defaultAction": "ALLOW"}',
        "bad-name": RULE % '{"names": ["mount\\n"], "action": "SCMP_ACT_ERRNO"}', "bad-rule": RULE % '{"names": ["mount"], "action": "X"}',
        "bad-op": RULE % '{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "X"}]}',
        "deep": "[" * 100000, "huge-number": RULE % '{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1e400, "op": "SCMP_CMP_EQ"}]}',
    }  # fmt: skip
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(100 << 20)
    paths = [
        *(str(tmp_path / name) for name in (*contents, "fifo", "large", "absent", ".")),
        "/dev/zero",
        "/proc/self/mem",
    ]
    for path in (
        "",
        "relative.json",
        "../x",
        f"{tmp_path}/../{tmp_path.name}/text",
        "localhost/",
        "localhost/relative",
        *paths,
    ):
        profile = cri.SecurityProfile(profile_type=Localhost, localhost_ref=path)
        began = time.monotonic()
        code, words = code_of(daemon.container, pod, name="filtered", linux=linux(seccomp=profile))
        assert code is INVALID and time.monotonic() - began < 5, (path, code, words)


def test_c7_a_filter_is_there_where_one_was_asked_for_and_only_there(
    containers: Containers, daemon: Live, tmp_path: Path
) -> None:
    (tmp_path / "own.json").write_text(
        RULE % '{"names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100}'
    )
    own = cri.SecurityProfile(profile_type=Localhost, localhost_ref=str(tmp_path / "own.json"))
    for context, mode in (
        ({}, "0"), ({"seccomp": own}, "2"), ({"seccomp": cri.SecurityProfile()}, "2"),
        ({"seccomp": cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)}, "0"),
        ({"seccomp_profile_path": "runtime/default"}, "2"), ({"seccomp_profile_path": f"localhost/{tmp_path}/own.json"}, "2"),
    ):  # fmt: skip
        id = containers.secured(**context)
        assert [process_status(daemon, id, pid)["Seccomp"] for pid in ("1", "self")] == [mode, mode], context
    assert (
        b"Network is down" in daemon.exec(id, "mkdir", "/tmp/x").stderr
    )  # errno 100: it is this very filter


# --- C8: capabilities (CVE-2022-24769 and its kin) ---------------------------------------------------------------


def sets_of(daemon: Live, id: str, pid: str = "self", reader: str = "cat") -> dict[str, int]:
    status = process_status(daemon, id, pid, reader)
    return {name: int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def given_here() -> int:
    """What this machine lets us give: the bounding set of the tests, and so of the daemon."""
    return int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)


def mask(*names: str) -> int:
    return sum(1 << capabilities.KNOWN.index(name) for name in names)


def test_c8_each_capability_alone_is_exactly_that_one(containers: Containers, daemon: Live) -> None:
    for number, name in enumerate(capabilities.KNOWN):
        if not given_here() >> number & 1:
            continue
        only = cri.Capability(drop_capabilities=["ALL"], add_capabilities=[name.removeprefix("CAP_")])
        id = containers.secured("grep", "^Cap", "/proc/self/status", capabilities=only)
        daemon.until_exited(id)
        said = dict(line.split(":\t") for line in daemon.logged(id))
        wanted = {"Inh": 0, "Prm": 1 << number, "Eff": 1 << number, "Bnd": 1 << number, "Amb": 0}
        assert {kind: int(said[f"Cap{kind}"], 16) for kind in wanted} == wanted, name


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, mask(*capabilities.DEFAULT)),
        ({"drop_capabilities": ["ALL"]}, 0),
        ({"add_capabilities": ["ALL"]}, -1),
        ({"add_capabilities": ["all"], "drop_capabilities": ["NET_RAW", "CAP_CHOWN"]}, ~mask("CAP_NET_RAW", "CAP_CHOWN")),
        ({"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["NET_ADMIN"]}, mask(*capabilities.DEFAULT)),
        ({"add_capabilities": ["NET_ADMIN"]}, mask("CAP_NET_ADMIN", *capabilities.DEFAULT)),
        ({"add_capabilities": ["ALL"], "drop_capabilities": ["ALL"]}, 0),
    ],
)  # fmt: skip
def test_c8_add_and_drop(
    containers: Containers, daemon: Live, asked: dict[str, list[str]], expected: int
) -> None:
    id = containers.secured(capabilities=cri.Capability(**asked))
    wanted = expected & given_here()
    for pid in ("1", "self"):
        assert sets_of(daemon, id, pid) == {"Inh": 0, "Prm": wanted, "Eff": wanted, "Bnd": wanted, "Amb": 0}


def test_c8_a_user_keeps_only_what_is_ambient(containers: Containers, daemon: Live) -> None:
    user = cri.Int64Value(value=33)
    plain = containers.secured(run_as_user=user, capabilities=cri.Capability(add_capabilities=["NET_ADMIN"]))
    assert sets_of(daemon, plain, "1")["Eff"] == sets_of(daemon, plain)["Eff"] == 0
    ambient = cri.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"])
    bound = containers.secured(run_as_user=user, capabilities=ambient)
    one = mask("CAP_NET_BIND_SERVICE")
    for pid in ("1", "self"):
        found = sets_of(daemon, bound, pid)
        assert (found["Eff"], found["Prm"], found["Amb"], found["Inh"]) == (
            one,
            one,
            one,
            one,
        )  # capabilities(7)


def test_c8_an_inheritable_file_capability_gives_nothing(containers: Containers, daemon: Live) -> None:
    id = containers.secured(run_as_user=cri.Int64Value(value=33))
    assert sets_of(daemon, id, "self", "/caps/cat")["Eff"] == 0


@pytest.mark.parametrize(
    "name", ["FLY", "", "CAP_", "NET_RAW ", "NET-RAW", "13", "CAP_CAP_CHOWN", "chown\n", "ＣＨＯＷＮ"]
)
def test_c8_an_unknown_name_is_an_error(name: str) -> None:
    for field in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
        assert not accepted({"linux": {"security_context": {"capabilities": {field: [name]}}}}), field


# --- C9: groups (CVE-2022-36109 and its kin), and ids that wrap to root -----------------------------------------

MERGE, STRICT = cri.Merge, cri.Strict
IDENTITIES: list[tuple[str, dict[str, Any], tuple[int, int, set[int]]]] = [
    ("", {}, (0, 0, {0})),
    ("app", {}, (1000, 1000, {1000, 29, 44})),
    ("app", {"supplemental_groups_policy": STRICT}, (1000, 1000, {1000})),
    ("app", {"supplemental_groups": [5]}, (1000, 1000, {1000, 29, 44, 5})),
    ("app", {"supplemental_groups": [5], "supplemental_groups_policy": STRICT}, (1000, 1000, {1000, 5})),
    ("app:audio", {}, (1000, 29, {29, 44})),
    ("1000:7", {}, (1000, 7, {7, 29, 44})),
    ("4242", {}, (4242, 0, {0})),
    ("app", {"run_as_user": 33}, (33, 33, {33, 44})),
    ("", {"run_as_user": 1000, "run_as_group": 1234}, (1000, 1234, {1234, 29, 44})),
    ("", {"run_as_user": 1000, "run_as_group": 1234, "supplemental_groups_policy": STRICT}, (1000, 1234, {1234})),
    ("", {"run_as_user": 2147483647, "run_as_group": 2147483647}, (2147483647, 2147483647, {2147483647})),
    ("", {"run_as_username": "www-data"}, (33, 33, {33, 44})),
    ("", {"run_as_username": "app", "run_as_group": 0}, (1000, 0, {0, 29, 44})),
    ("", {"run_as_user": 7, "run_as_group": 8}, "refused"),  # type: ignore[list-item]  # its line holds 4294967295
]  # fmt: skip
USERS = (
    "4294967295", "2147483648", "4294967296", "9" * 36, "-1", "+1", " 1", "1 ", "1_000", "１", "0:99999999999", "0:4294967295", "0:-1",
    "huge", "hugegroup", "app:huge", "nobody-here", "app:nobody-here", "root\n", "0x0", ":", ":0", "a:b:c", "0:0:0", "/", "root,app",
)  # fmt: skip


def context_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: cri.Int64Value(value=value) if name in ("run_as_user", "run_as_group") else value
        for name, value in fields.items()
    }


@pytest.fixture(scope="module")
def user_images(daemon: Live, tmp_path_factory: pytest.TempPathFactory) -> dict[str, cri.ImageSpec]:
    """An image for each USER of the tables."""
    users = [*dict.fromkeys([*(row[0] for row in IDENTITIES), *USERS])]
    names = {user: f"localhost/user:{number}" for number, user in enumerate(users)}
    archive = tmp_path_factory.mktemp("users") / "users.tar"
    archive.write_bytes(images.oci_layout({name: user_image(user) for user, name in names.items()}))
    import_image(daemon, archive)
    return {user: cri.ImageSpec(image=name) for user, name in names.items()}


@pytest.mark.parametrize(("image", "fields", "expected"), IDENTITIES)
def test_c9_the_ids_of_a_process(
    containers: Containers, daemon: Live, pod: str, user_images: dict[str, cri.ImageSpec], image: str, fields: dict[str, Any], expected: Any
) -> None:  # fmt: skip
    context = context_of(fields)
    if expected == "refused":
        assert code_of(daemon.container, pod, linux=linux(**context))[0] is INVALID
        return
    id = containers(image=user_images[image], linux=linux(**context))
    uid, gid, groups = expected
    for pid in ("1", "self"):
        status = process_status(daemon, id, pid)
        assert {*status["Uid"].split()} == {str(uid)} and {*status["Gid"].split()} == {str(gid)}
        assert {int(group) for group in status["Groups"].split()} == groups
    shown = daemon.status(id).user.linux
    assert (shown.uid, shown.gid, {*shown.supplemental_groups}) == expected


@pytest.mark.parametrize("user", USERS)
def test_c9_no_user_of_an_image_is_root_by_mistake(
    daemon: Live, pod: str, user_images: dict[str, cri.ImageSpec], user: str
) -> None:
    code, words = code_of(daemon.container, pod, name="who", image=user_images[user])
    assert code is INVALID, (user, code, words)
    image = daemon.images.ImageStatus(cri.ImageStatusRequest(image=user_images[user])).image
    name = user.partition(":")[0]
    assert not image.HasField("uid") or str(image.uid.value) == name


@pytest.mark.parametrize("value", [-1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("field", ["run_as_user", "run_as_group", "supplemental_groups"])
def test_c9_no_id_beyond_31_bits_comes_from_a_request(daemon: Live, pod: str, field: str, value: int) -> None:
    wrapped = [value] if field == "supplemental_groups" else cri.Int64Value(value=value)
    fields: dict[str, Any] = {"run_as_user": cri.Int64Value(value=1), field: wrapped}
    assert code_of(daemon.container, pod, name="who", linux=linux(**fields))[0] is INVALID
    sandbox = cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(**fields))
    assert code_of(daemon.pod, "who", linux=sandbox)[0] is INVALID


def test_c9_a_group_without_a_user_is_an_error(daemon: Live, pod: str) -> None:
    alone = linux(run_as_group=cri.Int64Value(value=5))
    assert code_of(daemon.container, pod, name="who", linux=alone)[0] is INVALID


def test_c9_a_group_may_have_less_than_everybody(containers: Containers, daemon: Live) -> None:
    """Mode 0707: whoever is in the group has nothing. A primary group that is not among the supplementary ones would."""
    inside = containers.secured(run_as_user=cri.Int64Value(value=1), run_as_group=cri.Int64Value(value=1234))
    outside = containers.secured(run_as_user=cri.Int64Value(value=1), run_as_group=cri.Int64Value(value=1235))
    assert b"denied" in daemon.exec(inside, "cat", "/less-for-odd").stderr
    assert daemon.exec(outside, "cat", "/less-for-odd").stdout == b"secret"


# --- C10, C11: mounts (CVE-2021-43816; options that loosen) -------------------------------------------------------

PLACES = (
    "relative", "", "/", "//", "/.", "/..", "/a/../..", "/a/../../b", "/proc", "/proc/", "/proc/1", "/proc/self/fd", "/proc/sys/kernel",
    "/sys/../proc/1", "/dev/../proc", "/a\nb", "/a\0b", "/\x7f", "/" + "x" * 5000, "/./proc/sysrq-trigger",
)  # fmt: skip


def mounted(**fields: Any) -> dict[str, Any]:
    return {"mounts": [{"container_path": "/data", "host_path": "/tmp", **fields}]}


def test_c10_no_mount_lands_where_it_must_not() -> None:
    assert accepted(mounted())
    for place in PLACES:
        assert not accepted(mounted(container_path=place)), place
    for source in ("relative", "/a/../b", "/a\0b", "/a\nb", "/" + "x" * 5000, "", "../x"):
        assert not accepted(mounted(host_path=source)), source
    for fields in (
        {"propagation": 3}, {"propagation": 99}, {"recursive_read_only": True},
        {"recursive_read_only": True, "readonly": True, "propagation": "PROPAGATION_BIDIRECTIONAL"},
        {"recursive_read_only": True, "readonly": True, "propagation": "PROPAGATION_HOST_TO_CONTAINER"},
    ):  # fmt: skip
        assert not accepted(mounted(**fields)), fields
    twice = {"mounts": [{"container_path": path, "host_path": "/tmp"} for path in ("/data", "/data/")]}
    assert not accepted(twice)


def test_c10_a_source_that_is_absent_is_an_error_and_is_not_made(
    daemon: Live, pod: str, canary: Path
) -> None:
    absent = canary / "absent"
    before = Path("/proc/self/mounts").read_text().count(str(daemon.own.directory))
    code, _ = code_of(daemon.container, pod, mounts=[cri.Mount(host_path=str(absent), container_path="/x")])
    assert code is INVALID and not absent.exists()
    assert Path("/proc/self/mounts").read_text().count(str(daemon.own.directory)) == before


def test_c10_a_source_that_is_a_link_is_followed_and_a_target_that_is_one_is_not(
    daemon: Live, pod: str, containers: Containers, canary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    links = tmp_path_factory.mktemp("links")
    (links / "source").symlink_to(canary)
    id = containers(mounts=[cri.Mount(host_path=str(links / "source"), container_path="/x", readonly=True)])
    assert daemon.exec(id, "cat", "/x/file").stdout == b"untouched"
    trap = images.busybox([images.Entry("trap", "symlink", link="/../../../../../.." + str(canary))])
    archive = links / "trap.tar"
    archive.write_bytes(images.oci_layout({"localhost/trap:1": trap}))
    import_image(daemon, archive)
    spec = cri.ImageSpec(image="localhost/trap:1")
    mounts = [cri.Mount(host_path="/usr", container_path="/trap", readonly=True)]
    code, _ = code_of(containers, image=spec, mounts=mounts)  # in the container's root, or refused
    assert code in (DONE, INVALID, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    assert not any(f" {canary} " in line for line in Path("/proc/self/mounts").read_text().splitlines())


LOOSENING = (
    *("rw", "suid", "dev", "exec", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable", "bind", "rbind", "remount", "idmap"),
    *("ridmap", "idmap=uids=0-0-1", "tmpcopyup", "copy-symlink", "src-nofollow", "lowerdir=/", "upperdir=/x", "workdir=/y", "size=1", "mode=0"),
    *("context=system_u:object_r:etc_t:s0", "rootcontext=x", "loop", "defaults", "auto", "user", "users", "group", "owner", "x-mount.mkdir"),
    *("noexec,suid", "noexec\nsuid", "noexec suid", " noexec", "noexec ", "NOEXEC", "noexec\0", "", "rro=", "mand", "norro", "noidmap"),
)  # fmt: skip


def test_c11_no_option_loosens_a_mount(daemon: Live, containers: Containers, canary: Path) -> None:
    assert len(LOOSENING) >= 40
    taken = [option for option in LOOSENING if accepted(mounted(mount_options=[option]))]
    assert taken == []
    mounts = [cri.Mount(host_path=str(canary), container_path="/x", readonly=True)]
    id = containers(mounts=mounts)
    (line,) = [
        line.split()
        for line in daemon.exec(id, "cat", "/proc/mounts").stdout.decode().splitlines()
        if " /x " in line
    ]
    assert "ro" in line[3].split(",")


# --- C12: devices ---------------------------------------------------------------------------------------------------


def device(**fields: Any) -> dict[str, Any]:
    return {
        "devices": [{"host_path": "/dev/null", "container_path": "/dev/x", "permissions": "rw", **fields}]
    }


def test_c12_a_device_is_what_it_says(daemon: Live, pod: str, tmp_path: Path) -> None:
    assert accepted(device())
    for fields in (
        *({"host_path": path} for path in ("/dev/../etc", "dev/null", "/dev/\0", "/dev/a\nb", "")),
        *(
            {"container_path": path}
            for path in ("/", "/dev", "/proc/x", "/sys/x", "/dev/../proc/x", "x", "/dev/\nb")
        ),
        *({"permissions": text} for text in ("", "rwx", "rrw", "RW", "rwm ", "r,w", "a")),
    ):
        assert not accepted(device(**fields)), fields
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "nothing").mkdir()
    for path in (
        tmp_path / "file",
        tmp_path / "fifo",
        tmp_path / "nothing",
        tmp_path / "absent",
        Path("/etc"),
    ):
        asked = [cri.Device(host_path=str(path), container_path="/dev/x", permissions="rwm")]
        assert code_of(daemon.container, pod, name="device", devices=asked)[0] is INVALID, path


@pytest.mark.parametrize(
    "name",
    ["vendor.com/class=../../x", "x", "/=", "vendor.com/class=", "a/b=c\n", "vendor.com/../x=y", "a" * 5000],
)
def test_c12_a_cdi_name_is_no_path(name: str) -> None:
    assert not accepted({"CDI_devices": [{"name": name}]})


def test_c12_a_device_with_less_than_all_permissions_has_no_more(
    containers: Containers, daemon: Live
) -> None:
    """/dev/ptmx and its like are everybody's; this one is nobody's unless it is given."""
    given = next(
        Path(name)
        for name in ("/dev/fuse", "/dev/kmsg", "/dev/net/tun", "/dev/loop-control")
        if Path(name).exists()
    )
    id = containers(devices=[cri.Device(host_path=str(given), container_path="/dev/mine", permissions="r")])
    assert b"not permitted" in daemon.exec(id, "sh", "-c", ": >>/dev/mine").stderr


# --- C13: output without end (CVE-2022-31030) ---------------------------------------------------------------------


def memory_of(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) << 10


@pytest.mark.limit(60)
def test_c13_commands_that_never_stop_talking_are_cut_short(containers: Containers, daemon: Live) -> None:
    id = containers()
    before = memory_of(daemon.own.pid)
    highest = before

    def flood(number: int) -> str:
        words = "yes" if number % 2 else "yes >&2"
        code, _ = code_of(daemon.exec, id, "sh", "-c", words, timeout=2)
        return code.name

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        running = [pool.submit(flood, number) for number in range(16)]
        while not all(one.done() for one in running):
            highest = max(highest, memory_of(daemon.own.pid))
            time.sleep(0.05)
    assert {one.result() for one in running} == {"DEADLINE_EXCEEDED"}
    assert highest - before < 200 << 20
    assert b"yes" not in daemon.exec(id, "ps").stdout.replace(b"ps", b"")


@pytest.mark.limit(60)
def test_c13_a_long_output_is_drained_capped_and_keeps_the_exit_code(
    containers: Containers, daemon: Live
) -> None:
    id = containers()
    said = daemon.exec(id, "sh", "-c", "head -c 67108864 /dev/zero; exit 3", timeout=30)
    assert said.exit_code == 3 and 1 << 20 < len(said.stdout) <= 16 << 20
    began = time.monotonic()
    daemon.exec(id, "sh", "-c", "sleep 30 & exit 0", timeout=10)
    assert time.monotonic() - began < 8  # a grandchild that holds the pipe keeps nobody


# --- C14: arguments taken for flags (CVE-2026-30892) ----------------------------------------------------------------


def test_c14_what_a_command_is_called_is_its_own_business(containers: Containers, daemon: Live) -> None:
    id = containers()
    for words in (
        ["--help"], ["-u", "0"], ["--version"], ["-h"], ["--"], ["--user=0"], ["--process=/etc/passwd"], ["--cap=CAP_SYS_ADMIN"], ["-t"],
        ["--detach"], ["--pid-file=/tmp/x"], ["--env=A=b"], ["--cwd=/proc"], ["--root=/tmp"], ["--systemd-cgroup"], ["exec"], ["delete", "-f"],
    ):  # fmt: skip
        answer = code_of(daemon.exec, id, *words)
        assert answer[0] is not DONE and (
            "not found" in answer[1].lower() or "no such file" in answer[1].lower()
        ), (words, answer)
    for words in (
        ["echo", "--help-me"],
        ["echo", "-u", "0"],
        ["echo", "$(id)"],
        ["echo", "a;b"],
        ["echo", "a b"],
        ["echo", "'"],
    ):
        assert daemon.exec(id, *words).stdout.decode() == " ".join(words[1:]) + "\n"
    for words in ([], [""], ["echo", "a\0b"]):
        assert code_of(daemon.exec, id, *words)[0] is INVALID


NO_FLAGS = (
    ["--help"], ["-u", "0"], ["--version"], ["-h"], ["--"], ["--user=0"], ["--process=/etc/passwd"], ["--cap=CAP_SYS_ADMIN"], ["-t"], ["--detach"],
    ["--pid-file=/tmp/x"], ["--console-socket=/tmp/x"], ["--env=A=b"], ["--cwd=/proc"], ["--root=/tmp"], ["--systemd-cgroup"], ["exec"], ["delete", "-f"],
)  # fmt: skip
WORDS = (
    ["-u", "0"],
    ["--help-me"],
    ["$(id)"],
    ["a;b"],
    ["a b"],
    ["'"],
    ["\n"],
    ["--", "--detach"],
    ["é\u202e"],
    ["%s", "{}"],
)


@each_handler
@pytest.mark.parametrize("way", [ways.PIPES, ways.TERMINAL])
async def test_c14_nor_is_it_the_runtimes_in_a_session(daemon: Live, way: str, handler: str) -> None:
    """As the user of the container whatever the words are. They are on no command line outside the container either."""
    pod = ways.pod(daemon, handler, f"c14-{way}-{handler}")
    id = daemon.started(pod, linux=linux(run_as_user=cri.Int64Value(value=33)))
    for words in NO_FLAGS:
        done = await ways.run(daemon, way, id, *words)
        assert re.search("not found|no such file", done.failure.lower()), (words, done)
    for words in WORDS:
        done = await ways.run(daemon, way, id, "echo", *words)
        assert done.said.decode() == " ".join(words) + "\n", words
    done = await ways.run(daemon, way, id, "sh", "-c", "id -u; cat /proc/self/cmdline | wc -c")
    assert done.lines[0] == "33"
    secret = os.urandom(8).hex()
    client = await ways.begin(daemon, way, id, "sh", "-c", "echo up; cat; true", secret, stdin=True)
    await client.until(lambda: b"up" in client.stdout)
    holders = [entry for entry in Path("/proc").glob("[0-9]*") if secret.encode() in cmdline(entry)]
    assert holders and all(id in (entry / "cgroup").read_text() for entry in holders)
    assert all(cmdline(entry).split(b"\0")[0] == b"sh" for entry in holders), [
        cmdline(entry) for entry in holders
    ]
    client.leave()
    ways.remove(daemon, pod)


def cmdline(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


@each_handler
@each_way
async def test_c14_an_environment_speaks_to_the_container_alone(daemon: Live, way: str, handler: str) -> None:
    """Names by which conmon, the OCI runtimes, the linker and Python are told something: none of ours listens."""
    names = ("_OCI_SYNCPIPE", "_OCI_STARTPIPE", "_OCI_ATTACHPIPE", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "LD_PRELOAD", "RUN_OCI_X",
             "XDG_RUNTIME_DIR", "_LIBCONTAINER_INITPIPE", "_LIBCONTAINER_STATEDIR", "_LIBCRUN_X", "PYTHONSTARTUP", "PYTHONPATH", "GODEBUG")  # fmt: skip
    pod = ways.pod(daemon, handler, f"env-{way}-{handler}")
    id = daemon.started(pod, envs=[cri.KeyValue(key=name, value=b"7") for name in names])
    done = await ways.run(daemon, way, id, "sh", "-c", "env; ls /proc/self/fd | wc -l")
    assert {f"{name}=7" for name in names} <= {*done.lines} and done.lines[-1].strip() == "4", done
    ways.remove(daemon, pod)


# --- C15: resources and cgroup paths --------------------------------------------------------------------------------


def test_c15_no_cgroup_path_climbs_and_no_limit_is_dropped_in_silence() -> None:
    for parent in (
        "/../../x",
        "../x",
        "x",
        "/a/../b",
        "/a\0b",
        "/a\nb",
        "a.slice/../b.slice",
        "/" + "x" * 5000,
        "-.slice\n",
    ):
        assert not accepted_pod({"linux": {"cgroup_parent": parent}}), parent
    for limits in (
        *({"unified": {key: "1"}} for key in ("../memory.max", "memory/max", "a/b", "/x", "", ".", "..", "memory.max\n", "MEMORY.MAX\0", "x" * 5000)),
        *({"unified": {"memory.high": value}} for value in ("1\n2\0", "\0")),
        *({"cpuset_cpus": text} for text in ("0-99999x", "a", "0;1", "-1", "1-", "0,,1", "0\n1", "١")),
        *({"cpuset_mems": text} for text in ("x", "0-", "0\n")),
        {"memory_limit_in_bytes": "-2"}, {"memory_limit_in_bytes": str(-(2**63))}, {"cpu_period": "-1"}, {"cpu_quota": "-2"}, {"cpu_shares": "-1"},
        {"oom_score_adj": "1001"}, {"oom_score_adj": "-1001"}, {"memory_limit_in_bytes": "1000", "memory_swap_limit_in_bytes": "999"},
        *({"hugepage_limits": [{"page_size": size, "limit": "1"}]} for size in ("", "2MB/../x", "2 MB", "x", "2MB\n")),
    ):  # fmt: skip
        assert not accepted({"linux": {"resources": limits}}), str(limits)[:200]


def test_c15_a_container_is_in_the_group_of_its_pod(containers: Containers, daemon: Live) -> None:
    id = containers()
    pid = int(
        daemon.exec(id, "sh", "-c", "readlink /proc/self; true").stdout or 0
    )  # the pod's own PID namespace
    assert pid > 0
    conmon = [e for e in Path("/proc").glob("[0-9]*") if id.encode() in (e / "cmdline").read_bytes() and b"conmon" in (e / "cmdline").read_bytes()]  # fmt: skip
    (children,) = [(task / "children").read_text().split() for task in (conmon[0] / "task").iterdir()]
    groups = Path(f"/proc/{children[0]}/cgroup").read_text()
    assert daemon.cgroup_parent.strip("/") in groups and id in groups


# --- C16: user namespaces (critest's rules) -------------------------------------------------------------------------


def mapping(host: int = 100000, container: int = 0, length: int = 65536) -> dict[str, int]:
    return {"host_id": host, "container_id": container, "length": length}


def userns(**fields: Any) -> dict[str, Any]:
    options = {"mode": "POD", "uids": [mapping()], "gids": [mapping()], **fields}
    return {"linux": {"security_context": {"namespace_options": {"userns_options": options}}}}


MAPPINGS: list[dict[str, Any]] = [
    {"uids": []}, {"gids": []}, {"uids": [], "gids": []}, {"uids": [mapping(length=0)]}, {"uids": [mapping(length=2**32 - 1)]},
    {"uids": [mapping(container=1)]}, {"gids": [mapping(container=1)]}, {"uids": [mapping(), mapping(200000, 65536)]},
    {"uids": [mapping(), mapping()]}, {"uids": [mapping(host=2**32 - 10)]}, {"uids": [mapping(host=0)]}, {"gids": [mapping(host=0)]},
    {"mode": "CONTAINER"}, {"mode": "TARGET"}, {"mode": "NODE"}, {"mode": 7}, {"uids": [mapping(host=2**31)]},
]  # fmt: skip


@pytest.mark.parametrize("fields", MAPPINGS, ids=str)
def test_c16_a_mapping_that_could_give_the_hosts_ids_is_refused(fields: dict[str, Any]) -> None:
    assert not accepted_pod(userns(**fields))
    good, bad = userns(), userns(**fields)
    assert not accepted(bad, pod=good) and not accepted(good, pod=bad)


# --- C17: ports -----------------------------------------------------------------------------------------------------


def test_c17_a_port_is_a_port() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        *({"container_port": port} for port in (-1, 0, 65536, 2**31 - 1)), *({"host_port": port} for port in (-1, 65536, -(2**31))),
        *({"host_ip": text} for text in ("x", "1.1.1.1;reboot", "1.1.1.1\n", "::1%lo", "0", "1.1.1.1/8", " 1.1.1.1", "[::1]")),
        {"protocol": 3}, {"protocol": 99},
    )  # fmt: skip
    for fields in wrong:
        assert not accepted_pod({"port_mappings": [{"container_port": 80, **fields}]}), fields


LOOPBACKS = ("127.0.0.1", "::1")


@contextlib.contextmanager
def hosts_listener(host: str) -> Iterator[socket.socket]:
    """A service on the machine's own loopback that nobody in a pod may reach."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen()
        listener.setblocking(False)
        yield listener


def visitors(listener: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def forward_url(daemon: Live, pod: str) -> str:
    return daemon.runtime.PortForward(cri.PortForwardRequest(pod_sandbox_id=pod)).url


def forwarded(url: str, *ports: str, seconds: float = 10) -> dict[str, str]:
    """What a client that names these ports hears: words of failure by port, "reset" for a connection refused as such."""
    heard: dict[str, str] = {}
    with contextlib.closing(connected(url, Kind.SPDY, "portforward.k8s.io")) as connection:
        session = spdy.Session(server=False)
        names = {}
        for number, port in enumerate(ports):
            headers = (("port", port), ("requestid", str(number)))
            names[session.open((("streamtype", "error"), *headers))] = port
            names[session.open((("streamtype", "data"), *headers))] = port
        connection.settimeout(seconds)
        while len(heard) < len({*ports}):
            for data in session.to_send():
                connection.sendall(data)
            for event in session.receive(connection.recv(1 << 16)):
                if isinstance(event, spdy.Received):
                    heard[names[event.stream]] = bytes(event.data).decode()
                elif isinstance(event, spdy.WasReset):
                    heard.setdefault(names[event.stream], "reset")
    return heard


@pytest.mark.parametrize("host", LOOPBACKS)
def test_c17_a_pods_port_is_in_the_pod(daemon: Live, pod: str, host: str) -> None:
    """Neither the machine's loopback nor another pod's is reached through it; nor the address of sessions itself. The
    machine's is, through a pod that shares its network: so the listener would tell."""
    other = daemon.pod("neighbour")
    daemon.started(other, "sh", "-c", "while :; do echo neighbour | nc -l -p 5678; done")
    node = cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
    shared = daemon.pod(
        "shared-net",
        linux=cri.LinuxPodSandboxConfig(
            security_context=cri.LinuxSandboxSecurityContext(namespace_options=node)
        ),
    )
    with hosts_listener(host) as listener:
        port = str(listener.getsockname()[1])
        url = forward_url(daemon, pod)
        own = str(urlsplit(url).port)
        heard = forwarded(url, port, "5678", own)
        assert all("refused" in words.lower() for words in heard.values()), heard
        assert visitors(listener) == 0
        with contextlib.suppress(ConnectionError, TimeoutError):
            forwarded(forward_url(daemon, shared), port, seconds=1)
        assert visitors(listener) == 1
    for each in (other, shared):
        ways.remove(daemon, each)


@pytest.mark.parametrize(
    "port",
    [
        "0",
        "-1",
        "65536",
        "80;81",
        "1e3",
        "0x50",
        " 80",
        "+80",
        "8_0",
        "٨٠",
        "",
        "localhost",
        "127.0.0.1:80",
        "9" * 40,
    ],
)
def test_c17_what_is_no_port_is_not_connected_to(daemon: Live, pod: str, port: str) -> None:
    assert forwarded(forward_url(daemon, pod), port) == {port: "reset"}


@pytest.mark.parametrize("ports", [[0], [-1], [65536], [2**31 - 1], [80, 0]])
def test_c17_nor_asked_for(daemon: Live, pod: str, ports: list[int]) -> None:
    request = cri.PortForwardRequest(pod_sandbox_id=pod, port=ports)
    assert code_of(daemon.runtime.PortForward, request)[0] is INVALID


@pytest.mark.parametrize("how", ["stopped", "made again", "unmounted", "another's"])
def test_c17_a_pod_whose_network_has_gone_leads_nowhere(daemon: Live, how: str) -> None:
    """Asked for while it was there. What is left at the place of its namespace is no namespace, or not the machine's."""
    pod = daemon.pod("passing")
    url = forward_url(daemon, pod)
    place = Paths(daemon.own.root, daemon.own.state).namespace(pod, "net")
    assert place.exists()
    with hosts_listener("127.0.0.1") as listener:
        if how == "stopped" or how == "made again":
            ways.remove(daemon, pod)
            pod = daemon.pod("passing") if how == "made again" else ""
        else:
            subprocess.run(["umount", place], check=True)
        if how == "another's":  # another kind of namespace, the machine's own
            subprocess.run(["mount", "--bind", "/proc/self/ns/uts", place], check=True)
        try:
            heard = forwarded(url, str(listener.getsockname()[1]))
        except Refused as refused:
            heard = {"": str(refused)}
        finally:
            if how == "another's":
                subprocess.run(["umount", place], check=True)
        assert all(re.search("no pod|not ready|gone|cannot enter", words) for words in heard.values()), heard
        assert visitors(listener) == 0
    if pod:
        ways.remove(daemon, pod)


# --- C18: sizes and numbers nobody expects ----------------------------------------------------------------------------


def raw(daemon: Live, rpc: str, message: bytes) -> Callable[[], object]:
    """A request of bytes that a client's library would not send."""
    call: Callable[..., object] = daemon.own.cri.channel.unary_unary(f"/runtime.v1.RuntimeService/{rpc}")
    return lambda: call(message, timeout=20)


def test_c18_size_and_nonsense_are_answered_and_leave_the_daemon_as_it_was(daemon: Live, pod: str) -> None:
    before = memory_of(daemon.own.pid)
    big = "x" * (1 << 20)
    config = daemon.container_config
    labels = {f"label-{number}": "x" for number in range(100_000)}
    many = [cri.Mount(host_path="/tmp", container_path=f"/m{number}") for number in range(10_000)]
    wishes: list[cri.ContainerConfig] = [
        config(labels=labels), config(annotations={"a": big}), config("sh", big * 7), config(envs=[cri.KeyValue(key=big, value=b"x")]),
        config(envs=[cri.KeyValue(key="A", value=b"\xff")]), config(working_dir="/" + big), config(log_path=big), config(mounts=many + many[:1]),
        config(stop_signal=1000), config(image=cri.ImageSpec(image=big)), config(linux=linux(run_as_username=big)),
        config(linux=linux(supplemental_groups=range(100_000))), config(linux=linux(supplemental_groups_policy=7)),
        config(linux=linux(seccomp=cri.SecurityProfile(profile_type=cast(Any, 9)))), config(linux=linux(namespace_options=cri.NamespaceOption(pid=cast(Any, 9)))),
    ]  # fmt: skip
    for number, wish in enumerate(wishes):
        request = cri.CreateContainerRequest(pod_sandbox_id=pod, config=wish)
        code, words = code_of(daemon.runtime.CreateContainer, request, timeout=30)
        assert code in (INVALID, MISSING), (number, code, words[:200])
        assert len(words) < 2500, number
    too_large = cri.CreateContainerRequest(pod_sandbox_id=pod, config=config(annotations={"a": big * 17}))
    assert code_of(daemon.runtime.CreateContainer, too_large)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    chance = random.Random(18)
    for message in (
        b"\xff" * 100,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x02\xff\xfe",
        *(chance.randbytes(200) for _ in range(50)),
    ):
        for rpc in ("RunPodSandbox", "CreateContainer", "ContainerStatus", "ListContainers", "ExecSync"):
            code, words = code_of(raw(daemon, rpc, message))
            assert "Traceback" not in words and code is not grpc.StatusCode.UNAVAILABLE, (rpc, message)
    assert daemon.runtime.Version(cri.VersionRequest()).runtime_name == "sampan"
    assert memory_of(daemon.own.pid) - before < 200 << 20
