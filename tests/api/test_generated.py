"""The committed generated code is what the .proto files give, and the runtime dependencies can run it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "src/sampan/api"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    subprocess.run([ROOT / "scripts/proto.sh", str(out)], check=True, capture_output=True)
    return out / "sampan/api"


def test_regenerating_changes_nothing(regenerated: Path) -> None:
    """If this fails: `make proto`, and look at the diff."""
    new = {path.name: path.read_bytes() for path in regenerated.iterdir()}
    old = {path.name: path.read_bytes() for path in API.glob("*_pb2*")}
    assert sorted(new) == sorted(old)
    assert [name for name in new if new[name] != old[name]] == []


def test_every_proto_has_its_code(regenerated: Path) -> None:
    protos = {path.stem for path in API.glob("*.proto")}
    assert protos
    assert {path.name.removesuffix("_pb2.py") for path in regenerated.glob("*_pb2.py")} == protos


@pytest.mark.parametrize(
    ("package", "file", "pattern"),
    [
        ("protobuf", "cri_pb2.py", r"# Protobuf Python Version: ([\d.]+)"),
        ("grpcio", "cri_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
    ],
)
def test_the_dependency_floor_can_run_the_generated_code(package: str, file: str, pattern: str) -> None:
    """Generated code refuses a runtime older than its generator, so the floor is the generator's version."""
    found = re.search(pattern, (API / file).read_text())
    assert found
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"{package}>={found[1]}" in [line.split(",")[0] for line in wanted]
