"""What tools say of themselves."""

import msgspec
import pytest

from sampan.wire import oci_features

CRUN = b"""\
crun version 1.8.1
commit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30
rundir: /run/crun
spec: 1.0.0
+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +YAJL
"""


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (CRUN, (1, 8, 1)),
        (b"conmon version 2.1.12\ncommit: unknown\n", (2, 1, 12)),
        (b"tini version 0.1.7_catatonit\n", (0, 1, 7)),
        (b"crun version 1.28\n", (1, 28)),
        (b"crun version UNKNOWN\n", ()),
        (b"\xff\xfe", ()),
    ],
)
def test_versions(output: bytes, version: tuple[int, ...]) -> None:
    assert oci_features.version(output) == version


def test_a_crun_without_the_features_command() -> None:
    features = oci_features.features(CRUN, None)
    assert features.version == (1, 8, 1)
    assert (features.seccomp, features.apparmor, features.selinux) == (True, True, True)
    assert (features.name, features.told) == ("crun", False)
    assert features.recursive_read_only and features.idmapped_mounts and features.user_namespaces
    older = oci_features.features(b"crun version 1.3\n", None)
    assert (older.recursive_read_only, older.idmapped_mounts, older.user_namespaces) == (False, False, True)


def test_of_another_runtime_nothing_is_known_without_its_word() -> None:
    features = oci_features.features(b"runsc version release-20231009.0\nspec: 1.1.0\n", None)
    assert (features.name, features.version, features.told) == ("runsc", (), False)
    assert not (features.recursive_read_only or features.idmapped_mounts or features.user_namespaces)
    assert not oci_features.features(b"runc version 1.8.1\n", None).recursive_read_only


@pytest.mark.parametrize("able", [True, False])
def test_a_crun_that_lists_its_features(able: bool) -> None:
    said = {
        "ociVersionMin": "1.0.0",
        "mountOptions": ["rw", "ro", *(["rro"] if able else [])],
        "linux": {
            "cgroup": {"v1": True},
            "namespaces": ["pid", *(["user"] if able else [])],
            "mountExtensions": {"idmap": {"enabled": able}},
        },
        "potentiallyUnsafeConfigAnnotations": ["run.oci.hooks.stdout"],
    }
    features = oci_features.features(b"crun version 1.21\n", msgspec.json.encode(said))
    assert features.told
    assert features.recursive_read_only is able
    assert features.idmapped_mounts is able
    assert features.user_namespaces is able


def test_a_runtime_built_without_a_security_module() -> None:
    features = oci_features.features(b"crun version 1.8.1\n+SYSTEMD +CAP +SECCOMP\n", None)
    assert (features.seccomp, features.apparmor, features.selinux) == (True, False, False)


def test_what_the_features_say_outdoes_the_version_line() -> None:
    said = b'{"linux": {"seccomp": {"enabled": true}, "apparmor": {"enabled": false}, "selinux": {}}}'
    features = oci_features.features(b"runc version 1.1.5\n+APPARMOR +SELINUX\n", said)
    assert (features.seccomp, features.apparmor, features.selinux) == (True, False, True)


@pytest.mark.parametrize("said", [b"no JSON", b"[]", b'{"mountOptions": 7}', b"\xff", b""])
def test_unreadable_features_promise_nothing(said: bytes) -> None:
    features = oci_features.features(b"crun version 1.28\n", said)
    assert features.version == (1, 28)
    assert not features.recursive_read_only
    assert not features.idmapped_mounts


def test_features_without_the_linux_part() -> None:
    features = oci_features.features(b"crun version 1.21\n", b"{}")
    assert not features.recursive_read_only
    assert not features.idmapped_mounts
