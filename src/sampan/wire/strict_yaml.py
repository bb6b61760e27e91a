"""The one way YAML is read: as much of it as JSON can say, capped, unambiguous. Every failure is `Invalid`.

Built from the parser's events, so that nothing in a file decides what is constructed: an alias (ten lines of
which can stand for a gigabyte), a tag, a second document, a key that occurs twice or is no text, and nesting
without end are errors. The library is loaded when the first file is: most nodes never need its 1.3 MiB.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sampan.model.errors import Invalid

if TYPE_CHECKING:
    from yaml.events import Event, ScalarEvent

LIMIT = 1 << 20  # bytes
DEPTH_LIMIT = 32


def loads(data: bytes, what: str, limit: int = LIMIT) -> Any:  # noqa: ANN401 - YAML is any value
    """The value that `data` encodes. `what` names it in the error."""
    import yaml

    if len(data) > limit:
        raise Invalid(f"{what} is larger than {limit} bytes")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _value(yaml.parse(data.decode(), Loader=loader))
    except (ValueError, yaml.YAMLError) as error:
        words = "".join(c if c.isprintable() else " " for c in str(error)[:200])
        raise Invalid(f"{what} is not usable YAML: {words}") from None


def _value(events: Iterable["Event"]) -> Any:  # noqa: ANN401 - YAML is any value
    from yaml import events as kinds

    builder, scalars = _Builder(), _Scalars()
    for event in events:
        if isinstance(event, kinds.AliasEvent):
            raise ValueError("an alias (*name); write it out")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"the tag {tag}; only plain values are read")
        if isinstance(event, kinds.DocumentStartEvent):
            builder.document()
        elif isinstance(event, kinds.ScalarEvent):
            builder.add(scalars.value(event))
        elif isinstance(event, kinds.CollectionStartEvent):
            builder.open({} if isinstance(event, kinds.MappingStartEvent) else [])
        elif isinstance(event, kinds.CollectionEndEvent):
            builder.close()
    return builder.root


class _Scalars:
    """Text, number, truth or nothing, by YAML's own rules; but a date and 1:30 stay text, as elsewhere."""

    def __init__(self) -> None:
        from yaml import ScalarNode
        from yaml.constructor import SafeConstructor
        from yaml.resolver import Resolver

        self._node: Any = ScalarNode
        self._resolver: Any = Resolver()
        maker: Any = SafeConstructor()
        self._makers = {
            "null": lambda _: None,
            "bool": maker.construct_yaml_bool,
            "int": maker.construct_yaml_int,
            "float": maker.construct_yaml_float,
        }

    def value(self, event: "ScalarEvent") -> Any:  # noqa: ANN401 - YAML is any value
        event.value.encode()  # raises ValueError for half a character, which no file of ours could hold
        if not event.implicit[0] or ":" in event.value:  # quoted; or 1:30, which was 90 in YAML 1.1
            return event.value
        tag = self._resolver.resolve(self._node, event.value, event.implicit)
        make = self._makers.get(tag.removeprefix("tag:yaml.org,2002:"))
        return make(self._node(tag, event.value)) if make else event.value


class _Builder:
    """A value that grows event by event, without recursion."""

    def __init__(self) -> None:
        self.root: Any = None
        self._documents = 0
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []  # of each open mapping: the key whose value comes next

    def document(self) -> None:
        self._documents += 1
        if self._documents > 1:
            raise ValueError("more than one document")

    def open(self, collection: dict[str, Any] | list[Any]) -> None:
        self.add(collection)
        if len(self._open) >= DEPTH_LIMIT:
            raise ValueError(f"nested deeper than {DEPTH_LIMIT} levels")
        self._open.append(collection)
        self._keys.append(None)

    def close(self) -> None:
        self._open.pop()
        self._keys.pop()

    def add(self, value: Any) -> None:  # noqa: ANN401 - YAML is any value
        if not self._open:
            self.root = value
        elif isinstance(place := self._open[-1], list):
            place.append(value)
        elif (key := self._keys[-1]) is not None:
            place[key] = value
            self._keys[-1] = None
        elif not isinstance(value, str):
            raise ValueError("a key that is not text")
        elif value in place:
            raise ValueError(f"the key {value!r} occurs twice")
        else:
            self._keys[-1] = value
