"""A container's confinement: seccomp, AppArmor, SELinux, masked and read-only paths.

Masked and read-only paths are exactly the request's: the CRI passes the lists through, the kubelet always
sends its own, and an empty list is how it says procMount: Unmasked, so an empty list hides nothing (both
other CRI runtimes read it so). A client without a kubelet behind it should send the lists below.
"""

import re
from dataclasses import dataclass
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import capabilities, seccomp, text
from sampan.spec.facts import ContainerFacts, Host

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

LOCALHOST = "localhost/"
FIELD = "linux.security_context"

Profile = cri.SecurityProfile

_LABEL_PART = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_LEVEL = re.compile(r"[A-Za-z0-9_.,:-]{1,255}")


@dataclass(frozen=True, slots=True)
class Labels:
    """SELinux contexts of the process and of the mounts made for it."""

    process: str
    mount: str


def check(config: cri.ContainerConfig, host: Host) -> None:
    """Raise Invalid for what is wrong with the confinement whatever the files of the node hold."""
    context = config.linux.security_context
    seccomp_profile(context, host)
    _apparmor_profile(context, host)
    _labels(context.selinux_options)
    hidden_paths(context)


# --- seccomp --------------------------------------------------------------------------------------


def seccomp_profile(context: cri.LinuxContainerSecurityContext, host: Host) -> Profile:
    """The seccomp profile that is asked for. Nothing asked, and a privileged container, mean Unconfined."""
    unconfined = Profile(profile_type=Profile.Unconfined)
    if context.privileged:
        return unconfined
    if context.HasField("seccomp"):
        profile = context.seccomp
    else:
        profile = _deprecated(context.seccomp_profile_path, f"{FIELD}.seccomp_profile_path") or unconfined
    _check_profile(profile, f"{FIELD}.seccomp")
    if profile.profile_type == Profile.Localhost:
        profile = Profile(
            profile_type=Profile.Localhost,
            localhost_ref=text.path(
                profile.localhost_ref.removeprefix(LOCALHOST), f"{FIELD}.seccomp.localhost_ref"
            ),
        )
    if profile.profile_type != Profile.Unconfined and not host.seccomp:
        raise Invalid(
            f"{FIELD}.seccomp: a profile is asked for, but the kernel or the OCI runtime has no seccomp"
        )
    return profile


def localhost_profile(config: cri.ContainerConfig) -> str:
    """The absolute path of the profile to read into `ContainerFacts.seccomp_localhost`; "" if none is asked
    for."""
    return seccomp_profile(config.linux.security_context, Host()).localhost_ref


def seccomp_filter(facts: ContainerFacts) -> dict[str, Any] | None:
    """The `linux.seccomp` object; None where the container runs unconfined."""
    context = facts.config.linux.security_context
    profile = seccomp_profile(context, facts.host)
    if profile.profile_type == Profile.Unconfined:
        return None
    bounding = capabilities.bounding(context, facts.host)
    if profile.profile_type == Profile.RuntimeDefault:
        return seccomp.default(bounding, facts.host.architecture)
    try:
        return seccomp.localhost(
            facts.seccomp_localhost, bounding, facts.host.architecture, facts.host.kernel
        )
    except Invalid as error:
        raise Invalid(f"seccomp profile {text.shown(profile.localhost_ref)}: {error}") from None


# --- AppArmor -------------------------------------------------------------------------------------


def apparmor(facts: ContainerFacts) -> str:
    """`process.apparmorProfile`; "" for none. Raises Invalid for a profile that is not loaded."""
    context = facts.config.linux.security_context
    profile = _apparmor_profile(context, facts.host)
    if profile.profile_type == Profile.Unconfined or not facts.host.apparmor:
        return ""
    if profile.profile_type == Profile.RuntimeDefault:
        return "" if context.privileged else facts.host.apparmor_default
    loaded = facts.apparmor_profiles
    if loaded is not None and profile.localhost_ref not in loaded:
        raise Invalid(
            f"{FIELD}.apparmor: profile {text.shown(profile.localhost_ref)} is not loaded on this host"
        )
    return profile.localhost_ref


