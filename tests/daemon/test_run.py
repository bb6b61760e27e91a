"""`sampan run` and `sampan exec` of what cannot be run: said as a shell would say it."""

import subprocess
import sys
from pathlib import Path

import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import IMAGE, Live

pytestmark = pytest.mark.root


def sampan(daemon: Live, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "sampan", "--endpoint", daemon.own.endpoint, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_that_is_not_there_is_127_and_one_that_cannot_be_run_126(
    daemon: Live, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("no program")
    for program, code in (("nonsense", 127), ("/no/such", 127), ("/x/plain", 126), ("/tmp", 126)):
        ran = sampan(daemon, "run", "-v", f"{tmp_path}:/x", IMAGE, program)
        assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
        assert ran.stderr.startswith("sampan: ") and len(ran.stderr) < 200 and "conmon" not in ran.stderr
    assert not daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    container = daemon.started(daemon.pod())
    ran = sampan(daemon, "exec", container, "nonsense")
    assert (ran.returncode, "nonsense" in ran.stderr, "command:" in ran.stderr) == (127, True, False)
    assert sampan(daemon, "run", "--rm", IMAGE, "sh", "-c", "exit 127").returncode == 127


def test_a_pod_that_cannot_be_made_leaves_no_log_directory(daemon: Live) -> None:
    first = sampan(daemon, "run", "-d", "-p", "127.0.0.1:18087:80", IMAGE, "sleep", "1000")
    assert first.returncode == 0, first.stderr
    logs = list((daemon.own.root / "logs").iterdir())
    ran = sampan(daemon, "run", "-d", "-p", "127.0.0.1:18087:80", IMAGE, "sleep", "1000")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "18087" in ran.stderr
    assert list((daemon.own.root / "logs").iterdir()) == logs
