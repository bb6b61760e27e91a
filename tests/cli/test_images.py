"""`pull`, `rmi`, `import`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as own
from sampan.cli import images
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import IMAGE_ID, FakeDaemon, Served


def test_pull_prints_the_id_and_nothing_else_where_there_is_no_terminal(
    sampan: Sampan, daemon: FakeDaemon
) -> None:
    ran = sampan("pull", "example.test/app:1")
    assert (ran.code, ran.out, ran.err) == (0, f"{IMAGE_ID}\n", "")
    assert daemon.requests(own.PullRequest) == [own.PullRequest(image="example.test/app:1")]
    assert "example.test/app:1" in daemon.images


def test_pull_goes_on_after_one_that_failed(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["Pull"] = (grpc.StatusCode.NOT_FOUND, "the registry has no app:9")
    ran = sampan("pull", "app:9", "app:8")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "sampan: the registry has no app:9\n" * 2


def test_pull_with_credentials(sampan: Sampan, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    sampan("pull", "--creds", "me:pass:word", "app")
    monkeypatch.setattr(images, "_terminal", lambda: True)
    monkeypatch.setattr("click.prompt", lambda text, **how: "typed" if how["hide_input"] else "shown")
    sampan("pull", "--creds", "me", "app")
    auths = [each.auth for each in daemon.requests(own.PullRequest) if isinstance(each, own.PullRequest)]
    assert auths == [
        cri.AuthConfig(username="me", password="pass:word"),
        cri.AuthConfig(username="me", password="typed"),
    ]


@pytest.mark.parametrize("creds", ["", ":pw", ":"])
def test_pull_with_credentials_of_nobody_is_2(sampan: Sampan, daemon: FakeDaemon, creds: str) -> None:
    ran = sampan("pull", "--creds", creds, "app")
    assert ran.code == 2 and "USER:PASSWORD" in ran.err
    assert daemon.requests(own.PullRequest) == []


def test_a_password_is_not_asked_for_where_there_is_no_terminal(served: Served) -> None:
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "pull", "--creds", "me", "app"]
    ran = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False
    )
    words = "--creds: there is no terminal to ask for the password on; give USER:PASSWORD"
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr and "Password" not in ran.stderr
    assert served.daemon.requests(own.PullRequest) == []


def test_an_interrupted_pull_says_that_the_daemon_goes_on(
    sampan: Sampan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Iterator[own.PullProgress]:
        yield own.PullProgress(layer="sha256:1", done=1, total=2)
        raise KeyboardInterrupt

    monkeypatch.setattr("sampan.cli.client.Client.stream", interrupted)
    ran = sampan("pull", "app")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.strip() == "sampan: the daemon goes on with the pull; ask again to see how far it is"


def test_pull_from_another_runtime_uses_the_plain_call(
    sampan: Sampan, short_tmp: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (short_tmp / "other").mkdir()
    other = Served(short_tmp / "other", with_own=False)
    try:
        ran = sampan("pull", "app", endpoint=other.endpoint)
        assert (ran.code, ran.out) == (0, f"{IMAGE_ID}\n")
        assert other.daemon.requests(cri.PullImageRequest) == [
            cri.PullImageRequest(image=cri.ImageSpec(image="app"))
        ]
    finally:
        other.stop()


def test_pull_draws_on_a_terminal_unless_it_is_to_be_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert type(images._progress("app", quiet=False)).__name__ == "PullProgress"
    assert type(images._progress("app", quiet=True)).__name__ == "nullcontext"


@pytest.mark.parametrize("word", ["app:1", "abab", IMAGE_ID, "sha256:ab"])
def test_rmi_by_name_and_by_id(sampan: Sampan, daemon: FakeDaemon, word: str) -> None:
    daemon.add_image("app:1")
    assert sampan("rmi", word).out.splitlines() == list(dict.fromkeys([word, "app:1"]))
    assert daemon.images == {}


def test_rmi_prints_what_was_given_first_and_then_what_else_went(sampan: Sampan, daemon: FakeDaemon) -> None:
    digest = f"docker.io/library/app@{IMAGE_ID}"
    image = daemon.add_image("app:1")
    image.repo_tags[:] = ["docker.io/library/other:2", "docker.io/library/app:1"]
    image.repo_digests[:] = [digest]
    ran = sampan("rmi", "app:1", "app:1")
    assert (ran.code, ran.out) == (0, f"app:1\ndocker.io/library/other:2\n{digest}\n")


def test_rmi_by_two_names_of_one_image_removes_it_once(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_image("app:1")
    daemon.add_image("app:2")
    ran = sampan("rmi", "app:1", "app:2")
    assert (ran.code, ran.out) == (0, "app:1\napp:2\n")
    assert len(daemon.requests(cri.RemoveImageRequest)) == 1


def test_rmi_asks_for_the_name_that_was_given(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_image("app:1")
    sampan("rmi", "app:1")
    assert daemon.requests(cri.RemoveImageRequest) == [
        cri.RemoveImageRequest(image=cri.ImageSpec(image="app:1"))
    ]


@pytest.mark.parametrize("word", ["nothing", "UPPER", "cd"])
def test_rmi_of_what_is_not_there_is_1(sampan: Sampan, daemon: FakeDaemon, word: str) -> None:
    daemon.add_image("app:1")
    ran = sampan("rmi", word)
    assert (ran.code, ran.err) == (1, f"sampan: there is no image {word}; `sampan images` lists them\n")


def test_import_sends_the_file_in_pieces(
    sampan: Sampan, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_CHUNK", 1000)
    archive = tmp_path / "app.tar"
    archive.write_bytes(bytes(range(256)) * 100)
    ran = sampan("import", str(archive))
    assert (ran.code, ran.out) == (0, f"{IMAGE_ID} docker.io/library/app:1\n")
    assert served.own.archives == [archive.read_bytes()]


def test_import_of_what_is_no_archive_on_standard_input_is_said(
    sampan: Sampan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"bad")))
    ran = sampan("import", "-")
    assert (ran.code, ran.err) == (1, "sampan: cannot import standard input: this is no image archive\n")


def test_import_of_what_is_no_archive_or_no_file_is_said(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"bad")
    ran = sampan("import", str(tmp_path / "bad"), str(tmp_path / "none"))
    assert ran.code == 1
    assert ran.err == (
        f"sampan: cannot import {tmp_path}/bad: this is no image archive\n"
        f"sampan: cannot read {tmp_path}/none: No such file or directory\n"
    )


def test_rmi_of_a_pinned_image_wants_force(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_image("app:1").pinned = True
    ran = sampan("rmi", "app:1")
    assert (ran.code, ran.out) == (1, "") and "pinned" in ran.err and "--force" in ran.err
    assert "app:1" in daemon.images
    assert sampan("rmi", "-f", "app:1").code == 0 and daemon.images == {}


def test_prune_says_what_went_and_how_many_bytes(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_image("app:1")
    assert sampan("prune").out == "removed 0 images, 0 B\n"
    line = f"{IMAGE_ID}  5.0 MiB  app:1\n"
    assert (
        sampan("prune", "--all", "--dry-run").out == f"{line}would remove 1 image, 5.0 MiB (5242880 bytes)\n"
    )
    assert sampan("prune", "-a").out == f"{line}removed 1 image, 5.0 MiB (5242880 bytes)\n"
    assert daemon.images == {}
    assert daemon.requests(own.PruneRequest) == [
        own.PruneRequest(), own.PruneRequest(all=True, dry_run=True), own.PruneRequest(all=True),
    ]  # fmt: skip


def test_prune_as_json(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_image("app:1")
    assert json.loads(sampan("prune", "-a", "--json").out)["images"][0]["bytes"] == str(5 << 20)
