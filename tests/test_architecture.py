"""The rules of the code base that a tool can check. Each says what to do when it fails."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/sampan"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name)
TESTS = ROOT / "tests"
FILE_LINES = 400
FUNCTION_LINES = 40

# One file each may do what all others must ask it for.
SPAWNER = {"host/process.py", "host/oci/adopter.py"}  # the second is a program of its own
SYSCALLS = {"host/syscalls.py"}
THREADS = {"host/threads.py"}
TASKS = {"tasks.py"}

SPAWNING_CALLS = {
    *("fork", "forkpty", "posix_spawn", "posix_spawnp", "popen", "system"),
    *("execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "execlpe"),
    *("spawnl", "spawnle", "spawnlp", "spawnlpe", "spawnv", "spawnve", "spawnvp", "spawnvpe"),
    *("create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell"),
}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


TREES = {name(path): ast.parse(path.read_text()) for path in SOURCES}


def imports(tree: ast.AST) -> Iterator[str]:
    """The top names of all modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(last name of what is called, line) for every call, and for every name imported as if it were one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target = node.func
            if isinstance(target, ast.Attribute | ast.Name):
                yield target.attr if isinstance(target, ast.Attribute) else target.id, node.lineno


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 20


def test_the_import_contracts_are_kept() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_outgrows_its_budget() -> None:
    """Find the second concept in it and give that a file of its own."""
    long = {
        name(path): count for path in SOURCES if (count := len(path.read_text().splitlines())) > FILE_LINES
    }
    assert not long


def test_no_function_outgrows_its_budget() -> None:
    """A page must show all of it; the docstring does not count."""
    long = {
        f"{file}:{node.name}": lines
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := length(node)) > FUNCTION_LINES
    }
    assert not long


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None and first.end_lineno:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_one_file_starts_processes() -> None:
    """Ask host.process for it: it knows sessions, cancellation, limits and the environment."""
    spawning = {
        file for file, tree in TREES.items() if {"subprocess", "multiprocessing", "pty"} & set(imports(tree))
    }
    spawning |= {f for f, tree in TREES.items() if any(call in SPAWNING_CALLS for call, _ in calls(tree))}
    assert spawning <= SPAWNER


def test_one_file_calls_the_kernel_by_ctypes() -> None:
    assert {file for file, tree in TREES.items() if {"ctypes", "cffi"} & set(imports(tree))} <= SYSCALLS


def test_threads_start_where_blocking_work_is_confined() -> None:
    """Ask host.threads: it knows which pool is for what, and which work needs a thread of its own."""
    starters = {
        "Thread",
        "Timer",
        "ThreadPoolExecutor",
        "ProcessPoolExecutor",
        "to_thread",
        "run_in_executor",
    }
    starting = {file for file, tree in TREES.items() if any(call in starters for call, _ in calls(tree))}
    assert {file for file in starting if not file.startswith("store/")} <= THREADS


def test_every_task_has_an_owner() -> None:
    """`tasks.Tasks.start` names, owns and logs it; a bare task can fail in silence."""
    bare = {f"{file}:{line}" for file, tree in TREES.items() if file not in TASKS for line in unowned(tree)}
    assert not bare


def unowned(tree: ast.AST) -> set[int]:
    """Lines that start a task which neither a TaskGroup owns nor the same function cancels in a `finally`."""
    started = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("create_task", "ensure_future")
        and ast.unparse(node.func.value) not in groups(tree)
    }
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return started - {line for function in functions for line in kept_lines(function)}


def groups(tree: ast.AST) -> set[str]:
    """The names of TaskGroups: `async with asyncio.TaskGroup() as name`."""
    items = [item for node in ast.walk(tree) if isinstance(node, ast.AsyncWith) for item in node.items]
    return {
        ast.unparse(item.optional_vars)
        for item in items
        if item.optional_vars is not None and "TaskGroup" in ast.unparse(item.context_expr)
    }


def kept_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    """Where it starts a task under a name that it cancels in a `finally`."""
    finals = [line for node in ast.walk(function) if isinstance(node, ast.Try) for line in node.finalbody]
    ended = "\n".join(ast.unparse(line) for line in finals)
    return {
        node.value.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and f"{ast.unparse(node.targets[0])}.cancel()" in ended
    }


def test_no_file_has_a_name_that_says_nothing() -> None:
    """Such a name means that the concept has not been found yet."""
    everything = [*SOURCES, *TESTS.rglob("*.py"), *(ROOT / "scripts").glob("*")]
    assert not [path for path in everything if path.stem in VAGUE_NAMES]


def test_package_files_are_empty() -> None:
    assert not [name(path) for path in SOURCES if path.name == "__init__.py" and path.read_text()]


def test_every_module_says_what_it_is() -> None:
    bare = [f for f, tree in TREES.items() if not f.endswith("__init__.py") and not ast.get_docstring(tree)]
    assert not bare


@pytest.mark.parametrize("package", sorted(path.name for path in PACKAGE.iterdir() if path.is_dir()))
def test_tests_mirror_the_sources(package: str) -> None:
    """tests/<package>/test_x.py tests src/sampan/<package>/x.py, or one part of it as test_x_part.py."""
    modules = {path.stem for path in (PACKAGE / package).rglob("*.py")} | {
        path.stem for path in (PACKAGE / package).rglob("*.proto")
    }
    modules |= {"cri_proto", "generated"} if package == "api" else set()
    strays = [
        str(path.relative_to(TESTS))
        for path in (TESTS / package).rglob("test_*.py")
        if not any(f"{path.stem.removeprefix('test_')}_".startswith(f"{module}_") for module in modules)
    ]
    assert not strays


def test_open_work_has_an_issue() -> None:
    """Write it as TODO(#12), so that somebody can find it."""
    marks = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*SOURCES, *(p for p in TESTS.rglob("*.py") if p != Path(__file__))]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#)", line)
    ]
    assert not marks


def test_only_the_command_line_prints() -> None:
    printing = {
        f"{file}:{line}"
        for file, tree in TREES.items()
        if not file.startswith("cli/")
        for call, line in calls(tree)
        if call in ("print", "pprint", "breakpoint")
    }
    assert not printing


def test_every_sub_package_is_a_package() -> None:
    """A folder without __init__.py would be left out of the wheel."""
    folders = {path.parent for path in SOURCES}
    assert not [name(folder) for folder in folders if not (folder / "__init__.py").exists()]
