"""`make demo`: a daemon, an image made on the spot, a pod that serves a page, a request; then it goes."""

import contextlib
import hashlib
import http.client
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from sampan.api import cri_pb2 as pb
from scripts.private_daemon import Daemon, Network, platform_architecture, private_daemon

NETWORK = Network("sampan-demo0", "10.77.0.0/16")
IMAGE = "demo/web:latest"
PORT = 8080
PAGE = "Hello from a pod. It left the harbour on a sampan.\n"
FETCH_SECONDS = 10


class Steps:
    """Numbered lines with how long each took."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        self.count += 1
        print(f"{self.count}. {text} ", end="", flush=True)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            print("— failed", flush=True)
            raise
        print(f"— {(time.perf_counter() - start) * 1000:.0f} ms", flush=True)


# --- an image, from nothing but Debian's busybox ------------------------------------------------------------


def tar_of(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar of files: content and mode by path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (data, mode) in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def image() -> bytes:
    """An OCI image layout (image-spec, image-layout.md) in a tar: one layer with busybox and a page."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = tar_of({"bin/busybox": (busybox(), 0o755), "www/index.html": (PAGE.encode(), 0o644)})
    layers = [blob(layer, "layer.v1.tar")]
    config = {
        "architecture": platform_architecture(),
        "os": "linux",
        "config": {"Cmd": ["/bin/busybox", "httpd", "-f", "-v", "-p", str(PORT), "-h", "/www"]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {"schemaVersion": 2, "config": blob(dump(config), "config.v1+json"), "layers": layers}
    described = blob(dump(manifest), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": IMAGE}
    index = {"schemaVersion": 2, "manifests": [described]}
    files = {"oci-layout": dump({"imageLayoutVersion": "1.0.0"}), "index.json": dump(index), **blobs}
    return tar_of({path: (data, 0o644) for path, data in files.items()})


def busybox() -> bytes:
    return Path("/bin/busybox").read_bytes()


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


# --- the pod ------------------------------------------------------------------------------------------------


def import_image(daemon: Daemon, archive: Path) -> None:
    program = Path(sys.executable).with_name("sampan")
    argv: list[str | Path] = [program, "--endpoint", daemon.endpoint, "import", archive]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"sampan import failed: {result.stderr or result.stdout}")


def run_pod(daemon: Daemon) -> tuple[str, str]:
    """The pod's id and address."""
    runtime = daemon.cri.runtime
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="web", namespace="demo", uid="demo-web"),
        hostname="web",
        log_directory=str(daemon.directory / "logs"),
        linux=pb.LinuxPodSandboxConfig(),
    )
    pod = runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config), timeout=30).pod_sandbox_id
    container = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="httpd"),
        image=pb.ImageSpec(image=IMAGE),
        log_path="httpd.log",
        linux=pb.LinuxContainerConfig(),
    )
    asked = pb.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
    created = runtime.CreateContainer(asked, timeout=30).container_id
    runtime.StartContainer(pb.StartContainerRequest(container_id=created), timeout=30)
    status = runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod), timeout=30).status
    return pod, status.network.ip


def fetch(address: str) -> str:
    """The page; the server in the pod may need a moment to listen."""
    deadline = time.monotonic() + FETCH_SECONDS
    while True:
        connection = http.client.HTTPConnection(address, PORT, timeout=FETCH_SECONDS)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        finally:
            connection.close()


def last_log(daemon: Daemon) -> str:
    """The container's log once it holds the request; the monitor writes it a moment after the answer."""
    log = daemon.directory / "logs/httpd.log"
    deadline = time.monotonic() + FETCH_SECONDS
    while not (text := log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return text


def demo(steps: Steps, stack: contextlib.ExitStack) -> str:
    """Everything up to the page; returns what is to be shown."""
    with steps.step("start sampand: its own root, state and bridge, in a temporary directory"):
        daemon = stack.enter_context(private_daemon(NETWORK))
    try:
        (daemon.directory / "logs").mkdir()
        archive = daemon.directory / "web.tar"
        with steps.step(f"make an image of busybox and a page, and import it as {IMAGE}"):
            archive.write_bytes(image())
            import_image(daemon, archive)
        with steps.step("run a pod: namespaces, network, container"):
            pod, address = run_pod(daemon)
        with steps.step(f"fetch http://{address}:{PORT}/"):
            page = fetch(address)
        if page != PAGE:
            raise RuntimeError(f"the pod served something else: {page!r}")
        log = last_log(daemon).rstrip()
    except (grpc.RpcError, RuntimeError, OSError):
        print(f"\nlast words of sampand:\n{daemon.words()}", file=sys.stderr)
        raise
    return f"\nlog of the container:\n  {log}\npod {pod[:13]} at {address} said:\n  {page}"


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    steps, shown = Steps(), ""
    stack = contextlib.ExitStack()
    try:
        shown = demo(steps, stack)
    except KeyboardInterrupt:
        shown = "\ninterrupted"
        sys.exit(130)
    except (grpc.RpcError, RuntimeError, OSError) as error:
        shown = f"\nfailed: {error}"
        sys.exit(1)
    finally:
        with steps.step("remove the pod, the daemon, the bridge and the directory"):
            stack.close()
        print(shown)


if __name__ == "__main__":
    main()