def _apparmor_profile(context: cri.LinuxContainerSecurityContext, host: Host) -> Profile:
    """Nothing asked means RuntimeDefault, which is what there is, perhaps nothing; a named profile must be
    had."""
    if context.HasField("apparmor"):
        profile = context.apparmor
    else:
        profile = _deprecated(context.apparmor_profile, f"{FIELD}.apparmor_profile") or Profile()
    _check_profile(profile, f"{FIELD}.apparmor")
    if profile.profile_type != Profile.Localhost:
        return profile
    name = text.word(profile.localhost_ref.removeprefix(LOCALHOST), f"{FIELD}.apparmor.localhost_ref")
    if not name:
        raise Invalid(f"{FIELD}.apparmor.localhost_ref is empty")
    if not host.apparmor:
        raise Invalid(
            f"{FIELD}.apparmor: profile {text.shown(name)} is asked for, but this host has no AppArmor"
        )
    return Profile(profile_type=Profile.Localhost, localhost_ref=name)


def _check_profile(profile: Profile, field: str) -> None:
    if profile.profile_type not in Profile.ProfileType.values():
        raise Invalid(f"{field}.profile_type {profile.profile_type} is unknown")
    if profile.profile_type == Profile.Localhost:
        if not profile.localhost_ref.removeprefix(LOCALHOST):
            raise Invalid(f"{field}.localhost_ref is empty, but profile_type is Localhost")  # CVE-2023-2431
    elif profile.localhost_ref:
        raise Invalid(f"{field}.localhost_ref is given, but profile_type is not Localhost")


def _deprecated(text_form: str, field: str) -> Profile | None:
    """The text that clients sent before there was SecurityProfile; None for "" (nothing asked)."""
    if text_form == "":
        return None
    if text_form == "unconfined":
        return Profile(profile_type=Profile.Unconfined)
    if text_form in ("runtime/default", "docker/default"):
        return Profile(profile_type=Profile.RuntimeDefault)
    if text_form.startswith(LOCALHOST):
        return Profile(profile_type=Profile.Localhost, localhost_ref=text_form.removeprefix(LOCALHOST))
    raise Invalid(
        f"{field} {text.shown(text_form)} is not unconfined, runtime/default or localhost/<profile>"
    )


# --- SELinux --------------------------------------------------------------------------------------


def selinux_labels(facts: ContainerFacts) -> Labels | None:
    """The container's labels, from its own options, else its pod's. None where the host runs no SELinux:
    options for it are then without effect, as Kubernetes documents them."""
    context = facts.config.linux.security_context
    own = context.HasField("selinux_options")
    options = context.selinux_options if own else facts.pod.config.linux.security_context.selinux_options
    labels = _labels(options)
    return labels if facts.host.selinux else None


def _labels(options: cri.SELinuxOption) -> Labels:
    """Raises Invalid for a part that could spill into another."""
    for name in ("user", "role", "type"):
        value = getattr(options, name)
        if value and not _LABEL_PART.fullmatch(value):
            raise Invalid(f"{FIELD}.selinux_options.{name} {text.shown(value)} is not part of a label")
    if options.level and not _LEVEL.fullmatch(options.level):
        raise Invalid(
            f"{FIELD}.selinux_options.level {text.shown(options.level)} is not a level such as s0:c1,c2"
        )
    user, level = options.user or "system_u", options.level or "s0"
    return Labels(
        process=f"{user}:{options.role or 'system_r'}:{options.type or 'container_t'}:{level}",
        mount=f"system_u:object_r:container_file_t:{level}",
    )


# --- paths ----------------------------------------------------------------------------------------


def hidden_paths(context: cri.LinuxContainerSecurityContext) -> dict[str, list[str]]:
    """`linux.maskedPaths` and `linux.readonlyPaths`; a privileged container has none."""
    lists = {
        "maskedPaths": [text.path(path, f"{FIELD}.masked_paths") for path in context.masked_paths],
        "readonlyPaths": [text.path(path, f"{FIELD}.readonly_paths") for path in context.readonly_paths],
    }
    return {} if context.privileged else {name: paths for name, paths in lists.items() if paths}
