"""The network that is written from a template, once the node's pod CIDRs are known."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host.cni.conf_template import FILE
from sampan.host.cni.network import CniNetwork
from sampan.model.errors import Invalid, Unavailable

TEMPLATE = """{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "ipam": {"type": "host-local",
"ranges": [{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}]}}]}"""
OTHER = b'{"cniVersion": "1.0.0", "name": "theirs", "type": "bridge"}'


class Site:
    def __init__(self, root: Path) -> None:
        self.conf_dir, self.template = root / "cni" / "net.d", root / "template"
        self.template.write_text(TEMPLATE)
        self.network = CniNetwork(self.conf_dir, [root], template=str(self.template))

    def written(self) -> list[str]:
        return sorted(file.name for file in self.conf_dir.glob("*")) if self.conf_dir.is_dir() else []

    def ranges(self) -> list[str]:
        plugins = json.loads((self.conf_dir / FILE).read_bytes())["plugins"]
        return [one[0]["subnet"] for one in plugins[0]["ipam"]["ranges"]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    await made.network.close()


async def test_both_families_are_put_in_and_the_network_is_ready(site: Site) -> None:
    assert not (await site.network.status()).ready
    await site.network.pod_cidrs(["10.88.0.0/16", "fd00:88::/64"])
    assert site.ranges() == ["10.88.0.0/16", "fd00:88::/64"]
    assert site.written() == [FILE] and (site.conf_dir / FILE).stat().st_mode & 0o777 == 0o644
    assert (await site.network.status()).ready
    assert (await site.network.details()).file == FILE


async def test_neither_its_content_nor_its_name_is_lost_in_a_power_cut(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").readlink().name, site.written()))

    monkeypatch.setattr(os, "fsync", sync)
    await site.network.pod_cidrs(["10.88.0.0/16"])
    partial = f".{FILE}.partial"
    assert synced == [(partial, [partial]), ("net.d", [FILE])]


async def test_a_network_that_is_there_is_left_alone(site: Site) -> None:
    site.conf_dir.mkdir(parents=True)
    (site.conf_dir / "90-theirs.conf").write_bytes(OTHER)
    await site.network.pod_cidrs(["10.88.0.0/16"])
    assert site.written() == ["90-theirs.conf"]


async def test_told_again_it_stays_as_it_was_written(site: Site) -> None:
    await site.network.pod_cidrs(["10.88.0.0/16"])
    await site.network.pod_cidrs(["10.99.0.0/16"])
    assert site.ranges() == ["10.88.0.0/16"]


async def test_a_broken_configuration_is_no_network(site: Site) -> None:
    site.conf_dir.mkdir(parents=True)
    (site.conf_dir / FILE).write_text("{")
    await site.network.pod_cidrs(["10.88.0.0/16"])
    assert site.ranges() == ["10.88.0.0/16"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.Nope}}", r"makes no network: line 1: there is no \.Nope"),
        ("{}", "makes no network: the network's name"),
        (None, "cannot be read: No such file"),
    ],
)
async def test_a_template_that_is_no_good_writes_nothing(
    site: Site, template: str | None, words: str
) -> None:
    if template is None:
        site.template.unlink()
    else:
        site.template.write_text(template)
    with pytest.raises(Unavailable, match=words):
        await site.network.pod_cidrs(["10.88.0.0/16"])
    assert site.written() == []


async def test_what_is_no_range_writes_nothing(site: Site) -> None:
    with pytest.raises(Invalid, match=r"'10\.88' is no address range"):
        await site.network.pod_cidrs(["10.88"])
    assert site.written() == []


async def test_without_a_template_there_is_nothing_to_write(tmp_path: Path) -> None:
    network = CniNetwork(tmp_path / "net.d", [tmp_path])
    await network.pod_cidrs(["10.88.0.0/16"])
    with pytest.raises(Invalid, match="no address range"):  # bad input it is all the same
        await network.pod_cidrs(["10.88"])
    await network.close()
    assert not (tmp_path / "net.d").exists()
