"""A registry in a thread of the tests, for whole daemons that pull what no honest registry would take in."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests import images
from tests.evil_registry import EvilRegistry, running


class Shelf:
    """`put` an image there, pull the reference that it gives."""

    def __init__(self, registry: EvilRegistry) -> None:
        self.registry = registry

    def put(self, name: str, image: images.Image, *above: bytes) -> str:
        """With `above`, indexes (the outermost first), the tag means the first of them."""
        manifests = [*above, image.manifest]
        self.registry.serve(image, name, tag="inner")
        for number, manifest in enumerate(manifests):
            self.registry.serve_manifest(manifest, name, "latest" if not number else f"inner{number}")
        return f"{self.registry.address}/{name}:latest"


@contextmanager
def opened() -> Iterator[Shelf]:
    """A shelf, as long as the block runs."""
    ready = threading.Event()
    found: list[tuple[Shelf, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with running() as registry:
            done = asyncio.Event()
            found.append((Shelf(registry), asyncio.get_running_loop(), done))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    shelf, loop, done = found[0]
    try:
        yield shelf
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
