"""The machine as it is outside of all that is ours, to be compared before and after something hostile."""

import os
import re
import stat
import tempfile
from pathlib import Path

# Counters, random numbers, and what comes and goes with the interfaces of other tests.
LIVELY = re.compile(
    r"(fs/(dentry-state|inode-n|inode-state|file-nr|aio-nr|quota)|kernel/(random|ns_last_pid|pty/nr|seccomp|sched|keys)|"
    r"net/(ipv[46]/(conf|neigh|route)|netfilter/nf_conntrack_(count|max)|netfilter/nf_conntrack_buckets)|"
    r"vm/(drop|nr_|compact)|user/|dev/cdrom).*"
)
# Where tests and their daemons mount, this one's included: their own checks look after that.
PASSING = (tempfile.gettempdir(), "/run", "/var/lib", "/var/tmp", "/sys/fs/cgroup")
Facts = dict[str, object]


def sysctls() -> Facts:
    values: Facts = {}
    root = Path("/proc/sys")
    for directory, _, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            if not LIVELY.match(str(path.relative_to(root))):
                try:
                    values[str(path)] = path.read_text()
                except OSError:
                    continue
    return values


def devices() -> Facts:
    return {
        str(path): (found.st_mode, found.st_rdev, found.st_uid, found.st_gid)
        for path in Path("/dev").iterdir()
        if (found := path.lstat())
    }


def configuration() -> Facts:
    found: Facts = {}
    for directory, names, files in os.walk("/etc"):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20
            found[str(path)] = (
                *(status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_mtime_ns),
                path.read_bytes() if plain else b"",
            )
    return found


def mounts() -> Facts:
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {f"mount {line[4]}": line[2:4] for line in lines if not line[4].startswith(PASSING)}


def tops() -> Facts:
    return {f"/{name}": True for name in os.listdir("/")}  # noqa: PTH208 - names alone


def snapshot() -> Facts:
    """/proc/sys, /dev, all of /etc, the mount table, and the names in the root."""
    return sysctls() | devices() | configuration() | mounts() | tops()


def changes(before: Facts) -> dict[str, tuple[object, object]]:
    """What is not as it was."""
    now = snapshot()
    return {
        name: (before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }
