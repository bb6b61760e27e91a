"""The template of a CNI configuration, as containerd takes it: text with the node's pod address ranges to be put in.

It is Go's text/template reduced to what such templates use: `{{.PodCIDR}}`, the first range; `{{range}}` over
`.PodCIDRRanges` and `.Routes` (the default route of each address family), with or without `$index, $value :=`; `{{if}}`
and `{{else}}`; `{{- -}}`, which trim; comments. Anything else is an error that names it. Pure.
Sources: pkg.go.dev/text/template, containerd's docs/cri/config.md (conf_template).
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sampan.model.errors import Invalid

NAMES = ("PodCIDR", "PodCIDRRanges", "Routes")
_DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
_ACTION = re.compile(r"(\{\{)(- )?(.*?)( -)?\}\}", re.DOTALL)
_RANGE = re.compile(r"range\s+(?:(?:(\$\w+)\s*,\s*)?(\$\w+)\s*:=\s*)?(\.\w+)", re.ASCII)
_VALUE = re.compile(r"\.|\.[A-Za-z]\w*|\$\w*", re.ASCII)
_DEPTH = 10

Value = str | int | Sequence[str]
_Scope = Mapping[str, Value]


def values(cidrs: Sequence[str]) -> dict[str, Value]:
    """The variables for these ranges, which are written anew: a template puts them into JSON. Raises Invalid for one
    that is none, or has a zone (RFC 4007), which can be any text."""
    if not cidrs:
        raise Invalid("no pod CIDR is given")
    ranges = [_range(cidr) for cidr in cidrs]
    families = {one.version for one in ranges}
    routes = [route for family, route in _DEFAULT_ROUTES.items() if family in families]
    texts = tuple(str(one) for one in ranges)
    return {"PodCIDR": texts[0], "PodCIDRRanges": texts, "Routes": tuple(routes)}


def _range(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if "/" in cidr and "%" not in cidr:
            return ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        pass
    raise Invalid(f"pod CIDR {cidr!r} is no address range such as 10.88.0.0/16 or fd00:88::/64")


def render(template: str, variables: Mapping[str, Value]) -> str:
    """The template with the variables put in. Raises Invalid, saying in which line what is not understood."""
    parser = _Parser(list(_tokens(template)))
    nodes = parser.nodes(())
    scope: dict[str, Value] = {f".{name}": value for name, value in variables.items()}
    return "".join(_rendered(nodes, scope))


# --- parsing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    """Text, or an action with its words; `line` for errors."""

    line: int
    text: str
    action: bool


@dataclass(frozen=True, slots=True)
class _Block:
    """An `if` or a `range`: the value it is about, the names it binds, what is done and what otherwise."""

    token: _Token
    value: str
    names: tuple[str, str]
    loop: bool
    then: "tuple[_Node, ...]"
    otherwise: "tuple[_Node, ...]"


_Node = _Token | _Block


def _tokens(template: str) -> Iterator[_Token]:
    end, trim = 0, False
    for found in _ACTION.finditer(template):
        text = template[end : found.start()]
        text = text.lstrip() if trim else text
        yield _Token(_line(template, end), text.rstrip() if found[2] else text, False)
        words = found[3].strip()
        if not (words.startswith("/*") and words.endswith("*/")):
            yield _Token(_line(template, found.start()), words, True)
        end, trim = found.end(), bool(found[4])
    rest = template[end:]
    if "{{" in rest:
        raise Invalid(f"line {_line(template, end + rest.index('{{'))}: {{{{ without }}}}")
    yield _Token(_line(template, end), rest.lstrip() if trim else rest, False)


def _line(template: str, at: int) -> int:
    return template.count("\n", 0, at) + 1


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def nodes(self, ends: tuple[str, ...]) -> tuple[_Node, ...]:
        """Everything up to one of the words `ends`, which is left to be read; () is the end of the template."""
        found: list[_Node] = []
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.action and token.text in ends:
                return tuple(found)
            self._at += 1
            found.append(self._block(token) if token.action else token)
        if ends:
            raise Invalid(f"line {self._tokens[-1].line}: {{{{end}}}} is missing")
        return tuple(found)

    def _block(self, token: _Token) -> _Node:
        if _VALUE.fullmatch(token.text):
            return token
        loop, condition = _RANGE.fullmatch(token.text), re.fullmatch(r"if\s+(\S+)", token.text)
        if loop:
            return self._body(token, loop[3], (loop[1] or "", loop[2] or ""), loop=True)
        if condition and _VALUE.fullmatch(condition[1]):
            return self._body(token, condition[1], ("", ""), loop=False)
        raise Invalid(
            f"line {token.line}: {{{{{token.text}}}}} is not understood; there are {{{{.PodCIDR}}}}, range over "
            ".PodCIDRRanges and .Routes, if, else and end"
        )

    def _body(self, token: _Token, value: str, names: tuple[str, str], *, loop: bool) -> _Block:
        self._depth += 1
        if self._depth > _DEPTH:
            raise Invalid(f"line {token.line}: blocks are nested deeper than {_DEPTH}")
        then = self.nodes(("else", "end"))
        otherwise: tuple[_Node, ...] = ()
        if self._tokens[self._at].text == "else":
            self._at += 1
            otherwise = self.nodes(("end",))
        self._at += 1
        self._depth -= 1
        return _Block(token, value, names, loop, then, otherwise)


# --- rendering ----------------------------------------------------------------------------------------------


def _rendered(nodes: Sequence[_Node], scope: _Scope) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Block):
            yield from _block_rendered(node, scope)
        elif node.action:
            value = _looked_up(node, node.text, scope)
            # as Go prints a list
            yield str(value) if isinstance(value, str | int) else f"[{' '.join(value)}]"
        else:
            yield node.text


def _block_rendered(block: _Block, scope: _Scope) -> Iterator[str]:
    value = _looked_up(block.token, block.value, scope)
    if not block.loop:
        yield from _rendered(block.then if value else block.otherwise, scope)
        return
    if isinstance(value, str | int):
        raise Invalid(f"line {block.token.line}: {block.value} is no list to range over")
    for number, item in enumerate(value):
        bound: dict[str, Value] = {".": item, block.names[0]: number, block.names[1]: item}
        yield from _rendered(block.then, {**scope, **bound})
    if not value:
        yield from _rendered(block.otherwise, scope)


def _looked_up(token: _Token, name: str, scope: _Scope) -> Value:
    if name not in scope:
        known = ", ".join(sorted(each for each in scope if len(each) > 1))
        raise Invalid(f"line {token.line}: there is no {name}; known here: {known}")
    return scope[name]
