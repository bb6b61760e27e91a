"""Seccomp profiles: the default one's promises, and files of the node."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import capabilities, seccomp, security
from sampan.spec.facts import Host

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def names(filter: dict[str, Any], action: str, errno: int | None = None) -> set[str]:
    """The syscalls with this answer whatever their arguments."""
    return {
        name
        for rule in filter["syscalls"]
        if rule["action"] == action and not rule.get("args") and rule.get("errnoRet") == errno
        for name in rule["names"]
    }


some = st.sets(st.sampled_from(capabilities.KNOWN))


@given(some, st.sampled_from(["x86_64", "aarch64"]))
def test_no_syscall_is_both_allowed_and_refused(caps: set[str], machine: str) -> None:
    made = seccomp.default(caps, machine)
    assert not names(made, ALLOW) & names(made, ERRNO, 1)
    listed = [name for rule in made["syscalls"] if not rule.get("args") for name in rule["names"]]
    doubled = {name for name in listed if listed.count(name) > 1}
    assert doubled <= {"bpf", "syslog", "perf_event_open"}  # that two capabilities allow


@given(some)
def test_more_capabilities_never_take_a_syscall_away(caps: set[str]) -> None:
    assert names(seccomp.default((), "x86_64"), ALLOW) <= names(seccomp.default(caps, "x86_64"), ALLOW)


@given(some)
def test_what_no_capability_unlocks_stays_refused(caps: set[str]) -> None:
    never = {"add_key", "io_uring_setup", "kexec_load", "keyctl", "request_key", "swapon", "userfaultfd"}
    assert never <= names(seccomp.default(caps, "x86_64"), ERRNO, 1)


@pytest.mark.parametrize(
    ("capability", "unlocked"),
    [
        (
            "CAP_SYS_ADMIN",
            {"mount", "unshare", "setns", "clone", "clone3", "bpf", "perf_event_open", "syslog"},
        ),
        ("CAP_BPF", {"bpf"}),
        ("CAP_PERFMON", {"perf_event_open"}),
        ("CAP_SYSLOG", {"syslog"}),
        ("CAP_SYS_BOOT", {"reboot"}),
        ("CAP_SYS_CHROOT", {"chroot"}),
        ("CAP_SYS_MODULE", {"init_module", "finit_module", "delete_module"}),
        ("CAP_SYS_NICE", {"mbind", "set_mempolicy", "get_mempolicy"}),
        ("CAP_SYS_PACCT", {"acct"}),
        ("CAP_SYS_PTRACE", {"kcmp", "pidfd_getfd", "process_madvise"}),
        ("CAP_SYS_RAWIO", {"iopl", "ioperm"}),
        ("CAP_SYS_TIME", {"settimeofday", "clock_settime", "stime"}),
        ("CAP_SYS_TTY_CONFIG", {"vhangup"}),
        ("CAP_DAC_READ_SEARCH", {"open_by_handle_at"}),
        ("CAP_NET_ADMIN", set()),
    ],
)
def test_a_capability_unlocks_its_syscalls(capability: str, unlocked: set[str]) -> None:
    without, with_it = (seccomp.default(caps, "x86_64") for caps in ((), (capability,)))
    gained = names(with_it, ALLOW) - names(without, ALLOW)
    assert unlocked <= gained
    assert bool(gained) == bool(unlocked)
    assert unlocked - {"clone", "clone3"} <= names(without, ERRNO, 1)


def test_new_namespaces_need_an_administrator_and_clone3_says_it_is_not_there() -> None:
    plain = seccomp.default(capabilities.DEFAULT, "x86_64")
    assert "clone3" in names(plain, ERRNO, 38)
    (masked,) = [rule for rule in plain["syscalls"] if rule["names"] == ["clone"] and rule["action"] == ALLOW]
    every_namespace = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
    assert masked["args"] == [
        {"index": 0, "value": every_namespace, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0}
    ]


def families(value: int) -> set[str]:
    """What the default profile answers to socket(2) with this 64-bit first argument."""
    compare = {"SCMP_CMP_LT": int.__lt__, "SCMP_CMP_EQ": int.__eq__}
    return {
        rule["action"]
        for rule in seccomp.default((), "x86_64")["syscalls"]
        if rule["names"] == ["socket"]
        and all(compare[argument["op"]](value, argument["value"]) for argument in rule["args"])
    }


def test_every_address_family_has_one_answer() -> None:
    assert {family: families(family) for family in range(46)} == {
        family: {ERRNO} if family in (38, 40) else {ALLOW} for family in range(46)
    }


@given(st.integers(min_value=46, max_value=2**64 - 1))
def test_no_number_that_the_kernel_would_shorten_gets_through(value: int) -> None:
    assert families(value) == set()


@pytest.mark.parametrize("caps", [set(), {"CAP_SYS_ADMIN"}, set(capabilities.KNOWN)])
def test_socketcall_is_refused_before_any_socket_is_allowed(caps: set[str]) -> None:
    """libseccomp keeps an ALLOW of its own for it where no other rule came first."""
    first = seccomp.default(caps, "x86_64")["syscalls"][0]
    assert first == {"names": ["socketcall"], "action": ERRNO, "errnoRet": 1}


def test_architectures_come_with_their_small_sisters() -> None:
    assert seccomp.default((), "x86_64")["architectures"] == [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
    ]
    arm = seccomp.default((), "aarch64")
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert "set_tls" in names(arm, ALLOW)
    assert "arch_prctl" not in names(arm, ALLOW)
    assert "architectures" not in seccomp.default((), "riscv64")


def test_a_fingerprint_names_the_content() -> None:
    one, two = seccomp.default((), "x86_64"), seccomp.default((), "x86_64")
    assert seccomp.fingerprint(one) == seccomp.fingerprint(two)
    two["syscalls"][0]["names"].pop()
    assert seccomp.fingerprint(one) != seccomp.fingerprint(two)


# --- files of the node ----------------------------------------------------------------------------


def local(profile: Any, caps: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 1)) -> dict[str, Any]:
    text = profile if isinstance(profile, bytes) else json.dumps(profile).encode()
    return seccomp.localhost(text, caps, "x86_64", kernel)


def test_the_plain_form_stays_as_it_is() -> None:
    profile = {
        "defaultAction": ALLOW,
        "syscalls": [{"names": ["chmod", "fchmodat"], "action": ERRNO}],
    }
    assert local(profile) == profile


def test_an_errno_where_none_is_taken_is_left_out() -> None:
    made = local(
        {
            "defaultAction": ALLOW,
            "defaultErrnoRet": 1,
            "syscalls": [{"names": ["a"], "action": ALLOW, "errnoRet": 1, "args": None, "comment": "x"}],
        }
    )
    assert made == {"defaultAction": ALLOW, "syscalls": [{"names": ["a"], "action": ALLOW}]}


@pytest.mark.parametrize(
    ("condition", "counts"),
    [
        ({}, True),
        ({"includes": None, "excludes": None}, True),
        ({"includes": {"caps": ["CAP_A"]}}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_Z"]}}, False),
        ({"excludes": {"caps": ["CAP_Z"]}}, True),
        ({"excludes": {"caps": ["CAP_A"]}}, False),
        ({"includes": {"arches": ["amd64", "arm64"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"includes": {"minKernel": "10.0"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {"caps": ["CAP_A"], "minKernel": "9.9"}}, False),
    ],
)
def test_conditions(condition: dict[str, Any], counts: bool) -> None:
    profile = {"defaultAction": ERRNO, "syscalls": [{"names": ["a"], "action": ALLOW, **condition}]}
    assert bool(local(profile, ("CAP_A",))["syscalls"]) is counts


def rule(**fields: Any) -> dict[str, Any]:
    return {"defaultAction": ALLOW, "syscalls": [{"names": ["a"], "action": ERRNO, **fields}]}


def argument(**fields: Any) -> dict[str, Any]:
    return rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **fields}])


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        b'{"defaultAction": NaN}',
        b"[" * 200_000,
        b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":' + b"[" * 100_000,
        b" " * ((1 << 20) + 1),
        {"defaultAction": "ALLOW"},
        {"defaultAction": "SCMP_ACT_FLY"},
        {"defaultAction": ALLOW, "architectures": ["x86"]},
        {
            "defaultAction": ALLOW,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["x"]}],
        },
        {"defaultAction": ALLOW, "flags": ["SECCOMP_FILTER_FLAG_FLY"]},
        {"defaultAction": ALLOW, "listenerPath": "run/x"},
        {"defaultAction": ALLOW, "deniedErrno": 1},
        {"defaultAction": ALLOW, "syscalls": "all"},
        rule(action="SCMP_ACT_FLY"),
        rule(names=["a b"]),
        rule(names=["a\n"]),
        rule(names=[], name=""),
        rule(includes={"minKernel": "six"}),
        argument(op="SCMP_CMP_FLY"),
        argument(index=6),
        argument(index=-1),
        argument(value=-1),
        argument(value="1"),
    ],
)
def test_a_file_that_could_not_be_enforced_is_refused(profile: Any) -> None:
    with pytest.raises(Invalid):
        local(profile)


def test_the_largest_value_is_an_argument() -> None:
    made = local(argument(value=2**64 - 1))
    assert made["syscalls"][0]["args"][0]["value"] == 2**64 - 1


@given(st.binary(max_size=300))
def test_no_file_breaks_it(profile: bytes) -> None:
    with pytest.raises(Invalid):
        local(b"#" + profile)


@pytest.mark.parametrize(
    ("context", "path"),
    [
        ({}, ""),
        ({"seccomp": cri.SecurityProfile()}, ""),
        ({"seccomp_profile_path": "localhost//a/b.json"}, "/a/b.json"),
        ({"seccomp_profile_path": "unconfined"}, ""),
    ],
)
def test_which_file_is_needed(context: dict[str, Any], path: str) -> None:
    config = cri.ContainerConfig()
    config.linux.security_context.MergeFrom(cri.LinuxContainerSecurityContext(**context))
    assert security.localhost_profile(config) == path
    config.linux.security_context.privileged = True
    assert security.localhost_profile(config) == ""


def test_a_named_file_wins_over_the_old_field() -> None:
    profile = cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="/new/./p.json")
    context = cri.LinuxContainerSecurityContext(seccomp=profile, seccomp_profile_path="localhost//old")
    assert security.seccomp_profile(context, Host()).localhost_ref == "/new/p.json"
