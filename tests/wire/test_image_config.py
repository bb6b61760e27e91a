"""Image configs: what is taken from them, what is dropped, what is refused."""

import hashlib
import json
from typing import Any

import pytest

from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.wire import image_config
from sampan.wire.manifest import Platform

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def config(process: Any = None, diff_ids: Any = (), **over: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": list(diff_ids) if isinstance(diff_ids, tuple) else diff_ids}
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "config": process, "rootfs": rootfs, **over}
    ).encode()


def test_everything_a_container_needs_is_taken() -> None:
    process = {
        "User": "1000:users",
        "Env": ["A=1", "B="],
        "Entrypoint": ["/init"],
        "Cmd": ["-v"],
        "WorkingDir": "/srv",
        "Volumes": {"/data": {}, "/log": {}},
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"a": "b"},
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["NONE"]},
    }
    found = image_config.parse(config(process, (A, B)), "it")
    assert found.config == ImageConfig(
        entrypoint=("/init",),
        cmd=("-v",),
        env=("A=1", "B="),
        working_dir="/srv",
        user="1000:users",
        volumes=("/data", "/log"),
        stop_signal="SIGQUIT",
        labels={"a": "b"},
        exposed_ports=("80/tcp",),
    )
    assert found.diff_ids == (A, B)
    assert found.platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    "process",
    [
        None,
        {},
        dict.fromkeys(("User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Volumes", "Labels", "StopSignal")),
    ],
)
def test_nothing_said_is_nothing_wanted(process: Any) -> None:
    assert image_config.parse(config(process), "it").config == ImageConfig()


def test_entries_that_are_no_variables_are_dropped() -> None:
    env = ["SECRET", "PATH*", "=x", "", "A\0B=1", "A=\0", "A=1", "B==", "C=a=b"]
    assert image_config.parse(config({"Env": env}), "it").config.env == ("A=1", "B==", "C=a=b")


def test_labels_are_kept_as_data_and_huge_ones_dropped() -> None:
    labels = {
        "containerd.io/restart.loguri": "binary:///x",
        "big": "x" * 4094,
        "fits": "x" * 4092,
        "é" * 2048: "x",
    }
    kept = image_config.parse(config({"Labels": labels}), "it").config.labels
    assert set(kept) == {"containerd.io/restart.loguri", "fits"}


@pytest.mark.parametrize("user", ["2147483648", "-1", " 1", "٣", "root\n", "a:b:c"])
def test_a_user_is_kept_as_it_is_and_judged_by_who_uses_it(user: str) -> None:
    assert image_config.parse(config({"User": user, "StopSignal": user}), "it").config.user == user


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}", "malformed"),
        (b"[]", "malformed"),
        (config(rootfs=None), "malformed"),
        (config(rootfs={"type": "partition", "diff_ids": []}), "not made of layers"),
        (config({"Env": "A=1"}), "malformed"),
        (config({"Env": [1]}), "malformed"),
        (config({"Cmd": "sh"}), "malformed"),
        (config({"Labels": {"a": 1}}), "malformed"),
        (config({"User": 0}), "malformed"),
        (config({"Cmd": ["a\0b"]}), "NUL"),
        (config({"Entrypoint": ["\0"]}), "NUL"),
        (config({"WorkingDir": "/\0"}), "NUL"),
        (config({"User": "\0"}), "NUL"),
        (config(diff_ids=("sha256:x",)), "malformed diff id"),
        (config(diff_ids=("sha512:" + "a" * 128,)), "malformed diff id"),
        (config(diff_ids=(A + "\n",)), "malformed diff id"),
        (config(diff_ids=(A,) * 501), "501 layers"),
        (config(diff_ids=[1]), "malformed"),
        (b" " * ((8 << 20) + 1), "larger than"),
    ],
)
def test_what_is_no_image_config_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        image_config.parse(data, "it")


def test_chain_ids_follow_the_image_spec() -> None:
    ab = "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    abc = "sha256:" + hashlib.sha256(f"{ab} {C}".encode()).hexdigest()
    assert image_config.chain_ids([A, B, C]) == (A, ab, abc)
    assert image_config.chain_ids([]) == ()


def test_the_same_layer_twice_makes_two_links_of_the_chain() -> None:
    assert len(set(image_config.chain_ids([A, A, A]))) == 3
