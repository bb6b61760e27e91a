# ruff: noqa: RUF009 - a default made by a call is the point of `key`: checked at import, and immutable
"""The daemon's configuration: a frozen Config from TOML, every default explained, unknown keys rejected.

The keys are a promise to whoever wrote a file: they may be added to, never renamed. A file is judged whole:
every problem is reported at once, each by key, value and what would be allowed. Nothing here looks at the
machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import msgspec

from sampan.model.errors import Invalid
from sampan.model.handler import Handler as Handler
from sampan.model.handler import Handlers
from sampan.model.paths import Paths as Paths
from sampan.wire import settings, streaming_settings
from sampan.wire.settings import key, section, tables
from sampan.wire.streaming_settings import Streaming as Streaming

DEFAULT_FILE = Path("/etc/sampan/config.toml")


class ConfigInvalid(Invalid):
    """A configuration that cannot be used; `problems` names everything that is wrong with it."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = tuple(problems)
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {problem}" for problem in problems))


# --- the keys -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cgroup:
    driver: str = key(
        "auto",
        settings.one_of("auto", "systemd", "cgroupfs"),
        "Who makes control groups: systemd (slices), cgroupfs (plain directories), or auto: systemd\n"
        "where it runs this machine. The kubelet asks for it over CRI and does the same.",
    )
    blockio_config: str = key(
        "",
        settings.optional_path,
        "A YAML file of block I/O classes, in goresctrl's format; pods ask for one by annotation.\n"
        "None if empty. It is read whenever a container asks.",
    )
    ignore_blockio_not_enabled: bool = key(
        False,
        settings.flag,
        "Without blockio_config, pass over a container's block I/O class instead of refusing it.",
    )
    ignore_rdt_not_enabled: bool = key(
        False,
        settings.flag,
        "Where resctrl is not mounted, pass over a container's RDT class instead of refusing it.",
    )


@dataclass(frozen=True, slots=True)
class Registry:
    config_paths: tuple[Path, ...] = key(
        ["/etc/sampan/certs.d", "/etc/containerd/certs.d"],
        settings.list_of(settings.path),
        "Where HOST/hosts.toml files (mirrors, certificates) are; the first that knows a host wins.",
    )
    auth_files: tuple[Path, ...] = key(
        ["/etc/sampan/auth.json", "/root/.docker/config.json"],
        settings.list_of(settings.path),
        "The node's credentials for registries, in docker's or Podman's format, for pulls that bring none;\n"
        "read whenever a registry asks. The first that has any for an image wins.",
    )


@dataclass(frozen=True, slots=True)
class Trust:
    policy: str = key(
        "",
        settings.optional_path,
        "A TOML file that says which images may be pulled and run, and whose signatures count; read at each use.\n"
        "Without one (empty), every image may. See docs/trust.md.",
    )


@dataclass(frozen=True, slots=True)
class Images:
    root: str = key(
        "",
        settings.optional_directory,
        "Where image layers are, for a disk of their own; in root if empty. Images do not move along: they\n"
        "are pulled again.",
    )
    keep_blobs: bool = key(
        False,
        settings.flag,
        "Keep each layer as it was downloaded beside what was unpacked from it: an exported image then has\n"
        "the registry's own blobs. Takes about a third more disk; for images that come from now on.",
    )
    pull_progress_timeout: float = key(
        "5m", settings.duration, 'A pull that receives nothing for this long is given up; "0" waits for ever.'
    )
    max_parallel_downloads: int = key(
        6, settings.number(1, 64), "How many layers are downloaded at once, over all pulls."
    )
    pinned: tuple[str, ...] = key(
        [], settings.list_of(settings.text), "References of images that the kubelet must never remove."
    )
    ignore_volumes: bool = key(
        False,
        settings.flag,
        "Make no directories for the VOLUMEs that images declare: containers write there to their own layer.",
    )
    slow_chown: bool = key(
        False,
        settings.flag,
        "Where the file system of root cannot map ids, copy the whole image for each container in a user\n"
        "namespace instead of refusing such pods. Slow, and it takes the image's size for each.",
    )


