# ruff: noqa: E501 - one row of a table, one line
"""What an image can be made to do to a node, a test for each known way (ids are rows of our list of vulnerabilities).

A1 volumes · A2 directories made on the host · A3 /dev, /proc, /sys that are none · A4 files for another runtime · A8 what
users of the host can reach · A11 layers that are not those promised · A12 users · A13 user databases · A14 home
directories · A15 environments · A16 labels · A17 odd values · A19 programs and modules in an image · A20 large images.

Elsewhere: A5 and A6 in test_table_a5.py, A7 in test_table_a7.py, A9 in test_table_a9.py, A10 in test_table_a10.py and
test_hostile_archives.py, users that are none (A12) in test_table_c.py, A18 in tests/host/storage/test_volumes.py.
"""

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests import hostile_archives, images
from tests.daemon.conftest import Live
from tests.host import stores
from tests.host.stores import d, f, fingerprint, h, s
from tests.images import Entry
from tests.security import shelf
from tests.security.conftest import SECRET, Containers, code_of, process_status
from tests.security.shelf import Shelf

pytestmark = pytest.mark.root

DONE, INVALID, MISSING = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
numbers = itertools.count()


@pytest.fixture(scope="module")
def there() -> Iterator[Shelf]:
    with shelf.opened() as there:
        yield there


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[str]:
    """A tree outside of all that is managed, which must be as it was in the end."""
    stores.canary(tmp_path / "canary")
    before = fingerprint(tmp_path / "canary")
    yield str(tmp_path / "canary")
    assert fingerprint(tmp_path / "canary") == before


def without(*names: str) -> list[Entry]:
    """The busybox image but for what is there or below."""
    return [
        entry
        for entry in images.busybox_entries()
        if entry.path not in names and not entry.path.startswith(tuple(f"{name}/" for name in names))
    ]


def made(*layers: Sequence[Entry] | bytes, **config: Any) -> images.Image:
    tars = [layer if isinstance(layer, bytes) else images.layer(layer) for layer in layers]
    return images.image(tars, {"Cmd": ["sh"], "Env": [images.PATH], **config})


def pull(daemon: Live, there: Shelf, image: images.Image) -> tuple[grpc.StatusCode, str, cri.ImageSpec]:
    spec = cri.ImageSpec(image=there.put(f"image{next(numbers)}", image))
    return *code_of(daemon.images.PullImage, cri.PullImageRequest(image=spec), timeout=30), spec


def pulled(daemon: Live, there: Shelf, image: images.Image) -> cri.ImageSpec:
    code, words, spec = pull(daemon, there, image)
    assert code is DONE, words
    return spec


def attempt(containers: Containers, *command: str, **more: Any) -> str:
    """A started container, or "" where it was refused as bad."""
    try:
        return containers(*command, **more)
    except grpc.RpcError as error:
        assert error.code() in (INVALID, grpc.StatusCode.UNKNOWN), error
        assert "Traceback" not in (error.details() or "")
        return ""


# --- A1, A2: volumes and directories (CVE-2022-23648, CVE-2024-5154) --------------------------------------------


def test_a1_no_volume_of_an_image_holds_files_of_the_host(
    daemon: Live, containers: Containers, there: Shelf, canary: str
) -> None:
    volumes: dict[str, dict[str, str]] = {
        f"/../../../..{canary}": {},
        f"/v{canary}/etc": {},
        f"/up/..{canary}": {},
    }
    spec = pulled(
        daemon, there, made(images.busybox_entries(), [s("v", "/"), s("up", "../../..")], Volumes=volumes)
    )
    id = attempt(containers, image=spec)
    if id:
        assert daemon.exec(id, "find", canary).exit_code in (0, 127)
        shown = daemon.exec(id, "sh", "-c", f"cat {canary}/etc/passwd {canary}/passwd; ls {canary}/tmp")
        assert b"outside" not in shown.stdout and shown.exit_code
        daemon.exec(id, "sh", "-c", f"echo in >{canary}/mine; echo in >{canary}/etc/mine")
    copied = [
        path for path in daemon.own.root.rglob("passwd") if path.is_file() and path.read_bytes() == b"outside"
    ]
    assert copied == []


