"""The verbose answers of Status, PodSandboxStatus and ContainerStatus: JSON under the names that containerd gives, so
that scripts around `crictl info`, `inspectp` and `inspect` work. docs/cri-verbose.md lists them and what differs.

What is in it besides is ours alone. Environments of containers are in it, as with containerd; nothing of registries'
credentials ever gets here.
"""

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model.container import Container, ContainerState
from sampan.model.handler import Handler
from sampan.model.pod import Pod, PodState
from sampan.runtime.handler_ports import HandlerStatus
from sampan.runtime.ports import NetworkDetails

RUNTIME_TYPE = "oci"  # there are no shims to choose from
SNAPSHOTTER = "overlayfs"

Json = dict[str, Any]


# --- Status -------------------------------------------------------------------------------------------------


def node(
    config: Config,
    network: NetworkDetails,
    handlers: Sequence[HandlerStatus],
    sessions: Mapping[str, int],
    *,
    systemd_cgroup: bool,
) -> dict[str, str]:
    """The entries of StatusResponse.info."""
    status = "OK" if network.conflist else f"cni config load failed: {network.problem}"
    return {
        "config": json.dumps(_config(config, systemd_cgroup), default=str),
        "cniconfig": json.dumps(_cni_config(network)),
        "lastCNILoadStatus": status,
        "lastCNILoadStatus.default": status,
        "handlers": json.dumps({each.name: _handler(each) for each in handlers}),
        "sessions": json.dumps(sessions),
        "python": json.dumps(platform.python_version()),
    }


def _config(config: Config, systemd_cgroup: bool) -> Json:
    """Our keys, and containerd's beside them where there is something to say."""
    own: Json = dataclasses.asdict(config)
    runtimes = {
        name: {
            "runtimeType": RUNTIME_TYPE,
            "runtimePath": handler.path,
            "options": _camel_options(handler, systemd_cgroup),
            "privileged_without_host_devices": not handler.privileged_devices,
            "baseRuntimeSpec": handler.base_spec,
            "snapshotter": SNAPSHOTTER,
            "sandboxer": "podsandbox",
        }
        for name, handler in config.handlers.items()
    }
    cni = {
        "binDirs": config.cni.bin_dirs,
        "confDir": config.cni.conf_dir,
        "confTemplate": config.cni.conf_template,
        "maxConfNum": 1,
    }
    return {
        **own,
        "cni": {**own["cni"], **cni},
        "registry": {**own["registry"], "configPath": ":".join(map(str, config.registry.config_paths))},
        "containerd": {
            "snapshotter": SNAPSHOTTER,
            "defaultRuntimeName": config.runtime.default_handler,
            "runtimes": runtimes,
        },
        "systemdCgroup": systemd_cgroup,
        "maxConcurrentDownloads": config.images.max_parallel_downloads,
        "imagePullProgressTimeout": f"{config.images.pull_progress_timeout:g}s",
        "streamServerAddress": config.streaming.address,
        "streamServerPort": str(config.streaming.port),
        "streamIdleTimeout": f"{config.streaming.idle_timeout:g}s",
        "containerdEndpoint": config.socket,
        "containerdRootDir": config.root,
        "rootDir": config.root,
        "stateDir": config.root / "containers",  # where containers' file systems lie, as with containerd
    }


def _camel_options(handler: Handler, systemd_cgroup: bool) -> Json:
    return {"BinaryName": handler.path, "Root": str(handler.root), "SystemdCgroup": systemd_cgroup}


def _handler(status: HandlerStatus) -> Json:
    can = status.features
    return {
        "usable": not status.problem,
        "problem": status.problem,
        "path": status.path,
        "runtime": can.name,
        "version": ".".join(map(str, can.version)),
        "featuresFrom": "its features command" if can.told else "its version",
    }


def _cni_config(network: NetworkDetails) -> Json:
    """As go-cni describes what it has loaded; the loopback comes first, though it needs no configuration here."""
    networks = [_network("cni-loopback", "1.0.0", [{"type": "loopback"}], "lo")]
    if network.conflist:
        conflist = json.loads(network.conflist)
        networks.append(_network(conflist["name"], conflist["cniVersion"], conflist["plugins"], "eth0"))
    return {
        "PluginDirs": list(network.bin_dirs),
        "PluginConfDir": network.conf_dir,
        "PluginMaxConfNum": 1,
        "Prefix": "eth",
        "Networks": networks,
        "File": network.file,
    }


def _network(name: str, version: str, plugins: Sequence[Json], interface: str) -> Json:
    described = [{"Network": plugin, "Source": json.dumps(plugin)} for plugin in plugins]
    source = json.dumps({"cniVersion": version, "name": name, "plugins": plugins})
    config = {"Name": name, "CNIVersion": version, "Plugins": described, "Source": source}
    return {"Config": config, "IFName": interface}


# --- pods ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class PodView:
    """A pod, and what is to be said of it beside its record. `namespaces`: the pinned ones, by kind."""

    pod: Pod
    handler: Handler
    containers: Sequence[Container]
    namespaces: Mapping[str, str]
    present: bool  # they are pinned still
    systemd_cgroup: bool


