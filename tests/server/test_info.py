"""The verbose JSON: containerd's names, and values that a script can use."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.api import cri_pb2 as cri
from sampan.config import loads
from sampan.model.container import Container, finished, started
from sampan.model.handler import Handler
from sampan.model.pod import Pod, broken, ready, stopping
from sampan.model.process import ProcessRef
from sampan.runtime.handler_ports import HandlerStatus
from sampan.runtime.ports import NetworkDetails
from sampan.server import info
from sampan.wire.oci_features import Features

CRUN = Handler("crun", "crun", "conmon", Path("/run/x/runtime/crun"))
RESULT = b"""{"cniVersion": "1.0.0",
 "interfaces": [{"name": "cni0", "mac": "aa"}, {"name": "eth0", "mac": "bb", "sandbox": "/ns/net"}],
 "ips": [{"interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1"}, {"interface": 1, "address": "fd00::2/64"}],
 "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}"""
POD = ready(
    Pod(
        id="ab" * 32,
        config=cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name="web", uid="u", namespace="ns", attempt=2),
            log_directory="/logs",
            port_mappings=[cri.PortMapping(protocol=cri.UDP, container_port=53)],
        ),
        handler="crun",
        created_at=5,
        hostname="h",
        namespaces=frozenset({"net", "ipc"}),
        cgroup_parent="/kubepods/x",
    ),
    6,
    ips=("10.1.0.2", "fd00::2"),
    cni_result=RESULT,
)
CONTAINER = Container(
    id="cd" * 32,
    pod_id=POD.id,
    config=cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="app"),
        envs=[cri.KeyValue(key="A", value=b"b")],
        linux=cri.LinuxContainerConfig(
            security_context=cri.LinuxContainerSecurityContext(
                run_as_user=cri.Int64Value(value=1 << 40), privileged=True
            )
        ),
    ),
    handler="crun",
    image_id="sha256:1",
    created_at=7,
    init=ProcessRef(10, 11),
    monitor=ProcessRef(12, 13),
)
RUNNING = started(CONTAINER, 8)


def inspectp(pod: Pod = POD, *containers: Container, present: bool = True) -> dict[str, Any]:
    namespaces = {kind: f"/run/x/pods/p/ns/{kind}" for kind in pod.namespaces}
    view = info.PodView(pod, CRUN, containers, namespaces, present, systemd_cgroup=True)
    found: dict[str, Any] = json.loads(info.pod(view)["info"])
    return found


def inspect(container: Container = RUNNING) -> dict[str, Any]:
    view = info.ContainerView(container, CRUN, {"process": {}}, removing=True, systemd_cgroup=False)
    found: dict[str, Any] = json.loads(info.container(view)["info"])
    return found


@pytest.mark.parametrize(
    "name",
    [
        "pid", "processStatus", "netNamespaceClosed", "image", "snapshotKey", "snapshotter", "runtimeHandler",
        "runtimeType", "runtimeOptions", "config", "runtimeSpec", "cniResult", "sandboxMetadata",
    ],
)  # fmt: skip
def test_a_pod_has_every_key_that_containerd_gives(name: str) -> None:
    assert name in inspectp()


@pytest.mark.parametrize(
    "name",
    [
        "sandboxID", "pid", "removing", "snapshotKey", "snapshotter", "runtimeType", "runtimeOptions", "config",
        "runtimeSpec",
    ],
)  # fmt: skip
def test_a_container_has_every_key_that_containerd_gives(name: str) -> None:
    assert name in inspect()


def test_configs_are_written_as_go_writes_them() -> None:
    config = inspectp()["config"]
    assert config["port_mappings"] == [{"protocol": 1, "container_port": 53}]
    assert config["metadata"] == {"name": "web", "uid": "u", "namespace": "ns", "attempt": 2}
    config = inspect()["config"]
    assert config["envs"] == [{"key": "A", "value": "b"}]
    assert config["linux"]["security_context"]["run_as_user"] == {"value": 1 << 40}


def test_maps_are_objects() -> None:
    message = cri.PodSandboxConfig(labels={"a": "b"}, linux=cri.LinuxPodSandboxConfig(sysctls={"x": "1"}))
    assert info.plain(message) == {"labels": {"a": "b"}, "linux": {"sysctls": {"x": "1"}}}


@pytest.mark.parametrize(
    ("containers", "pid"),
    [
        ((), 0),
        ((CONTAINER,), 0),
        ((RUNNING,), 10),
        ((replace(RUNNING, created_at=9, init=ProcessRef(20, 1)), RUNNING), 10),
        ((finished(RUNNING, at=9, code=0),), 0),
    ],
)
def test_a_pods_pid_is_one_that_is_in_its_namespaces(containers: tuple[Container, ...], pid: int) -> None:
    assert inspectp(POD, *containers)["pid"] == pid
    with_init = replace(POD, init=ProcessRef(3, 4), init_monitor=ProcessRef(5, 6))
    assert inspectp(with_init, *containers)["pid"] == 3
    assert inspectp(stopping(with_init, 9), *containers)["pid"] == 0


