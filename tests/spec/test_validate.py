"""What no pod and no container may ask for: one row per refusal, each with the words that name the field.

The other half is at the end: what may look odd and is allowed, so that no check is stricter than the CRI.
"""

import json
from typing import Any

import pytest
from google.protobuf import json_format

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid, RROUnsupported
from sampan.spec import capabilities, validate
from sampan.spec.facts import Host

HOST = Host(capabilities=tuple(name for name in capabilities.KNOWN if name != "CAP_SYS_RESOURCE"))
POD = {"metadata": {"name": "web", "namespace": "shop", "uid": "1"}, "log_directory": "/var/log/pods/web"}
CONTAINER = {"metadata": {"name": "app"}, "image": {"image": "app:1"}}


def security(**fields: Any) -> dict[str, Any]:
    return {"linux": {"security_context": fields}}


def namespace(**fields: Any) -> dict[str, Any]:
    return security(namespace_options=fields)


def limits(**fields: Any) -> dict[str, Any]:
    return {"linux": {"resources": fields}}


def sysctls(**fields: str) -> dict[str, Any]:
    return {"linux": {"sysctls": {name.replace("__", "."): value for name, value in fields.items()}}}


def sysctl(name: str, value: str = "1") -> dict[str, Any]:
    return {"linux": {"sysctls": {name: value}}}


def port(**fields: Any) -> dict[str, Any]:
    return {"port_mappings": [{"container_port": 80, **fields}]}


def mount(**fields: Any) -> dict[str, Any]:
    return {"mounts": [{"container_path": "/data", "host_path": "/h", **fields}]}


def mounts(*paths: str) -> dict[str, Any]:
    return {"mounts": [{"container_path": path, "host_path": "/h"} for path in paths]}


def device(**fields: Any) -> dict[str, Any]:
    return {
        "devices": [{"host_path": "/dev/fuse", "container_path": "/dev/fuse", "permissions": "rw", **fields}]
    }


def env(key: str, value: str = "eA==") -> dict[str, Any]:
    return {"envs": [{"key": key, "value": value}]}


def pod_config(change: dict[str, Any]) -> cri.PodSandboxConfig:
    return json_format.ParseDict(POD | change, cri.PodSandboxConfig())


def container_config(change: dict[str, Any]) -> cri.ContainerConfig:
    return json_format.ParseDict(CONTAINER | change, cri.ContainerConfig())


LINE = "a\n127.0.0.1 x"
MAPPING = [{"host_id": 1000, "container_id": 0, "length": 10}]

