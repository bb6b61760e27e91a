"""What every `Network` does, the real one and the fake."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_asyncio

from sampan.model.errors import Invalid, Unavailable
from sampan.runtime.ports import Attachment, Network
from tests.fakes import FakeNetwork, World
from tests.host.cni.lab import Lab, attached


@dataclass
class Case:
    """A network, how to take its configuration away, and a pod to attach."""

    network: Network
    world: World | None = None
    lab: Lab | None = None

    def unconfigure(self) -> None:
        if self.world:
            self.world.network_ready = False
        if self.lab:
            (self.lab.conf_dir / "10-test.conflist").unlink()

    def pod(self, conflist: bytes) -> Attachment:
        if self.lab:
            return self.lab.pod(conflist)
        return Attachment("a" * 64, "/run/netns/a", "web-0", "default", "u-1", conflist)


@pytest_asyncio.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
async def case(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Case]:
    if request.param == "fake":
        world = World()
        yield Case(FakeNetwork(world), world=world)
        return
    lab = Lab(short_tmp)
    try:
        lab.write(lab.conf())
        yield Case(lab.network(), lab=lab)
    finally:
        await lab.close()


async def test_a_pod_gets_addresses(case: Case) -> None:
    pod = case.pod(await case.network.load())
    outcome = await case.network.attach(pod)
    assert outcome.ips
    assert all(ip_address(address) for address in outcome.ips)
    assert outcome.result
    await case.network.detach(attached(pod, outcome))


async def test_detaching_twice_is_fine(case: Case) -> None:
    pod = case.pod(await case.network.load())
    pod = attached(pod, await case.network.attach(pod))
    await case.network.detach(pod)
    await case.network.detach(pod)


async def test_detaching_what_was_never_attached_is_fine(case: Case) -> None:
    await case.network.detach(case.pod(await case.network.load()))


async def test_a_configured_network_is_ready(case: Case) -> None:
    status = await case.network.status()
    assert status.ready


async def test_without_a_configuration_it_is_not_ready_and_says_why(case: Case) -> None:
    case.unconfigure()
    status = await case.network.status()
    assert not status.ready
    assert status.reason == "NetworkPluginNotReady"
    assert "no " in status.message
    with pytest.raises(Unavailable, match="no "):
        await case.network.load()


async def test_what_is_used_is_told(case: Case) -> None:
    details = await case.network.details()
    assert details.conflist and details.file and not details.problem
    assert details.conf_dir and details.bin_dirs
    case.unconfigure()
    details = await case.network.details()
    assert (details.conflist, details.file) == (b"", "") and "no " in details.problem


async def test_pod_cidrs_are_address_ranges(case: Case) -> None:
    await case.network.pod_cidrs(["10.88.0.0/16", "fd00:88::/64"])
    with pytest.raises(Invalid, match="pod CIDR"):
        await case.network.pod_cidrs(["10.88.0.0/16", "everything"])
