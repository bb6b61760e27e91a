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


def test_the_policy_that_it_names_is_checked_too(sampan: Sampan, tmp_path: Path) -> None:
    file, policy = tmp_path / "config.toml", tmp_path / "policy.toml"
    file.write_text(f'[trust]\npolicy = "{policy}"\n')
    ran = sampan("config", "check", str(file), endpoint=None)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"sampan: trust.policy: {policy} cannot be read: No such file or directory\n"
    policy.write_text('default = "perhaps"\n')
    ran = sampan("config", "check", str(file), endpoint=None)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"sampan: {policy}: default must be one of accept, reject\n"
    policy.write_text('default = "reject"\n')
    assert sampan("config", "check", str(file), endpoint=None).out == f"{file}: nothing wrong with it\n"
