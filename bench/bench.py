"""`make bench`: one run of the work of `work.py` against a private daemon, as a table against the budgets.

    scripts/bench.sh [--pods N] [--density N] [--pulls N] [--json FILE] [--strict]
    scripts/bench.sh --endpoint unix:///run/other.sock   # the same work on another runtime

The figures vary by machine, the ratios should not; the last line is what the machine itself costs.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.floor import floor
from bench.pull import Processes, large_pulls, shared_pull, where
from bench.sessions import sessions
from bench.work import Bench, Measures, busy
from scripts.private_daemon import Network, Stubs, private_daemon, processes_of
from tests import images
from tests.conformance.images import debian
from tests.conformance.tools import NoTools
from tests.conftest import running_registry

NETWORK = Network("sampan-bench0", "10.76.0.0/16")
LARGE_PACKAGES = "python3,python3-pip,git,gcc,perl"
HELPERS = ("conmon", "catatonit", "crun", "python")


@dataclass(frozen=True, slots=True)
class Budget:
    """A line of the budget table. `at_least`: more is better."""

    title: str
    name: str
    limit: float
    unit: str
    at_least: bool = False


BUDGETS = [
    Budget("RunPodSandbox", "run_pod", 10, "ms"),
    Budget("CreateContainer + StartContainer", "create_start", 15, "ms"),
    Budget("pod up in all", "pod_up", 25, "ms"),
    Budget("CPU per pod up (whole machine)", "cpu_up", 30, "ms"),
    Budget("StopContainer(0) + RemoveContainer", "container_down", 10, "ms"),
    Budget("StopPodSandbox + RemovePodSandbox", "pod_down", 15, "ms"),
    Budget("pods per second, 4 clients", "pods_per_second", 60, "/s", at_least=True),
    Budget("ExecSync true", "exec_sync", 6, "ms"),
    Budget("ListContainers", "list_containers", 0.5, "ms"),
    Budget("ListPodSandbox", "list_pods", 0.5, "ms"),
    Budget("ContainerStatus", "container_status", 0.5, "ms"),
    Budget("ListContainerStats, many pods", "density_stats", 5, "ms"),
    Budget("memory, daemon + monitors, many pods", "pss", 100, "MiB"),
    Budget("idle CPU, many pods (whole machine)", "idle_cpu", 1, "%"),
    Budget("idle CPU, many pods (own processes)", "idle_cpu_own", 1, "%"),
    Budget("pull + unpack, Debian+Python image", "pull_large", 1.5, "s"),
    Budget("CPU of that (whole machine)", "pull_large_cpu", 2.5, "s"),
    Budget("the same by 8 clients at once", "pull_shared", 1.5, "s"),
    Budget("downloads for those 8", "pull_shared_downloads", 1.1, "x"),
    Budget("exec, stdin to stdout", "exec_throughput", 500, "MiB/s", at_least=True),
    Budget("port-forward, there and back", "forward_throughput", 500, "MiB/s", at_least=True),
    Budget("daemon's memory growth by these", "sessions_growth", 32, "MiB"),
]


def table(measures: Measures) -> Iterator[str]:
    """A line for every budget that was measured."""
    yield f"{'':38} {'p50':>10} {'budget':>12} {'ratio':>6}"
    for budget in BUDGETS:
        if budget.name not in measures.samples and budget.name not in measures.figures:
            yield f"{budget.title:38} {'not measured':>10}"
            continue
        value = measures.p50(budget.name)
        limit = f"{'>=' if budget.at_least else '<='} {budget.limit:g} {budget.unit}"
        yield (
            f"{budget.title:38} {value:>7.2f} {budget.unit:<3} {limit:>11} {value / budget.limit:>6.2f}"
            f"  {'ok' if kept(budget, value) else 'OVER'}"
        )


def kept(budget: Budget, value: float) -> bool:
    return value >= budget.limit if budget.at_least else value <= budget.limit


def large_image() -> images.Image:
    """Debian with Python and a compiler, compressed as registries usually hold it. Raises NoTools."""
    own = images.layer([images.Entry("app/main.py", data=b'print("hi")\n')])
    config = {"Cmd": ["python3"], "Env": [images.PATH]}
    return images.image([debian("large", LARGE_PACKAGES), own], config, compression="gzip:6")


def own_processes(daemon: int, directory: Path) -> list[int]:
    """The daemon, its monitors and helpers; not what runs in containers."""

    def helper(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().startswith(HELPERS)
        return False

    return [daemon, *(pid for pid in processes_of(directory) if pid != daemon and helper(pid))]


@contextlib.contextmanager
def private(options: argparse.Namespace) -> Iterator[tuple[Bench, str]]:
    """A bench on daemon and a registry of its own, and the large image's reference ("" if it has none)."""
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory, contextlib.ExitStack() as stack:
        registry = stack.enter_context(running_registry(Path(directory)))
        registry.push("library/busybox", images.busybox(), "latest")
        large = ""
        try:
            if options.pulls:
                registry.push("library/large", large_image(), "latest")
                large = "docker.io/library/large:latest"
        except NoTools as error:
            print(f"no large image: {error}", file=sys.stderr)
        certs = registry.hosts_directory(Path(directory, "certs.d"), "docker.io")
        daemon = stack.enter_context(private_daemon(NETWORK, certs=[certs]))
        processes = own_counter(daemon.pid, daemon.directory)
        yield Bench(daemon.cri, "docker.io/library/busybox:latest", Path(directory, "logs"), processes), large


