"""`make coverage`: docs/cri-coverage.toml → docs/cri-coverage.md: what becomes of every field of every CRI request.

In the TOML, a table for each request and for each message that several requests share; in it, for each field,
[verdict, what becomes of it, the test that proves it]. A field that is a message is described field by field, unless
one verdict is true of all of it, or it has a table of its own ("section"). `tests/test_cri_coverage.py` checks it.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from sampan.api import cri_pb2 as cri

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs/cri-coverage.toml"
TABLE = ROOT / "docs/cri-coverage.md"
WRAPPERS = {"Int64Value", "PodSandboxStateValue", "ContainerStateValue"}  # one value that may be absent
CASE = "golden:"
HEAD = """# What becomes of every field of every CRI request

Made by `make coverage` from `cri-coverage.toml`; a test compares both with the messages, field by field.

- **honoured**: it does what the CRI says, on this machine.
- **refused**: the request fails and says why; nothing of it is done.
- **ignored**: nothing comes of it, for the reason given.
"""

Verdict = Literal["honoured", "refused", "ignored", "section"]


class Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What becomes of one field. `test` is FILE::FUNCTION or golden:CASE; several are separated by spaces."""

    verdict: Verdict
    words: str
    test: str = ""

    @property
    def tests(self) -> list[str]:
        return self.test.split()


Sections = Mapping[str, Mapping[str, Row]]


def load() -> Sections:
    """The TOML, checked for its form."""
    return msgspec.toml.decode(SOURCE.read_bytes(), type=dict[str, dict[str, Row]])


def methods() -> list[MethodDescriptor]:
    """Every RPC of both services."""
    services = cri.DESCRIPTOR.services_by_name.values()
    return [method for service in services for method in service.methods]


def missing_and_stale(sections: Sections) -> tuple[list[str], list[str]]:
    """Fields without a row, and rows without a field, as TABLE.FIELD."""
    missing: list[str] = []
    unused = {(table, field) for table, rows in sections.items() for field in rows}
    tables = [method.input_type for method in methods()]
    done: set[str] = set()
    while tables:
        message = tables.pop()
        if message.name in done:
            continue
        done.add(message.name)
        rows = sections.get(message.name, {})
        for path, field in needed(message, rows):
            row = rows.get(path)
            unused.discard((message.name, path))
            if row is None:
                missing.append(f"{message.name}.{path}")
            elif row.verdict == "section":
                assert field.message_type is not None, f"{message.name}.{path} is no message"
                tables.append(field.message_type)
    return missing, sorted(f"{table}.{field}" for table, field in unused)


def needed(
    message: Descriptor, rows: Mapping[str, Row], prefix: str = ""
) -> Iterator[tuple[str, FieldDescriptor]]:
    """The fields of a message that must have a row: its leaves, and messages that have one as a whole."""
    for field in message.fields:
        path, inner = prefix + field.name, field.message_type
        if path in rows or inner is None or leaf(inner):
            yield path, field
        else:
            yield from needed(inner, rows, path + ".")


def leaf(message: Descriptor) -> bool:
    """Whether a field of this type is one value, or a map of values."""
    return message.GetOptions().map_entry or message.name in WRAPPERS


@cache
def functions(file: str) -> Mapping[str, frozenset[str]]:
    """The tests in a file, each with the names it speaks of: arguments, attributes and words of strings, in itself,
    its decorators and the tables of its module that it names. Comments and helpers do not count."""
    path = ROOT / file
    if not path.is_file():
        return {}
    body = ast.parse(path.read_text()).body
    tables = {target.id: node for node in body for target in _targets(node)}
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            parts = [*node.decorator_list, node.args, *node.body[ast.get_docstring(node) is not None :]]
            named = {inner.id for part in parts for inner in ast.walk(part) if isinstance(inner, ast.Name)}
            parts += [tables[name] for name in sorted(named & set(tables))]
            found[node.name] = frozenset(name for part in parts for name in _names(part))
    return found


