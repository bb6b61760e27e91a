"""Layers read again, in memory: the port `LayerTars` over `FakeLayers`."""

from collections.abc import AsyncGenerator, Sequence

from sampan.model.errors import Invalid, Lost, NotFound
from sampan.runtime.image_ports import LayerTar, Verdict
from tests.fake_layers import FakeLayers, sha256


class FakeLayerTars:
    """`damage` says what is wrong with a layer, `unknown` why one cannot be rebuilt, both by chain id."""

    def __init__(self, layers: FakeLayers) -> None:
        self._layers = layers
        self.damage: dict[str, tuple[str, ...]] = {}
        self.unknown: dict[str, str] = {}
        self.verified: list[str] = []

    async def describe(self, chain_id: str) -> LayerTar:
        if chain_id in self.unknown:
            raise Invalid(f"layer {chain_id} cannot be written again: {self.unknown[chain_id]}")
        plain = self._plain(chain_id)
        return LayerTar(sha256(plain), len(plain))

    async def tar(self, chain: Sequence[str]) -> AsyncGenerator[bytes, None]:
        plain = self._plain(chain[-1])
        for start in range(0, len(plain), 10_000):
            yield plain[start : start + 10_000]
        if self.damage.get(chain[-1]):
            raise Lost(f"layer {chain[-1]} is damaged")

    async def verify(self, chain: Sequence[str]) -> Verdict:
        self._plain(chain[-1])
        self.verified.append(chain[-1])
        return Verdict(chain[-1], self.damage.get(chain[-1], ()), self.unknown.get(chain[-1], ""))

    async def condemn(self, chain_id: str) -> None:
        if self._layers.has(chain_id):
            self._layers.lost.add(chain_id)
            self.damage.pop(chain_id, None)

    def _plain(self, chain_id: str) -> bytes:
        if not self._layers.has(chain_id):
            raise NotFound(f"layer {chain_id} is not in the store")
        return self._layers.plain[chain_id]
