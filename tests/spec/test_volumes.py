"""Which volumes of images there are: the VOLUMEs that count, and the images that may be mounted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import ImageVolumeMountFailed, Invalid
from sampan.model.image import ImageConfig
from sampan.spec import volumes


def request(*places: str) -> cri.ContainerConfig:
    return cri.ContainerConfig(mounts=[cri.Mount(container_path=place, host_path="/h") for place in places])


def image(*declared: str) -> ImageConfig:
    return ImageConfig(volumes=declared)


@pytest.mark.parametrize(
    ("declared", "mounted", "made"),
    [
        ((), (), ()),
        (("/data",), (), ("/data",)),
        (("/data/", "//data", "/./data"), (), ("/data",)),
        (("/a/b", "/c", "/a"), (), ("/a", "/c", "/a/b")),
        (("/data",), ("/data",), ()),
        (("/data",), ("/data/",), ()),
        (("/data/db",), ("/data",), ()),  # it would hide what the user keeps in /data
        (("/data",), ("/data/db",), ("/data",)),
        (("/data",), ("/database",), ("/data",)),
        (("/etc/hosts",), (), ()),
        (("/etc",), (), ("/etc",)),
        (("/sys/fs/cgroup", "/run"), (), ("/run",)),  # as images for systemd have it
        (("/proc", "/proc/sys", "/dev", "/dev/shm", "/sys"), (), ()),
        (("/development",), (), ("/development",)),
    ],
)
def test_volumes_that_the_request_does_not_cover_are_made(
    declared: tuple[str, ...], mounted: tuple[str, ...], made: tuple[str, ...]
) -> None:
    assert volumes.declared(image(*declared), request(*mounted)) == made


@pytest.mark.parametrize(
    "declared",
    [
        "/",
        "//",
        "/.",
        "",
        "data",
        "./data",
        "/../../../../canary",
        "/a/../b",
        "/a\n",
        "/a\0b",
        "/" + "a" * 5000,
    ],
)
def test_a1_no_volume_is_made_of(declared: str) -> None:
    with pytest.raises(Invalid, match="VOLUME"):
        volumes.declared(image("/fine", declared), request())


def test_an_image_with_ten_thousand_volumes_is_refused() -> None:
    with pytest.raises(Invalid, match="10000 VOLUMEs"):
        volumes.declared(image(*(f"/v{number}" for number in range(10_000))), request())


@given(
    st.lists(st.text(alphabet="/.ab\n", max_size=8), max_size=6),
    st.lists(st.sampled_from(["/a", "/b/a", "/b/"])),
)
def test_what_is_made_is_canonical_and_not_in_a_mount_of_the_request(
    declared: list[str], mounted: list[str]
) -> None:
    try:
        made = volumes.declared(image(*declared), request(*mounted))
    except Invalid:
        return
    for path in made:
        assert path.startswith("/") and path != "/" and not path.endswith("/")
        assert not {"", ".", ".."} & set(path.split("/")[1:])
        assert not any(path == place or path.startswith(place.rstrip("/") + "/") for place in mounted)


# --- images ---------------------------------------------------------------------------------------------------


def shown(**fields: Any) -> cri.Mount:
    usual: dict[str, Any] = {"container_path": "/m", "image": cri.ImageSpec(image="x"), "readonly": True}
    return cri.Mount(**(usual | fields))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"readonly": False}, Invalid, "readonly"),
        ({"host_path": "/h"}, Invalid, "both"),
        ({"propagation": cri.PROPAGATION_BIDIRECTIONAL}, Invalid, "PROPAGATION_PRIVATE"),
        ({"propagation": cri.PROPAGATION_HOST_TO_CONTAINER}, Invalid, "PROPAGATION_PRIVATE"),
        ({"image": cri.ImageSpec(image="x\n")}, Invalid, "control"),
        ({"image_sub_path": "a\nb"}, Invalid, "control"),
        ({"image_sub_path": "x" * 5000}, Invalid, "4096"),
        ({"image_sub_path": "../.."}, ImageVolumeMountFailed, "^ImageVolumeMountFailed: .*image_sub_path"),
        ({"image_sub_path": "a/../../.."}, ImageVolumeMountFailed, "goes up"),
        ({"image_sub_path": "/.."}, ImageVolumeMountFailed, "goes up"),
    ],
)
def test_a18_an_image_is_not_mounted_like_this(
    fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        volumes.check_image(shown(**fields), "mounts[0]")


@pytest.mark.parametrize("path", ["", ".", "a", "a/b", "/etc", "a..b", "..a"])
def test_an_image_may_be_mounted_with_this_sub_path(path: str) -> None:
    volumes.check_image(shown(image_sub_path=path), "mounts[0]")


def test_an_image_may_be_named_by_what_a_pull_returned() -> None:
    by_ref = cri.Mount(image=cri.ImageSpec(image_ref="sha256:1"))
    assert volumes.reference(by_ref) == "sha256:1"
    assert volumes.reference(shown(image=cri.ImageSpec(image="x", image_ref="sha256:1"))) == "x"
    assert not volumes.is_image(cri.Mount(host_path="/h"))


def test_images_are_numbered_as_in_the_request() -> None:
    config = cri.ContainerConfig(mounts=[cri.Mount(host_path="/h"), shown(), cri.Mount(), shown()])
    assert [number for number, _ in volumes.of_images(config)] == [1, 3]