def pod(view: PodView) -> dict[str, str]:
    """The entries of PodSandboxStatusResponse.info."""
    it = view.pod
    info = {
        "pid": _some_pid(view),
        "processStatus": "running" if it.state is PodState.READY else "deleted",
        "netNamespaceClosed": "net" in it.namespaces and not view.present,
        "image": "",  # there is no pause container
        "snapshotKey": "",
        "snapshotter": "",
        "runtimeHandler": it.handler,
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": _options(view.handler, view.systemd_cgroup),
        "config": plain(it.config),
        "runtimeSpec": _pod_spec(view),
        "cniResult": _cni_result(it.cni_result),
        "sandboxMetadata": {"Version": "v1", "Metadata": _pod_metadata(view)},
        "notReadyReason": it.broken_reason,
    }
    for name, resources in (("overhead", it.overhead), ("resources", it.resources)):
        if resources is not None:
            info[name] = {"linux": plain(resources)}
    return {"info": json.dumps(info)}


def _some_pid(view: PodView) -> int:
    """A process in the pod's namespaces, which is what scripts want of the pause container: the pod's init, or else the
    first process of the oldest running container. 0: there is none."""
    if view.pod.state is not PodState.READY:
        return 0
    if view.pod.init is not None:
        return view.pod.init.pid
    running = [one for one in view.containers if one.state is ContainerState.RUNNING and one.init]
    first = min(running, key=lambda one: one.created_at, default=None)
    return first.init.pid if first is not None and first.init else 0


def _pod_spec(view: PodView) -> Json:
    """The part of an OCI spec that is true of the pod itself: scripts read the paths of its namespaces there."""
    it, meta = view.pod, view.pod.config.metadata
    types = {"net": "network"}
    namespaces = [
        {"type": types.get(kind, kind), "path": path} for kind, path in sorted(view.namespaces.items())
    ]
    return {
        "hostname": it.hostname,
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": it.id,
            "io.kubernetes.cri.sandbox-name": meta.name,
            "io.kubernetes.cri.sandbox-namespace": meta.namespace,
            "io.kubernetes.cri.sandbox-uid": meta.uid,
            "io.kubernetes.cri.sandbox-log-directory": it.config.log_directory,
        },
        "linux": {
            "cgroupsPath": it.cgroup_parent,
            "sysctl": dict(it.config.linux.sysctls),
            "namespaces": namespaces,
        },
    }


def _pod_metadata(view: PodView) -> Json:
    it, meta = view.pod, view.pod.config.metadata
    return {
        "ID": it.id,
        "Name": "_".join((meta.name, meta.namespace, meta.uid, str(meta.attempt))),
        "Config": plain(it.config),
        "NetNSPath": view.namespaces.get("net", ""),
        "IP": it.ips[0] if it.ips else "",
        "AdditionalIPs": list(it.ips[1:]),
        "RuntimeHandler": it.handler,
    }


def _cni_result(result: bytes) -> Json | None:
    """What ADD returned, as go-cni tells it: addresses by interface."""
    if not result:
        return None
    said = json.loads(result)
    found = [
        {"name": each["name"], "Mac": each.get("mac", ""), "Sandbox": each.get("sandbox", "")}
        for each in said.get("interfaces", ())
    ]
    interfaces: dict[str, Json] = {
        each["name"]: {"IPConfigs": None, "Mac": each["Mac"], "Sandbox": each["Sandbox"]} for each in found
    }
    for ip in said.get("ips", ()):
        place = ip.get("interface")
        name = found[place]["name"] if isinstance(place, int) and 0 <= place < len(found) else "eth0"
        owner = interfaces.setdefault(name, {"IPConfigs": None, "Mac": "", "Sandbox": ""})
        address = {"IP": ip["address"].partition("/")[0], "Gateway": ip.get("gateway", "")}
        owner["IPConfigs"] = [*(owner["IPConfigs"] or ()), address]
    return {"Interfaces": interfaces, "DNS": [said.get("dns", {})], "Routes": said.get("routes", [])}


# --- containers ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class ContainerView:
    """A container, and what is to be said of it beside its record."""

    container: Container
    handler: Handler
    spec: Mapping[str, Any] | None  # its config.json
    removing: bool
    systemd_cgroup: bool
    differences: Sequence[str] = ()  # limits that are not in force as they were asked for


def container(view: ContainerView) -> dict[str, str]:
    """The entries of ContainerStatusResponse.info."""
    it = view.container
    alive = it.init is not None and it.state is not ContainerState.EXITED
    info = {
        "sandboxID": it.pod_id,
        "pid": it.init.pid if alive and it.init else 0,
        "removing": view.removing,
        "snapshotKey": it.id,
        "snapshotter": SNAPSHOTTER,
        "runtimeHandler": it.handler,
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": _options(view.handler, view.systemd_cgroup),
        "privileged": it.config.linux.security_context.privileged,
        "config": plain(it.config),
        "runtimeSpec": view.spec,
        "limitDifferences": list(view.differences),
    }
    return {"info": json.dumps(info)}


# --- shared -------------------------------------------------------------------------------------------------


def _options(handler: Handler, systemd_cgroup: bool) -> Json:
    return {"binary_name": handler.path, "root": str(handler.root), "systemd_cgroup": systemd_cgroup}


def plain(message: Any) -> Json:
    """A message as Go writes it: the fields that are set under their proto names, numbers as numbers, enums too."""
    found: Json = {}
    for field, value in message.ListFields():
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            item = entry.fields_by_name["value"]
            found[field.name] = {str(key): _plain_value(item, each) for key, each in value.items()}
        elif field.is_repeated:
            found[field.name] = [_plain_value(field, each) for each in value]
        else:
            found[field.name] = _plain_value(field, value)
    return found


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def runtime_handler(name: str, rro: bool, user_namespaces: bool) -> cri.RuntimeHandler:
    """A row of StatusResponse.runtime_handlers."""
    return cri.RuntimeHandler(
        name=name,
        features=cri.RuntimeHandlerFeatures(recursive_read_only_mounts=rro, user_namespaces=user_namespaces),
    )
