"""Responses → text for people. Pure: the time is an argument, nothing is printed.

Names, images and messages come from images and clients: what could steer a terminal is shown, not sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from sampan.api import cri_pb2 as cri
from sampan.model.image import ARTIFACT_TYPE

CONTAINER_STATES = {
    cri.CONTAINER_CREATED: "created",
    cri.CONTAINER_RUNNING: "running",
    cri.CONTAINER_EXITED: "exited",
    cri.CONTAINER_UNKNOWN: "unknown",
}
POD_STATES = {cri.SANDBOX_READY: "ready", cri.SANDBOX_NOTREADY: "not ready"}
_ID_DIGITS = 13
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_AGES = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between them, a line for each row."""
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded) + "\n"


def printable(text: str) -> str:
    """The text with every control and format character shown as its escape."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def short(id: str) -> str:
    """The first 13 digits of an id, without sha256:."""
    return id.removeprefix("sha256:")[:_ID_DIGITS]


def age(at: int, now: int) -> str:
    """How long ago, in its two largest units under ten of the largest: 4s, 7m12s, 3h, 12d. Both in ns."""
    if at <= 0:
        return "-"
    seconds = max(0, (now - at) // 10**9)
    for number, (unit, name) in enumerate(_AGES):
        if seconds >= unit:
            count, rest = divmod(seconds, unit)
            if count >= 10 or name == "s":
                return f"{count}{name}"
            smaller, smaller_name = _AGES[number + 1]
            return f"{count}{name}{rest // smaller}{smaller_name}" if rest >= smaller else f"{count}{name}"
    return "0s"


def size(count: int) -> str:
    """Bytes in units of 1024, three digits or so: 512 B, 1.5 MiB, 42 GiB."""
    power = 0
    while count >> (10 * (power + 1)) and power < len(_SIZES) - 1:
        power += 1
    value = count / (1 << (10 * power))
    return f"{value:.{1 if power and value < 10 else 0}f} {_SIZES[power]}"


def timestamp(at: int) -> str:
    """ns since the epoch as RFC 3339 with nine decimals, in UTC."""
    seconds, rest = divmod(at, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def containers(found: Sequence[cri.Container], pods: Sequence[cri.PodSandbox], now: int) -> str:
    """The table of `sampan ps`, the newest first."""
    names = {pod.id: pod.metadata.name for pod in pods}
    rows = [
        [
            short(each.id),
            _image(each.image.user_specified_image or each.image.image or each.image_ref),
            each.metadata.name,
            CONTAINER_STATES.get(each.state, "unknown"),
            age(each.created_at, now),
            names.get(each.pod_sandbox_id) or short(each.pod_sandbox_id),
        ]
        for each in sorted(found, key=lambda each: -each.created_at)
    ]
    return table(["CONTAINER", "IMAGE", "NAME", "STATE", "AGE", "POD"], rows)


def pods(found: Sequence[cri.PodSandbox], now: int) -> str:
    """The table of `sampan pods`, the newest first."""
    rows = [
        [
            short(each.id),
            each.metadata.name,
            each.metadata.namespace,
            POD_STATES.get(each.state, "unknown"),
            age(each.created_at, now),
            str(each.metadata.attempt),
            each.runtime_handler or "(default)",
        ]
        for each in sorted(found, key=lambda each: -each.created_at)
    ]
    return table(["POD", "NAME", "NAMESPACE", "STATE", "AGE", "ATTEMPT", "HANDLER"], rows)


def images(found: Sequence[cri.Image], *, digests: bool = False) -> str:
    """The table of `sampan images`: a line for each tag. `digests`: with the digest that the tag's repository knows
    the image by."""
    rows = []
    for each in found:
        for name in each.repo_tags or each.repo_digests[:1] or ["<none>"]:
            repository, tag = _split(name)
            artifact = "artifact" if ARTIFACT_TYPE in each.spec.annotations else ""
            notes = ", ".join(note for note in (artifact, "pinned" if each.pinned else "") if note)
            digest = [_digest(repository, each.repo_digests)] if digests else []
            rows.append([repository, tag, short(each.id), size(each.size), *digest, notes])
    return table(["IMAGE", "TAG", "ID", "SIZE", *(["DIGEST"] if digests else []), "NOTES"], sorted(rows))


def stats(found: Sequence[cri.ContainerStats], pod_names: Mapping[str, str]) -> str:
    """The table of `sampan stats`; `pod_names` by container id. "-" is what the kernel did not say."""
    rows = []
    for each in sorted(
        found, key=lambda each: (pod_names.get(each.attributes.id, ""), each.attributes.metadata.name)
    ):
        cpu, memory, disk = each.cpu.usage_nano_cores, each.memory, each.writable_layer
        rows.append(
            [
                short(each.attributes.id),
                each.attributes.metadata.name,
                pod_names.get(each.attributes.id, ""),
                f"{cpu.value / 10**7:.1f} %" if each.cpu.HasField("usage_nano_cores") else "-",
                size(memory.working_set_bytes.value) if memory.HasField("working_set_bytes") else "-",
                size(memory.rss_bytes.value) if memory.HasField("rss_bytes") else "-",
                size(disk.used_bytes.value) if disk.HasField("used_bytes") else "-",
                str(disk.inodes_used.value) if disk.HasField("inodes_used") else "-",
            ]
        )
    return table(["CONTAINER", "NAME", "POD", "CPU", "MEMORY", "RSS", "DISK", "INODES"], rows)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """`name  value` lines."""
    found = [(f"{name}:", printable(value)) for name, value in pairs]
    width = max((len(name) for name, _ in found), default=0)
    return "".join(f"{name.ljust(width)}  {value}".rstrip() + "\n" for name, value in found)


def _image(name: str) -> str:
    """An image as a person knows it: a bare id is cut, a digest beside a name too."""
    if name.startswith("sha256:"):
        return short(name)
    repository, at, digest = name.partition("@")
    return f"{repository}@{short(digest)}" if at else repository


def _digest(repository: str, known: Sequence[str]) -> str:
    """The digest of an image in this repository; of an imported image there may be none."""
    found = (each.partition("@") for each in known)
    return next((digest for name, _, digest in found if name == repository), "-")


def _split(name: str) -> tuple[str, str]:
    """(repository, tag or cut digest) of a reference as ListImages gives it."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, f"@{short(digest)}"
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")
