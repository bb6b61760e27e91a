"""`config default` and `config check`."""

from pathlib import Path

from sampan.config import default_toml
from tests.cli.conftest import Sampan


def test_the_default_is_printed_and_is_right(sampan: Sampan, tmp_path: Path) -> None:
    ran = sampan("config", "default", endpoint=None)
    assert (ran.code, ran.out) == (0, default_toml())
    file = tmp_path / "config.toml"
    file.write_text(ran.out)
    assert sampan("config", "check", str(file), endpoint=None).out == f"{file}: nothing wrong with it\n"


def test_everything_wrong_is_said_with_1(sampan: Sampan, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('lsten = "x"\n[cni]\nbuiltin = 1\n')
    ran = sampan("config", "check", str(file), endpoint=None)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        f"sampan: {file}: 2 problems\n"
        "  unknown key `lsten`: did you mean `listen`?\n"
        "  cni.builtin = 1: must be true or false\n"
    )
