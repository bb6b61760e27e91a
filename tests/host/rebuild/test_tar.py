"""Every tar comes back byte for byte, and every layer that was unpacked is found whole, however odd its archive."""

from pathlib import Path

import pytest

from tests import rebuilds

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("what", "seeds", "least"),
    [("formats", range(120), 120), ("stacks", range(400), 1000), ("archives", range(100), 400)],
)
def test_a_layers_tar_is_rebuilt_as_it_was(tmp_path: Path, what: str, seeds: range, least: int) -> None:
    """PAX and GNU names, sparse files, hard links, odd padding, trailing data, entries that replace others, and parts
    that depend on the layers below."""
    count, wrong = rebuilds.failures(tmp_path, what, seeds)
    assert wrong == {}
    assert count >= least
