"""What a config.json never holds and never lacks, whatever the request: rules beside the golden cases."""

import base64
import copy
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.spec import capabilities, container, devices, mounts, namespaces, process, sandbox, seccomp
from sampan.spec.facts import ContainerFacts, DeviceNode, Host, PodFacts, Source, User

HOST = Host(capabilities=capabilities.KNOWN)


def facts(config: cri.ContainerConfig | None = None, **changes: Any) -> ContainerFacts:
    pod = PodFacts(
        id="p",
        config=cri.PodSandboxConfig(),
        hostname="web",
        network_namespace="/ns/net",
        ipc_namespace="/ns/ipc",
        uts_namespace="/ns/uts",
        pid_namespace="/ns/pid",
        shm="/shm",
    )
    made = ContainerFacts(
        id="c",
        config=config or cri.ContainerConfig(),
        image=ImageConfig(entrypoint=("/app",)),
        pod=pod,
        host=HOST,
        user=User(),
        rootfs="/rootfs",
        cgroups_path="/c",
    )
    return replace(made, **changes)


def secured(**fields: Any) -> cri.ContainerConfig:
    config = cri.ContainerConfig()
    config.linux.security_context.MergeFrom(cri.LinuxContainerSecurityContext(**fields))
    return config


UNSAFE = [
    *("run.oci.hooks.stdout", "run.oci.keep_original_groups", "run.oci.seccomp.plugins", "run.oci.handler"),
    *("run.oci.seccomp_bpf_data", "run.oci.systemd.force_cgroup_v1", "org.systemd.property.MemoryMax"),
    *("krun.cpus", "org.criu.config", "module.wasm.image/variant", "io.kubernetes.cri.container-type"),
    *("cdi.example.io/x", "bundle"),
]


@given(st.dictionaries(st.sampled_from(UNSAFE) | st.text(), st.text(), min_size=1))
def test_no_annotation_and_no_label_reaches_the_spec(given_: dict[str, str]) -> None:
    plain = container.build(facts())
    config = cri.ContainerConfig(annotations=given_, labels=given_)
    known = facts(config, image=ImageConfig(entrypoint=("/app",), labels=given_))
    known.pod.config.annotations.update(given_)
    known.pod.config.labels.update(given_)
    assert container.build(known) == plain
    assert "annotations" not in plain


def test_two_builds_share_nothing_that_can_be_changed() -> None:
    known = facts(secured(seccomp=cri.SecurityProfile()))
    first = container.build(known)
    second = copy.deepcopy(first)
    first["linux"]["seccomp"]["syscalls"][0]["names"].clear()
    first["linux"]["resources"]["devices"].clear()
    first["process"]["env"].append("LEAKED=1")
    first["process"]["capabilities"]["bounding"].clear()
    assert container.build(known) == second


def test_the_daemons_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_CANARY", "1")
    image = ImageConfig(cmd=("/app",), env=("SECRET_CANARY", "PATH*", "=x", "", "A=B=C"))
    assert process.environment(facts(image=image))[3:] == ["A=B=C"]


