"""`sampand`, the composition root: config → ports → use cases → servers. The only file that knows every class.

The socket opens when every record has been taken back. SIGTERM and SIGINT end the daemon; containers go on.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from sampan import config as configuration
from sampan.api import cri_pb2_grpc as cri_rpc
from sampan.api import sampan_pb2_grpc as own_rpc
from sampan.config import Config
from sampan.host import apparmor, features, filesystems, places
from sampan.host.cgroup import cgroups
from sampan.host.cni.network import CniNetwork
from sampan.host.device.cdi import CdiDirectories
from sampan.host.device.io_classes import HostIoClasses
from sampan.host.notify import notify
from sampan.host.oci.attach import ConmonAttachments
from sampan.host.oci.bundles import HostBundles
from sampan.host.oci.commands import OciCommands
from sampan.host.oci.handlers import HostHandlers
from sampan.host.oci.runtime import OciConmon
from sampan.host.registry.client import RegistryClient
from sampan.host.registry.download import Effort
from sampan.host.sandbox import userns_probe
from sampan.host.sandbox.dial import PodDialer
from sampan.host.sandbox.sandboxes import PinnedSandboxes
from sampan.host.sources import HostFacts
from sampan.host.storage.archive import Archives
from sampan.host.storage.layer_tar import LayerTars
from sampan.host.storage.layers import Layers
from sampan.host.storage.rootfs import OverlayRootfs
from sampan.host.storage.spool import Spool
from sampan.host.storage.volumes import HostVolumes
from sampan.host.trust.policy_files import PolicyFiles
from sampan.host.trust.verifier import KeyVerifier
from sampan.model.errors import SampanError
from sampan.runtime.containers import Containers, Parts
from sampan.runtime.events import Events
from sampan.runtime.exec import Exec
from sampan.runtime.exits import Exits
from sampan.runtime.images import Images, Supply
from sampan.runtime.limits import Resources
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit
from sampan.runtime.pods import Pods
from sampan.runtime.recovery import Recovery
from sampan.runtime.state import KINDS, State
from sampan.runtime.stats import Stats
from sampan.runtime.stops import Stops
from sampan.runtime.streaming import Streaming
from sampan.runtime.trust import Trust
from sampan.server.image_admin import ImageAdmin
from sampan.server.image_service import Disk, ImageService
from sampan.server.interceptor import Interceptor
from sampan.server.logs import setup
from sampan.server.runtime_service import RuntimeService
from sampan.server.streaming.listener import Listener
from sampan.server.streaming.sessions import Sessions
from sampan.server.streaming.tokens import Tokens
from sampan.server.use_cases import UseCases
from sampan.store.database import Database
from sampan.store.records import Journal
from sampan.tasks import Tasks

log = logging.getLogger("sampan.daemon")
RECEIVE_LIMIT = 16 << 20  # bytes of a request, as the kubelet's own limit
SEND_LIMIT = 64 << 20  # bytes of a response: two ExecSync streams of 16 MiB each, long lists
STOP_SECONDS = 10.0  # for the RPCs in flight when the daemon is told to end


@dataclass(frozen=True, slots=True)
class Daemon:
    """Everything that has to be ended in order."""

    cases: UseCases
    images: Images
    tars: LayerTars
    recovery: Recovery
    attachments: ConmonAttachments
    close: tuple[Callable[[], Awaitable[None]], ...]  # in this order, at the end


async def build(config: Config) -> Daemon:
    """Wire it all. Raises a SampanError that says what this machine lacks."""
    database = await Database.open(config.paths.database)
    state = await _state(database)
    tasks = Tasks()
    layers = Layers(config.paths, keep_blobs=config.images.keep_blobs)
    await layers.open()
    network = CniNetwork(
        config.cni.conf_dir,
        config.cni.bin_dirs,
        builtin=config.cni.builtin,
        template=config.cni.conf_template,
    )
    rootfs = OverlayRootfs(config.paths, layers, slow_chown=config.images.slow_chown)
    handlers = HostHandlers(
        config.handlers, config.runtime.default_handler, (config.paths.state, config.paths.root)
    )
    commands, attachments = OciCommands(config.paths), ConmonAttachments(config.paths)
    volumes = HostVolumes(config.paths, layers)
    machine = await _machine(config, rootfs, volumes, network, handlers, (commands, attachments))
    images = Images(state, layers, _supply(config, machine), tasks)
    cases, recovery = _use_cases(config, state, machine, images, tasks, database.opened.reason)
    tasks.start("stats collector", cases.stats.collect())
    close = (
        tasks.stop,
        commands.close,
        handlers.close,
        network.close,
        rootfs.close,
        layers.close,
        database.close,
    )
    return Daemon(cases, images, LayerTars(layers), recovery, attachments, close)


async def _state(database: Database) -> State:
    """Every record that can be read; what cannot is logged and set aside."""
    if database.opened.reason:
        log.error(
            "the state database was damaged: %s; set aside: %s",
            database.opened.reason,
            database.opened.set_aside,
        )
    journal = Journal(database)
    state = State(journal)
    loaded = await journal.load(KINDS)
    for refused in loaded.refused:
        log.error("a damaged record was set aside: %s %s: %s", refused.kind, refused.id, refused.reason)
    state.adopt(loaded.records)
    return state


def _use_cases(
    config: Config, state: State, machine: Machine, images: Images, tasks: Tasks, damage: str
) -> tuple[UseCases, Recovery]:
    exits = Exits(config, state, machine, tasks)
    init = PodInit(config, state, machine, tasks)
    stops = Stops(config, state, machine, exits)
    containers = Containers(Parts(config, state, machine, images, exits, stops, init, tasks))
    pods = Pods(config, state, machine, containers, init, tasks)
    exec = Exec(config, state, machine, tasks)
    streaming = Streaming(config, state, machine, exec)
    outlive = not config.streaming.end_exec_with_client
    sessions = Sessions(streaming, machine.dialer, keep_input=outlive)
    cases = UseCases(
        config=config,
        state=state,
        machine=machine,
        pods=pods,
        containers=containers,
        exec=exec,
        streaming=streaming,
        sessions=sessions,
        listener=Listener(config.streaming, Tokens(), sessions.serve),
        resources=Resources(config, state, machine, containers.locks),
        stats=Stats(state, machine),
        events=Events(state),
        damage=damage,
    )
    return cases, Recovery(state, machine, pods, containers, (exits, init), tasks)


def _supply(config: Config, machine: Machine) -> Supply:
    registry = RegistryClient(
        config.registry.config_paths,
        progress_timeout=config.images.pull_progress_timeout,
        auth_files=config.registry.auth_files,
        spool=Spool(config.paths.spool),
        effort=Effort(asyncio.Semaphore(config.images.max_parallel_downloads)),
    )
    return Supply(
        registry=registry,
        archives=Archives(config.paths.blobs),
        machine=machine.host.architecture,
        parallel=config.images.max_parallel_downloads,
        pinned=config.images.pinned,
        trust=Trust(PolicyFiles(config.trust.policy), KeyVerifier()) if config.trust.policy else Trust(),
    )


async def _machine(
    config: Config,
    rootfs: OverlayRootfs,
    volumes: HostVolumes,
    network: CniNetwork,
    handlers: HostHandlers,
    sessions: tuple[OciCommands, ConmonAttachments],
) -> Machine:
    commands, attachments = sessions
    await commands.open()
    groups = await cgroups.detect(config.cgroup.driver)
    await handlers.open()
    init = await features.tool("catatonit")
    log.info("found %s %s at %s", init.name, init.version, init.path)
    await apparmor.load_default()
    limits = places.raise_descriptor_limit()
    layers = config.paths.images or config.root
    users = await userns_probe.works(layers, slow_chown=config.images.slow_chown)
    host = replace(
        await features.gather(groups), rlimits=(("RLIMIT_NOFILE", *limits),), user_namespaces=users
    )
    return Machine(
        oci=OciConmon(config.paths, systemd_cgroup=host.systemd_cgroup),
        sandboxes=PinnedSandboxes(config.paths),
        cgroups=groups,
        network=network,
        rootfs=rootfs,
        volumes=volumes,
        bundles=HostBundles(config.paths),
        facts=HostFacts(),
        cdi=CdiDirectories(config.runtime.cdi_dirs),
        io_classes=_io_classes(config),
        handlers=handlers,
        commands=commands,
        attachments=attachments,
        dialer=PodDialer(),
        host=host,
        node=os.uname().nodename,
        pod_init=init.path,
    )


def _io_classes(config: Config) -> HostIoClasses:
    return HostIoClasses(
        config.cgroup.blockio_config,
        ignore_blockio=config.cgroup.ignore_blockio_not_enabled,
        ignore_rdt=config.cgroup.ignore_rdt_not_enabled,
    )


def serve(daemon: Daemon, interceptor: Interceptor) -> grpc.aio.Server:
    """The gRPC server with every service, bound to the socket (0600)."""
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", RECEIVE_LIMIT),
            ("grpc.max_send_message_length", SEND_LIMIT),
            ("grpc.so_reuseport", 0),
        ],
    )
    config = daemon.cases.config
    disk = Disk(*filesystems.disks(config.paths), daemon.cases.stats.written)
    runtime = RuntimeService(daemon.cases)  # type: ignore[abstract]  # the rest answer UNIMPLEMENTED
    cri_rpc.add_RuntimeServiceServicer_to_server(runtime, server)
    cri_rpc.add_ImageServiceServicer_to_server(ImageService(daemon.images, config.handlers, disk), server)
    own_rpc.add_ImagesServicer_to_server(ImageAdmin(daemon.images, daemon.tars), server)
    socket = config.socket
    places.clear_socket(socket)
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix://{socket}")
    finally:
        os.umask(mask)
    return server


async def run(config: Config) -> None:
    """Serve until told to end. Pods and containers live on."""
    locks = places.claim(config.paths)
    places.clear_socket(config.socket)  # before anything else is touched: it may be a running daemon's
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, log.warning, "SIGHUP: there is nothing to reload"
    )
    for name in configuration.without_effect(config):
        log.warning("%s is set in the configuration, and this version does nothing about it", name)
    daemon = await build(config)
    await daemon.cases.listener.open()
    await daemon.images.trust.complain()
    await daemon.images.start()
    await daemon.recovery.run()
    interceptor = Interceptor()
    server = serve(daemon, interceptor)
    await server.start()
    gc.collect()
    gc.freeze()  # what start-up made lives as long as we do: no later collection needs to look at it
    notify("READY=1")
    log.info("sampand serves %s", config.listen)
    await told.wait()
    notify("STOPPING=1")
    log.info("ending: waiting up to %d s for the calls in flight; containers go on", STOP_SECONDS)
    daemon.cases.events.close()  # these streams would end by themselves never
    await daemon.cases.listener.close()  # nor would sessions
    daemon.attachments.close()
    await interceptor.stop(server, STOP_SECONDS)
    await _settle(daemon)
    for close in daemon.close:
        await close()
    config.socket.unlink(missing_ok=True)
    for lock in locks:
        os.close(lock)


async def _settle(daemon: Daemon) -> None:
    """Operations outlive their callers; give them a while to reach their end. What does not is torn down at boot."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await daemon.cases.pods.settle()
            await daemon.cases.containers.settle()
    except TimeoutError:
        log.warning("some operations are still under way; the next start takes them down or back")


