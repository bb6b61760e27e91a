"""A container's OCI config.json, whole (runtime-spec config.md, config-linux.md): one line per section.

Annotations of a request never get here: the OCI runtime takes orders from some of them (CVE-2024-3154,
CVE-2023-6476).
"""

import base64
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.spec import (
    base_spec,
    cdi,
    devices,
    io_classes,
    mounts,
    namespaces,
    process,
    resources,
    seccomp,
    security,
    userns,
)
from sampan.spec.facts import ContainerFacts

VERSION = "1.0.2"  # of the runtime-spec; all we use is in it
COMPILED_FILTER = "run.oci.seccomp_bpf_data"  # crun(1): a filter to load instead of compiling linux.seccomp


def build(facts: ContainerFacts) -> dict[str, Any]:
    """The config.json. Raises Invalid, or RROUnsupported, naming the field at fault."""
    options = facts.pod.config.linux.security_context.namespace_options
    maps = userns.mappings(options)
    userns.check_user(facts.user, maps)
    spec: dict[str, Any] = {
        "ociVersion": VERSION,
        "root": {"path": facts.rootfs, "readonly": facts.config.linux.security_context.readonly_rootfs},
        "process": process.build(facts),
        "mounts": userns.mounts(mounts.build(facts), maps, own_network=options.network != cri.NODE),
        "linux": {**_linux(facts), **userns.linux(maps)},
    }
    if annotations := _annotations(facts, spec["linux"].get("seccomp")):
        spec["annotations"] = annotations
    cdi.apply(spec, facts)
    devices.place(spec, facts)
    base_spec.apply(spec, facts.base_spec)
    return spec


def _linux(facts: ContainerFacts) -> dict[str, Any]:
    config, context = facts.config, facts.config.linux.security_context
    nodes, rules = devices.build(facts)
    labels = security.selinux_labels(facts)
    sections = {
        "cgroupsPath": facts.cgroups_path,
        "namespaces": namespaces.build(facts),
        "resources": {
            **resources.build(config.linux.resources, facts.host),
            **({"blockIO": limits} if (limits := io_classes.block_io(facts.block_io)) else {}),
            "devices": rules,
        },
        "intelRdt": {"closID": facts.rdt_class} if facts.rdt_class else {},
        "devices": nodes,
        "rootfsPropagation": mounts.rootfs_propagation(config),
        "seccomp": security.seccomp_filter(facts),
        "mountLabel": labels.mount if labels else "",
        **security.hidden_paths(context),
    }
    return {name: section for name, section in sections.items() if section}


def _annotations(facts: ContainerFacts, seccomp_object: dict[str, Any] | None) -> dict[str, str]:
    """All that we ever tell the OCI runtime beside the spec: the compiled form of the seccomp object in it,
    where the host has it from an earlier container. Compiling takes crun 25 ms."""
    program = facts.seccomp_programs.get(seccomp.fingerprint(seccomp_object)) if seccomp_object else None
    return {COMPILED_FILTER: base64.b64encode(program).decode()} if program else {}
