"""What docs/cri-coverage.toml says is ignored is ignored: it changes nothing of what a container or a pod's init is."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from sampan.api import cri_pb2 as cri
from sampan.runtime.state import State
from sampan.server.node_rpcs import NodeRpcs
from sampan.spec import container, sandbox
from scripts import coverage_table as coverage
from tests.fakes import FakeJournal
from tests.spec.test_container_golden import facts

# A container with every message that an ignored field may be in: a mount of an image.
REQUEST = Path(__file__).parent / "spec/golden/image-volume/request.json"
SAMPLES = {
    FieldDescriptor.CPPTYPE_STRING: "x",
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_ENUM: 1,
    FieldDescriptor.CPPTYPE_INT64: 7,
    FieldDescriptor.CPPTYPE_INT32: 7,
}


def ignored(request: str) -> list[str]:
    """Its ignored fields in `config`, as paths from there."""
    rows = coverage.load()[request].items()
    return [
        path.removeprefix("config.")
        for path, row in rows
        if path.startswith("config.") and row.verdict == "ignored"
    ]


def fill(message: Message, path: str) -> None:
    """Set a field to something else than it is, through every element of what is repeated on the way."""
    name, _, rest = path.partition(".")
    field = message.DESCRIPTOR.fields_by_name[name]
    value: Any = getattr(message, name)
    if rest:
        assert not field.is_repeated or len(value)
        for inner in value if field.is_repeated else [value]:
            fill(inner, rest)
    elif field.is_repeated and field.message_type is not None:
        value["run.oci.x"] = "x"
    elif field.is_repeated:
        value.append(SAMPLES[field.cpp_type])
    elif field.message_type is not None:
        fill(value, field.message_type.fields[0].name)
    else:
        assert value != SAMPLES[field.cpp_type]
        setattr(message, name, SAMPLES[field.cpp_type])


def built(pod: str = "", config: str = "") -> list[object]:
    """The config.json of a container and of its pod's init, with these fields of the requests set."""
    known = facts(json.loads(REQUEST.read_text()))
    before = known.pod.config.ByteSize(), known.config.ByteSize()
    if pod:
        fill(known.pod.config, pod)
    if config:
        fill(known.config, config)
    assert not (pod or config) or before != (known.pod.config.ByteSize(), known.config.ByteSize())
    init = sandbox.build(known.pod, known.host, rootfs="/r", cgroups_path="/c")
    return [container.build(known), init]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (request, field)
        for request in ("RunPodSandboxRequest", "CreateContainerRequest")
        for field in ignored(request)
    ],
)
def test_an_ignored_field_changes_no_config(request_: str, field: str) -> None:
    changed = built(pod=field) if request_ == "RunPodSandboxRequest" else built(config=field)
    assert changed == built()


def test_a_field_that_is_not_ignored_changes_it() -> None:
    assert built(config="linux.security_context.readonly_rootfs") != built()
    assert built(pod="linux.security_context.namespace_options.pid") != built()


async def test_the_clients_version_changes_nothing() -> None:
    rpcs = NodeRpcs(cast(Any, SimpleNamespace(state=State(FakeJournal()))))
    old = await rpcs.Version(cri.VersionRequest(version="v1alpha2"), None)
    assert old == await rpcs.Version(cri.VersionRequest(version="v9"), None)
