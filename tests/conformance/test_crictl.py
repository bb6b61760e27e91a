"""A pod's life as an operator drives it, with crictl."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.private_daemon import Daemon
from tests.conformance.conftest import BUSYBOX, tool

pytestmark = [pytest.mark.root, pytest.mark.limit(900)]  # the first to need it builds the suite's images

Crictl = Callable[..., str]


@pytest.fixture
def crictl(daemon: Daemon) -> Crictl:
    """Runs crictl with these arguments; its output."""
    program = tool("crictl")

    def run(*arguments: str | Path) -> str:
        argv = [
            program,
            "--runtime-endpoint",
            daemon.endpoint,
            "--image-endpoint",
            daemon.endpoint,
            *arguments,
        ]
        result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{arguments}: {result.stderr}\n{daemon.words()}"
        return result.stdout.strip()

    return run


def write(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_the_runtime_names_itself_and_is_ready(crictl: Crictl) -> None:
    assert "sampan" in crictl("version")
    conditions = {one["type"]: one["status"] for one in json.loads(crictl("info"))["status"]["conditions"]}
    assert {"RuntimeReady", "NetworkReady"} <= conditions.keys()
    assert all(conditions.values())


def test_a_pod_from_pull_to_removal(crictl: Crictl, short_tmp: Path) -> None:
    crictl("pull", BUSYBOX)
    assert BUSYBOX in json.loads(crictl("images", "--output", "json"))["images"][0]["repoTags"]
    pod_config = write(
        short_tmp / "pod.json",
        {
            "metadata": {"name": "crictl", "namespace": "conformance", "uid": "crictl-1"},
            "log_directory": str(short_tmp),
            "linux": {},
        },
    )
    config = write(
        short_tmp / "container.json",
        {
            "metadata": {"name": "main"},
            "image": {"image": BUSYBOX},
            "command": ["sh", "-c", "echo hello from $HOSTNAME; exec sleep 1000"],
            "log_path": "main.log",
            "linux": {},
        },
    )
    pod = crictl("runp", pod_config)
    try:
        container = crictl("create", pod, config, pod_config)
        crictl("start", container)
        assert json.loads(crictl("ps", "--output", "json"))["containers"][0]["id"] == container
        assert crictl("exec", "--sync", container, "echo", "done") == "done"
        assert "hello from" in crictl("logs", container)
        status = json.loads(crictl("inspectp", pod))["status"]
        assert status["network"]["ip"].startswith("10.75.")
        crictl("stop", "--timeout", "0", container)
        assert json.loads(crictl("inspect", container))["status"]["state"] == "CONTAINER_EXITED"
        crictl("rm", container)
    finally:
        crictl("stopp", pod)
        crictl("rmp", pod)
    assert pod not in crictl("pods", "--quiet")
