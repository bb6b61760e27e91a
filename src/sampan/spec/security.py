"""A container's confinement: seccomp, AppArmor, SELinux, masked and read-only paths.

Masked and read-only paths are exactly the request's: the CRI passes the lists through, the kubelet always
sends its own, and an empty list is how it says procMount: Unmasked, so an empty list hides nothing (both
other CRI runtimes read it so). A client without a kubelet behind it should send the lists below.
"""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import capabilities, seccomp, selinux, text
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
APPARMOR_DEFAULT = "sampan-default"  # the profile that RuntimeDefault means
FIELD = "linux.security_context"

Profile = cri.SecurityProfile


def check(config: cri.ContainerConfig, host: Host) -> None:
    """Raise Invalid for what is wrong with the confinement whatever the files of the node hold."""
    context = config.linux.security_context
    seccomp_profile(context, host)
    _apparmor_profile(context, host)
    selinux.check(context.selinux_options)
    hidden_paths(context)


def check_pod(context: cri.LinuxSandboxSecurityContext) -> None:
    """Raise Invalid for malformed profiles or labels of a pod. Only its SELinux options bind anything, for they
    pass to its containers: a pod's only process is its init, which is confined more than any profile asks."""
    for name in ("seccomp", "apparmor"):
        if context.HasField(name):
            _check_profile(getattr(context, name), f"{FIELD}.{name}")
    _deprecated(context.seccomp_profile_path, f"{FIELD}.seccomp_profile_path")
    selinux.check(context.selinux_options)


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


def looks_for_apparmor(context: cri.LinuxContainerSecurityContext, host: Host) -> bool:
    """Whether the builder needs `ContainerFacts.apparmor_profiles`: some profile may come to be used."""
    profile, _ = _apparmor_profile(context, host)
    named = profile.profile_type == Profile.Localhost
    return host.apparmor and (
        named or (profile.profile_type != Profile.Unconfined and not context.privileged)
    )


def apparmor(facts: ContainerFacts) -> str:
    """`process.apparmorProfile`; "" for none. Raises Invalid for a profile that is asked for and not loaded."""
    context, host = facts.config.linux.security_context, facts.host
    if not looks_for_apparmor(context, host):
        return ""
    profile, asked = _apparmor_profile(context, host)
    named = profile.profile_type == Profile.Localhost
    name = profile.localhost_ref if named else APPARMOR_DEFAULT
    if name in facts.apparmor_profiles:
        return name
    if not asked:
        return ""
    hint = "" if named else "; install apparmor (apparmor_parser) and restart sampand, which loads it"
    raise Invalid(f"{FIELD}.apparmor: profile {text.shown(name)} is not loaded on this host{hint}")


def _apparmor_profile(context: cri.LinuxContainerSecurityContext, host: Host) -> tuple[Profile, bool]:
    """The profile, and whether anybody asked for it: one that is asked for must be had.

    Nothing asked means RuntimeDefault where there is AppArmor and its profile, else nothing.
    """
    if context.HasField("apparmor"):
        profile, asked = context.apparmor, True
    else:
        old = _deprecated(context.apparmor_profile, f"{FIELD}.apparmor_profile")
        profile, asked = old or Profile(), old is not None
    _check_profile(profile, f"{FIELD}.apparmor")
    if asked and profile.profile_type != Profile.Unconfined and not host.apparmor:
        what = Profile.ProfileType.Name(profile.profile_type)
        ref = f" {text.shown(profile.localhost_ref)}" if profile.localhost_ref else ""
        raise Invalid(f"{FIELD}.apparmor: {what}{ref} is asked for, but this host has no AppArmor")
    if profile.profile_type != Profile.Localhost:
        return profile, asked
    name = text.word(profile.localhost_ref.removeprefix(LOCALHOST), f"{FIELD}.apparmor.localhost_ref")
    return Profile(profile_type=Profile.Localhost, localhost_ref=name), asked


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


def selinux_labels(facts: ContainerFacts) -> selinux.Labels | None:
    """The container's labels. None where the host runs no SELinux: options for it are then without effect, as
    Kubernetes documents them."""
    labels = selinux.of_container(facts.config.linux.security_context, facts.pod)
    return labels if facts.host.selinux else None


# --- paths ----------------------------------------------------------------------------------------


def hidden_paths(context: cri.LinuxContainerSecurityContext) -> dict[str, list[str]]:
    """`linux.maskedPaths` and `linux.readonlyPaths`; a privileged container has none."""
    lists = {
        "maskedPaths": [text.path(path, f"{FIELD}.masked_paths") for path in context.masked_paths],
        "readonlyPaths": [text.path(path, f"{FIELD}.readonly_paths") for path in context.readonly_paths],
    }
    return {} if context.privileged else {name: paths for name, paths in lists.items() if paths}
