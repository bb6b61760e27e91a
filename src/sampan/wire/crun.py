"""crun: what it keeps of a container, beyond what any OCI runtime says (`wire.oci_runtime`). Source: crun's
src/libcrun/status.c.

The state of container ID lies in ROOT/ID: `status` (JSON), `config.json` (a copy), and `exec.fifo` until the
container is started. Checked with crun 1.8.1 and 1.29.1.
"""

import msgspec


class Status(msgspec.Struct, frozen=True, rename="kebab"):
    """ROOT/ID/status. `cgroup_path` is below each hierarchy's mount point, "" without a cgroup; on v2 it is
    one below that of the `scope` (a systemd unit's name, "" without systemd)."""

    pid: int
    process_start_time: int = 0
    cgroup_path: str = ""
    systemd_cgroup: bool = False
    scope: str = ""


class _Hooks(msgspec.Struct, frozen=True):
    poststart: tuple[msgspec.Raw, ...] = ()
    poststop: tuple[msgspec.Raw, ...] = ()


class _Linux(msgspec.Struct, frozen=True, rename="camel"):
    cgroups_path: str = ""
    intel_rdt: object = None


class Config(msgspec.Struct, frozen=True):
    """The part of an OCI config.json that decides what starting and deleting a container takes."""

    hooks: _Hooks = _Hooks()
    linux: _Linux = _Linux()

    @property
    def plain_start(self) -> bool:
        """Whether starting is but opening the gate: no hook runs after it."""
        return not self.hooks.poststart

    @property
    def plain_delete(self) -> bool:
        """Whether deleting is but removing the cgroup and the state: no hook and no resctrl group."""
        return not self.hooks.poststop and self.linux.intel_rdt is None


_status = msgspec.json.Decoder(Status)
_config = msgspec.json.Decoder(Config)


def status(text: bytes) -> Status | None:
    """Parse a status file; None if it is torn (crun was killed)."""
    try:
        return _status.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def config(text: bytes) -> Config | None:
    """Parse a config.json; None if it is none."""
    try:
        return _config.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
