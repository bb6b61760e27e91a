"""Finding images by what people call them: ids, prefixes of ids, tags, digests. An index over the records,
rebuilt from them whenever they change; never a second truth.
"""

from collections.abc import Iterable

from sampan.model.errors import Invalid
from sampan.model.image import Image
from sampan.wire import reference
from sampan.wire.reference import Reference


class ImageIndex:
    """The images that may be found: those that are not removed."""

    def __init__(self) -> None:
        self._ids: dict[str, Image] = {}
        self._names: dict[str, Image] = {}  # by tag and by digest, both in full

    def rebuild(self, images: Iterable[Image]) -> None:
        """Forget everything, and know these."""
        self._ids = {image.id: image for image in images if not image.removed}
        self._names = {name: image for image in self._ids.values() for name in (*image.tags, *image.digests)}

    def find(self, text: str) -> Image | None:
        """The image that `text` names, None if there is none. Raises Invalid for an id prefix that several
        share.

        What could be a name or an id is a name first, as users of other runtimes expect.
        """
        id = reference.image_id(text)
        if id is not None:
            return self._ids.get(id)
        return self._by_name(text) or self._by_prefix(text)

    def named(self, wanted: Reference) -> Image | None:
        """The image with this tag or, where the reference has one, this digest."""
        return self._names.get(wanted.at(wanted.digest) if wanted.digest else wanted.tagged)

    def _by_name(self, text: str) -> Image | None:
        try:
            return self.named(reference.parse(text))
        except Invalid:
            return None  # not a name, so no image is called that

    def _by_prefix(self, text: str) -> Image | None:
        prefix = reference.id_prefix(text)
        if prefix is None:
            return None
        found = [image for id, image in self._ids.items() if id.startswith(prefix)]
        if len(found) > 1:
            raise Invalid(
                f"image id {text!r} is ambiguous: {len(found)} images begin with it; use more of the id"
            )
        return found[0] if found else None
