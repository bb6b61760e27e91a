"""What a control group tells beyond the figures of every sweep: the parts of CPU time and memory, throttling, limits
hit, huge pages, block devices. Pure: `host.cgroup.readings` reads the files, `cgroupfs` has the everyday figures.

Sources: kernel Documentation/admin-guide/cgroup-v2.rst; cgroup-v1/memory.rst, hugetlb.rst, blkio-controller.rst;
sched-bwc.rst.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sampan.wire.cgroupfs import UNLIMITED, number, table

Files = Mapping[str, bytes | None]

# The files that `details_v1` and `details_v2` want, beside those of huge pages; v1's by controller.
FILES_V1: Mapping[str, tuple[str, ...]] = {
    "cpuacct": ("cpuacct.usage_user", "cpuacct.usage_sys"),
    "cpu": ("cpu.stat",),
    "memory": (
        *("memory.stat", "memory.failcnt", "memory.max_usage_in_bytes", "memory.kmem.usage_in_bytes"),
        *("memory.oom_control", "memory.soft_limit_in_bytes"),
    ),
    "blkio": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
}
FILES_V2 = ("cpu.stat", "memory.stat", "memory.events", "memory.peak", "memory.low", "io.stat")
_OPERATIONS_V2 = {
    "Read": (b"rbytes", b"rios"),
    "Write": (b"wbytes", b"wios"),
    "Discard": (b"dbytes", b"dios"),
}


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """What was done to one block device (`8:16`) by one kind of operation: Read, Write, and where the kernel tells
    them apart Discard, Sync, Async."""

    device: str
    operation: str
    bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class HugePages:
    """Bytes in huge pages of one size (`2MB`). v2 does not record the `peak`."""

    size: str
    usage: int
    peak: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """One reading. Times in ns, sizes in bytes; None where the kernel does not say.

    Page faults are here those of the group itself, without descendants; v2 knows only both together, and gives
    those. `limit_hits`: how often its memory was at its limit.
    """

    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    cache: int | None = None
    mapped_file: int | None = None
    kernel: int | None = None
    peak: int | None = None
    limit_hits: int | None = None
    own_page_faults: int | None = None
    own_major_page_faults: int | None = None
    oom_kills: int | None = None
    reservation: int | None = None
    huge_pages: tuple[HugePages, ...] = ()
    io: tuple[DeviceIo, ...] = ()


def details_v1(files: Files, page_sizes: Iterable[str] = ()) -> Details:
    """From the files of FILES_V1 and `huge_files_v1`, by name; descendants included."""
    cpu, memory = table(files.get("cpu.stat")), table(files.get("memory.stat"))
    reservation = number(files.get("memory.soft_limit_in_bytes"))
    return Details(
        cpu_user_ns=number(files.get("cpuacct.usage_user")),
        cpu_system_ns=number(files.get("cpuacct.usage_sys")),
        periods=cpu.get(b"nr_periods"),
        throttled_periods=cpu.get(b"nr_throttled"),
        throttled_ns=cpu.get(b"throttled_time"),
        cache=memory.get(b"total_cache"),
        mapped_file=memory.get(b"total_mapped_file"),
        kernel=number(files.get("memory.kmem.usage_in_bytes")),
        peak=number(files.get("memory.max_usage_in_bytes")),
        limit_hits=number(files.get("memory.failcnt")),
        own_page_faults=memory.get(b"pgfault"),
        own_major_page_faults=memory.get(b"pgmajfault"),
        oom_kills=table(files.get("memory.oom_control")).get(b"oom_kill"),
        reservation=None if reservation is None or reservation >= UNLIMITED else reservation,
        huge_pages=tuple(_huge_v1(files, page_sizes)),
        io=tuple(_io_v1(*(files.get(name) for name in FILES_V1["blkio"]))),
    )


def details_v2(files: Files, page_sizes: Iterable[str] = ()) -> Details:
    """From the files of FILES_V2 and `huge_files_v2`, by name."""
    cpu, memory = table(files.get("cpu.stat")), table(files.get("memory.stat"))
    events = table(files.get("memory.events"))
    return Details(
        cpu_user_ns=_thousandfold(cpu.get(b"user_usec")),
        cpu_system_ns=_thousandfold(cpu.get(b"system_usec")),
        periods=cpu.get(b"nr_periods"),
        throttled_periods=cpu.get(b"nr_throttled"),
        throttled_ns=_thousandfold(cpu.get(b"throttled_usec")),
        cache=memory.get(b"file"),
        mapped_file=memory.get(b"file_mapped"),
        kernel=_kernel_v2(memory),
        peak=number(files.get("memory.peak")),
        limit_hits=events.get(b"max"),
        own_page_faults=memory.get(b"pgfault"),
        own_major_page_faults=memory.get(b"pgmajfault"),
        oom_kills=events.get(b"oom_kill"),
        reservation=number(files.get("memory.low")),
        huge_pages=tuple(_huge_v2(files, page_sizes)),
        io=tuple(_io_v2(files.get("io.stat"))),
    )


def with_peaks(now: Details, before: Details | None) -> Details:
    """With the most huge pages that were seen in any reading, where the kernel does not record it (v2)."""
    seen = {pages.size: pages.peak or 0 for pages in before.huge_pages} if before else {}
    pages = tuple(
        replace(one, peak=max(one.usage, seen.get(one.size, 0))) if one.peak is None else one
        for one in now.huge_pages
    )
    return replace(now, huge_pages=pages)


def shares_of(weight: int) -> int:
    """The v1 CPU shares that a v2 `cpu.weight` stands for, by the linear conversion; 1..10000 → 2..262144."""
    return 2 + (weight - 1) * 262142 // 9999


def page_size(kilobytes: int) -> str:
    """How control groups name a size of huge pages: 2048 → 2MB, 1048576 → 1GB."""
    for unit, size in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kilobytes >= size:
            return f"{kilobytes // size}{unit}"
    return f"{kilobytes}KB"


def huge_files_v1(size: str) -> tuple[str, str]:
    """Usage and peak of one page size."""
    return f"hugetlb.{size}.usage_in_bytes", f"hugetlb.{size}.max_usage_in_bytes"


def huge_file_v2(size: str) -> str:
    """Usage of one page size."""
    return f"hugetlb.{size}.current"


def _huge_v1(files: Files, sizes: Iterable[str]) -> Iterable[HugePages]:
    for size in sizes:
        usage, peak = (number(files.get(name)) for name in huge_files_v1(size))
        if usage is not None:
            yield HugePages(size, usage, peak)


def _huge_v2(files: Files, sizes: Iterable[str]) -> Iterable[HugePages]:
    for size in sizes:
        usage = number(files.get(huge_file_v2(size)))
        if usage is not None:
            yield HugePages(size, usage)


def _kernel_v2(memory: Mapping[bytes, int]) -> int | None:
    """Before 5.18 there is no sum, but its parts."""
    if b"kernel" in memory or b"slab" not in memory:
        return memory.get(b"kernel")
    return sum(memory.get(part, 0) for part in (b"slab", b"kernel_stack", b"pagetables", b"percpu"))


def _io_v1(sizes: bytes | None, counts: bytes | None) -> Iterable[DeviceIo]:
    """Two files with lines of `8:16 Read 4096`, and a `Total 4096` at the end."""
    counted = dict(_operations_v1(counts))
    for (device, operation), size in _operations_v1(sizes):
        if operation != "Total":  # of the device
            yield DeviceIo(device, operation, size, counted.get((device, operation), 0))


def _io_v2(text: bytes | None) -> Iterable[DeviceIo]:
    """Lines of `8:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`; those of an idle device may be bare."""
    for line in (text or b"").split(b"\n"):
        device, _, rest = line.partition(b" ")
        values = {key: int(value) for key, _, value in _fields(rest) if value.isdigit()}
        if not values:
            continue
        for operation, (size, count) in _OPERATIONS_V2.items():
            yield DeviceIo(
                device.decode("ascii", "replace"), operation, values.get(size, 0), values.get(count, 0)
            )


def _fields(text: bytes) -> Iterable[tuple[bytes, bytes, bytes]]:
    return (field.partition(b"=") for field in text.split())


def _operations_v1(text: bytes | None) -> Iterable[tuple[tuple[str, str], int]]:
    for line in (text or b"").split(b"\n"):
        words = line.split()
        if len(words) == 3 and words[2].isdigit():
            device, operation = (word.decode("ascii", "replace") for word in words[:2])
            yield (device, operation), int(words[2])


def _thousandfold(value: int | None) -> int | None:
    return None if value is None else value * 1000