def test_the_network_namespace_is_found_where_scripts_look_for_it() -> None:
    found = inspectp()
    (path,) = [one["path"] for one in found["runtimeSpec"]["linux"]["namespaces"] if one["type"] == "network"]
    assert path == "/run/x/pods/p/ns/net" == found["sandboxMetadata"]["Metadata"]["NetNSPath"]
    assert found["runtimeSpec"]["annotations"]["io.kubernetes.cri.sandbox-name"] == "web"
    assert not found["netNamespaceClosed"] and found["processStatus"] == "running"
    gone = inspectp(broken(POD, 9, "reboot"), present=False)
    assert gone["netNamespaceClosed"] and (gone["processStatus"], gone["notReadyReason"]) == (
        "deleted",
        "reboot",
    )
    assert not inspectp(replace(POD, namespaces=frozenset()), present=False)["netNamespaceClosed"]


def test_addresses_are_told_by_interface() -> None:
    assert inspectp()["cniResult"] == {
        "Interfaces": {
            "cni0": {"IPConfigs": None, "Mac": "aa", "Sandbox": ""},
            "eth0": {
                "IPConfigs": [
                    {"IP": "10.1.0.2", "Gateway": "10.1.0.1"},
                    {"IP": "fd00::2", "Gateway": ""},
                ],
                "Mac": "bb",
                "Sandbox": "/ns/net",
            },
        },
        "DNS": [{}],
        "Routes": [{"dst": "0.0.0.0/0"}],
    }
    assert inspectp(replace(POD, cni_result=b""))["cniResult"] is None
    loose = replace(POD, cni_result=b'{"ips": [{"address": "10.1.0.9/24"}]}')
    assert inspectp(loose)["cniResult"]["Interfaces"]["eth0"]["IPConfigs"] == [
        {"IP": "10.1.0.9", "Gateway": ""}
    ]


def test_a_containers_process_and_runtime_are_told() -> None:
    found = inspect()
    assert (found["pid"], found["sandboxID"], found["removing"]) == (10, POD.id, True)
    assert (found["privileged"], found["runtimeSpec"]) == (True, {"process": {}})
    assert found["runtimeOptions"] == {
        "binary_name": "crun",
        "root": "/run/x/runtime/crun",
        "systemd_cgroup": False,
    }
    assert inspect(finished(RUNNING, at=9, code=1))["pid"] == 0


# --- the node -----------------------------------------------------------------------------------------------

CONFIG = loads(
    """
root = "/srv/boats"
state = "/run/boats"
[cni]
conf_template = "/etc/t"
[runtime.handlers.runc]
root = "/run/own"
privileged_without_host_devices = true
base_runtime_spec = "/etc/base.json"
"""
)
NETWORK = NetworkDetails(
    b'{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}',
    "10-a.conflist",
    "/net.d",
    ("/bin",),
)


def node(network: NetworkDetails = NETWORK) -> dict[str, str]:
    handlers = [
        HandlerStatus("crun", "/usr/bin/crun", Features(name="crun", version=(1, 8, 1))),
        HandlerStatus("runc", problem="runc is not installed"),
    ]
    return info.node(CONFIG, network, handlers, {"exec": 2}, systemd_cgroup=True)


def test_the_node_has_our_configuration_and_containerds_names_in_one() -> None:
    config = json.loads(node()["config"])
    assert (config["root"], config["rootDir"], config["containerdRootDir"]) == ("/srv/boats",) * 3
    assert str(Path(config["stateDir"]).parent) == "/srv/boats"  # critest looks at its file system
    assert config["containerdEndpoint"] == "/run/sampan/sampan.sock"
    assert (config["cni"]["conf_dir"], config["cni"]["confDir"]) == ("/etc/cni/net.d",) * 2
    assert config["cni"]["confTemplate"] == "/etc/t" and config["systemdCgroup"] is True
    assert config["registry"]["configPath"] == "/etc/sampan/certs.d:/etc/containerd/certs.d"
    runc = config["containerd"]["runtimes"]["runc"]
    assert runc["options"] == {"BinaryName": "runc", "Root": "/run/own", "SystemdCgroup": True}
    assert runc["privileged_without_host_devices"] and runc["baseRuntimeSpec"] == "/etc/base.json"
    assert config["containerd"]["defaultRuntimeName"] == "crun"


def test_the_network_is_told_as_go_cni_tells_it() -> None:
    found = json.loads(node()["cniconfig"])
    assert [one["IFName"] for one in found["Networks"]] == ["lo", "eth0"]
    assert found["Networks"][1]["Config"]["Name"] == "pods"
    assert found["Networks"][1]["Config"]["Plugins"][0]["Network"] == {"type": "bridge"}
    assert (found["PluginDirs"], found["PluginConfDir"]) == (["/bin"], "/net.d")
    assert node()["lastCNILoadStatus"] == node()["lastCNILoadStatus.default"] == "OK"


def test_a_missing_network_says_why_where_containerd_does() -> None:
    found = node(NetworkDetails(b"", "", "/net.d", ("/bin",), "no file"))
    assert found["lastCNILoadStatus"] == "cni config load failed: no file"
    assert [one["IFName"] for one in json.loads(found["cniconfig"])["Networks"]] == ["lo"]


def test_open_sessions_are_counted() -> None:
    assert json.loads(node()["sessions"]) == {"exec": 2}


def test_each_handlers_runtime_is_told() -> None:
    found = json.loads(node()["handlers"])
    assert (found["crun"]["usable"], found["crun"]["version"]) == (True, "1.8.1")
    assert (found["runc"]["usable"], found["runc"]["problem"]) == (False, "runc is not installed")
