"""The work that the budgets are about, done through a CRI socket and measured from outside: for any runtime.

Times are ms, CPU is the whole machine's (a runtime's work is also the kernel's and its helpers'), memory PSS.
"""

import contextlib
import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sampan.api import cri_pb2 as pb
from scripts.private_daemon import Stubs

T = TypeVar("T")
TICK = os.sysconf("SC_CLK_TCK")
CLIENTS = 4
IDLE_SECONDS = 10


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result and how long it took, in ms."""
    start = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - start) * 1000


def busy() -> float:
    """CPU seconds that the machine has spent on anything so far (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICK


def spent(pids: Sequence[int]) -> float:
    """CPU seconds of these processes and their reaped children so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(value) for value in fields[11:15])
    return total / TICK


def pss(pids: Sequence[int]) -> float:
    """MiB, shared pages divided among their users."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@dataclass
class Measures:
    """What was measured: samples by name, single figures by name."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, *values: float) -> None:
        self.samples.setdefault(name, []).extend(values)

    def p50(self, name: str) -> float:
        return statistics.median(self.samples[name]) if name in self.samples else self.figures[name]

    def report(self) -> dict[str, object]:
        """For JSON: p50, p90 and count of each sample, and the figures."""
        quantiles = {
            name: {
                "p50": round(statistics.median(values), 3),
                "p90": round(sorted(values)[int(len(values) * 0.9)], 3),
                "n": len(values),
            }
            for name, values in self.samples.items()
        }
        return {**quantiles, **{name: round(value, 3) for name, value in self.figures.items()}}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with one container."""

    id: str
    container: str


class Bench:
    """A client of one runtime. `processes` lists its processes, daemon first; None: no memory measured."""

    def __init__(
        self, stubs: Stubs, image: str, logs: Path, processes: Callable[[], list[int]] | None
    ) -> None:
        self.runtime, self.images = stubs.runtime, stubs.images
        self.image, self.logs, self.processes = image, logs, processes
        self.measures = Measures()
        driver = self.runtime.RuntimeConfig(pb.RuntimeConfigRequest()).linux.cgroup_driver
        self.parent = "bench.slice" if driver == pb.SYSTEMD else "/bench"
        self.ref = ""

    def pod_config(self) -> pb.PodSandboxConfig:
        uid = uuid.uuid4().hex
        security = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption())
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"b-{uid[:8]}", uid=uid, namespace="bench"),
            log_directory=str(self.logs / uid),
            hostname="b",
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=self.parent, security_context=security),
        )

    def container_config(self, command: Sequence[str]) -> pb.ContainerConfig:
        own_pid = pb.NamespaceOption(pid=pb.CONTAINER)
        return pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image=self.ref, user_specified_image=self.image),
            command=command,
            log_path="c.log",
            linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=10),
                security_context=pb.LinuxContainerSecurityContext(namespace_options=own_pid),
            ),
        )

    def up(self, command: Sequence[str] = ("sleep", "100000")) -> tuple[Pod, dict[str, float]]:
        """A pod with a running container, and the times of the three calls."""
        config = self.pod_config()
        asked = pb.RunPodSandboxRequest(config=config)
        pod, run = timed(lambda: self.runtime.RunPodSandbox(asked).pod_sandbox_id)
        wanted = pb.CreateContainerRequest(
            pod_sandbox_id=pod, config=self.container_config(command), sandbox_config=config
        )
        container, create = timed(lambda: self.runtime.CreateContainer(wanted).container_id)
        begin = pb.StartContainerRequest(container_id=container)
        _, start = timed(lambda: self.runtime.StartContainer(begin))
        times = {"run_pod": run, "create": create, "start": start}
        return Pod(pod, container), {**times, "create_start": create + start, "pod_up": run + create + start}

    def down(self, pod: Pod) -> dict[str, float]:
        """All of it removed again, and the times of the four calls."""
        runtime = self.runtime
        _, stop = timed(
            lambda: runtime.StopContainer(pb.StopContainerRequest(container_id=pod.container, timeout=0))
        )
        _, remove = timed(
            lambda: runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=pod.container))
        )
        _, stop_pod = timed(lambda: runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod.id)))
        _, remove_pod = timed(
            lambda: runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
        )
        times = {"stop": stop, "remove": remove, "stop_pod": stop_pod, "remove_pod": remove_pod}
        return {**times, "container_down": stop + remove, "pod_down": stop_pod + remove_pod}

    def pull(self, image: str) -> str:
        return self.images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image=image))).image_ref

    def one_by_one(self, pods: int) -> None:
        """Pods up, looked at, and down again, one client."""
        self.ref = self.pull(self.image)
        for _ in range(2):
            self.down(self.up()[0])
        before = busy()
        made = [self.up() for _ in range(pods)]
        self.measures.figures["cpu_up"] = (busy() - before) * 1000 / pods
        for _, times in made:
            self.keep(times)
        self.reads(made[0][0])
        before = busy()
        gone = [self.down(pod) for pod, _ in made]
        self.measures.figures["cpu_down"] = (busy() - before) * 1000 / pods
        for times in gone:
            self.keep(times)

    def keep(self, times: dict[str, float]) -> None:
        for name, value in times.items():
            self.measures.add(name, value)

    def reads(self, pod: Pod) -> None:
        """Calls that change nothing."""
        runtime = self.runtime
        execute = pb.ExecSyncRequest(container_id=pod.container, cmd=["true"], timeout=10)
        status = pb.ContainerStatusRequest(container_id=pod.container)
        calls: list[tuple[str, int, Callable[[], object]]] = [
            ("exec_sync", 30, lambda: runtime.ExecSync(execute)),
            ("list_containers", 50, lambda: runtime.ListContainers(pb.ListContainersRequest())),
            ("list_pods", 50, lambda: runtime.ListPodSandbox(pb.ListPodSandboxRequest())),
            ("container_status", 50, lambda: runtime.ContainerStatus(status)),
            ("list_stats", 20, lambda: runtime.ListContainerStats(pb.ListContainerStatsRequest())),
        ]
        for name, count, call in calls:
            self.measures.add(name, *(timed(call)[1] for _ in range(count)))

    @contextlib.contextmanager
    def together(self, pods: int, name: str) -> Iterator[None]:
        """So many pods from several clients at once; up for the body of the `with`."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            made, took = timed(lambda: [pod for pod, _ in clients.map(lambda _: self.up(), range(pods))])
            self.measures.figures[name] = pods / took * 1000
            try:
                yield
            finally:
                list(clients.map(self.down, made))

    def parallel(self, pods: int) -> None:
        with self.together(pods, "pods_per_second"):
            pass

    def density(self, pods: int) -> None:
        """Memory, idle CPU and the cost of lists with many pods."""
        with self.together(pods, "density_pods_per_second"):
            time.sleep(3)  # for the collector and the allocator to settle
            figures = self.measures.figures
            processes = self.processes() if self.processes else []
            if processes:
                figures["pss"], figures["pss_daemon"] = pss(processes), pss(processes[:1])
            machine, own = busy(), spent(processes)
            time.sleep(IDLE_SECONDS)
            figures["idle_cpu"] = (busy() - machine) / IDLE_SECONDS * 100
            if processes:
                figures["idle_cpu_own"] = (spent(processes) - own) / IDLE_SECONDS * 100
            calls: list[tuple[str, Callable[[], object]]] = [
                ("density_list", lambda: self.runtime.ListContainers(pb.ListContainersRequest())),
                ("density_stats", lambda: self.runtime.ListContainerStats(pb.ListContainerStatsRequest())),
            ]
            for name, call in calls:
                self.measures.add(name, *(timed(call)[1] for _ in range(30)))
