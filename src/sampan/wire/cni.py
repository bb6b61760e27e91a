"""CNI network configuration: which file counts, what it says, whether it is sound.

Pure: takes bytes, gives values. What is sent to a plugin is `cni_request`, what comes back `cni_result`, what
the built-in plugins understand `cni_builtin`. Source: CNI specification 1.1, section 1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sampan.model.errors import Invalid

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")
SIZE_LIMIT = 1 << 20  # bytes of one configuration file, and of one plugin's answer
PLUGIN_LIMIT = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TYPE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin of the chain: the name of its program and its configuration as written."""

    type: str
    conf: Mapping[str, Any]

    @property
    def capabilities(self) -> frozenset[str]:
        """What the plugin wants to be told about an attachment."""
        declared = self.conf.get("capabilities") or {}
        return frozenset(name for name, wanted in declared.items() if wanted is True)


@dataclass(frozen=True, slots=True)
class Conflist:
    """A network: the chain of plugins and the protocol version they are spoken to in."""

    name: str
    version: str
    plugins: tuple[Plugin, ...]
    disable_check: bool = False
    disable_gc: bool = False

    def at_least(self, version: str) -> bool:
        return VERSIONS.index(self.version) >= VERSIONS.index(version)

    def encode(self) -> bytes:
        """The configuration as a list in JSON, which `parse` reads again."""
        return msgspec.json.encode(
            {
                "cniVersion": self.version,
                "name": self.name,
                "disableCheck": self.disable_check,
                "disableGC": self.disable_gc,
                "loadOnlyInlinedPlugins": True,  # those of the sibling directory are in `plugins` by now
                "plugins": [plugin.conf for plugin in self.plugins],
            }
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The configuration to use, with the file it came from; and what was wrong with the files before it."""

    conflist: Conflist | None
    file: str
    problems: tuple[str, ...]


def choose(
    files: Mapping[str, bytes], more: Mapping[str, Sequence[tuple[str, bytes]]] | None = None
) -> Choice:
    """The first file, by name, that is valid. `more`: by network, the files of its directory."""
    problems: list[str] = []
    for file in sorted(files):
        try:
            return Choice(_with_directory(parse(files[file]), more or {}), file, tuple(problems))
        except Invalid as error:
            problems.append(f"{file}: {error}")
    return Choice(None, "", tuple(problems))


def parse(text: bytes) -> Conflist:
    """A list, or a single plugin's configuration, which becomes a list of one. Raises Invalid."""
    root = _object(text)
    name = root.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(f"the network's name is {name!r}; it must be letters, digits, '_', '.' and '-'")
    version = _version(root)
    bare = "plugins" not in root
    if bare and "type" not in root and not _flag(root, "loadOnlyInlinedPlugins"):
        return Conflist(name, version, ())  # its plugins may lie in the directory of its name
    entries = [root] if bare else root["plugins"]
    if not isinstance(entries, list) or not 0 < len(entries) <= PLUGIN_LIMIT:
        raise Invalid(f'"plugins" must be a list of 1 to {PLUGIN_LIMIT} plugin configurations')
    plugins = tuple(_plugin(entry, f"plugins[{place}]") for place, entry in enumerate(entries))
    return Conflist(name, version, plugins, _flag(root, "disableCheck"), _flag(root, "disableGC"))


def wants_directory(text: bytes) -> str:
    """The name of the sibling directory whose `*.conf` files add plugins to this list; "" if none do."""
    try:
        root = _object(text)
    except Invalid:
        return ""
    name = root.get("name")
    if "type" in root or not isinstance(name, str) or not _NAME.fullmatch(name):
        return ""
    return "" if root.get("loadOnlyInlinedPlugins") is True else name


def _with_directory(conflist: Conflist, more: Mapping[str, Sequence[tuple[str, bytes]]]) -> Conflist:
    added = [_plugin(_object(text), file) for file, text in more.get(conflist.name, ())]
    plugins = (*conflist.plugins, *added)
    if not plugins:
        raise Invalid(f"network {conflist.name} names no plugins")
    return Conflist(conflist.name, conflist.version, plugins, conflist.disable_check, conflist.disable_gc)


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > SIZE_LIMIT:
        raise Invalid(f"is larger than {SIZE_LIMIT} bytes")
    try:
        root = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"is not JSON: {error}") from None
    if not isinstance(root, dict):
        raise Invalid("is not a JSON object")
    return root


def _version(root: Mapping[str, Any]) -> str:
    """The highest version that both the configuration and we know."""
    offered = root.get("cniVersions", [])
    if not isinstance(offered, list):
        raise Invalid('"cniVersions" must be a list')
    known = [version for version in [root.get("cniVersion"), *offered] if version in VERSIONS]
    if not known:
        said = root.get("cniVersion", "missing")
        raise Invalid(f"cniVersion is {said!r}; one of {', '.join(VERSIONS)} is needed")
    return VERSIONS[max(map(VERSIONS.index, known))]


def _plugin(entry: object, where: str) -> Plugin:
    if not isinstance(entry, dict):
        raise Invalid(f"{where} is not an object")
    capabilities = entry.get("capabilities") or {}
    if not isinstance(capabilities, dict):
        raise Invalid(f'{where}: "capabilities" must be an object')
    kind = _checked_type(entry.get("type"), f"{where}: type")
    ipam = entry.get("ipam") or {}
    if not isinstance(ipam, dict):
        raise Invalid(f'{where}: "ipam" must be an object')
    if "type" in ipam:
        _checked_type(ipam["type"], f"{where}: ipam.type")
    return Plugin(kind, entry)


def _checked_type(kind: object, what: str) -> str:
    """A plugin's type becomes a file name in `bin_dirs`: it must not be able to name any other file."""
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind) or len(kind) > 128:
        raise Invalid(f"{what} is {kind!r}; it must be a plain file name without a leading dot")
    return kind


def _flag(root: Mapping[str, Any], key: str) -> bool:
    value = root.get(key, False)
    if isinstance(value, str) and value.lower() in (
        "true",
        "false",
    ):  # the reference library takes both forms
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise Invalid(f'"{key}" must be true or false')
    return value
