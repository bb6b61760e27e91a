"""The compiled CRI is exactly the table in cri-v1.txt: every name, number, type and option, both ways."""

from itertools import pairwise
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

from sampan.api import cri_pb2 as pb

TABLE = Path(__file__).with_name("cri-v1.txt")
SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}
Blocks = dict[str, set[str]]


def table() -> Blocks:
    """`kind name` → its lines, as the table has them."""
    blocks: Blocks = {}
    for line in TABLE.read_text().splitlines()[1:]:
        if line and not line.startswith(" "):
            block = blocks.setdefault(line, set())
        elif line:
            block.add(" ".join(line.split()))
    return blocks


def compiled() -> Blocks:
    """The same, said by the descriptors of the generated code."""
    file = pb.DESCRIPTOR
    blocks: Blocks = {}
    for service in file.services_by_name.values():
        blocks[f"service {service.name}"] = {rpc(method) for method in service.methods}
    for enum in file.enum_types_by_name.values():
        add_enum(blocks, enum, enum.name)
    for message in file.message_types_by_name.values():
        add_message(blocks, message, message.name)
    return blocks


def add_enum(blocks: Blocks, enum: EnumDescriptor, name: str) -> None:
    blocks[f"enum {name}"] = {f"{value.number} {value.name}" for value in enum.values}


def add_message(blocks: Blocks, message: Descriptor, name: str) -> None:
    blocks[f"message {name}"] = {field_line(field) for field in message.fields}
    for enum in message.enum_types:
        add_enum(blocks, enum, f"{name}.{enum.name}")
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            add_message(blocks, nested, f"{name}.{nested.name}")


def rpc(method: MethodDescriptor) -> str:
    def stream(yes: bool) -> str:
        return "stream " if yes else ""

    asked = stream(method.client_streaming) + method.input_type.name
    return f"{method.name}({asked}) -> {stream(method.server_streaming)}{method.output_type.name}"


def field_line(field: FieldDescriptor) -> str:
    deprecated = " [deprecated]" if field.GetOptions().deprecated else ""
    return f"{field.number} {shape(field)} {field.name}{deprecated}"


def shape(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields
        return f"map<{one(key)}, {one(value)}>"
    return ("repeated " if field.is_repeated else "") + one(field)


def one(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    return str(field.enum_type.name) if field.enum_type is not None else SCALARS[field.type]


def test_the_package_and_syntax_are_those_of_the_table() -> None:
    package, syntax = pb.DESCRIPTOR.package, "proto3"
    assert TABLE.read_text().splitlines()[0].split() == ["package", package, "syntax", syntax]
    assert not any(field.has_presence for m in messages() for field in m.fields if field.message_type is None)


def messages() -> list[Descriptor]:
    return list(pb.DESCRIPTOR.message_types_by_name.values())


def test_every_block_of_the_table_is_compiled_and_no_other() -> None:
    assert sorted(compiled()) == sorted(table())


def test_every_line_of_every_block_agrees() -> None:
    ours, theirs = compiled(), table()
    differences = {
        name: {"missing": theirs[name] - ours[name], "extra": ours[name] - theirs[name]}
        for name in theirs
        if ours.get(name, set()) != theirs[name]
    }
    assert not differences


def test_the_table_is_whole() -> None:
    blocks = table()
    calls = len(blocks["service RuntimeService"]) + len(blocks["service ImageService"])
    assert calls == 43
    assert len(blocks) > 150


def test_every_call_and_message_is_explained() -> None:
    """The comment above each is where a reader learns what it does here."""
    lines = (TABLE.parents[2] / "src/sampan/api/cri.proto").read_text().splitlines()
    heads = ("message ", "enum ", "service ", "rpc ")
    bare = [
        line
        for above, line in pairwise(lines)
        if line.strip().startswith(heads) and not above.strip().startswith("//")
    ]
    assert not bare