PODS: list[tuple[str, dict[str, Any], str]] = [
    ("no name", {"metadata": {"uid": "1"}}, "metadata.name"),
    ("a path as name", {"metadata": {"name": "../x"}}, "metadata.name"),
    ("a CNI argument in the name", {"metadata": {"name": "a;K8S_POD_UID=b"}}, "metadata.name"),
    ("a newline after the name", {"metadata": {"name": "web\n"}}, "metadata.name"),
    ("a name of a thousand bytes", {"metadata": {"name": "n" * 1000}}, "metadata.name"),
    ("a path as uid", {"metadata": {"name": "a", "uid": "../../x"}}, "metadata.uid"),
    ("a NUL in the namespace", {"metadata": {"name": "a", "namespace": "x\0"}}, "metadata.namespace"),
    ("a line in the hostname", {"hostname": LINE}, "hostname"),
    ("a newline after the hostname", {"hostname": "web\n"}, "hostname"),
    ("a hostname of 65 bytes", {"hostname": "a" * 60 + ".bcde"}, "hostname"),
    ("a hostname label of 64 bytes", {"hostname": "a" * 64}, "hostname"),
    ("an underscore in the hostname", {"hostname": "a_b"}, "hostname"),
    ("a hostname that starts with a dash", {"hostname": "-a"}, "hostname"),
    ("an empty hostname label", {"hostname": "a..b"}, "hostname"),
    ("a relative log directory", {"log_directory": "logs"}, "log_directory"),
    ("a log directory that goes up", {"log_directory": "/var/log/pods/../../x"}, "log_directory"),
    ("the root as log directory", {"log_directory": "//"}, "log_directory"),
    ("a colon in the log directory", {"log_directory": "/var/a:b"}, "log_directory"),
    ("a newline in the log directory", {"log_directory": "/var/a\nb"}, "log_directory"),
    ("a DNS server with a second line", {"dns_config": {"servers": ["1.1.1.1\nsearch evil"]}}, "servers"),
    ("a DNS server with a zone and a line", {"dns_config": {"servers": ["fe80::1%a\nb"]}}, "servers"),
    ("a DNS server by name", {"dns_config": {"servers": ["dns.example"]}}, "dns_config.servers"),
    ("a search with a space", {"dns_config": {"searches": ["a b"]}}, "dns_config.searches"),
    ("a search with a newline", {"dns_config": {"searches": ["a\n"]}}, "dns_config.searches"),
    ("a hundred searches", {"dns_config": {"searches": ["a"] * 100}}, "dns_config.searches has 100"),
    ("an option with a directive", {"dns_config": {"options": ["x\nnameserver 1.1.1.1"]}}, "options"),
    ("an empty option", {"dns_config": {"options": [""]}}, "dns_config.options"),
    ("container port 0", port(container_port=0), r"port_mappings\[0\].container_port 0"),
    ("container port 65536", port(container_port=65536), "container_port 65536"),
    ("a negative host port", port(host_port=-1), "host_port -1"),
    ("host port 65536", port(host_port=65536), "host_port 65536"),
    ("text as host IP", port(host_ip="any"), "host_ip"),
    ("a host IP with a zone", port(host_ip="fe80::1%eth0 -j ACCEPT"), "host_ip"),
    ("an unknown protocol", port(protocol=3), "protocol 3 is unknown"),
    ("annotations of 2 MiB", {"annotations": {"a": "x" * (2 << 20)}}, "labels and annotations"),
    ("windows", {"windows": {}}, "windows"),
    ("a cgroup parent that goes up", {"linux": {"cgroup_parent": "/a/../../x"}}, "cgroup_parent"),
    ("a relative cgroup parent", {"linux": {"cgroup_parent": "a/b"}}, "cgroup_parent"),
    ("a cgroup parent with a newline", {"linux": {"cgroup_parent": "a.slice\n"}}, "cgroup_parent"),
    ("network mode CONTAINER", namespace(network="CONTAINER"), "network: mode CONTAINER"),
    ("network mode TARGET", namespace(network="TARGET"), "network: mode TARGET"),
    ("ipc mode CONTAINER", namespace(ipc="CONTAINER"), "ipc: mode CONTAINER"),
    ("pid mode TARGET", namespace(pid="TARGET"), "pid: mode TARGET"),
    ("pid mode 9", namespace(pid=9), "pid: mode 9"),
    ("a user namespace without ids", namespace(userns_options={"mode": "POD"}), "userns_options.uids has 0"),
    (
        "userns with host IPC",
        namespace(ipc="NODE", userns_options={"uids": MAPPING, "gids": MAPPING}),
        "namespace_options.ipc is NODE, which .*userns_options",
    ),
    (
        "userns with host PID",
        namespace(pid="NODE", userns_options={"uids": MAPPING, "gids": MAPPING}),
        "namespace_options.pid is NODE, which .*userns_options",
    ),
    ("userns mode TARGET", namespace(userns_options={"mode": "TARGET"}), "userns_options.mode TARGET"),
    ("mappings without", namespace(userns_options={"mode": "NODE", "uids": MAPPING}), "no mappings"),
    ("uid -1", security(run_as_user={"value": "-1"}), "run_as_user"),
    ("uid 2^31", security(run_as_user={"value": "2147483648"}), "run_as_user"),
    ("uid 2^32-1", security(run_as_user={"value": "4294967295"}), "run_as_user"),
    ("a group alone", security(run_as_group={"value": "1"}), "run_as_group"),
    ("a negative group", security(supplemental_groups=["-1"]), "supplemental_groups"),
    ("a groups policy unknown", security(supplemental_groups_policy=2), "policy 2"),
    ("a sysctl smuggled in a value", sysctl("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"), "value"),
    ("a sysctl with a newline", sysctl("net.ipv4.ip_forward", "1\n"), "no value"),
    ("an empty sysctl value", sysctl("net.ipv4.ip_forward", ""), "no value"),
    ("a plus in a sysctl name", sysctl("net.a+b"), "not the name"),
    ("a space in a sysctl name", sysctl("net.a = b"), "not the name"),
    ("dots that go up in a sysctl", sysctl("net/../kernel/core_pattern"), "not the name|not namespaced"),
    ("an empty part in a sysctl", sysctl("net..x"), "not the name"),
    ("a sysctl of one part", sysctl("net"), "not the name"),
    ("the core pattern", sysctl("kernel.core_pattern"), "not namespaced"),
    ("the hostname as sysctl", sysctl("kernel.hostname", "x"), "not namespaced"),
    ("a sysctl of all memory", sysctl("vm.overcommit_memory"), "not namespaced"),
    ("the core pattern with slashes", sysctl("kernel/core_pattern"), "not namespaced"),
    ("something like fs.mqueue", sysctl("fs.mqueuex.y"), "not namespaced"),
    (
        "a network sysctl of the host",
        {"linux": {**namespace(network="NODE")["linux"], "sysctls": {"net.ipv4.ip_forward": "1"}}},
        "the pod has the host's network",
    ),
    (
        "a network sysctl of the host with slashes",
        {"linux": {**namespace(network="NODE")["linux"], "sysctls": {"net/ipv4/ip_forward": "1"}}},
        "the pod has the host's network",
    ),
    (
        "an IPC sysctl of the host",
        {"linux": {**namespace(ipc="NODE")["linux"], "sysctls": {"kernel.msgmax": "1"}}},
        "the pod has the host's ipc",
    ),
    (
        "a sysctl twice",
        {"linux": {"sysctls": {"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"}}},
        "given twice",
    ),
]

