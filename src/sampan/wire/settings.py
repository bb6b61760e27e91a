"""Settings: dataclasses whose fields say how a key of a TOML file is checked and explained, and the checks.

A check takes what TOML gave and returns our value, or raises ValueError saying what would be allowed. Only
what the text itself can show is judged; whether a path exists is for its user to see. Which keys there are
is not here.
"""

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

Check = Callable[[object], object]
T = TypeVar("T")


# --- keys and sections --------------------------------------------------------------------------------------


def key(default: str | int | list[str], check: Check, comment: str) -> Any:  # noqa: ANN401 - a field of any type
    """A key: its default as TOML would give it, how it is checked, and its explanation."""
    return field(default=check(default), metadata={"toml": default, "check": check, "comment": comment})


def section(kind: type, comment: str) -> Any:  # noqa: ANN401 - a field of any type
    """A table with the keys of the dataclass `kind`."""
    return field(default_factory=kind, metadata={"section": kind, "comment": comment})


def tables(kind: type, builtin: str, own_name: str, comment: str) -> Any:  # noqa: ANN401 - a field of any type
    """Tables by name, each of `kind`; `builtin` is always there; the key `own_name` defaults to the name."""
    return field(
        default_factory=lambda: {builtin: kind()},
        metadata={"tables": kind, "builtin": builtin, "own_name": own_name, "comment": comment},
    )


def build(kind: type[T], table: object, at: str, problems: list[str]) -> T:
    """An instance of the dataclass `kind` from a table at the dotted prefix `at`.

    What is wrong is added to `problems`, and keeps its default.
    """
    return _Builder(kind, problems).build(kind, table, at)