def test_a_NUL_in_the_images_environment_or_command_is_refused() -> None:
    with pytest.raises(Invalid, match="Env entry"):
        container.build(facts(image=ImageConfig(cmd=("/app",), env=("A\0B=1",))))
    with pytest.raises(Invalid, match=r"command\[1\]"):
        container.build(facts(image=ImageConfig(cmd=("/app", "a\0b"))))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (ImageConfig(), "no command"),
        (ImageConfig(entrypoint=("",)), "no command"),
        (ImageConfig(cmd=("", "x")), "first word"),
        (ImageConfig(cmd=("/app",), working_dir="srv"), "working_dir"),
        (ImageConfig(cmd=("/app",), working_dir="/proc/self/fd/8"), "working_dir"),
        (ImageConfig(cmd=("/app", "x" * (128 << 10))), "bytes; Linux takes"),
        (ImageConfig(cmd=("/app", *["x" * 1000] * 7000)), "bytes in all"),
        (ImageConfig(cmd=("/app", *["" for _ in range(1_000_000)])), "bytes in all"),
    ],
)
def test_an_image_that_cannot_run_is_refused(image: ImageConfig, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        container.build(facts(image=image))


@pytest.mark.parametrize("missing", ["network_namespace", "ipc_namespace", "uts_namespace", "pid_namespace"])
def test_a_namespace_that_is_not_known_is_never_the_hosts(missing: str) -> None:
    known = facts()
    without: dict[str, Any] = {missing: ""}
    with pytest.raises(ValueError, match="is not known"):
        container.build(replace(known, pod=replace(known.pod, **without)))


def test_a_target_that_is_not_known_is_never_the_hosts() -> None:
    target = cri.NamespaceOption(pid=cri.TARGET, target_id="x")
    with pytest.raises(ValueError, match="is not known"):
        container.build(facts(secured(namespace_options=target)))


@pytest.mark.parametrize(
    ("container_mode", "pod_mode", "shared"),
    [
        (cri.POD, cri.POD, True),
        (cri.POD, cri.CONTAINER, False),
        (cri.POD, cri.NODE, False),
        (cri.CONTAINER, cri.POD, False),
        (cri.TARGET, cri.POD, False),
    ],
)
def test_which_containers_need_the_pods_init(container_mode: Any, pod_mode: Any, shared: bool) -> None:
    of_container, of_pod = cri.NamespaceOption(pid=container_mode), cri.NamespaceOption(pid=pod_mode)
    assert namespaces.shares_pid(of_container, of_pod) is shared


@pytest.mark.parametrize(
    ("options", "owned"),
    [
        ({}, {"net", "uts", "ipc"}),
        ({"network": cri.NODE}, {"ipc"}),
        ({"ipc": cri.NODE}, {"net", "uts"}),
        ({"network": cri.NODE, "ipc": cri.NODE, "pid": cri.NODE}, set()),
    ],
)
def test_what_a_pod_has_for_itself(options: dict[str, Any], owned: set[str]) -> None:
    assert namespaces.owned(cri.NamespaceOption(**options)) == owned


# --- mounts and devices ---------------------------------------------------------------------------


def mounting(**fields: Any) -> cri.ContainerConfig:
    return cri.ContainerConfig(mounts=[cri.Mount(container_path="/data", host_path="/h/data", **fields)])


def test_a_host_path_that_is_absent_is_an_error() -> None:
    with pytest.raises(Invalid, match=r"mounts\[0\].host_path '/h/data' does not exist"):
        container.build(facts(mounting()))


@pytest.mark.parametrize(
    ("propagation", "lies_on", "works"),
    [
        (cri.PROPAGATION_PRIVATE, "private", True),
        (cri.PROPAGATION_PRIVATE, "shared", True),
        (cri.PROPAGATION_HOST_TO_CONTAINER, "private", False),
        (cri.PROPAGATION_HOST_TO_CONTAINER, "slave", True),
        (cri.PROPAGATION_HOST_TO_CONTAINER, "shared", True),
        (cri.PROPAGATION_BIDIRECTIONAL, "private", False),
        (cri.PROPAGATION_BIDIRECTIONAL, "slave", False),
        (cri.PROPAGATION_BIDIRECTIONAL, "shared", True),
    ],
)
def test_propagation_needs_a_mount_that_has_it(propagation: Any, lies_on: str, works: bool) -> None:
    config = mounting(propagation=propagation)
    known = facts(config, sources={"/h/data": Source("/h/data", True, lies_on)})
    if works:
        assert container.build(known)["linux"].get("rootfsPropagation", "") == mounts.rootfs_propagation(
            config
        )
    else:
        with pytest.raises(Invalid, match=f"'/h/data' lies on a {lies_on} mount"):
            container.build(known)


def test_the_facts_that_are_needed_are_named_once() -> None:
    config = cri.ContainerConfig(
        mounts=[cri.Mount(host_path=path) for path in ("/b", "/a", "", "/b")],
        devices=[cri.Device(host_path=path) for path in ("/dev/b", "/dev/a", "/dev/b")],
    )
    assert mounts.host_paths(config) == ("/a", "/b")
    assert devices.host_paths(config) == ("/dev/a", "/dev/b")


def test_a_device_that_is_not_there_is_an_error() -> None:
    config = cri.ContainerConfig(devices=[cri.Device(host_path="/dev/x", permissions="r")])
    with pytest.raises(Invalid, match="'/dev/x' is not a device"):
        container.build(facts(config))


def test_two_devices_cannot_have_one_place() -> None:
    node = DeviceNode("/dev/a", "c", 1, 1, 0o600)
    config = cri.ContainerConfig(
        devices=[cri.Device(host_path="/dev/a", container_path="/dev/x", permissions="r")] * 2
    )
    with pytest.raises(Invalid, match=r"devices\[1\]: two devices"):
        container.build(facts(config, device_nodes={"/dev/a": (node,)}))


def test_every_unprivileged_container_starts_from_no_devices() -> None:
    assert container.build(facts())["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


# --- exec -----------------------------------------------------------------------------------------


def test_an_exec_keeps_the_containers_identity() -> None:
    config = secured(no_new_privs=True)
    config.tty = True
    base = container.build(facts(config, user=User(1000, 1000, (1000, 7), "/home/app")))["process"]
    before = copy.deepcopy(base)
    made = process.for_exec(base, ["sh", "-c", "true"], False)
    assert made["args"] == ["sh", "-c", "true"]
    assert made["terminal"] is False
    assert "TERM=xterm" not in made["env"]
    changed = {"args", "terminal", "env"}
    assert {key: value for key, value in made.items() if key not in changed} == {
        key: value for key, value in base.items() if key not in changed
    }
    assert base == before


def test_an_exec_with_a_terminal_has_a_TERM_of_its_own_or_the_containers() -> None:
    base = container.build(facts())["process"]
    assert "TERM=xterm" in process.for_exec(base, ["sh"], True)["env"]
    base["env"].append("TERM=vt100")
    assert [word for word in process.for_exec(base, ["sh"], True)["env"] if "TERM" in word] == ["TERM=vt100"]


@pytest.mark.parametrize("command", [[], [""], ["a\0b"], ["a", "x" * (128 << 10)]])
def test_an_exec_of_nothing_runnable_is_refused(command: list[str]) -> None:
    with pytest.raises(Invalid):
        process.for_exec(container.build(facts())["process"], command, False)


# --- compiled filters and AppArmor ----------------------------------------------------------------


def test_a_compiled_filter_is_handed_over_only_for_its_own_profile() -> None:
    known = facts(secured(seccomp=cri.SecurityProfile()))
    key = seccomp.fingerprint(container.build(known)["linux"]["seccomp"])
    compiled = {key: b"program", "another": b"x"}
    with_it = container.build(replace(known, seccomp_programs=compiled))
    assert with_it["annotations"] == {"run.oci.seccomp_bpf_data": base64.b64encode(b"program").decode()}
    assert "seccomp" in with_it["linux"]
    assert "annotations" not in container.build(replace(known, seccomp_programs={"another": b"x"}))
    assert "annotations" not in container.build(facts(seccomp_programs=compiled))
    init = sandbox.build(known.pod, HOST, rootfs="/r", cgroups_path="/p", seccomp_programs=compiled)
    assert "annotations" not in init
    compiled[seccomp.fingerprint(init["linux"]["seccomp"])] = b"init"
    init = sandbox.build(known.pod, HOST, rootfs="/r", cgroups_path="/p", seccomp_programs=compiled)
    assert base64.b64decode(init["annotations"]["run.oci.seccomp_bpf_data"]) == b"init"


def test_an_apparmor_profile_must_be_loaded() -> None:
    profile = cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="web")
    known = facts(secured(apparmor=profile), host=replace(HOST, apparmor=True))
    loaded = replace(known, apparmor_profiles=frozenset({"web"}))
    assert container.build(loaded)["process"]["apparmorProfile"] == "web"
    with pytest.raises(Invalid, match="'web' is not loaded"):
        container.build(replace(known, apparmor_profiles=frozenset({"other"})))


def test_what_nobody_asked_for_may_be_missing_but_not_what_somebody_did() -> None:
    host = replace(HOST, apparmor=True)
    assert "apparmorProfile" not in container.build(facts(secured(), host=host))["process"]
    asked = secured(apparmor=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault))
    with pytest.raises(Invalid, match=r"sampan-default.*is not loaded.*apparmor_parser"):
        container.build(facts(asked, host=host))
    with pytest.raises(Invalid, match="no AppArmor"):
        container.build(facts(asked))


def test_a_privileged_container_has_a_profile_only_by_name() -> None:
    host = replace(HOST, apparmor=True)
    loaded = frozenset({"web", "sampan-default"})
    named = cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="web")
    config = secured(privileged=True, apparmor=named)
    made = container.build(facts(config, host=host, apparmor_profiles=loaded))
    assert made["process"]["apparmorProfile"] == "web"
    default = secured(privileged=True, apparmor=cri.SecurityProfile())
    made = container.build(facts(default, host=host, apparmor_profiles=loaded))
    assert "apparmorProfile" not in made["process"]


def test_a_config_is_plain_json() -> None:
    spec = container.build(facts(secured(seccomp=cri.SecurityProfile())))
    assert msgspec.json.decode(msgspec.json.encode(spec)) == spec