@dataclass(frozen=True, slots=True)
class Cni:
    conf_dir: Path = key(
        "/etc/cni/net.d",
        settings.path,
        "The network is the first .conflist, .conf or .json file of this directory.",
    )
    bin_dirs: tuple[Path, ...] = key(
        ["/opt/cni/bin", "/usr/lib/cni"],
        settings.list_of(settings.path),
        "Where plugins are looked for, in this order.",
    )
    builtin: bool = key(
        True,
        settings.flag,
        "Do the work of loopback, bridge, host-local and portmap in the daemon instead of executing them.",
    )
    conf_template: str = key(
        "",
        settings.optional_path,
        "A file from which 10-sampan.conflist is written into conf_dir once the kubelet has told the node's\n"
        "pod CIDR, if there is no usable network by then; none if empty.",
    )


@dataclass(frozen=True, slots=True)
class RuntimeHandler:
    path: str = key("crun", settings.program, "The OCI runtime. Left out, it is the handler's own name.")
    monitor: str = key(
        "conmon", settings.program, "What watches each container and keeps its log and exit code."
    )
    args: tuple[str, ...] = key(
        [],
        settings.list_of(settings.runtime_option),
        'Options of the runtime that precede its every command, such as "--platform=kvm" of runsc.',
    )
    root: str = key(
        "",
        settings.optional_directory,
        "Where the runtime keeps its state; STATE/runtime/NAME if empty. Should not survive a reboot.",
    )
    privileged_without_host_devices: bool = key(
        False,
        settings.flag,
        "Give privileged containers only the devices they ask for instead of all of the host's.",
    )
    base_runtime_spec: str = key(
        "",
        settings.optional_path,
        "A JSON file in the form of an OCI config.json. Its hooks, annotations, process.rlimits, linux.sysctl,\n"
        "and mounts at further places are added to every container of this handler.",
    )


@dataclass(frozen=True, slots=True)
class Runtime:
    default_handler: str = key("crun", settings.text, "The handler of pods that ask for none.")
    cdi_dirs: tuple[Path, ...] = key(
        ["/etc/cdi", "/var/run/cdi"],
        settings.list_of(settings.path),
        "Where vendors describe CDI devices, in files that only root can write. A device of a later\n"
        "directory goes before one of the same name in an earlier.",
    )
    device_ownership_from_security_context: bool = key(
        False,
        settings.flag,
        "Give requested devices to the container's runAsUser and runAsGroup, not to the host's owner.",
    )
    handlers: Mapping[str, RuntimeHandler] = tables(
        RuntimeHandler,
        "crun",
        "path",
        "More handlers are more tables like this one, named as RuntimeClasses name them.",
    )


@dataclass(frozen=True, slots=True)
class Nri:
    enable: bool = key(True, settings.flag, "Let NRI plugins on the socket below adjust pods and containers.")
    socket: Path = key("/var/run/nri/nri.sock", settings.path, "Where NRI plugins connect.")


