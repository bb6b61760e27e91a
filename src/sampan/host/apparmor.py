"""AppArmor on this host: our default profile, and which profiles are loaded (apparmor.d(5), apparmor_parser(8)).

What a container is confined to is chosen by `spec.security`. A file /etc/apparmor.d/sampan-default makes the profile
the operator's own: it is then loaded by whoever loads that directory, and never replaced by ours.
"""

import logging
from pathlib import Path

from sampan.host.process import run
from sampan.host.threads import in_thread
from sampan.model.errors import SampanError
from sampan.spec.security import APPARMOR_DEFAULT
from sampan.tasks import bounded, step

log = logging.getLogger("sampan.apparmor")

ENABLED = Path("/sys/module/apparmor/parameters/enabled")
LOADED = Path("/sys/kernel/security/apparmor/profiles")
POLICY = Path("/etc/apparmor.d")
ANSWER_SECONDS = 30.0  # for the parser: the daemon serves nobody meanwhile
ABI = "abi/3.0"  # under later ones `network` no longer covers Unix sockets, and user namespaces are mediated

# What the container's namespaces, capabilities, seccomp and masked paths leave open, or a container with more
# capabilities than usual would have again. Rules that deny win over those that allow.
_RULES = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  capability,
  file,
  network,
  umount,

  # Kernel crypto (CVE-2026-31431) and the hypervisor; for programs of every word size, unlike seccomp.
  deny network alg,
  deny network vsock,

  # Whoever may signal a container is the kernel's business; a container reaches only its own kind.
  # Under no_new_privs the kernel stacks it on the OCI runtime's own profile (crun//&{name}).
  signal (receive),
  signal (send) peer="{name}",
  signal (send) peer="**//&{name}",
  ptrace (read, readby, trace, tracedby) peer="{name}",
  ptrace (read, readby, trace, tracedby) peer="**//&{name}",

  deny mount,
  deny pivot_root,

  # /proc: write to processes alone (self and thread-self are links to them).
  deny /proc/* wl,
  deny /proc/[^0-9s]*/** wl,
  deny /proc/s[^y]*/** wl,
  deny /proc/sys{{,vipc}}/** wl,
  deny /proc/kcore rwklx,
  deny /proc/sysrq-trigger rwklx,

  # /sys: write to control groups alone.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


async def enabled() -> bool:
    """Whether the kernel runs AppArmor."""
    return await in_thread(_read, ENABLED) == "Y"


async def loaded() -> frozenset[str]:
    """The names of the profiles that the kernel has now. Empty where it cannot be read."""
    return names(await in_thread(_read, LOADED))


def names(listing: str) -> frozenset[str]:
    """The names in the kernel's list, which has `name (mode)` in each line; a name may hold spaces."""
    return frozenset(line.rpartition(" (")[0] for line in listing.splitlines())


def default_profile(abi: bool) -> str:
    """The text of our profile; `abi` whether the parser knows the version it is written for."""
    version = f"abi <{ABI}>,\n" if abi else ""
    return version + _RULES.format(name=APPARMOR_DEFAULT)


async def load_default() -> bool:
    """Load our profile, replacing that of an earlier start; whether there is one then. Never fails: what keeps it
    from being loaded is logged, and such a host runs containers that ask for no profile without one."""
    if not await enabled():
        return False
    try:
        if not await in_thread((POLICY / APPARMOR_DEFAULT).exists):
            text = default_profile(await in_thread((POLICY / ABI).exists))
            await step("apparmor.load", APPARMOR_DEFAULT)
            async with bounded(ANSWER_SECONDS, "apparmor_parser --replace"):
                await run(["apparmor_parser", "--replace", "--skip-cache"], stdin=text.encode())
    except SampanError as error:
        log.warning(
            "AppArmor is enabled, but the profile %s could not be loaded (its parser: apt install apparmor). Until it "
            "is, containers run without a profile, and those that ask for RuntimeDefault are refused. %s",
            APPARMOR_DEFAULT,
            error,
        )
    there = APPARMOR_DEFAULT in await loaded()
    if there:
        log.info("AppArmor profile %s is loaded", APPARMOR_DEFAULT)
    return there


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