@pytest.mark.parametrize("link", ["etc", "run", "tmp", "usr", "w", "var", "home"])
def test_a2_the_daemon_makes_nothing_where_a_link_of_the_image_leads(
    daemon: Live, containers: Containers, there: Shelf, canary: str, link: str
) -> None:
    """Its own files (/etc/hosts, ...), working directories, mount points of the request."""
    for target in (canary, f"../../../..{canary}"):
        config = {"WorkingDir": f"/{link}/x/y", "Volumes": {f"/{link}/volume": {}}}
        spec = pulled(daemon, there, made([*without(link), s(link, target)], **config))
        source = Path(canary).parent / "source"
        source.mkdir(exist_ok=True)
        mounts = [cri.Mount(container_path=f"/{link}/mounted/here", host_path=str(source))]
        id = attempt(containers, image=spec, mounts=mounts)
        if id:
            daemon.exec(id, "sh", "-c", f"echo in >/{link}/mine; mkdir /{link}/x; rm -r /{link}/etc")


# --- A3: CVE-2026-47766 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_a3_an_image_without_real_kernel_directories_is_refused_when_it_is_pulled(
    daemon: Live, there: Shelf, canary: str, name: str
) -> None:
    inside = [d(part.lstrip("/")) for part in (*map(str, [*Path(canary).parents][-2::-1]), canary)]
    rest = [entry for entry in without(name) if entry.path not in {one.path for one in inside}]
    images_of_it = {
        "a link": made([*rest, s(name, canary)]),
        "a link to what the image has too": made([*rest, *inside, s(name, canary)]),
        "a relative link": made([*rest, s(name, f"../../..{canary}")]),
        "a link in a second layer": made(images.busybox_entries(), [s(name, canary)]),
        "a link that is named otherwise": made(rest, [s(f"x/../{name}", canary)]),
        "a file": made([*rest, f(name)]),
        "a device": made([*rest, Entry(name, "char", device=(1, 3))]),
        "a directory, then a link, then a file over it": made(
            images.busybox_entries(), [s(name, "etc")], [f("new")]
        ),
    }
    for what, image in images_of_it.items():
        code, words, spec = pull(daemon, there, image)
        assert (code, f"/{name} is not a directory" in words) == (INVALID, True), (what, code, words)
        assert not daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec)).image.id
    good = (
        made([*rest, s(name, canary)], [f(f".wh.{name}")]),
        made([*rest, s(name, canary)], [d(name)]),
        made(rest),
    )
    for image in good:
        pulled(daemon, there, image)


# --- A4: CVE-2025-24965 -----------------------------------------------------------------------------------------


def test_a4_no_annotation_makes_another_runtime_write_through_the_image(
    daemon: Live, containers: Containers, there: Shelf, canary: str
) -> None:
    links = [s(name, f"{canary}/etc/passwd") for name in (".krun_config.json", ".krun_vm.json", "etc/mtab")]
    spec = pulled(daemon, there, made(images.busybox_entries(), links))
    told = {
        "run.oci.handler": "krun",
        "io.containers.krun": "true",
        "krun.cpus": "1",
        "run.oci.mount_context_type": "x",
    }
    pod = daemon.pod("a4", annotations=told)
    id = attempt(containers, pod=pod, image=spec, annotations=told)
    assert id, "annotations are data: the container runs"
    assert dict(daemon.status(id).annotations) == told
    config = next((daemon.own.state / "containers").glob(f"{id}/config.json"))
    assert "krun" not in config.read_text()


# --- A8: CVE-2021-41103, CVE-2024-25621 -------------------------------------------------------------------------