CONTAINERS: list[tuple[str, dict[str, Any], str]] = [
    ("no name", {"metadata": {}}, "metadata.name"),
    ("a slash in the name", {"metadata": {"name": "a/b"}}, "metadata.name"),
    ("no image", {"image": {}}, "image.image"),
    ("windows", {"windows": {}}, "windows"),
    ("labels of 2 MiB", {"labels": {"a": "x" * (2 << 20)}}, "labels and annotations"),
    ("a log that goes up", {"log_path": "../x"}, "log_path"),
    ("a log in a folder that goes up", {"log_path": "a/../../x"}, "log_path"),
    ("an absolute log", {"log_path": "/x.log"}, "log_path"),
    ("a colon in the log", {"log_path": "a:b.log"}, "log_path"),
    ("a newline in the log", {"log_path": "a\nb.log"}, "log_path"),
    ("a dot as log", {"log_path": "."}, "log_path"),
    ("a folder as log", {"log_path": "a/"}, "log_path"),
    ("a log name of 300 bytes", {"log_path": "l" * 300}, "log_path"),
    ("signal 66", {"stop_signal": 66}, "stop_signal 66"),
    ("an empty variable name", env(""), r"envs\[0\].key"),
    ("an equals sign in a variable name", env("A=B"), r"envs\[0\].key"),
    ("a NUL in a variable name", env("A\0B"), r"envs\[0\].key"),
    ("a NUL in a variable", env("A", "AA=="), "NUL"),
    ("a variable that is not UTF-8", env("A", "/w=="), "not UTF-8"),
    ("a relative working directory", {"working_dir": "srv"}, "working_dir"),
    ("a working directory that goes up", {"working_dir": "/a/../b"}, "working_dir"),
    ("a descriptor as working directory", {"working_dir": "/proc/self/fd/7"}, "working_dir"),
    ("the same with slashes", {"working_dir": "//proc/./self/fd/7/"}, "working_dir"),
    ("a NUL in the working directory", {"working_dir": "/a\0b"}, "working_dir"),
    ("a mount without a path", mounts(""), r"mounts\[0\].container_path is empty"),
    ("a mount at a relative path", mounts("data"), "container_path"),
    ("a mount over the root", mounts("/"), "the root itself"),
    ("the same, hidden", mounts("//./"), "the root itself"),
    ("a mount over the root by going up", mounts("/a/.."), "goes up"),
    ("a mount out of /dev", mounts("/dev/../proc"), "goes up"),
    ("a mount over /proc", mounts("/proc"), "/proc"),
    ("a mount over /proc/", mounts("/proc/"), "/proc"),
    ("a mount in /proc", mounts("/proc/1"), "/proc/1"),
    ("a mount over LSM attributes", mounts("/proc/self/attr/exec"), "/proc/self"),
    ("a mount over sysctls", mounts("/proc/sys"), "/proc/sys"),
    ("a writable mount over /sys", mounts("/sys"), "/sys"),
    (
        "two mounts at one path",
        mounts("/a", "/b", "/a/"),
        r"mounts\[2\].container_path '/a' is mounted twice",
    ),
    ("a newline in a mount path", mounts("/a\n"), "control"),
    ("a mount of nothing", mount(host_path=""), "host_path is empty"),
    ("a relative host path", mount(host_path="h"), "host_path"),
    ("a host path that goes up", mount(host_path="/h/../etc"), "host_path"),
    ("an unknown propagation", mount(propagation=3), "propagation 3"),
    ("an image volume to write to", mount(image={"image": "x"}, host_path=""), "readonly"),
    ("an image and a host path", mount(image={"image": "x"}, readonly=True), "both a host_path and an image"),
    ("an image sub path alone", mount(image_sub_path="x"), "image_sub_path"),
    ("an id-mapped mount without a user namespace", mount(uidMappings=MAPPING), "user namespace"),
    ("mount option rw", mount(mount_options=["rw"]), "mount_options: 'rw'"),
    ("mount option suid", mount(mount_options=["suid"]), "mount_options"),
    ("mount option dev", mount(mount_options=["dev"]), "mount_options"),
    ("mount option rshared", mount(mount_options=["rshared"]), "mount_options"),
    ("mount option idmap", mount(mount_options=["idmap"]), "mount_options"),
    ("mount option tmpcopyup", mount(mount_options=["tmpcopyup"]), "mount_options"),
    ("mount option context", mount(mount_options=["context=x"]), "mount_options"),
    ("two mount options in one", mount(mount_options=["nosuid,suid"]), "mount_options"),
    ("a mount option with a newline", mount(mount_options=["nosuid\n"]), "mount_options"),
    ("a relative device", device(host_path="fuse"), r"devices\[0\].host_path"),
    ("a device by going up", device(host_path="/dev/../etc/x"), "host_path"),
    ("a device over /dev", device(container_path="/dev"), "no place"),
    ("a device in /proc", device(container_path="/proc/x"), "no place"),
    ("a device in /sys", device(container_path="/sys/x"), "no place"),
    ("device permissions rwx", device(permissions="rwx"), "permissions"),
    ("device permissions rr", device(permissions="rr"), "permissions"),
    ("no device permissions", device(permissions=""), "permissions"),
    (
        "a CDI device that climbs",
        {"CDI_devices": [{"name": "vendor.com/gpu=../0"}]},
        r"CDI_devices\[0\].name",
    ),
    ("an annotation of CDI", {"annotations": {"cdi.k8s.io/a": "gpu"}}, "annotation cdi.k8s.io/a"),
    (
        "a class that climbs",
        {"annotations": {"rdt.resources.beta.kubernetes.io/pod": "../x"}},
        "annotation rdt",
    ),
    ("negative CPU shares", limits(cpu_shares="-1"), "cpu_shares"),
    ("a quota of 999 microseconds", limits(cpu_quota="999"), "cpu_quota"),
    ("a quota of -2", limits(cpu_quota="-2"), "cpu_quota"),
    ("a period of 2 seconds", limits(cpu_period="2000000"), "cpu_period"),
    ("words as CPU list", limits(cpuset_cpus="all"), "cpuset_cpus"),
    ("a newline in a CPU list", limits(cpuset_cpus="0-3\n"), "cpuset_cpus"),
    ("a memory list with a path", limits(cpuset_mems="0/../1"), "cpuset_mems"),
    ("a memory limit of -2", limits(memory_limit_in_bytes="-2"), "memory_limit_in_bytes"),
    ("swap without memory", limits(memory_swap_limit_in_bytes="5"), "memory_swap_limit_in_bytes"),
    (
        "swap below memory",
        limits(memory_limit_in_bytes="10", memory_swap_limit_in_bytes="5"),
        "memory_swap_limit_in_bytes 5",
    ),
    ("an odd page size", limits(hugepage_limits=[{"page_size": "2M"}]), "page_size"),
    ("a unified key that goes up", limits(unified={"../memory.max": "1"}), "unified"),
    ("a unified key with a slash", limits(unified={"a/memory.max": "1"}), "unified"),
    ("a unified key of the group itself", limits(unified={"cgroup.procs": "1"}), "unified"),
    ("a unified value with a NUL", limits(unified={"memory.high": "1\0"}), "unified"),
    ("an OOM score of 1001", limits(oom_score_adj="1001"), "oom_score_adj"),
    ("an OOM score of -1001", limits(oom_score_adj="-1001"), "oom_score_adj"),
    ("privileged in a plain pod", security(privileged=True), "privileged"),
    ("uid 2^32-1", security(run_as_user={"value": "4294967295"}), "run_as_user"),
    ("uid 2^40", security(run_as_user={"value": "1099511627776"}), "run_as_user"),
    ("a uid and a name", security(run_as_user={"value": "1"}, run_as_username="a"), "exclude"),
    ("a group alone", security(run_as_group={"value": "1"}), "run_as_group"),
    ("gid -1", security(run_as_user={"value": "1"}, run_as_group={"value": "-1"}), "run_as_group"),
    ("a user name with a group", security(run_as_username="a:b"), "run_as_username"),
    ("a user name like a number", security(run_as_username="+1"), "run_as_username"),
    ("a supplemental group too large", security(supplemental_groups=["2147483648"]), "supplemental"),
    ("the host's network alone", namespace(network="NODE"), "network is NODE, but the pod"),
    ("the host's IPC alone", namespace(ipc="NODE"), "ipc is NODE, but the pod"),
    ("the host's PIDs alone", namespace(pid="NODE"), "pid is NODE, but the pod"),
    ("network mode CONTAINER", namespace(network="CONTAINER"), "network: mode CONTAINER"),
    ("ipc mode TARGET", namespace(ipc="TARGET"), "ipc: mode TARGET"),
    ("pid mode 7", namespace(pid=7), "pid: mode 7"),
    ("a target without a name", namespace(pid="TARGET"), "target_id"),
    (
        "another user namespace than the pod's",
        namespace(userns_options={"uids": MAPPING, "gids": MAPPING}),
        "differs from the pod's",
    ),
    ("an unknown capability", security(capabilities={"add_capabilities": ["FLY"]}), "'FLY'"),
    ("dropping an unknown one", security(capabilities={"drop_capabilities": ["CAP_FLY"]}), "CAP_FLY"),
    ("an unknown ambient one", security(capabilities={"add_ambient_capabilities": ["X"]}), "'X'"),
    ("a capability with a newline", security(capabilities={"add_capabilities": ["KILL\n"]}), "KILL"),
    ("one of two prefixes", security(capabilities={"add_capabilities": ["CAP_CAP_KILL"]}), "CAP_CAP_KILL"),
    (
        "a capability that the host lacks",
        security(capabilities={"add_capabilities": ["SYS_RESOURCE"]}),
        "cannot give CAP_SYS_RESOURCE",
    ),
    ("Localhost without a file", security(seccomp={"profile_type": "Localhost"}), "localhost_ref is empty"),
    (
        "Localhost with an empty rest",
        security(seccomp={"profile_type": "Localhost", "localhost_ref": "localhost/"}),
        "localhost_ref is empty",
    ),
    (
        "a relative profile",
        security(seccomp={"profile_type": "Localhost", "localhost_ref": "audit.json"}),
        "localhost_ref",
    ),
    (
        "a profile by going up",
        security(seccomp={"profile_type": "Localhost", "localhost_ref": "/a/../b"}),
        "localhost_ref",
    ),
    ("a file for RuntimeDefault", security(seccomp={"localhost_ref": "/x"}), "not Localhost"),
    ("profile type 3", security(seccomp={"profile_type": 3}), "profile_type 3"),
    ("an old seccomp text", security(seccomp_profile_path="default"), "seccomp_profile_path"),
    ("an old relative profile", security(seccomp_profile_path="localhost/a.json"), "localhost_ref"),
    (
        "an AppArmor profile on a host without",
        security(apparmor={"profile_type": "Localhost", "localhost_ref": "p"}),
        "no AppArmor",
    ),
    ("the same in the old field", security(apparmor_profile="localhost/p"), "no AppArmor"),
    (
        "our AppArmor profile on a host without",
        security(apparmor={"profile_type": "RuntimeDefault"}),
        "RuntimeDefault is asked for",
    ),
    ("the same in its old field", security(apparmor_profile="runtime/default"), "no AppArmor"),
    ("AppArmor without a name", security(apparmor={"profile_type": "Localhost"}), "localhost_ref is empty"),
    ("an old AppArmor text", security(apparmor_profile="p"), "apparmor_profile"),
    ("an SELinux type with a colon", security(selinux_options={"type": "a:b"}), "selinux_options.type"),
    ("an SELinux level with a newline", security(selinux_options={"level": "s0\n"}), "level"),
    ("an SELinux level without a colon", security(selinux_options={"level": "s0,c4,c5"}), "level"),
    ("an SELinux category that is none", security(selinux_options={"level": "s0:c1,c1024"}), "level"),
    ("a relative masked path", security(masked_paths=["proc/kcore"]), "masked_paths"),
    ("a read-only path by going up", security(readonly_paths=["/proc/../x"]), "readonly_paths"),
]