def main(argv: Sequence[str] | None = None) -> None:
    """The `sampand` command. Exit codes: 0 told to end, 1 could not start, 2 usage or configuration."""
    parser = argparse.ArgumentParser(
        prog="sampand", description="The sampan daemon: a Kubernetes container runtime."
    )
    parser.add_argument(
        "--config", type=Path, help=f"configuration file (default {configuration.DEFAULT_FILE}, if there)"
    )
    parser.add_argument("--root", help="directory of what must survive a reboot")
    parser.add_argument("--state", help="directory of what must not")
    parser.add_argument("--listen", help="the CRI socket, unix:///PATH")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    given = parser.parse_args(argv)
    default = configuration.DEFAULT_FILE if configuration.DEFAULT_FILE.exists() else None
    overrides = {
        "root": given.root,
        "state": given.state,
        "listen": given.listen,
        "log_level": given.log_level,
    }
    try:
        config = configuration.load(given.config or default, overrides)
    except SampanError as error:
        sys.exit(_complain(error, 2))
    if os.geteuid() != 0:
        sys.exit(_complain("sampand must run as root: it makes namespaces, mounts and control groups", 1))
    setup(config.log_level)
    try:
        asyncio.run(run(config))
    except SampanError as error:
        sys.exit(_complain(error, 1))


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"sampand: {error}\n")
    return code


if __name__ == "__main__":
    main()