REACHED = """
import os, sys
for path in sys.stdin.buffer.read().split(b"\\0"):
    try:
        mode = os.lstat(path).st_mode & 0o170000
    except OSError:
        continue
    readable = os.access(path, os.R_OK) or (mode != 0o040000 and os.access(path, os.X_OK | os.W_OK))
    if readable and mode != 0o120000 or os.access(path, os.W_OK):
        print(os.fsdecode(path))
"""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def test_a8_nobody_else_on_the_host_reaches_what_images_hold(
    daemon: Live, containers: Containers, there: Shelf
) -> None:
    capability = bytes.fromhex("0100000202000000000000000000000000000000").decode("latin-1")
    entries = [
        Entry("suid", data=Path("/bin/busybox").read_bytes(), mode=0o4755),
        Entry("sgid", data=b"x", mode=0o2777, gid=65534),
        Entry("owned", data=b"x", mode=0o777, uid=65534),
        Entry("disk", "block", device=(8, 0), mode=0o666),
        Entry("caps", data=b"x", mode=0o777, pax={"SCHILY.xattr.security.capability": capability}),
        Entry("open", "dir", mode=0o1777),
    ]
    image = made(images.busybox_entries(), entries, Volumes={"/open/volume": {}})
    id = containers(image=pulled(daemon, there, image))
    daemon.exec(id, "sh", "-c", "cp /suid /tmp/suid; chmod 4777 /tmp/suid; chmod 777 / /tmp")
    paths = [path for top in (daemon.own.root, daemon.own.state) for path in (top, *top.rglob("*"))]
    there_are = {path.name for path in paths}
    assert {"suid", "sgid", "owned", "disk", "caps", "config.json", "state.db"} <= there_are
    listed = b"\0".join(str(path).encode(errors="surrogateescape") for path in paths)
    python = "/usr/bin/python3"  # ours may lie where nobody may look
    done = subprocess.run(
        [*NOBODY, python, "-c", REACHED], input=listed, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode() == ""
    assert subprocess.run(
        [*NOBODY, daemon.own.root / "x"], capture_output=True, check=False
    ).returncode == 126 or not (daemon.own.root.stat().st_mode & 0o077)


# --- A11: layers that are not those promised --------------------------------------------------------------------


def promising(image: images.Image, diff_ids: Sequence[str]) -> images.Image:
    """The image with a config that names these layers."""
    config = images.dump(
        json.loads(image.blobs[image.id]) | {"rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}
    )
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": images.sha256(config), "size": len(config)}
    return images.Image(dict(image.blobs) | {images.sha256(config): config}, images.dump(manifest))


def test_a11_layers_must_be_those_that_the_config_names(daemon: Live, there: Shelf) -> None:
    tars = [images.layer([f(f"f{number}", bytes([number]) * 99)]) for number in range(3)]
    honest = images.image(tars)
    one, two, three = (images.sha256(tar) for tar in tars)
    bad = {
        "fewer": promising(honest, [one, two]),
        "more": promising(honest, [one, two, three, three]),
        "none": promising(honest, []),
        "another": promising(honest, [one, two, images.sha256(b"")]),
        "another order": promising(honest, [one, three, two]),
        "digests of the blobs": promising(
            honest, [each["digest"] for each in json.loads(honest.manifest)["layers"]]
        ),
        "no digests": promising(honest, ["sha256:" + "x" * 64, "../../x", ""]),
        "501": images.image([tars[0]] * 501),
        "10,000": images.image([tars[0]] * 10_000),
        "an empty blob": images.image([b""], compression="gzip"),
    }
    empty = images.sha256(b"")
    hollow = json.loads(bad["an empty blob"].manifest)
    hollow["layers"][0] |= {"digest": empty, "size": 0}
    bad["an empty blob"] = images.Image(dict(bad["an empty blob"].blobs) | {empty: b""}, images.dump(hollow))
    before = {path.name for path in (daemon.own.root / "layers").glob("[0-9]*")}
    for what, image in bad.items():
        code, words, spec = pull(daemon, there, image)
        assert code is INVALID, (what, code, words)
        assert not daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec)).image.id
    until(lambda: {path.name for path in (daemon.own.root / "layers").glob("[0-9]*")} == before)
    assert json.loads(promising(honest, [one, two, three]).manifest)["layers"]
    spec = pulled(daemon, there, images.image([tars[0]] * 30))
    shown = daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec)).image
    assert shown.id and shown.size


