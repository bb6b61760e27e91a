"""docs/cri-coverage.toml says what becomes of every field of every request, and names a test that proves it."""

from pathlib import Path

import pytest

from scripts import coverage_table as coverage

SECTIONS = coverage.load()
ROWS = [(f"{table}.{field}", row) for table, rows in SECTIONS.items() for field, row in rows.items()]


def test_every_field_of_every_request_has_a_row_and_no_row_is_stale() -> None:
    assert coverage.missing_and_stale(SECTIONS) == ([], [])


@pytest.mark.parametrize(("field", "row"), ROWS, ids=[field for field, _ in ROWS])
def test_the_tests_that_are_named_exist(field: str, row: coverage.Row) -> None:
    assert [test for test in row.tests if not coverage.exists(test, field)] == []
    assert row.tests or row.verdict == "section"
    assert len(row.words) > 3


@pytest.mark.parametrize(("field", "row"), [each for each in ROWS if each[1].verdict == "honoured"])
def test_a_field_that_acts_is_spoken_of_where_its_tests_are(field: str, row: coverage.Row) -> None:
    assert any(coverage.speaks(test, field) for test in row.tests)


def test_a_section_is_named_as_its_message() -> None:
    sections = {row.words for _, row in ROWS if row.verdict == "section"}
    requests = {method.input_type.name for method in coverage.methods()}
    assert sections == set(SECTIONS) - requests


def test_the_table_is_up_to_date() -> None:
    """`make coverage` makes it."""
    assert coverage.TABLE.read_text() == coverage.markdown(SECTIONS)


def test_a_forgotten_field_and_one_that_is_no_more_are_noticed() -> None:
    rows = {**SECTIONS["StopContainerRequest"], "gone": coverage.Row("ignored", "no such field")}
    del rows["timeout"]
    found = coverage.missing_and_stale({**SECTIONS, "StopContainerRequest": rows})
    assert found == (["StopContainerRequest.timeout"], ["StopContainerRequest.gone"])


def test_a_test_that_is_not_there_is_noticed() -> None:
    here = "tests/test_cri_coverage.py"
    assert coverage.exists(f"{here}::test_a_test_that_is_not_there_is_noticed", "x")
    assert not coverage.exists(f"{here}::test_nothing", "x") and not coverage.exists(
        "tests/gone.py::test_x", "x"
    )
    assert coverage.exists("golden:terminal", "CreateContainerRequest.config.tty")
    assert not coverage.exists("golden:terminal", "CreateContainerRequest.config.args")
    assert not coverage.exists("golden:terminal", "RunPodSandboxRequest.config.tty")


A_TEST = '''
TABLE = ["status.overhead"]
BESIDE = {"verbose": 1}

def helper(): return dict(filter=1)

@pytest.mark.parametrize("x", [cri.StopContainerRequest(timeout=1)])
def test_it(x, uid):
    """Uid, gid."""
    state = TABLE, x.label_selector, "name"  # id
    return cri.ContainerMetadata
'''


def test_a_test_speaks_of_what_it_says_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it.py").write_text(A_TEST)
    monkeypatch.setattr(coverage, "ROOT", tmp_path)
    coverage.functions.cache_clear()

    def speaks(field: str) -> bool:
        return coverage.speaks("it.py::test_it", field)

    assert speaks("StopContainerRequest.timeout") and speaks("ContainerFilter.label_selector")
    assert speaks("PodSandboxFilter.overhead")
    for field in ("verbose", "filter", "uid", "gid", "state", "id", "BESIDE", "helper"):
        assert not speaks(f"PodSandboxFilter.{field}"), field
    assert not speaks("ExecSyncRequest.timeout"), "of a request's own field it names the RPC too"
    assert speaks("CreateContainerRequest.config.metadata.name")
    assert not speaks("CreateContainerRequest.config.CDI_devices.name"), "of a common name, its message too"
    coverage.functions.cache_clear()
