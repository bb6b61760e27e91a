"""What an operator adds to every container of a runtime handler: parts of an OCI config.json from a file of theirs.

Taken are `hooks`, `annotations`, `process.rlimits`, `linux.sysctl` and `mounts` at places where the container has none.
Everything else of a container is decided by its request and by us, and is passed over: so the whole output of
`runc spec` or `ctr oci spec` will do as a start. The latter's tmpfs on /run is passed over too: it would hide what
images have there. Source: OCI runtime-spec, config.md.
"""

import posixpath
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from sampan.model.errors import Invalid
from sampan.spec import mounts

LIMIT = 1 << 20  # bytes of the file

_Path = Annotated[str, msgspec.Meta(pattern="^/[^\\0]*$")]


class _Hook(msgspec.Struct, frozen=True, omit_defaults=True):
    path: _Path
    args: list[str] = []
    env: list[str] = []
    timeout: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Hooks(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    prestart: list[_Hook] = []
    create_runtime: list[_Hook] = []
    create_container: list[_Hook] = []
    start_container: list[_Hook] = []
    poststart: list[_Hook] = []
    poststop: list[_Hook] = []


class _Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    destination: _Path
    type: str = ""
    source: str = ""
    options: list[str] = []


class _Rlimit(msgspec.Struct, frozen=True):
    type: Annotated[str, msgspec.Meta(pattern="^RLIMIT_[A-Z]+$")]
    soft: Annotated[int, msgspec.Meta(ge=0)]
    hard: Annotated[int, msgspec.Meta(ge=0)]


class _Process(msgspec.Struct, frozen=True):
    rlimits: list[_Rlimit] = []


class _Linux(msgspec.Struct, frozen=True):
    sysctl: dict[str, str] = {}


class _Base(msgspec.Struct, frozen=True):
    hooks: _Hooks = _Hooks()
    annotations: dict[str, str] = {}
    mounts: list[_Mount] = []
    process: _Process = _Process()
    linux: _Linux = _Linux()


def parse(text: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(what is taken, in the form of a config.json; the names of what is passed over). Raises Invalid."""
    if len(text) > LIMIT:
        raise Invalid(f"is larger than {LIMIT} bytes")
    try:
        whole = msgspec.json.decode(text, type=dict[str, Any])
        base = msgspec.convert(whole, _Base)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"is no usable OCI config.json: {error}") from None
    for limit in base.process.rlimits:
        if limit.soft > limit.hard:
            raise Invalid(f"process.rlimits: {limit.type} has a soft limit above its hard one")
    taken = msgspec.to_builtins(base)
    taken["mounts"] = [msgspec.to_builtins(mount) for mount in base.mounts if not _hides_run(mount)]
    return taken, tuple(_passed_over(whole, base))


def _hides_run(mount: _Mount) -> bool:
    return mount.type == "tmpfs" and posixpath.normpath(mount.destination).lstrip("/") == "run"


def _passed_over(whole: Mapping[str, Any], base: _Base) -> list[str]:
    names = [name for name in whole if name not in (*_Base.__struct_fields__, "ociVersion")]
    for part, taken in (("process", "rlimits"), ("linux", "sysctl")):
        names += [f"{part}.{name}" for name in whole.get(part) or () if name != taken]
    names += ["mounts: the tmpfs on /run"] * any(map(_hides_run, base.mounts))
    return sorted(names)


def apply(spec: dict[str, Any], base: Mapping[str, Any]) -> None:
    """Add what `parse` took to a container's config.json. The operator's limits go before the daemon's own; of
    everything else the container's is kept."""
    if not base:
        return
    for kind, hooks in base["hooks"].items():
        ours = spec.setdefault("hooks", {})
        ours[kind] = [*hooks, *ours.get(kind, ())]
    for section, added in ((spec, {"annotations": base["annotations"]}), (spec["linux"], base["linux"])):
        for name, values in added.items():
            if values:
                section[name] = {**values, **section.get(name, {})}
    if base["process"]["rlimits"]:
        limits = [*spec["process"].get("rlimits", ()), *base["process"]["rlimits"]]
        spec["process"]["rlimits"] = list({limit["type"]: limit for limit in limits}.values())
    for mount in base["mounts"]:
        _add_mount(spec["mounts"], mount)


def _add_mount(built: list[dict[str, Any]], added: dict[str, Any]) -> None:
    """But where the container has one already."""
    if added["destination"].rstrip("/") not in [mount["destination"].rstrip("/") for mount in built]:
        mounts.insert(built, added)