@dataclass(frozen=True, slots=True)
class _Builder:
    root: type
    problems: list[str]

    def build(self, kind: type[T], table: object, at: str) -> T:
        if not isinstance(table, dict):
            self.problems.append(f"{at[:-1]} = {shown(table)}: must be a table, [{at[:-1]}]")
            return kind()
        known = {each.name: each.metadata for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
        values: dict[str, object] = {}
        for name, value in table.items():
            if name not in known:
                self.problems.append(self._unknown(at, name, list(known)))
                continue
            try:
                values[name] = self._value(known[name], value, f"{at}{name}")
            except ValueError as error:
                self.problems.append(f"{at}{name} = {shown(value)}: {error}")
        return kind(**values)

    def _value(self, facts: Any, value: object, at: str) -> object:  # noqa: ANN401 - a field's metadata
        if "section" in facts:
            return self.build(facts["section"], value, f"{at}.")
        if "tables" in facts:
            return self._tables(facts, value, f"{at}.")
        return facts["check"](value)

    def _tables(self, facts: Any, given: object, at: str) -> dict[str, object]:  # noqa: ANN401 - as above
        if not isinstance(given, dict):
            raise ValueError(f"must be tables, [{at}NAME]")
        found = {facts["builtin"]: facts["tables"]()}
        for name, table in given.items():
            if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
                self.problems.append(f"{at}{shown(name)}: must be lower case letters, digits and dashes")
                continue
            whole = {facts["own_name"]: name, **table} if isinstance(table, dict) else table
            found[name] = self.build(facts["tables"], whole, f"{at}{name}.")
        return found

    def _unknown(self, at: str, name: str, known: list[str]) -> str:
        plain = name.lower().replace("-", "_")
        near = difflib.get_close_matches(plain, known, 1, 0.7)
        if not near:
            everywhere = {key.rpartition(".")[2]: key for key, _, _ in entries(self.root())}
            near = [everywhere[each] for each in difflib.get_close_matches(plain, everywhere, 1, 0.8)]
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"unknown key `{at}{name}`: {hint}"


def entries(defaults: object, at: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, default as TOML, comment) of every key, depth first; a table has no value of its own."""
    for each in fields(defaults):  # type: ignore[arg-type]  # always a dataclass
        facts, name = each.metadata, at + each.name
        if "toml" in facts:
            yield name, shown(facts["toml"]), facts["comment"]
            continue
        inner = facts["section"] if "section" in facts else facts["tables"]
        name += f".{facts['builtin']}" if "tables" in facts else ""
        yield name, "", facts["comment"]
        yield from entries(inner(), f"{name}.")


def shown(value: object) -> str:
    """A value as TOML (numbers, strings, lists of them) writes it."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)


# --- checks -------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a string")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def one_of(*allowed: str) -> Check:
    def check(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return str(value)

    return check


def number(low: int, high: int) -> Check:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def list_of(item: Check) -> Check:
    def check(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(item(each) for each in value)

    return check


def path(value: object) -> Path:
    given = text(value)
    if not given.startswith("/") or ".." in Path(given).parts:
        raise ValueError("must be an absolute path without ..")
    return Path(given)


def optional_path(value: object) -> str:
    return str(path(value)) if value != "" else ""


def optional_directory(value: object) -> str:
    return str(directory(value)) if value != "" else ""


def directory(value: object) -> Path:
    """A directory that overlay mounts and conmon's log option will name: both split their arguments."""
    given = path(value)
    if re.search(r"[:,\\\s]", str(given)):
        raise ValueError("must be an absolute path without colon, comma, backslash or white space")
    if len(given.parts) < 3:
        raise ValueError("must be a directory of its own, at least two levels deep")
    return given


def socket(value: object) -> str:
    """A unix:// URL; unix(7) limits the path to 107 bytes."""
    given = text(value)
    file = given.removeprefix("unix://")
    if file == given or not file.startswith("/"):
        raise ValueError("must be unix:///ABSOLUTE/PATH: the daemon gives root's rights, so never over TCP")
    if len(file.encode()) > 107:
        raise ValueError(f"must be at most 107 bytes long after unix://; this has {len(file.encode())}")
    return given


def ip_address(value: object) -> str:
    given = text(value)
    try:
        ipaddress.ip_address(given)
    except ValueError:
        raise ValueError("must be an IP address, such as 127.0.0.1 or ::1") from None
    return given


def host_port(value: object) -> str:
    """IP:PORT, an IPv6 address in brackets; or nothing."""
    given = text(value)
    if given and not _is_host_port(given):
        raise ValueError('must be "" or IP:PORT, such as 127.0.0.1:9464 or [::1]:9464')
    return given


def _is_host_port(given: str) -> bool:
    parts = re.fullmatch(r"(?:\[(.+:.*)\]|([0-9.]+)):([1-9][0-9]{0,4})", given)
    if parts is None or int(parts[3]) > 65535:
        return False
    try:
        ipaddress.ip_address(parts[1] or parts[2])
    except ValueError:
        return False
    return True


def runtime_option(value: object) -> str:
    """An option that an OCI runtime takes before its command."""
    given = text(value)
    if not re.fullmatch(r"--?[A-Za-z][^\0\n]*", given):
        raise ValueError('must be options, each one string such as "--rootless=false" or "--platform=kvm"')
    name = given.partition("=")[0]
    if name.lstrip("-") in ("root", "systemd-cgroup", "log", "log-format"):
        raise ValueError(f"{name} is given by sampan (for --root there is a key, root)")
    if name.lstrip("-") == "debug":
        raise ValueError(
            f"{name} would fill the logs of containers: their stderr is the runtime's while it makes them"
        )
    return given


def program(value: object) -> str:
    given = text(value)
    if not re.fullmatch(r"[A-Za-z0-9._+-]+|/[^\0]+", given):
        raise ValueError("must be an absolute path, or a plain name that is looked up in PATH")
    return given


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(value: object) -> float:
    """Seconds of "4h", "1h30m", "90s" or "500ms"; "0" is none."""
    if isinstance(value, str) and value == "0":
        return 0.0
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9]{1,9}(?:ms|s|m|h))+", value, re.ASCII):
        raise ValueError('must be a duration such as "5m", "1h30m", "90s" or "500ms", or "0" for no limit')
    return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"([0-9]+)(ms|s|m|h)", value))
