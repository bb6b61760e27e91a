"""A daemon in memory behind a real gRPC server: what the commands need of the CRI, and a list of what was
asked.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.api import sampan_pb2 as own
from sampan.api import sampan_pb2_grpc as own_rpc
from sampan.cli.naming import RUN_LABEL
from sampan.wire import crilog
from sampan.wire.remotecommand.channels import Wanted
from tests.cli.fake_sessions import FakeSessions

Context = grpc.ServicerContext
IMAGE_ID = "sha256:" + "ab" * 32
ARCHIVE = bytes(range(256)) * 40  # what `export` gets


def said(
    text: bytes, at: int = 1_700_000_000_000_000_000, stream: str = "stdout", partial: bool = False
) -> bytes:
    """A line of a CRI log."""
    return crilog.format(crilog.Record(at, stream, text, partial))


class FakeDaemon(rpc.RuntimeServiceServicer, rpc.ImageServiceServicer):
    """Containers write `output` to their log when started, and end with `exit_code` unless `hold` is set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.handlers: dict[str, dict[str, object]] = {
            "crun": {"problem": "", "path": "/usr/bin/crun", "runtime": "crun", "version": "1.8.1"},
            "absent": {"problem": "absent is not installed"},
        }
        self.pods: dict[str, cri.PodSandbox] = {}
        self.pod_configs: dict[str, cri.PodSandboxConfig] = {}
        self.containers: dict[str, cri.Container] = {}
        self.container_configs: dict[str, cri.ContainerConfig] = {}
        self.statuses: dict[str, cri.ContainerStatus] = {}
        self.images: dict[str, cri.Image] = {}
        self.asked: list[object] = []
        self.events: list[cri.ContainerEventResponse] = []
        self.output = said(b"hello")
        self.exit_code = 0
        self.hold = False
        self.stubborn = False  # only a stop without grace ends its containers
        self.fails: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.sleeps: dict[str, threading.Event] = {}
        self.sessions: FakeSessions | None = None  # without: a daemon that serves none
        self.channels: dict[str, dict[str, bool]] = {}  # what a container's config says of its tty and stdin
        self.exec: Callable[[list[str]], tuple[int, bytes, bytes]] = lambda cmd: (
            0,
            " ".join(cmd).encode(),
            b"",
        )
        self._ids = (
            f"{number:08x}" + "c0ffee" * 9 + "00" for number in itertools.count(0xA0000000, 0x1000000)
        )
        self._clock = itertools.count(time.time_ns() - 3600 * 10**9, 10**9)

    # --- what tests prepare ---------------------------------------------------------------------------------

    def add_pod(
        self, name: str, namespace: str = "default", uid: str = "u1", run: bool = False
    ) -> cri.PodSandbox:
        metadata = cri.PodSandboxMetadata(name=name, namespace=namespace, uid=uid)
        pod = cri.PodSandbox(id=next(self._ids), metadata=metadata, created_at=next(self._clock))
        if run:
            pod.labels[RUN_LABEL] = name
        self.pods[pod.id] = pod
        self.pod_configs[pod.id] = cri.PodSandboxConfig(metadata=metadata)
        return pod

    def add_container(
        self,
        pod: cri.PodSandbox,
        name: str,
        state: int = cri.CONTAINER_RUNNING,
        attempt: int = 0,
        log: Path | None = None,
    ) -> cri.Container:
        container = cri.Container(
            id=next(self._ids),
            pod_sandbox_id=pod.id,
            metadata=cri.ContainerMetadata(name=name, attempt=attempt),
            image=cri.ImageSpec(image=IMAGE_ID, user_specified_image="example.test/app:1"),
            state=state,  # type: ignore[arg-type]
            created_at=next(self._clock),
        )
        self.containers[container.id] = container
        self.statuses[container.id] = cri.ContainerStatus(
            id=container.id, metadata=container.metadata, state=container.state, log_path=str(log or "")
        )
        return container

    def add_image(self, name: str, id: str = IMAGE_ID) -> cri.Image:
        self.images[name] = cri.Image(id=id, repo_tags=[name], size=5 << 20)
        return self.images[name]

    def end(self, id: str, code: int, reason: str = "Completed", message: str = "") -> None:
        self.containers[id].state = cri.CONTAINER_EXITED
        status = self.statuses[id]
        status.state, status.exit_code, status.reason, status.message = (
            cri.CONTAINER_EXITED,
            code,
            reason,
            message,
        )

    def requests(self, kind: type) -> list[object]:
        return [each for each in self.asked if isinstance(each, kind)]

    # --- the services ---------------------------------------------------------------------------------------

    def _heard(self, request: object, context: Context) -> None:
        self.asked.append(request)
        name = type(request).__name__.removesuffix("Request")
        if name in self.sleeps:
            self.sleeps[name].wait(20)
        if name in self.fails:
            context.abort(*self.fails[name])

    def Version(self, request: cri.VersionRequest, context: Context) -> cri.VersionResponse:
        self._heard(request, context)
        return cri.VersionResponse(runtime_name="sampan", runtime_version="9.8.7", runtime_api_version="v1")

    def Status(self, request: cri.StatusRequest, context: Context) -> cri.StatusResponse:
        self._heard(request, context)
        conditions = [
            cri.RuntimeCondition(type="RuntimeReady", status=True),
            cri.RuntimeCondition(
                type="NetworkReady", reason="NoConflist", message="nothing in /etc/cni/net.d"
            ),
        ]
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=conditions),
            info={
                "config": json.dumps({"root": str(self.root), "state": "/run/s"}),
                "handlers": json.dumps(self.handlers),
            },
            runtime_handlers=[
                cri.RuntimeHandler(
                    name=name,
                    features=cri.RuntimeHandlerFeatures(recursive_read_only_mounts=name != "absent"),
                )
                for name in ("", "absent", "crun")
            ],
        )

    def ListPodSandbox(
        self, request: cri.ListPodSandboxRequest, context: Context
    ) -> cri.ListPodSandboxResponse:
        self._heard(request, context)
        return cri.ListPodSandboxResponse(items=self.pods.values())

    def ListContainers(
        self, request: cri.ListContainersRequest, context: Context
    ) -> cri.ListContainersResponse:
        self._heard(request, context)
        wanted = request.filter
        found = [
            each
            for each in self.containers.values()
            if wanted.id in ("", each.id)
            and wanted.pod_sandbox_id in ("", each.pod_sandbox_id)
            and (not wanted.HasField("state") or wanted.state.state == each.state)
        ]
        return cri.ListContainersResponse(containers=found)

    def RunPodSandbox(self, request: cri.RunPodSandboxRequest, context: Context) -> cri.RunPodSandboxResponse:
        config = request.config
        Path(config.log_directory).mkdir(parents=True)  # stays where the pod fails: it may be the kubelet's
        self._heard(request, context)
        pod = self.add_pod(
            config.metadata.name, config.metadata.namespace, config.metadata.uid, RUN_LABEL in config.labels
        )
        self.pod_configs[pod.id] = config
        return cri.RunPodSandboxResponse(pod_sandbox_id=pod.id)

    def CreateContainer(
        self, request: cri.CreateContainerRequest, context: Context
    ) -> cri.CreateContainerResponse:
        self._heard(request, context)
        pod, config = self.pods[request.pod_sandbox_id], request.config
        log = Path(self.pod_configs[pod.id].log_directory) / config.log_path
        log.touch()
        container = self.add_container(pod, config.metadata.name, cri.CONTAINER_CREATED, log=log)
        container.labels.update(config.labels)
        self.container_configs[container.id] = config
        return cri.CreateContainerResponse(container_id=container.id)

    def StartContainer(
        self, request: cri.StartContainerRequest, context: Context
    ) -> cri.StartContainerResponse:
        self._heard(request, context)
        id = request.container_id
        self.containers[id].state = self.statuses[id].state = cri.CONTAINER_RUNNING
        Path(self.statuses[id].log_path).write_bytes(self.output)
        if not self.hold:
            self.end(id, self.exit_code, "Completed" if self.exit_code == 0 else "Error")
        return cri.StartContainerResponse()

    def StopContainer(self, request: cri.StopContainerRequest, context: Context) -> cri.StopContainerResponse:
        self._heard(request, context)
        held = self.stubborn and request.timeout
        if self.containers[request.container_id].state == cri.CONTAINER_RUNNING and not held:
            self.end(request.container_id, 143, "Error")
        return cri.StopContainerResponse()

    def RemoveContainer(
        self, request: cri.RemoveContainerRequest, context: Context
    ) -> cri.RemoveContainerResponse:
        self._heard(request, context)
        self.containers.pop(request.container_id, None)
        return cri.RemoveContainerResponse()

    def StopPodSandbox(
        self, request: cri.StopPodSandboxRequest, context: Context
    ) -> cri.StopPodSandboxResponse:
        self._heard(request, context)
        if request.pod_sandbox_id in self.pods:
            self.pods[request.pod_sandbox_id].state = cri.SANDBOX_NOTREADY
        return cri.StopPodSandboxResponse()

    def RemovePodSandbox(
        self, request: cri.RemovePodSandboxRequest, context: Context
    ) -> cri.RemovePodSandboxResponse:
        self._heard(request, context)
        self.pods.pop(request.pod_sandbox_id, None)
        for id in [
            each.id for each in self.containers.values() if each.pod_sandbox_id == request.pod_sandbox_id
        ]:
            del self.containers[id]
        return cri.RemovePodSandboxResponse()

    def ContainerStatus(
        self, request: cri.ContainerStatusRequest, context: Context
    ) -> cri.ContainerStatusResponse:
        self._heard(request, context)
        known: dict[str, object] = {"pid": 42, "runtimeSpec": {"ociVersion": "1.0.2"}}
        if request.container_id in self.channels:
            known["config"] = self.channels[request.container_id]
        info = {"info": json.dumps(known)} if request.verbose else {}
        return cri.ContainerStatusResponse(status=self.statuses[request.container_id], info=info)

    def PodSandboxStatus(
        self, request: cri.PodSandboxStatusRequest, context: Context
    ) -> cri.PodSandboxStatusResponse:
        self._heard(request, context)
        pod = self.pods[request.pod_sandbox_id]
        inside = [
            self.statuses[each.id] for each in self.containers.values() if each.pod_sandbox_id == pod.id
        ]
        return cri.PodSandboxStatusResponse(
            status=cri.PodSandboxStatus(id=pod.id, metadata=pod.metadata, state=pod.state),
            containers_statuses=inside,
            info={"info": json.dumps({"cniResult": {}}), "note": "not JSON"},
        )

    def ExecSync(self, request: cri.ExecSyncRequest, context: Context) -> cri.ExecSyncResponse:
        self._heard(request, context)
        code, out, err = self.exec(list(request.cmd))
        return cri.ExecSyncResponse(exit_code=code, stdout=out, stderr=err)

    def Exec(self, request: cri.ExecRequest, context: Context) -> cri.ExecResponse:
        return cri.ExecResponse(url=self._session("exec", request, context))

    def Attach(self, request: cri.AttachRequest, context: Context) -> cri.AttachResponse:
        return cri.AttachResponse(url=self._session("attach", request, context))

    def PortForward(self, request: cri.PortForwardRequest, context: Context) -> cri.PortForwardResponse:
        return cri.PortForwardResponse(url=self._session("portforward", request, context))

    def _session(
        self,
        kind: str,
        request: cri.ExecRequest | cri.AttachRequest | cri.PortForwardRequest,
        context: Context,
    ) -> str:
        if self.sessions is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{kind} is not implemented")
            raise AssertionError
        self._heard(request, context)
        if not isinstance(request, cri.PortForwardRequest):
            self.sessions.wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        return self.sessions.url(kind)

    def ListContainerStats(
        self, request: cri.ListContainerStatsRequest, context: Context
    ) -> cri.ListContainerStatsResponse:
        self._heard(request, context)
        found = [
            cri.ContainerStats(
                attributes=cri.ContainerAttributes(id=each.id, metadata=each.metadata),
                cpu=cri.CpuUsage(usage_nano_cores=cri.UInt64Value(value=1_250_000_000)),
                memory=cri.MemoryUsage(working_set_bytes=cri.UInt64Value(value=3 << 20)),
            )
            for each in self.containers.values()
        ]
        return cri.ListContainerStatsResponse(stats=found)

    def GetContainerEvents(
        self, request: cri.GetEventsRequest, context: Context
    ) -> Iterator[cri.ContainerEventResponse]:
        self._heard(request, context)
        yield from self.events

    def ListImages(self, request: cri.ListImagesRequest, context: Context) -> cri.ListImagesResponse:
        self._heard(request, context)
        return cri.ListImagesResponse(images=self.images.values())

    def ImageStatus(self, request: cri.ImageStatusRequest, context: Context) -> cri.ImageStatusResponse:
        self._heard(request, context)
        word = request.image.image
        if word.isupper():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{word!r} is not an image reference")
        found = [each for name, each in self.images.items() if word in (name, each.id)]
        info = {"info": json.dumps({"imageSpec": {"os": "linux"}})} if request.verbose and found else {}
        return cri.ImageStatusResponse(image=found[0] if found else None, info=info)

    def PullImage(self, request: cri.PullImageRequest, context: Context) -> cri.PullImageResponse:
        self._heard(request, context)
        return cri.PullImageResponse(image_ref=self.add_image(request.image.image).id)

    def RemoveImage(self, request: cri.RemoveImageRequest, context: Context) -> cri.RemoveImageResponse:
        self._heard(request, context)
        word = request.image.image
        ids = {each.id for name, each in self.images.items() if word in (name, each.id)}
        for name in [name for name, each in self.images.items() if each.id in ids]:
            del self.images[name]
        return cri.RemoveImageResponse()

    def ImageFsInfo(self, request: cri.ImageFsInfoRequest, context: Context) -> cri.ImageFsInfoResponse:
        self._heard(request, context)
        used = cri.FilesystemUsage(
            fs_id=cri.FilesystemIdentifier(mountpoint=str(self.root)),
            used_bytes=cri.UInt64Value(value=3 << 30),
            inodes_used=cri.UInt64Value(value=1234),
        )
        return cri.ImageFsInfoResponse(image_filesystems=[used])


