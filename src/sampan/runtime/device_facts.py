"""Gathers the part of a container's facts that is about devices and I/O classes; most containers have none of it."""

from collections.abc import Sequence
from dataclasses import replace

from sampan.model.cdi import Given
from sampan.runtime.machine import Machine
from sampan.spec import cdi, io_classes
from sampan.spec.facts import ContainerFacts


async def added(facts: ContainerFacts, machine: Machine) -> ContainerFacts:
    """`facts` with the CDI devices, the classes, and for a privileged container every device of the host as it is
    now. May wait on a dead file system: callers bound it. Raises NotFound or Invalid for what this node lacks."""
    config, pod = facts.config, facts.pod.config
    if config.linux.security_context.privileged and facts.host.privileged_devices:
        facts = replace(facts, host_devices=await machine.facts.all_devices())
    if names := cdi.names(config):
        facts = await _with_cdi(facts, machine, await machine.cdi.edits(names))
    if name := io_classes.block_io_class(config, pod):
        facts = replace(facts, block_io=await machine.io_classes.block_io(name))
    if name := io_classes.rdt_class(config, pod):
        facts = replace(facts, rdt_class=await machine.io_classes.rdt(name))
    return facts


async def _with_cdi(facts: ContainerFacts, machine: Machine, given: Sequence[Given]) -> ContainerFacts:
    nodes = await machine.facts.device_nodes(cdi.host_devices(given))
    sources = await machine.facts.sources(cdi.host_mounts(given))
    return replace(
        facts,
        cdi=tuple(given),
        device_nodes={**facts.device_nodes, **nodes},
        sources={**facts.sources, **sources},
        resctrl=cdi.wants_rdt(given) and await machine.io_classes.has_rdt(),
    )