def own_counter(daemon: int, directory: Path) -> Callable[[], list[int]]:
    return lambda: own_processes(daemon, directory)


@contextlib.contextmanager
def foreign(options: argparse.Namespace) -> Iterator[tuple[Bench, str]]:
    """A bench on a runtime that is already there."""
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory:
        stubs = Stubs(options.endpoint)
        yield Bench(stubs, options.image, Path(directory), None), options.large
        stubs.close()


def measure(options: argparse.Namespace, measures: Measures) -> None:
    """All the work; `measures` fills as it goes, so that what was measured is not lost to a later failure."""
    with (foreign if options.endpoint else private)(options) as (bench, large):
        bench.measures = measures
        bench.one_by_one(options.pods)
        bench.parallel(options.pods * 2)
        if options.density:
            bench.density(options.density)
        if options.sessions:
            sessions(bench, options.sessions)
        if large and options.pulls:
            large_pulls(bench, large, options.pulls)
            shared_pull(bench, large)


def pull_table(times: int) -> Iterator[str]:
    """Where the time of a pull goes, by a daemon of its own that says so."""
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory, contextlib.ExitStack() as stack:
        registry = stack.enter_context(running_registry(Path(directory)))
        registry.push("library/large", large_image(), "latest")
        certs = registry.hosts_directory(Path(directory, "certs.d"), "docker.io")
        daemon = stack.enter_context(private_daemon(NETWORK, certs=[certs], level="debug"))
        bench = Bench(daemon.cri, "", Path(directory, "logs"), None)
        processes = Processes(daemon.pid, registry_pid(Path(directory)))
        yield from where(bench, "docker.io/library/large:latest", times, daemon.log, processes)


def registry_pid(directory: Path) -> int:
    """The process of the registry that keeps its data there."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(directory / "registry.yml").encode() in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise LookupError(f"no registry runs on {directory}")


def other_load() -> float:
    """What else the machine does, in percent of a core: above a few, the figures are not worth much."""
    before = busy()
    time.sleep(2)
    return (busy() - before) / 2 * 100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description="Measure against the budgets.")
    parser.add_argument("--pods", type=int, default=20, help="pods of the one-by-one run (default 20)")
    parser.add_argument(
        "--density", type=int, default=60, help="pods at once for memory and idle CPU; 0: none"
    )
    parser.add_argument("--pulls", type=int, default=3, help="pulls of the large image; 0: none")
    parser.add_argument("--sessions", type=int, default=3, help="GiB through exec and port-forward; 0: none")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a budget is exceeded")
    parser.add_argument("--endpoint", help="measure the runtime at this socket instead of a private sampand")
    parser.add_argument(
        "--image", default="registry.k8s.io/e2e-test-images/busybox:1.29-2", help="with --endpoint"
    )
    parser.add_argument("--large", default="", help="with --endpoint: a large image to pull")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    noise = other_load()
    machine, measures, failed = floor(), Measures(), ""
    try:
        measure(options, measures)
    except grpc.RpcError as error:
        failed = f"the benchmark was cut short: {error}"
    print("\n".join(table(measures)))
    print(f"many pods: {options.density}; the budgets are for 60")
    print(f"load of others before the run: {noise:.0f} % of a core")
    print("floor of this machine: " + ", ".join(f"{name} {value:.1f} ms" for name, value in machine.items()))
    if "pipes" in measures.samples:
        print(f"`cat | cat` of this machine: {measures.p50('pipes'):.0f} MiB/s")
    if options.pulls and not options.endpoint:
        print("\n".join(pull_table(options.pulls)))
    if options.json:
        options.json.write_text(
            json.dumps({**measures.report(), "floor_ms": machine, "other_load": noise}, indent=1) + "\n"
        )
    known = {*measures.samples, *measures.figures}
    over = [b for b in BUDGETS if b.name in known and not kept(b, measures.p50(b.name))]
    sys.exit(failed or (1 if options.strict and over else 0))


if __name__ == "__main__":
    main()
