"""A container's OCI config.json, whole (runtime-spec config.md, config-linux.md): one line per section."""

from typing import Any

from sampan.spec.facts import ContainerFacts


def build(facts: ContainerFacts) -> dict[str, Any]:
    """The config.json. Raises Invalid, or RROUnsupported, naming the field at fault."""
    raise NotImplementedError