def _targets(node: ast.stmt) -> Iterator[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    yield from (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def _names(part: ast.AST) -> Iterator[str]:
    for node in ast.walk(part):
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value)


def exists(test: str, field: str) -> bool:
    """Whether there is a test FILE::FUNCTION, or a golden case whose request has the field TABLE.FIELD."""
    if test.startswith(CASE):
        request = ROOT / place(test)
        return request.is_file() and _has(json.loads(request.read_text()), _steps(field))
    file, _, function = test.partition("::")
    return function in functions(file)


def speaks(test: str, field: str) -> bool:
    """Whether the test speaks of the field TABLE.FIELD; of one at the top of a request, of the RPC too; of one further
    down whose name is a single word, such as `name`, of the message that it is in too."""
    if test.startswith(CASE):
        return exists(test, field)
    file, _, function = test.partition("::")
    names = functions(file).get(function, frozenset())
    return field.rpartition(".")[2] in names and all(not names.isdisjoint(one) for one in _beside(field))


def _beside(field: str) -> Iterator[set[str]]:
    """Names, of each set of which a test of the field has to speak too."""
    table, *steps = field.split(".")
    if len(steps) == 1 and table.endswith("Request"):
        yield {table, table.removesuffix("Request")}
    message: Descriptor | None = cri.DESCRIPTOR.message_types_by_name[table]
    for step in steps[:-1]:
        assert message is not None, f"{field}: {step} is in no message"
        message = message.fields_by_name[step].message_type
    if len(steps) > 1 and steps[:-1] != ["config"] and "_" not in steps[-1]:
        yield {steps[-2], *([message.name] if message else [])}


def _steps(field: str) -> list[str]:
    """The way to the field in a golden case: from the message of its table, or from the `config` of a request."""
    table, *steps = field.split(".")
    roots = {"CreateContainerRequest": ["container"], "RunPodSandboxRequest": ["pod"]}
    return [*roots.get(table, []), *(steps[1:] if steps[0] == "config" else steps)]


def _has(value: object, steps: list[str]) -> bool:
    """Whether the JSON has these keys, one in another, somewhere; lists are looked through."""
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    if any(_has(one, steps) for one in inner):
        return True
    return isinstance(value, dict) and _follows(value, steps)


def _follows(value: object, steps: list[str]) -> bool:
    if isinstance(value, list):
        return any(_follows(one, steps) for one in value)
    return not steps or (
        isinstance(value, dict) and steps[0] in value and _follows(value[steps[0]], steps[1:])
    )


def place(test: str) -> str:
    """The file of a test, from the root."""
    if test.startswith(CASE):
        return f"tests/spec/golden/{test.removeprefix(CASE)}/request.json"
    return test.partition("::")[0]


def markdown(sections: Sections) -> str:
    """The whole document."""
    parts = [HEAD, *_summary(sections)]
    requests = {method.input_type.name: method for method in methods()}
    for name, method in requests.items():
        parts.append(f"\n## {method.containing_service.name}.{method.name}\n")
        parts.extend(_table(sections.get(name, {})) or ["It has no fields.\n"])
    parts.append("\n# Messages that several requests share\n")
    for name in sorted(set(sections) - set(requests)):
        parts.append(f"\n## {name}\n")
        parts.extend(_table(sections[name]))
    return "\n".join(parts)


def _summary(sections: Sections) -> Iterator[str]:
    rows = [row for table in sections.values() for row in table.values()]
    yield "".join(f"| {verdict} " for verdict in ("honoured", "refused", "ignored")) + "|"
    yield "|---|---|---|"
    counts = (sum(row.verdict == verdict for row in rows) for verdict in ("honoured", "refused", "ignored"))
    yield "".join(f"| {count} " for count in counts) + "|\n"


def _table(rows: Mapping[str, Row]) -> list[str]:
    if not rows:
        return []
    lines = ["| field | | what becomes of it | test |", "|---|---|---|---|"]
    for field, row in rows.items():
        words = row.words.replace("|", "\\|")
        if row.verdict == "section":
            lines.append(f"| `{field}` | | see [{row.words}](#{row.words.lower()}) | |")
        else:
            lines.append(f"| `{field}` | {row.verdict} | {words} | {_links(row)} |")
    return [*lines, ""]


def _links(row: Row) -> str:
    names = [test if test.startswith(CASE) else test.partition("::")[2] for test in row.tests]
    return "<br>".join(f"[{name}](../{place(test)})" for name, test in zip(names, row.tests, strict=True))


def main() -> None:
    """Write the table."""
    TABLE.write_text(markdown(load()))


if __name__ == "__main__":
    main()
