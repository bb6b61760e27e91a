"""SELinux labels of containers: what is asked for, what a pod is given unasked, and the form they must have.

Every pod has a pair of MCS categories of its own, which its containers share: two pods of the same type cannot
touch each other's files and processes. Whether the loaded policy knows a user, role or type only the kernel can
say, when the OCI runtime sets the label. Labelling volumes is not here (`spec.mounts`).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import text
from sampan.spec.facts import PodFacts

FIELD = "linux.security_context.selinux_options"
CATEGORIES = 1024  # c0 to c1023, in every MCS policy
PAIRS = CATEGORIES * (CATEGORIES // 2 - 1)  # that `level` makes of them, each once
CONFINED, PRIVILEGED = "container_t", "spc_t"

_PART = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_CATEGORY = r"c[0-9]{1,4}"
_CATEGORIES = rf"{_CATEGORY}(?:\.{_CATEGORY})?(?:,{_CATEGORY}(?:\.{_CATEGORY})?){{0,63}}"
_LEVEL = rf"s[0-9]{{1,2}}(?::{_CATEGORIES})?"
_RANGE = re.compile(rf"{_LEVEL}(?:-{_LEVEL})?")


@dataclass(frozen=True, slots=True)
class Labels:
    """SELinux contexts of the process and of the mounts made for it."""

    process: str
    mount: str


def check(options: cri.SELinuxOption) -> None:
    """Raise Invalid for a part that no label has, or that would spill into the next."""
    for name in ("user", "role", "type"):
        value = getattr(options, name)
        if value and not _PART.fullmatch(value):
            raise Invalid(f"{FIELD}.{name} {text.shown(value)} is not part of a label")
    if options.level and not _is_range(options.level):
        raise Invalid(f"{FIELD}.level {text.shown(options.level)} is not a level such as s0:c1,c2")


def level(pod_id: str, taken: Collection[str]) -> str:
    """A level for a new pod that is not in `taken`: two categories, chosen by its id. Past half a million pods they
    are shared."""
    first = int(pod_id[:12], 16)
    for number in range(min(len(taken) + 1, PAIRS)):
        low, distance = divmod((first + number) % PAIRS, CATEGORIES // 2 - 1)
        one, other = sorted((low, (low + distance + 1) % CATEGORIES))
        found = f"s0:c{one},c{other}"
        if found not in taken:
            break
    return found


def of_container(context: cri.LinuxContainerSecurityContext, pod: PodFacts) -> Labels:
    """The labels of a container: its own options, else its pod's; of a level that neither names, the pod's own."""
    of_pod = pod.config.linux.security_context.selinux_options
    options = context.selinux_options if context.HasField("selinux_options") else of_pod
    check(options)
    usual = PRIVILEGED if context.privileged else CONFINED
    return _labels(options, usual, options.level or of_pod.level or pod.selinux_level)


def of_init(pod: PodFacts) -> Labels:
    """The labels of a pod's init, at its containers' level; of the confined type, for it needs nothing."""
    options = pod.config.linux.security_context.selinux_options
    return _labels(cri.SELinuxOption(), CONFINED, options.level or pod.selinux_level)


def _labels(options: cri.SELinuxOption, usual: str, found: str) -> Labels:
    user, role, kind = options.user or "system_u", options.role or "system_r", options.type or usual
    range_ = found or "s0"
    return Labels(f"{user}:{role}:{kind}:{range_}", f"system_u:object_r:container_file_t:{range_}")


def _is_range(value: str) -> bool:
    numbers = (int(number) for number in re.findall(r"c([0-9]+)", value[:1024]))
    return bool(_RANGE.fullmatch(value)) and all(number < CATEGORIES for number in numbers)