def test_a11_an_image_without_layers_shows_nothing_of_the_store(
    daemon: Live, containers: Containers, there: Shelf
) -> None:
    """CVE-2026-24054."""
    spec = pulled(daemon, there, made())
    assert attempt(containers, image=spec) == ""
    source = Path("/bin/busybox")
    mounts = [cri.Mount(container_path="/bin/busybox", host_path=str(source), readonly=True)]
    id = attempt(containers, "/bin/busybox", "sleep", "1000", image=spec, mounts=mounts)
    assert id
    listed = set(daemon.exec(id, "/bin/busybox", "ls", "-A", "/").stdout.decode().split())
    assert listed <= {"bin", "dev", "proc", "sys", "etc", "run"}, listed


def until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


# --- A12: users (CVE-2024-40635) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "uid", "name"),
    [("", 0, ""), ("0", 0, ""), ("4242", 4242, ""), ("1000:7", 1000, ""), ("2147483647", 2147483647, ""), ("www-data", 33, "www-data"), ("root:www-data", 0, "root")],
)  # fmt: skip
def test_a12_who_runs_is_who_the_status_of_the_image_names(
    daemon: Live, containers: Containers, there: Shelf, user: str, uid: int, name: str
) -> None:
    spec = pulled(daemon, there, images.busybox(config={"User": user}))
    shown = daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec)).image
    assert {*process_status(daemon, containers(image=spec))["Uid"].split()} == {str(uid)}
    assert shown.username == name
    if not name:
        assert shown.uid.value == uid and shown.HasField("uid")


# --- A13, A14: user databases (CVE-2025-4437, CVE-2022-4318) ----------------------------------------------------


