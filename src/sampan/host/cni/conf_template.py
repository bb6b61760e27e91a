"""Writes the CNI configuration that an operator's template makes of the node's pod CIDR. Blocking; for threads."""

import os
from collections.abc import Mapping
from pathlib import Path

from sampan.model.errors import Invalid, Unavailable
from sampan.tasks import step_now
from sampan.wire import cni, cni_template

FILE = "10-sampan.conflist"
_MODE = 0o644


def write(template: Path, directory: Path, variables: Mapping[str, cni_template.Value]) -> Path:
    """Write FILE in `directory`, whole or not at all. Unavailable, and nothing is written, if the template cannot be
    read or what it makes is no network configuration."""
    try:
        text = template.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise Unavailable(f"cni.conf_template {template} cannot be read: {why}") from None
    try:
        made = cni_template.render(text, variables).encode()
        cni.parse(made)
    except Invalid as error:
        raise Unavailable(f"cni.conf_template {template} makes no network: {error}") from None
    directory.mkdir(parents=True, exist_ok=True)
    final, partial = directory / FILE, directory / f".{FILE}.partial"  # not a suffix that is read
    step_now("cni.conf.write", str(final))
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    with open(fd, "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(made)
        file.flush()
        os.fsync(fd)
    partial.rename(final)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # or a power cut takes the name back, and the kubelet does not tell again
    finally:
        os.close(folder)
    return final