@dataclass(frozen=True, slots=True)
class Metrics:
    listen: str = key(
        "", settings.host_port, 'IP:PORT of the Prometheus endpoint, such as "127.0.0.1:9464"; off if empty.'
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything an operator may decide. Durations are in seconds (0: no limit)."""

    root: Path = key(
        "/var/lib/sampan",
        settings.directory,
        "What must survive a reboot: state.db, images, writable layers.",
    )
    state: Path = key(
        "/run/sampan", settings.directory, "What must not: namespaces, bundles, sockets. A tmpfs."
    )
    listen: str = key(
        "unix:///run/sampan/sampan.sock", settings.socket, "The CRI socket; the kubelet needs the same."
    )
    log_level: str = key(
        "info", settings.one_of("debug", "info", "warning", "error"), "debug, info, warning or error."
    )
    cgroup: Cgroup = section(Cgroup, "Control groups.")
    trust: Trust = section(Trust, "Which images may be pulled and run, and whose signatures count.")
    registry: Registry = section(Registry, "Where images come from.")
    images: Images = section(Images, "What becomes of images.")
    cni: Cni = section(Cni, "The pod network.")
    runtime: Runtime = section(Runtime, "What runs containers.")
    streaming: Streaming = section(Streaming, "Sessions: exec, attach, port-forward.")
    nri: Nri = section(Nri, "Node Resource Interface. Not in this version.")
    metrics: Metrics = section(Metrics, "Metrics for Prometheus. Not in this version.")

    @property
    def paths(self) -> Paths:
        return Paths(self.root, self.state, Path(self.images.root) if self.images.root else None)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Every runtime handler by name; a handler's runtime keeps its state in `<state>/runtime/<name>` unless it is
        told otherwise."""
        known = {
            name: Handler(
                name=name,
                path=each.path,
                monitor=each.monitor,
                root=Path(each.root) if each.root else self.state / "runtime" / name,
                args=each.args,
                base_spec=each.base_runtime_spec,
                privileged_devices=not each.privileged_without_host_devices,
            )
            for name, each in self.runtime.handlers.items()
        }
        return Handlers(known, self.state)

    @property
    def default_handler(self) -> Handler:
        return self.handlers[self.runtime.default_handler]

    @property
    def socket(self) -> Path:
        """The file that `listen` names."""
        return Path(self.listen.removeprefix("unix://"))


# --- reading ------------------------------------------------------------------------------------------------


def load(path: Path | None, overrides: Mapping[str, str | None] | None = None) -> Config:
    """The configuration of a file (None: the defaults), with `overrides` of top-level keys.

    An override that is None was not given, so that a flag's value can be passed as it is.
    Raises ConfigInvalid with everything that is wrong.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    return _checked(str(path or "configuration"), {**(_parsed(path) if path else {}), **given})


def loads(text: str) -> Config:
    """The configuration that this TOML text describes. Raises ConfigInvalid."""
    return _checked("configuration", _decoded("configuration", text.encode()))


def _parsed(path: Path) -> dict[str, object]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(str(path), [f"cannot be read: {error.strerror}"]) from error
    return _decoded(str(path), text)


def _decoded(source: str, text: bytes) -> dict[str, object]:
    try:
        return msgspec.toml.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(source, [f"is not TOML: {error}"]) from error


def _checked(source: str, table: dict[str, object]) -> Config:
    problems: list[str] = []
    config = settings.build(Config, table, "", problems)
    if config.root == config.state:
        problems.append(f"root and state are both {config.root}: each needs a place of its own")
    images = config.paths.images
    taken = [place for place in (config.root, config.state) if images and place.is_relative_to(images)]
    if taken:  # we close it to all but root
        given = settings.shown(config.images.root)
        problems.append(
            f"images.root = {given}: {taken[0]} is there; give images a place of their own, or none"
        )
    runtime = config.runtime
    if runtime.default_handler not in runtime.handlers:
        given, there = settings.shown(runtime.default_handler), ", ".join(runtime.handlers)
        problems.append(f"runtime.default_handler = {given}: no such handler; there is {there}")
    problems += _shared_roots(config) + streaming_settings.problems(config.streaming)
    if problems:
        raise ConfigInvalid(source, problems)
    return config


def _shared_roots(config: Config) -> list[str]:
    """Two runtimes that keep their state in one place would each delete what the other made."""
    owners: dict[Path, str] = {}
    problems = []
    for name, handler in config.handlers.items():
        if handler.root in owners:
            where = f"runtime.handlers.{name}.root = {settings.shown(str(handler.root))}"
            problems.append(
                f"{where}: handler {owners[handler.root]} has the same; each needs a place of its own"
            )
        owners.setdefault(handler.root, name)
    return problems


NOT_YET = ("nri", "metrics")


def without_effect(config: Config) -> list[str]:
    """The keys that ask for something that this version does nothing about; what is switched off asks for nothing."""
    default = Config()
    changed = [name for name in NOT_YET if attrgetter(name)(config) != attrgetter(name)(default)]
    return [name for name in changed if name != "nri" or config.nri.enable]


def default_toml() -> str:
    """The whole default configuration, every key explained. Loading it gives the defaults."""
    lines = [
        "# The configuration of sampand. Every value is its default: keep what you change, drop the rest."
    ]
    for name, value, comment in settings.entries(Config()):
        lines += ["", *(f"# {line}" for line in comment.splitlines())]
        lines.append(f"{name.rpartition('.')[2]} = {value}" if value else f"[{name}]")
    return "\n".join(lines) + "\n"