class FakeImages(own_rpc.ImagesServicer):
    """Our own service, over the same images."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon
        self.archives: list[bytes] = []
        self.verified: list[own.VerifyResult] = []
        self.verify_ends: tuple[grpc.StatusCode, str] | None = None

    def Pull(self, request: own.PullRequest, context: Context) -> Iterator[own.PullProgress]:
        self._daemon._heard(request, context)
        layer = "sha256:" + "1a" * 32
        yield own.PullProgress(layer=layer, done=0, total=-1)
        yield own.PullProgress(layer=layer, done=512, total=1024)
        yield own.PullProgress(layer=layer, done=1024, total=1024, ready=True)
        yield own.PullProgress(image_id=self._daemon.add_image(request.image).id)

    def Import(self, requests: Iterator[own.ImportChunk], context: Context) -> Iterator[own.ImportResult]:
        content = b"".join(each.data for each in requests)
        self.archives.append(content)
        if content.startswith(b"bad"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no image archive")
        yield own.ImportResult(image_id=IMAGE_ID, tags=["docker.io/library/app:1"])

    def Prune(self, request: own.PruneRequest, context: Context) -> own.PruneResponse:
        self._daemon._heard(request, context)
        images = self._daemon.images
        going = {name: each for name, each in images.items() if request.all and not each.pinned}
        for name in () if request.dry_run else going:
            del images[name]
        gone = [
            own.PrunedImage(image_id=each.id, names=[name], bytes=each.size) for name, each in going.items()
        ]
        return own.PruneResponse(images=gone)

    def Export(self, request: own.ExportRequest, context: Context) -> Iterator[own.ExportChunk]:
        yield own.ExportChunk(data=ARCHIVE[:5000])
        self._daemon._heard(request, context)
        yield own.ExportChunk(data=ARCHIVE[5000:])

    def Verify(self, request: own.VerifyRequest, context: Context) -> Iterator[own.VerifyResult]:
        self._daemon._heard(request, context)
        yield from self.verified
        if self.verify_ends:
            context.abort(*self.verify_ends)


class Served:
    """The fake daemon at a socket."""

    def __init__(self, directory: Path, with_own: bool = True) -> None:
        self.endpoint = f"unix://{directory / 'd.sock'}"
        self.daemon = FakeDaemon(directory / "root")  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        self.own = FakeImages(self.daemon)
        self._server = grpc.server(ThreadPoolExecutor(8))
        rpc.add_RuntimeServiceServicer_to_server(self.daemon, self._server)
        rpc.add_ImageServiceServicer_to_server(self.daemon, self._server)
        if with_own:
            own_rpc.add_ImagesServicer_to_server(self.own, self._server)
        self._server.add_insecure_port(self.endpoint)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()
