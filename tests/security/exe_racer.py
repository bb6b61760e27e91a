"""Runs inside a container, on the host's Python: the attack of CVE-2019-5736 as far as it can be shown without harm.

It looks at every process that appears, keeps what that executes open, and tries to open it for writing as soon as it is
executed no more. It writes nothing there; whatever it could open is told in /tmp/found as JSON:
`{"met": processes of others, "held": {"device inode": [errors of opening it for writing, 0 if that went]}}`.
"""

import contextlib
import json
import os
from collections import OrderedDict

MOST = 64  # held at a time


def main() -> None:
    me = os.getpid()
    held: OrderedDict[int, tuple[int, int]] = OrderedDict()
    seen: set[int] = set()
    answers: dict[tuple[int, int], set[int]] = {}
    while True:
        for name in os.listdir("/proc"):  # noqa: PTH208 - names alone, as fast as can be
            if not name.isdigit() or int(name) == me:
                continue
            new = int(name) not in seen
            seen.add(int(name))
            with contextlib.suppress(OSError):
                descriptor = os.open(f"/proc/{name}/exe", os.O_RDONLY)
                found = os.fstat(descriptor)
                held[descriptor] = (found.st_dev, found.st_ino)
                answers.setdefault(held[descriptor], set())
            while len(held) > MOST:
                os.close(held.popitem(last=False)[0])
            if new:
                tell(len(seen), answers)
        for descriptor, kind in held.items():
            answers[kind].add(error_of_writing(descriptor))


def error_of_writing(descriptor: int) -> int:
    try:
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY))
    except OSError as error:
        return error.errno or -1
    return 0


def tell(met: int, answers: dict[tuple[int, int], set[int]]) -> None:
    held = {f"{device} {inode}": sorted(errors) for (device, inode), errors in answers.items()}
    with open("/tmp/.found", "w") as file:  # noqa: PTH123 - in the container, nothing is imported that need not be
        json.dump({"met": met, "held": held}, file)
    os.rename("/tmp/.found", "/tmp/found")  # noqa: PTH104 - the same


if __name__ == "__main__":
    main()
