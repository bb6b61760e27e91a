"""The process of a container (runtime-spec config.md#process): arguments, environment, directory, user,
limits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.spec import capabilities, security, text
from sampan.spec.facts import ContainerFacts, Host, User

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_STRING = 128 << 10  # bytes of one argument or variable, the NUL included (execve(2), MAX_ARG_STRLEN)
MAX_TOTAL = 6 << 20  # bytes of all of them: the kernel's own ceiling, whatever the stack limit


def build(facts: ContainerFacts) -> dict[str, Any]:
    """The `process` object of a container."""
    config, context = facts.config, facts.config.linux.security_context
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": user(facts.user),
        "args": arguments(config, facts.image),
        "env": environment(facts),
        "cwd": directory(config.working_dir or facts.image.working_dir),
        "capabilities": capabilities.sets(context, facts.host),
        "noNewPrivileges": context.no_new_privs,
        "oomScoreAdj": oom_score_adj(config.linux.resources, facts.host),
    }
    if facts.host.rlimits:
        process["rlimits"] = [
            {"type": kind, "soft": soft, "hard": hard} for kind, soft, hard in facts.host.rlimits
        ]
    if profile := security.apparmor(facts):
        process["apparmorProfile"] = profile
    if label := security.selinux_labels(facts):
        process["selinuxLabel"] = label.process
    _fits(process["args"], process["env"])
    return process


def for_exec(process: Mapping[str, Any], command: Sequence[str], tty: bool) -> dict[str, Any]:
    """The process of an exec: `process`, from the container's config.json, running `command` instead.

    User, environment, capabilities, no_new_privs and LSM labels stay. Raises Invalid for an unusable command.
    """
    args = _strings(command, "cmd")
    if not args or not args[0]:
        raise Invalid("cmd is empty; there is nothing to run")
    env = [variable for variable in process["env"] if tty or variable != "TERM=xterm"]
    if tty and not any(variable.startswith("TERM=") for variable in env):
        env.append("TERM=xterm")
    _fits(args, env)
    return {**process, "args": args, "env": env, "terminal": tty}


def arguments(config: cri.ContainerConfig, image: ImageConfig) -> list[str]:
    """Kubernetes' rule: `command` replaces the image's entrypoint and drops its cmd, `args` replaces cmd
    alone."""
    if config.command:
        chosen = [*config.command, *config.args]
    else:
        entrypoint = (
            () if image.entrypoint == ("",) else image.entrypoint
        )  # how builders spell "no entrypoint"
        chosen = [*entrypoint, *(config.args or image.cmd)]
    if not chosen:
        raise Invalid(
            "no command: the request has neither command nor args, and the image neither Entrypoint nor Cmd"
        )
    if not chosen[0]:
        raise Invalid("the first word of the command is empty")
    return _strings(chosen, "command")


def environment(facts: ContainerFacts) -> list[str]:
    """`NAME=value` strings, each name once: our defaults, then the image's, then the request's, the later
    winning.

    Nothing comes from the daemon's environment. An entry of the image without `=` is dropped: to some
    runtimes it means "take it from the host" (CVE-2026-57231).
    """
    variables = {"PATH": PATH, "HOSTNAME": facts.pod.hostname}
    if facts.config.tty:
        variables["TERM"] = "xterm"
    variables["HOME"] = facts.user.home
    for entry in facts.image.env:
        name, equals, value = entry.partition("=")
        if "\0" in entry:
            raise Invalid(f"the image's Env entry {text.shown(entry)} holds a NUL byte")
        if equals and name:
            variables[name] = value
    variables |= requested_environment(facts.config)
    return [f"{name}={value}" for name, value in variables.items()]


def requested_environment(config: cri.ContainerConfig) -> dict[str, str]:
    """The request's variables. Raises Invalid for one that an environment, or config.json, cannot hold."""
    variables = {}
    for number, env in enumerate(config.envs):
        if not env.key or "=" in env.key or "\0" in env.key:
            raise Invalid(
                f"envs[{number}].key {text.shown(env.key)}: a name is not empty and has neither '=' nor NUL"
            )
        if b"\0" in env.value:
            raise Invalid(f"envs[{number}] ({text.shown(env.key)}): the value holds a NUL byte")
        try:
            variables[env.key] = env.value.decode()
        except UnicodeDecodeError:
            raise Invalid(f"envs[{number}] ({text.shown(env.key)}): the value is not UTF-8") from None
    return variables


def directory(asked: str) -> str:
    """The working directory. Never beneath /proc: a descriptor that leaked is a way out there
    (CVE-2024-21626)."""
    if not asked:
        return "/"
    chosen = text.path(asked, "working_dir")
    if text.beneath(chosen, "/proc"):
        raise Invalid(f"working_dir {text.shown(asked)} lies in /proc")
    return chosen


def user(user: User) -> dict[str, Any]:
    """The `process.user` object."""
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def oom_score_adj(resources: cri.LinuxContainerResources, host: Host) -> int:
    """Always set, or the container would inherit the daemon's; raised to what this daemon may set."""
    if not -1000 <= resources.oom_score_adj <= 1000:
        raise Invalid(f"linux.resources.oom_score_adj {resources.oom_score_adj} is not in -1000 to 1000")
    return max(resources.oom_score_adj, host.oom_score_floor)


def _strings(values: Iterable[str], field: str) -> list[str]:
    strings = list(values)
    for number, value in enumerate(strings):
        if "\0" in value:
            raise Invalid(f"{field}[{number}] {text.shown(value)} holds a NUL byte")
    return strings


def _fits(args: Sequence[str], env: Sequence[str]) -> None:
    """Say before execve does, which says only E2BIG, whether they are too long."""
    sizes = [len(string.encode()) + 1 for string in (*args, *env)]
    if max(sizes) > MAX_STRING:
        raise Invalid(f"an argument or environment variable of {max(sizes)} bytes; Linux takes {MAX_STRING}")
    if sum(sizes) + 8 * len(sizes) > MAX_TOTAL:
        raise Invalid(f"arguments and environment have {sum(sizes)} bytes in all; Linux takes {MAX_TOTAL}")
