"""The metrics that ListPodSandboxMetrics may tell of a container or a pod: name, kind, meaning and labels.

They are those of cAdvisor that the kubelet passes on, so that dashboards and alerts made for it go on working; the
sources of the names are cAdvisor's docs/storage/prometheus.md and the list in critest. The table is settled for the
life of the process: the kubelet registers it once.
"""

from dataclasses import dataclass

BASE_LABELS = ("id", "name", "image", "pod", "namespace", "container")


@dataclass(frozen=True, slots=True)
class Described:
    """One metric; `labels` come after the base labels. Counters only grow."""

    name: str
    help: str
    counter: bool = False
    labels: tuple[str, ...] = ()

    @property
    def label_keys(self) -> tuple[str, ...]:
        """The labels in the order in which every value gives them."""
        return (*BASE_LABELS, *self.labels)


def _counter(name: str, help: str, *labels: str) -> Described:
    return Described(f"container_{name}", help, True, labels)


def _gauge(name: str, help: str, *labels: str) -> Described:
    return Described(f"container_{name}", help, False, labels)


CPU = (
    _counter("cpu_usage_seconds_total", "CPU time used, in seconds.", "cpu"),
    _counter("cpu_user_seconds_total", "CPU time used by programs, in seconds."),
    _counter("cpu_system_seconds_total", "CPU time used by the kernel on their behalf, in seconds."),
    _counter("cpu_cfs_periods_total", "Periods of the CPU quota that have passed."),
    _counter("cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up."),
    _counter("cpu_cfs_throttled_seconds_total", "Time spent throttled by the CPU quota, in seconds."),
)
MEMORY = (
    _gauge("memory_usage_bytes", "Memory in use, page cache included, in bytes."),
    _gauge("memory_working_set_bytes", "Memory in use without inactive page cache, in bytes."),
    _gauge("memory_rss", "Anonymous memory, in bytes."),
    _gauge("memory_cache", "Page cache, in bytes."),
    _gauge("memory_mapped_file", "Page cache that is mapped by processes, in bytes."),
    _gauge("memory_swap", "Memory swapped out, in bytes."),
    _gauge("memory_kernel_usage", "Memory used by the kernel, in bytes."),
    _gauge("memory_max_usage_bytes", "The most memory that was ever in use, in bytes."),
    _counter("memory_failcnt", "How often the memory limit was reached."),
    _counter("memory_failures_total", "Page faults.", "failure_type", "scope"),
    _counter("oom_events_total", "Processes killed because memory ran out."),
)
PRESSURE = tuple(
    _counter(
        f"pressure_{resource}_{kind}_seconds_total", f"Time in which {who} waited for {what}, in seconds."
    )
    for resource, what in (("cpu", "the CPU"), ("memory", "memory"), ("io", "I/O"))
    for kind, who in (("waiting", "some task"), ("stalled", "every task"))
)
HUGE_PAGES = (
    _gauge("hugetlb_usage_bytes", "Huge pages in use, in bytes.", "pagesize"),
    _gauge("hugetlb_max_usage_bytes", "The most huge pages that were ever in use, in bytes.", "pagesize"),
)
FILESYSTEM = (
    _gauge("fs_usage_bytes", "What the container has written to its own layer, in bytes.", "device"),
    _gauge("fs_limit_bytes", "Size of the file system with the container's layer, in bytes.", "device"),
    _gauge("fs_inodes_free", "Inodes that are free on that file system.", "device"),
    _gauge("fs_inodes_total", "Inodes of that file system.", "device"),
    _counter("fs_reads_total", "Reads from the device.", "device"),
    _counter("fs_reads_bytes_total", "Bytes read from the device.", "device"),
    _counter("fs_writes_total", "Writes to the device.", "device"),
    _counter("fs_writes_bytes_total", "Bytes written to the device.", "device"),
    _counter(
        "blkio_device_usage_total",
        "Bytes moved from or to the device.",
        "device",
        "major",
        "minor",
        "operation",
    ),
)
NETWORK = tuple(
    _counter(f"network_{direction}_{what}_total", f"{words} {done}.", "interface")
    for direction, done in (("receive", "received"), ("transmit", "transmitted"))
    for what, words in (
        ("bytes", "Bytes"),
        ("packets", "Packets"),
        ("errors", "Errors met on packets to be"),
        ("packets_dropped", "Packets dropped, not"),
    )
)
PROCESSES = (
    _gauge("processes", "Processes."),
    _gauge("threads", "Threads of all processes."),
    _gauge("threads_max", "How many threads there may be; 0: as many as the machine can."),
    _gauge("file_descriptors", "Open file descriptors of all processes."),
    _gauge("sockets", "Open sockets of all processes."),
    _gauge("ulimits_soft", "Soft limits of the container's first process.", "ulimit"),
)
SPECIFIED = (
    _gauge("spec_cpu_period", "Length of a period of the CPU quota, in microseconds."),
    _gauge("spec_cpu_quota", "CPU time allowed in each period, in microseconds."),
    _gauge("spec_cpu_shares", "Share of the CPU relative to others."),
    _gauge("spec_memory_limit_bytes", "Memory limit in bytes; 0: none."),
    _gauge("spec_memory_reservation_limit_bytes", "Memory kept from being reclaimed, in bytes; 0: none."),
    _gauge("spec_memory_swap_limit_bytes", "Limit on memory and swap together, in bytes; 0: none."),
)
LIFE = (
    _gauge("start_time_seconds", "When it started, in seconds since the epoch."),
    _gauge("last_seen", "When these values were read, in seconds since the epoch."),
)
METRICS = {
    one.name: one
    for group in (CPU, MEMORY, PRESSURE, HUGE_PAGES, FILESYSTEM, NETWORK, PROCESSES, SPECIFIED, LIFE)
    for one in group
}
