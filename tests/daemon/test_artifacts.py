"""Artifacts of a whole daemon: pulled from a real registry, mounted in real containers, and what is left of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from scripts import private_daemon
from tests import census, cgroup_drivers, images
from tests.conftest import PushImage, running_registry
from tests.daemon.conftest import Live, clean_up, import_image
from tests.images import Entry

pytestmark = pytest.mark.root

FIRST, COUNT = 700_000, 65_536
SCRIPT = b"#!/bin/sh\necho ran\n"
CONTENT = [
    ("config.json", b'{"layers": 2}'),
    ("weights/part 1", b"one" * 100_000),
    ("weights/deep/part-2", b"two" * 5),
    ("weights/empty", b""),
    ("x" * 120 + "/" + "y" * 200, b"far"),
    ("run.sh", SCRIPT),
]
MODEL = images.artifact(CONTENT, kind="application/vnd.cncf.model.manifest.v1+json")


@pytest.fixture(scope="module")
def shared(archive: Path) -> Iterator[Live]:
    """One daemon for all of this file."""
    live = Live(os.getpid() % 200 + 20, cgroup_drivers.DRIVERS[-1])
    try:
        live.start()
        import_image(live, archive)
        live.life()
        yield live
    finally:
        with private_daemon.uninterrupted():
            clean_up(live)


@pytest.fixture
def live(shared: Live) -> Iterator[Live]:
    """The daemon without any pod."""
    yield shared
    for pod in shared.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
        shared.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id))


@pytest.fixture
def model(live: Live, push_image: PushImage) -> Iterator[str]:
    """The name of the model, pulled."""
    name = push_image("artifacts/model", MODEL)
    assert pull(live, name) == MODEL.digest
    yield name
    remove(live, name)


def pull(live: Live, name: str) -> str:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name))
    return live.images.PullImage(request, timeout=60).image_ref


def remove(live: Live, name: str) -> None:
    live.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=name)), timeout=30)


def status(live: Live, name: str) -> cri.Image | None:
    answer = live.images.ImageStatus(cri.ImageStatusRequest(image=cri.ImageSpec(image=name)), timeout=30)
    return answer.image if answer.HasField("image") else None


def shown(name: str, **more: Any) -> cri.Mount:
    return cri.Mount(container_path="/model", image=cri.ImageSpec(image=name), readonly=True, **more)


def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    error: Any = refused.value
    return error.code().name, error.details() or ""


def left(live: Live) -> census.Census:
    """What is there of the daemon once it has come to rest."""
    live.life()
    return {kind: items for kind, items in live.census().items() if kind not in ("descriptors", "threads")}


def same(live: Live, before: census.Census) -> str:
    """What differs from `before`, "" as soon as nothing does."""
    for _ in range(100):
        now = {kind: items for kind, items in live.census().items() if kind not in ("descriptors", "threads")}
        if not (found := census.diff(before, now)):
            return ""
        time.sleep(0.05)
    return found


def command(live: Live, *words: str) -> str:
    argv = [sys.executable, "-m", "sampan", "--endpoint", live.own.endpoint, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- mounted ------------------------------------------------------------------------------------------------


def test_an_artifact_is_mounted_file_by_file(live: Live, model: str) -> None:
    container = live.started(live.pod(), mounts=[shown(model)])
    for path, data in CONTENT:
        got = live.exec(container, "cat", f"/model/{path}")
        assert (got.exit_code, got.stdout) == (0, data), path
    found = live.exec(
        container, "sh", "-c", "cd /model; stat -c '%a %u:%g %Y' . weights weights/deep config.json run.sh"
    )
    assert found.stdout.decode().split("\n")[:5] == [*["755 0:0 0"] * 3, *["444 0:0 0"] * 2]
    assert live.exec(container, "sh", "-c", "/model/run.sh").exit_code
    assert live.exec(container, "sh", "-c", "echo x > /model/config.json").exit_code
    assert live.exec(container, "touch", "/model/new").exit_code
    echoed = live.status(container).mounts[0].image
    assert (echoed.image, echoed.image_ref) == (model, MODEL.digest)


def test_a_folder_of_an_artifact_is_mounted(live: Live, model: str) -> None:
    container = live.started(live.pod(), mounts=[shown(model, image_sub_path="weights/deep")])
    assert live.exec(container, "ls", "-A", "/model").stdout == b"part-2\n"


@pytest.mark.parametrize("sub_path", ["absent", "config.json", "../..", "weight"])
def test_a_sub_path_that_is_no_folder_of_it_is_told(live: Live, model: str, sub_path: str) -> None:
    pod = live.pod()
    mount = shown(model, image_sub_path=sub_path)
    code, words = refusal(lambda: live.container(pod, mounts=[mount]))
    assert code == "UNKNOWN"
    assert words.startswith(f"ImageVolumeMountFailed: mounts[0].image_sub_path '{sub_path}'")


def test_in_a_pod_with_its_own_users_the_files_are_those_of_its_root(live: Live, model: str) -> None:
    linux = cri.LinuxPodSandboxConfig()
    options = linux.security_context.namespace_options.userns_options
    options.mode = cri.POD
    ids = [cri.IDMapping(host_id=FIRST, container_id=0, length=COUNT)]
    options.uids.extend(ids)
    options.gids.extend(ids)
    mount = shown(model, uidMappings=ids, gidMappings=ids)
    container = live.started(live.pod(linux=linux), mounts=[mount])
    assert live.exec(container, "stat", "-c", "%u", "/model/config.json").stdout == b"0\n"
    assert live.exec(container, "cat", "/model/weights/deep/part-2").stdout == b"two" * 5


def test_no_container_is_made_of_an_artifact(live: Live, model: str) -> None:
    pod = live.pod()
    before = left(live)
    code, words = refusal(lambda: live.container(pod, image=cri.ImageSpec(image=model)))
    assert code == "INVALID_ARGUMENT"
    assert "is an OCI artifact ('application/vnd.cncf.model.manifest.v1+json')" in words
    assert not same(live, before)


def test_it_stays_for_who_uses_it_and_goes_with_the_last(live: Live, push_image: PushImage) -> None:
    name = push_image("artifacts/used", images.artifact([("file", b"in use")]))
    before = left(live)
    pull(live, name)
    pod = live.pod()
    container = live.started(pod, mounts=[shown(name)])
    remove(live, name)
    assert status(live, name) is None
    live.kill()
    live.start()
    assert live.exec(container, "cat", "/model/file").stdout == b"in use"
    live.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert not same(live, before)


# --- told ---------------------------------------------------------------------------------------------------


def test_it_is_listed_and_found_like_an_image(live: Live, model: str) -> None:
    found = status(live, model)
    assert found is not None
    assert list(found.repo_tags) == [model]
    assert list(found.repo_digests) == [f"{model.rpartition(':')[0]}@{MODEL.digest}"]
    assert found.size >= sum(len(data) for _, data in CONTENT)
    for name in (MODEL.digest, MODEL.digest[7:], MODEL.digest[7:19], found.repo_digests[0]):
        assert status(live, name) == found
    listed = live.images.ListImages(cri.ListImagesRequest()).images
    assert [image for image in listed if image.id == found.id] == [found]
    request = cri.ImageStatusRequest(image=cri.ImageSpec(image=model), verbose=True)
    info = json.loads(live.images.ImageStatus(request).info["info"])
    assert info["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert info["manifest"] == json.loads(MODEL.manifest)


def test_the_list_for_people_says_which_are_artifacts(live: Live, model: str) -> None:
    rows = {row.split()[0]: row for row in command(live, "images").splitlines()}
    assert rows[model.rpartition(":")[0]].endswith("artifact")
    assert not rows["localhost/box"].endswith("artifact")


# --- pulled -------------------------------------------------------------------------------------------------


def test_a_pull_again_and_after_a_restart_fetches_nothing(live: Live, model: str) -> None:
    (layer,) = live.own.root.glob("layers/*/fs/weights")
    before = layer.parents[1].stat().st_ctime_ns
    assert pull(live, model) == MODEL.digest
    live.kill()
    live.start()
    assert pull(live, model) == MODEL.digest
    assert layer.parents[1].stat().st_ctime_ns == before


def test_an_archive_of_an_artifact_is_imported(live: Live, tmp_path: Path) -> None:
    one = images.artifact([("a/file", b"from an archive")])
    archive = tmp_path / "artifact.tar"
    archive.write_bytes(images.oci_layout({"localhost/thing:1": one}))
    command(live, "import", str(archive))
    found = status(live, "localhost/thing:1")
    assert found is not None and found.id == one.digest
    container = live.started(live.pod(), mounts=[shown("localhost/thing:1")])
    assert live.exec(container, "cat", "/model/a/file").stdout == b"from an archive"
    remove(live, "localhost/thing:1")


@pytest.mark.parametrize("damage", ["cut", "longer", "other", "gone"])
def test_a_registry_with_a_damaged_blob_leaves_nothing(live: Live, tmp_path: Path, damage: str) -> None:
    one = images.artifact([("good", b"good" * 1000), (damage, damage.encode() * 200_000)])
    digest = next(each["digest"] for each in json.loads(one.manifest)["layers"] if each["size"] != 4000)
    with running_registry(tmp_path) as registry:
        registry.push("lab/damaged", one, "1")
        hex = digest.removeprefix("sha256:")
        blob = tmp_path / "storage/docker/registry/v2/blobs/sha256" / hex[:2] / hex / "data"
        data = blob.read_bytes()
        match damage:
            case "cut":
                blob.write_bytes(data[:-1000])
            case "longer":
                blob.write_bytes(data + b"x")
            case "other":
                blob.write_bytes(data[:-1] + b"!")
            case "gone":
                blob.unlink()
        before = left(live)
        code, words = refusal(lambda: pull(live, f"{registry.address}/lab/damaged:1"))
        assert code in ("INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN", "UNAVAILABLE"), words
        assert digest in words, words
        assert status(live, f"{registry.address}/lab/damaged:1") is None
        blob.write_bytes(data)
        assert pull(live, f"{registry.address}/lab/damaged:1") == one.digest
        remove(live, one.digest)
        assert not same(live, before)


@pytest.mark.parametrize(
    "title", ["../../../../etc/sampan-was-here", "/etc/sampan-was-here", "a/../../b", ".wh.x", "a\nb", "a/"]
)
def test_a_hostile_name_is_refused_and_leaves_nothing(live: Live, push_image: PushImage, title: str) -> None:
    name = push_image("artifacts/hostile", images.artifact([(title, b"x"), ("good", b"y")]))
    before = left(live)
    code, words = refusal(lambda: pull(live, name))
    assert code == "INVALID_ARGUMENT" and "is called" in words
    assert not Path("/etc/sampan-was-here").exists()
    assert not same(live, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mediaType": images.LAYER + "+gzip+encrypted"}, "is encrypted"),
        ({"mediaType": images.LAYER.replace("layer", "layer.nondistributable")}, "is foreign"),
    ],
)
def test_layers_that_cannot_be_had_are_refused_with_what_to_do(
    live: Live, registry: images.Registry, change: dict[str, Any], words: str
) -> None:
    one = images.image([images.layer([Entry("file")])])
    body = json.loads(one.manifest)
    body["layers"][0] |= change
    changed = images.Image(one.blobs, images.dump(body))
    registry.push("artifacts/refused", changed, "1")
    code, said = refusal(lambda: pull(live, f"{registry.address}/artifacts/refused:1"))
    assert code == "INVALID_ARGUMENT" and words in said
