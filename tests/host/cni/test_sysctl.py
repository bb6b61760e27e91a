"""Network sysctls, on files of the test's own."""

from pathlib import Path

import pytest

from sampan.host.cni import sysctl


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysctl, "ROOT", str(tmp_path))
    (tmp_path / "ip_forward").write_text("0\n")
    return tmp_path


def test_a_value_is_written(root: Path) -> None:
    sysctl.put("ip_forward", "1")
    assert (root / "ip_forward").read_text()[0] == "1"


def test_what_the_kernel_lacks_may_be_missing(root: Path) -> None:
    sysctl.put_if_there("absent", "1")
    assert not (root / "absent").exists()
    with pytest.raises(FileNotFoundError):
        sysctl.put("absent", "1")


def test_a_value_that_is_right_is_not_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only /proc/sys with the right values is good enough."""
    monkeypatch.setattr(sysctl, "put", lambda *_: pytest.fail("it was written"))
    sysctl.ensure("ip_forward", "0")


def test_a_value_that_is_wrong_is_written(root: Path) -> None:
    sysctl.ensure("ip_forward", "1")
    assert (root / "ip_forward").read_text()[0] == "1"
