"""A recipe on disk, to be read (`wire.tar_recipe` says what is in it). Blocking; for the rebuilding child."""

import os
from collections.abc import Iterator

from isal.igzip_lib import COMP_DEFLATE, IsalError, decompress

from sampan.model.errors import Invalid
from sampan.wire import recipe_notes, tar
from sampan.wire.layer_state import Notes
from sampan.wire.recipe_notes import numbered, unframed
from sampan.wire.tar_recipe import END, FRAME, GONE, LITERAL, MAGIC, NOTES, SECOND, Recorded, has_content
from sampan.wire.tar_source import Source


class Recipe:
    """An open recipe; `size` is the whole tar's. Raises Invalid if it is damaged."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.notes = Notes()
        self.size = -1
        self._literals: list[tuple[int, int, int]] = []  # (offset, size as stored, size as such)
        self._scan()

    def _scan(self) -> None:
        end = os.fstat(self.fd).st_size
        if os.pread(self.fd, len(MAGIC), 0) != MAGIC:
            raise Invalid("the recipe of the layer is damaged, or of a later version")
        at, first = len(MAGIC), 0
        while at < end:
            kind, stored, size = unframed(os.pread(self.fd, FRAME.size, at))
            at += FRAME.size
            if at + stored > end:
                raise Invalid("the recipe of the layer is cut short")
            if kind == LITERAL:
                self._literals.append((at, stored, size))
            elif kind == NOTES:
                for note in recipe_notes.notes(os.pread(self.fd, stored, at), first):
                    self.notes.add(note)
            elif kind == SECOND:
                self.notes.second = first = numbered(os.pread(self.fd, stored, at))
            elif kind == END:
                self.size = numbered(os.pread(self.fd, stored, at))
            else:
                assert kind == GONE  # found by the notes
            at += stored
        if self.size < 0:
            raise Invalid("the recipe of the layer is cut short")

    def literals(self) -> Iterator[bytes]:
        """All bytes of the tar that are no content."""
        for at, stored, size in self._literals:
            try:
                data: bytes = decompress(os.pread(self.fd, stored, at), COMP_DEFLATE)
            except IsalError as error:  # type: ignore[misc]  # a class made in C, which its stub hides
                raise Invalid(f"the recipe of the layer is damaged: {error}") from error
            if len(data) != size:
                raise Invalid("the recipe of the layer is damaged")
            yield data

    def entries(self, passed: list[bytes] | None = None) -> Iterator[tuple[int, tar.Entry]]:
        """The entries of the tar, numbered. `passed` gets every byte that is no content, as it is passed."""
        source = Source(self.literals()) if passed is None else Recorded(self.literals(), passed.append)
        reader = tar.Reader(source)
        for number, entry in enumerate(reader):
            if has_content(entry):
                reader.data()  # it is not in the recipe: nothing to pass over
            yield number, entry
        if passed is not None:
            passed += [bytes(piece) for piece in source.rest()]