def sparse(path: str, size: int) -> bytes:
    """A layer of one file that is all hole."""
    header = hostile_archives.pax((b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", b""))
    return header + hostile_archives.member(name=path.encode()) + hostile_archives.END


DATABASES: Mapping[str, Sequence[Entry] | bytes] = {
    "20 MiB": [f("etc/passwd", b"# comment\n" * (2 << 20))],
    "one line of 20 MiB": [f("etc/passwd", b"x" * (20 << 20))],
    "2 GiB of nothing": sparse("etc/passwd", 2 << 30),
    "a FIFO": [Entry("etc/passwd", "fifo")],
    "a device": [Entry("etc/passwd", "char", device=(1, 5))],
    "a disk": [Entry("etc/passwd", "block", device=(8, 0))],
    "a link to a device": [Entry("zero", "char", device=(1, 5)), s("etc/passwd", "/zero")],
    "a link to /dev/zero": [s("etc/passwd", "/dev/zero")],
    "a link to /proc/self/mem": [s("etc/passwd", "/proc/self/mem")],
    "a link to the host's": [s("etc/passwd", "/../../../../../../../../etc/hostname")],
    "a directory": [f(".wh.etc"), d("etc"), d("etc/passwd")],
    "a loop": [s("etc/passwd", "group"), s("etc/group", "passwd")],
    "noise": [f("etc/passwd", random.Random(1).randbytes(100_000))],
}


@pytest.mark.parametrize("database", DATABASES.values(), ids=DATABASES)
def test_a13_a_user_database_that_is_none_is_an_error_soon(
    daemon: Live, pod: str, there: Shelf, database: Sequence[Entry] | bytes
) -> None:
    spec = pulled(daemon, there, made(without("etc/passwd"), database, User="app"))
    before = resident(daemon)
    begun = time.monotonic()
    code, words = code_of(daemon.container, pod, name=f"a13-{next(numbers)}", image=spec)
    assert code is INVALID and "Traceback" not in words, (code, words)
    assert time.monotonic() - begun < 10
    assert resident(daemon) - before < 32 << 20


def resident(daemon: Live) -> int:
    status = Path(f"/proc/{daemon.own.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_a13_a_database_behind_a_link_within_the_image_is_read(
    daemon: Live, containers: Containers, there: Shelf
) -> None:
    passwd = f("system/etc/passwd", b"app:x:1000:1000::/:/bin/sh\n")
    entries = [*without("etc"), d("system"), d("system/etc"), passwd, s("etc", "/system/etc")]
    id = containers(image=pulled(daemon, there, made(entries, User="app")))
    assert process_status(daemon, id)["Uid"].split()[0] == "1000"


def test_a14_no_home_makes_a_line_of_the_user_database(
    daemon: Live, containers: Containers, there: Shelf
) -> None:
    for byte in ("\n", "\r", "\\n", ":", "\x85", "\u2028", "\x7f", "\x01"):
        home = f"/x{byte}r:x:0:0::/:"
        config = {"Env": [images.PATH, f"HOME={home}", f"USER=u{byte}r"], "User": "1234", "WorkingDir": "/"}
        id = attempt(containers, image=pulled(daemon, there, images.busybox(config=config)))
        assert id
        assert daemon.exec(id, "cat", "/etc/passwd").stdout == images.PASSWD
        assert daemon.exec(id, "cat", "/etc/group").stdout == images.GROUP
        assert daemon.exec(id, "sh", "-c", 'printf %s "$HOME"').stdout.decode() == home


# --- A15, A16: environments and labels (CVE-2026-57231, CVE-2026-53488) -----------------------------------------


def test_a15_an_environment_takes_nothing_from_the_host_and_nothing_from_others(
    daemon: Live, containers: Containers, there: Shelf
) -> None:
    env = ["SECRET_CANARY", "SECRET_CANAR*", "PATH*", "=x", "", "*", "A\0B=1", images.PATH, "OWN=image"]
    spec = pulled(daemon, there, images.busybox(config={"Env": env}))

    def one(number: int) -> tuple[str, int]:
        return containers(image=spec, envs=[cri.KeyValue(key=f"MINE{number}", value=b"1")]), number

    with ThreadPoolExecutor(6) as pool:
        for id, number in pool.map(one, range(50)):
            text = daemon.exec(id, "cat", "/proc/1/environ").stdout.decode()
            names = {entry.partition("=")[0] for entry in text.split("\0") if entry}
            assert names == {"PATH", "HOSTNAME", "HOME", "OWN", f"MINE{number}"}
            assert SECRET not in text


def test_a16_labels_of_an_image_are_data(
    daemon: Live, containers: Containers, there: Shelf, canary: str
) -> None:
    labels = {
        "containerd.io/restart.loguri": f"binary://{canary}/etc/passwd",
        "io.cri-containerd.kind": "sandbox",
        "io.kubernetes.pod.name": "other",
        "run.oci.handler": "krun",
        "run.oci.hooks.stdout": f"{canary}/out",
        "org.systemd.property.ExecStart": "x",
        "sampan.pod": "other",
        "long": "x" * (1 << 20),
        "app": "web",
    }
    spec = pulled(daemon, there, images.busybox(config={"Labels": labels}))
    id = containers(image=spec, labels={"own": "1"}, annotations={"note": "2"})
    status = daemon.status(id)
    assert (dict(status.labels), dict(status.annotations)) == ({"own": "1"}, {"note": "2"})
    config = json.loads((daemon.own.state / "containers" / id / "config.json").read_text())
    assert not set(config.get("annotations", {})) & set(labels)
    verbose = daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec, verbose=True))
    told = json.loads(verbose.info["info"])["labels"]
    assert told["app"] == "web" and "long" not in told
    for one in (daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec)), status):
        assert "krun" not in str(one)


# --- A17: odd values --------------------------------------------------------------------------------------------