def rows(table: list[tuple[str, dict[str, Any], str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("change", "words"), [row[1:] for row in table], ids=[row[0] for row in table]
    )


def test_there_are_as_many_refusals_as_promised() -> None:
    assert len(PODS) + len(CONTAINERS) >= 150
    for table in (PODS, CONTAINERS):
        assert len({row[0] for row in table}) == len(table)
        assert len({json.dumps(row[1]) for row in table}) == len(table)


@rows(PODS)
def test_no_pod_is_made_of(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        validate.check_pod(pod_config(change), HOST)


@rows(CONTAINERS)
def test_no_container_is_made_of(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        validate.check_container(container_config(change), pod_config({}), HOST)


def test_a_pod_needs_metadata() -> None:
    with pytest.raises(Invalid, match="metadata is missing"):
        validate.check_pod(cri.PodSandboxConfig(), HOST)
    with pytest.raises(Invalid, match="metadata is missing"):
        validate.check_container(cri.ContainerConfig(), pod_config({}), HOST)


@pytest.mark.parametrize(
    ("change", "host"),
    [
        ({}, HOST),
        ({"readonly": True, "propagation": "PROPAGATION_HOST_TO_CONTAINER"}, HOST),
        ({"readonly": True, "propagation": "PROPAGATION_BIDIRECTIONAL"}, HOST),
        ({"readonly": True}, Host(recursive_read_only=False)),
    ],
    ids=["writable", "slave", "shared", "an old host"],
)
def test_recursive_read_only_is_refused_with_the_word_the_kubelet_knows(
    change: dict[str, Any], host: Host
) -> None:
    config = container_config(mount(recursive_read_only=True, **change))
    with pytest.raises(RROUnsupported, match=r"^RROUnsupported: mounts\[0\]"):
        validate.check_container(config, pod_config({}), host)


@pytest.mark.parametrize(
    ("change", "host", "words"),
    [
        (limits(unified={"memory.high": "1"}), Host(cgroup_v2=False), "cgroup v2"),
        (security(seccomp={"profile_type": "RuntimeDefault"}), Host(seccomp=False), "no seccomp"),
    ],
)
def test_what_the_host_lacks_is_said(change: dict[str, Any], host: Host, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        validate.check_container(container_config(change), pod_config({}), host)


@pytest.mark.parametrize("parent", ["/kubepods/pod1", "/a.slice/b", "/"])
def test_a_systemd_node_wants_slices(parent: str) -> None:
    with pytest.raises(Invalid, match=r"must end in a \.slice"):
        validate.check_pod(pod_config({"linux": {"cgroup_parent": parent}}), Host(systemd_cgroup=True))


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"name": "web"}},
        {"metadata": {"name": "PodSandbox-for_test.1", "namespace": "", "uid": "hdishd83djaidwnduwk28bcsb"}},
        {"hostname": "Web-0.shop.svc"},
        {"hostname": "a" * 63},
        {"log_directory": "/var/log/pods/shop_web_1/"},
        {"dns_config": {"servers": ["10.0.0.10", "fd00::a", "fe80::1%eth0"]}},
        {"dns_config": {"searches": ["svc.cluster.local", "_tcp.example.", "."], "options": ["ndots:5"]}},
        port(host_port=0, protocol="SCTP", host_ip="::1"),
        {"linux": {"cgroup_parent": "/kubepods/burstable/pod-1"}},
        {"linux": {"cgroup_parent": "kubepods-burstable-pod1.slice"}},
        {
            "linux": {
                "cgroup_parent": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
            }
        },
        namespace(network="NODE", pid="NODE", ipc="NODE"),
        namespace(userns_options={"mode": "NODE"}),
        sysctls(kernel__shmmax="1", kernel__sem="250 32000 32 128", fs__mqueue__msg_max="100"),
        sysctl("net/ipv4/conf/eth0.1/forwarding"),
        sysctl("net.ipv4.tcp_congestion_control", "bbr"),
        sysctl("net.ipv4.ip_local_reserved_ports", "8080,9148-9150"),
        sysctl("net.ipv4.tcp_rmem", "4096\t131072\t6291456"),
    ],
)
def test_a_pod_is_made_of(change: dict[str, Any]) -> None:
    validate.check_pod(pod_config(change), HOST)


@pytest.mark.parametrize(
    "change",
    [
        {"log_path": "app/0.log"},
        {"stop_signal": 65},
        env("A.B-c", ""),
        {"working_dir": "/proc"},
        mounts("/data", "/data/a", "/dev/shm", "/etc/hosts", "/proc/cpuinfo", "/system"),
        mount(container_path="/sys", readonly=True),
        mount(container_path="/sys/fs/bpf", mount_options=["noexec", "nosuid", "nodev"]),
        mount(readonly=True, recursive_read_only=True),
        mount(readonly=True, image={"image": "x"}, host_path="", image_sub_path="a/b"),
        device(container_path="", permissions="mrw"),
        limits(cpu_quota="-1", memory_limit_in_bytes="-1", memory_swap_limit_in_bytes="-1"),
        limits(unified={"hugetlb.2MB.max": "0", "io.max": "8:0 rbps=1\n8:16 rbps=1"}),
        security(run_as_user={"value": "2147483647"}, run_as_group={"value": "0"}),
        security(run_as_username="app"),
        security(capabilities={"drop_capabilities": ["SYS_RESOURCE", "all"], "add_capabilities": ["kill"]}),
        security(seccomp={"profile_type": "Localhost", "localhost_ref": "localhost//profiles/a.json"}),
        security(apparmor={"profile_type": "Unconfined"}),
        security(apparmor_profile="unconfined"),
        security(selinux_options={"type": "spc_t", "level": "s0:c1,c2"}),
        namespace(pid="CONTAINER"),
        namespace(pid="TARGET", target_id="x"),
    ],
)
def test_a_container_is_made_of(change: dict[str, Any]) -> None:
    validate.check_container(container_config(change), pod_config({}), HOST)


@pytest.mark.parametrize("path", ["/proc", "/sys", "/proc/sys"])
def test_a_privileged_container_may_mount_over_the_kernels_files(path: str) -> None:
    privileged = security(privileged=True)
    validate.check_container(container_config(mounts(path) | privileged), pod_config(privileged), HOST)
    with pytest.raises(Invalid, match="root itself"):
        validate.check_container(container_config(mounts("/") | privileged), pod_config(privileged), HOST)


def test_only_in_a_privileged_pod_may_a_container_be_privileged() -> None:
    asked = {"linux": {"security_context": {"privileged": True}}}
    validate.check_container(container_config(asked), pod_config(asked), HOST)
    with pytest.raises(Invalid, match="privileged"):
        validate.check_container(container_config(asked), pod_config({}), HOST)


def test_error_messages_stay_short() -> None:
    with pytest.raises(Invalid) as caught:
        validate.check_pod(pod_config({"hostname": "x" * 100_000}), HOST)
    assert len(str(caught.value)) < 300
