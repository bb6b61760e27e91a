"""The command line as a person uses it: `sampan(...)` against a daemon in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sampan.cli.main import main
from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.fake_sessions import FakeSessions


@dataclass
class Ran:
    """How a command ended, and what it wrote; bytes that are no text as surrogates."""

    code: int
    out: str
    err: str


Sampan = Callable[..., Ran]


@pytest.fixture
def served(short_tmp: Path) -> Iterator[Served]:
    it = Served(short_tmp)
    yield it
    it.stop()


@pytest.fixture
def daemon(served: Served) -> FakeDaemon:
    return served.daemon


@pytest.fixture
def sessions(daemon: FakeDaemon) -> Iterator[FakeSessions]:
    """What serves the daemon's sessions."""
    it = daemon.sessions = FakeSessions()
    yield it
    it.stop()
    assert it.failures == []


@pytest.fixture
def sampan(served: Served, capfdbinary: pytest.CaptureFixture[bytes]) -> Sampan:
    """Run `sampan ARGS...` in this process against the fake daemon."""

    def run(*argv: str, endpoint: str | None = served.endpoint) -> Ran:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*(["--endpoint", endpoint] if endpoint else []), *argv])
        out, err = capfdbinary.readouterr()
        return Ran(int(str(ended.value.code)), out.decode(errors="surrogateescape"), err.decode())

    return run