REFUSED: Sequence[Mapping[str, Any]] = [
    *({"StopSignal": signal} for signal in ("999", "-9", "SIGKILL\n", "RTMIN+40", "0", "SIGNONE", "9 ", "ＳＩＧＫＩＬＬ", "1" * 5000)),
    {"Cmd": [], "Entrypoint": []},
    {"Cmd": [""], "Entrypoint": None},
    {"Entrypoint": ["x"] * 1_000_000},
    {"Entrypoint": ["x" * (1 << 20)]},
    {"Entrypoint": ["sh\0"]},
    {"Env": [f"V{number}={'x' * 100_000}" for number in range(70)]},
    {"WorkingDir": "/proc/self/fd/9"},
    {"WorkingDir": "/x\0"},
    {"User": "root\0"},
    {"Volumes": ["/data"]},
    {"Volumes": {"relative": {}}},
    {"Volumes": {"": {}}},
    {"Volumes": {"/": {}}},
    {"Env": "A=1"},
    {"Cmd": "sh"},
    {"Cmd": [1]},
    {"Labels": {"a": 1}},
    {"StopSignal": 9},
]  # fmt: skip
FINE: Sequence[Mapping[str, Any]] = [
    *({"StopSignal": signal} for signal in ("", "SIGTERM", "TERM", "term", "15", "RTMIN+3", "SIGRTMAX-1")),
    {"Cmd": None, "Entrypoint": ["sleep", "1000"]},
    {"Env": None, "Labels": None, "Volumes": None, "ExposedPorts": None, "WorkingDir": None, "User": None},
    {"Env": [f"V{number}=x" for number in range(5000)]},
    {"WorkingDir": "/new/place"},
    {"Volumes": {"/proc/sys": {}, "/proc": {}, "/dev/x": {}}},
    {"ExposedPorts": {"99999/xyz": {}}, "OnBuild": ["x"], "Unknown": {"deep": [1]}, "ArgsEscaped": True},
    {
        "Healthcheck": {"Test": ["CMD", "true"]},
        "Shell": ["/bin/sh"],
        "Domainname": "x\ny",
        "Hostname": "../x",
    },
]


def odd(daemon: Live, pod: str, there: Shelf, config: Mapping[str, Any]) -> tuple[grpc.StatusCode, str]:
    """How an image with this is answered: its pull, else a container's creation (with the image's own command)."""
    image = images.image(
        [images.layer(images.busybox_entries())], {"Cmd": ["sleep", "1000"], "Env": [images.PATH], **config}
    )
    code, words, spec = pull(daemon, there, image)
    if code is not DONE:
        return code, words
    request = daemon.container_config(name=f"a17-{next(numbers)}", image=spec)
    del request.command[:]
    return code_of(
        daemon.runtime.CreateContainer,
        cri.CreateContainerRequest(pod_sandbox_id=pod, config=request),
        timeout=30,
    )


def test_a17_odd_values_are_refused_or_harmless(daemon: Live, there: Shelf) -> None:
    assert len(REFUSED) + len(FINE) >= 38
    pod = daemon.pod("odd")
    for config in REFUSED:
        code, words = odd(daemon, pod, there, config)
        assert code is INVALID and "Traceback" not in words, (str(config)[:100], code, words[:300])
    for config in FINE:
        code, words = odd(daemon, pod, there, config)
        assert code is DONE, (str(config)[:100], code, words[:300])
    daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=60)


def test_a17_an_image_of_another_machine_is_refused_and_one_that_names_none_is_not(
    daemon: Live, there: Shelf
) -> None:
    pulled(daemon, there, images.image([images.layer([f("f")])], architecture=""))
    for architecture in ("x\0", "../x", "z80"):
        code, words, _ = pull(
            daemon, there, images.image([images.layer([f("f")])], architecture=architecture)
        )
        assert code in (INVALID, MISSING) and "Traceback" not in words, (architecture, code, words)


# --- A19: programs and modules in an image (CVE-2019-14271, CVE-2018-15664) -------------------------------------


def test_a19_nothing_in_an_image_is_executed_by_the_host(
    daemon: Live, containers: Containers, there: Shelf, canary: str
) -> None:
    program = f"#!/bin/busybox sh\necho ran >{canary}/ran\n".encode()
    module = f"open({canary + '/ran'!r}, 'w').write('ran')\n".encode()
    programs = (
        "bin/xz",
        "usr/bin/unpigz",
        "usr/bin/unxz",
        "usr/bin/zstd",
        "bin/tar",
        "usr/bin/crun",
        "usr/bin/conmon",
    )
    library = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    modules = [
        f"{library}/{name}.py"
        for name in ("os", "site", "sitecustomize", "encodings/idna", "traceback", "json/__init__")
    ]
    planted = [Entry(name, data=program, mode=0o755) for name in programs]
    planted += [f(name, module) for name in modules]
    planted += [
        f(f"lib/x86_64-linux-gnu/libnss_{name}.so.2", b"\x7fELF") for name in ("files", "dns", "compat")
    ]
    planted += [
        f("etc/nsswitch.conf", b"passwd: files\n"),
        f("etc/ld.so.preload", b"/lib/evil.so\n"),
        f("data/seed"),
    ]
    for compression in ("gzip", "zstd", "none"):
        tars = [images.layer(images.busybox_entries()), images.layer(planted)]
        image = images.image(tars, {"Cmd": ["sh"], "Env": [images.PATH], "Volumes": {"/data": {}}, "User": "www-data"}, compression=compression)  # fmt: skip
        spec = pulled(daemon, there, image)
        id = containers(image=spec)
        assert daemon.exec(id, "cat", "/data/seed").stdout == b"x"
        daemon.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=id), timeout=10)
        daemon.runtime.ListContainerStats(cri.ListContainerStatsRequest(), timeout=10)
        daemon.images.ImageFsInfo(cri.ImageFsInfoRequest(), timeout=10)
        # damage that makes the child explain itself, inside the layer
        broken = images.image([*tars, images.layer([h("me", "me")])], compression=compression)
        assert pull(daemon, there, broken)[0] is INVALID
    assert not (Path(canary) / "ran").exists()


# --- A20: large images ------------------------------------------------------------------------------------------


def test_a20_calls_are_answered_while_a_large_image_is_unpacked(daemon: Live, pod: str, there: Shelf) -> None:
    data = random.Random(20).randbytes(7500)
    files = 40_000
    blocks = [hostile_archives.member(name=b"d%d/" % number, kind=b"5") for number in range(100)]
    blocks += [
        hostile_archives.member(data, name=b"d%d/f%d" % (number % 100, number)) for number in range(files)
    ]
    tar = b"".join([*blocks, hostile_archives.END])
    assert len(tar) > 300 << 20
    image = images.image([tar], compression="none")
    outcome: list[tuple[grpc.StatusCode, str, cri.ImageSpec]] = []
    work = threading.Thread(target=lambda: outcome.append(pull(daemon, there, image)))
    work.start()
    took: list[float] = []
    while work.is_alive():
        begun = time.monotonic()
        daemon.runtime.Version(cri.VersionRequest(), timeout=20)
        took.append(time.monotonic() - begun)
        begun = time.monotonic()
        daemon.runtime.ListContainers(cri.ListContainersRequest(), timeout=20)
        took.append(time.monotonic() - begun)
        time.sleep(0.005)
    work.join()
    assert outcome[0][0] is DONE, outcome
    assert len(took) > 50, "they were hardly answered"
    took.sort()
    print(
        f"{len(took)} calls during the pull, p99 {took[len(took) * 99 // 100] * 1000:.0f} ms, worst {took[-1] * 1000:.0f} ms"
    )
    shown = daemon.images.ImageStatus(cri.ImageStatusRequest(image=outcome[0][2])).image
    assert shown.size > 300 << 20
    daemon.images.RemoveImage(cri.RemoveImageRequest(image=outcome[0][2]), timeout=60)
