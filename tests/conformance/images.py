"""The images that critest pulls, built from Debian packages and pushed under their upstream names.

With `hosts.toml` files that send registry.k8s.io, k8s.gcr.io, gcr.io and docker.io to the loopback registry,
critest runs without any other network. What takes long to build is kept in the cache directory of `tools`.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.conformance import tools
from tests.images import PATH, Entry, Image, Registry, image, layer

UPSTREAM = ("registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io")
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n"
SHELL = {"Cmd": ["sh"], "Env": [PATH]}
TOOLS = "k8s-staging-cri-tools"

# Prints "Effective uid: N": a setuid binary that must not gain anything.
NONEWPRIVS = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", geteuid()); return 0; }
"""

PAUSE = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""

# `ipcs -m`, in the columns that critest reads: key, shmid, perms, bytes.
IPCS = r"""
#include <stdio.h>
int main(void) {
  FILE *f = fopen("/proc/sysvipc/shm", "r");
  char line[512]; long key, size; int id, mode;
  for (int n = 0; f && fgets(line, sizeof line, f); n++)
    if (n && sscanf(line, "%ld %d %o %ld", &key, &id, &mode, &size) == 4)
      printf("0x%08lx %d %o %ld\n", key, id, mode, size);
  return 0;
}
"""

# `pgrep NAME`: busybox's own also finds itself.
PGREP = r"""
#include <dirent.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
  DIR *proc = opendir("/proc"); struct dirent *e; int none = 1;
  while ((e = readdir(proc))) {
    char path[300], name[64]; FILE *f;
    if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
    snprintf(path, sizeof path, "/proc/%s/comm", e->d_name);
    if (!(f = fopen(path, "r"))) continue;
    if (fgets(name, sizeof name, f)) {
      name[strcspn(name, "\n")] = 0;
      if (strstr(name, argv[argc - 1]) && strcmp(name, "pgrep")) { puts(e->d_name); none = 0; }
    }
    fclose(f);
  }
  return none;
}
"""

NGINX = """\
daemon off; pid /var/run/nginx.pid; error_log /dev/stderr;
events {{}}
http {{ access_log /dev/stdout; server {{ listen {port}; root /usr/share/nginx/html; index index.html; }} }}
"""
PAGE = b"<html><body><h1>It works! Welcome to nginx!</h1></body></html>\n"


def run(argv: Sequence[str | Path], directory: str | Path = "/") -> bytes:
    """A build step's output; raises NoTools with its last words."""
    try:
        result = subprocess.run(
            argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise tools.NoTools(str(error)) from error
    if result.returncode:
        words = result.stderr.decode(errors="replace")[-2000:]
        raise tools.NoTools(f"{' '.join(map(str, argv))}: {words}")
    return result.stdout


@cache
def compiled(source: str) -> bytes:
    """A small static program."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "a.c").write_text(source)
        run(["gcc", "-O2", "-static", "-s", "-o", "a", "a.c"], directory)
        return Path(directory, "a").read_bytes()


@cache
def shared_busybox() -> Path:
    """Debian's dynamic busybox: its `sh` runs /bin/ls, where the static one would take its own applet."""
    kept = tools.cache() / "busybox"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as directory:
            Path(directory).chmod(0o755)  # apt drops its privileges to download
            run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "busybox"], directory)
            (package,) = Path(directory).glob("*.deb")
            run(["dpkg", "-x", package, "."], directory)
            (program,) = Path(directory).glob("**/bin/busybox")  # bin/ or, from Debian 13, usr/bin/
            shutil.copy(program, kept)
    return kept


def libraries() -> list[Path]:
    """What that busybox loads, under the paths it looks for."""
    words = run(["ldd", shared_busybox()]).decode().split()
    return sorted({Path(word) for word in words if word.startswith("/")})


def busybox(passwd: str = PASSWD, group: str = GROUP) -> bytes:
    """The layer that most images of the suite build upon."""
    binary = shared_busybox()
    applets = run([binary, "--list"]).decode().split()
    loaded = [Entry(str(path).lstrip("/"), data=path.read_bytes(), mode=0o755) for path in libraries()]
    folders = {str(parent) for entry in loaded for parent in Path(entry.path).parents} - {"."}
    folders |= {"bin", "etc", "home", "root", "usr", "usr/bin", "var", "var/www", "dev", "proc", "sys"}
    return layer(
        [
            *(Entry(folder, "dir") for folder in sorted(folders)),
            Entry("tmp", "dir", mode=0o1777),
            Entry("bin/busybox", data=binary.read_bytes(), mode=0o755),
            *(Entry(f"bin/{a}", "hardlink", link="bin/busybox") for a in applets if a not in OWN),
            *(
                Entry(f"bin/{name}", data=compiled(source), mode=0o755)
                for name, source in OWN.items()
                if source
            ),
            *loaded,
            Entry("etc/passwd", data=passwd.encode()),
            Entry("etc/group", data=group.encode()),
            Entry("etc/nsswitch.conf", data=b"hosts: files dns\n"),
        ]
    )


OWN = {"busybox": "", "pgrep": PGREP, "ipcs": IPCS}


def debian(name: str, packages: str) -> bytes:
    """A minimal Debian of the host's release with these packages, as a layer."""
    kept = tools.cache() / f"{name}.tar"
    if not kept.exists():
        release = dict(
            line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
        )
        made = kept.with_name(f"{name}.{os.getpid()}.tar")
        trimmed = "--dpkgopt=path-exclude=/usr/share/{doc,man,locale}/*"
        suite = release["VERSION_CODENAME"]
        run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", trimmed, suite, made])
        made.replace(kept)
    return kept.read_bytes()


def web(port: int) -> Image:
    """nginx on a port, with the tools that critest runs inside it."""
    binary = Path("/bin/busybox").read_bytes()
    program = {"grep": binary, "hostname": binary, "ipcs": compiled(IPCS)}
    own = [
        Entry("etc/nginx/nginx.conf", data=NGINX.format(port=port).encode()),
        Entry("usr/share/nginx/html/index.html", data=PAGE),
        *(Entry(f"usr/local/bin/{name}", data=data, mode=0o755) for name, data in program.items()),
    ]
    config = {
        "Cmd": ["sh", "-c", "echo starting httpd; exec nginx"],
        "ExposedPorts": {f"{port}/tcp": {}},
        "StopSignal": "SIGQUIT",
        "Env": [PATH],
    }
    return image([debian("nginx", "nginx,python3-minimal"), layer(own)], config)


def push_all(registry: Registry) -> None:
    """Every image of the suite. Minutes the first time, seconds later."""
    push, base = registry.push, busybox()
    plain = image([base], SHELL)
    push("e2e-test-images/busybox", plain, "1.29-2", "1.29-4", "1.37.0-1")
    push("library/busybox", plain, "latest", "1.28", "1.26", "1.36")
    for number, tags in (("3.9", ("3.9", "3.8", "3.6")), ("3.10", ("3.10", "3.10.1", "3.10.2", "latest"))):
        config = {"Entrypoint": ["/pause"], "User": "65535:65535", "Labels": {"tag": number}, "Env": [PATH]}
        push("pause", image([layer([Entry("pause", data=compiled(PAUSE), mode=0o755)])], config), *tags)
    setuid = layer([Entry("nnp", data=compiled(NONEWPRIVS), mode=0o4755)])
    push("e2e-test-images/nonewprivs", image([base, setuid], {"Entrypoint": ["/nnp"], "Env": [PATH]}), "1.3")
    push_variants(registry, base)
    push_web(registry)


def push_variants(registry: Registry, base: bytes) -> None:
    """The images that differ only in a file, a tag or a user."""

    def marked(word: str, config: Mapping[str, Any] = SHELL) -> Image:
        return image([base, layer([Entry(word, data=word.encode())])], config)

    push = registry.push
    for name in ("latest", "digest", "1", "2", "3"):
        push(f"{TOOLS}/test-image-{name}", marked(f"test-{name}"), "latest")
    push(f"{TOOLS}/test-image-tag", marked("test"), "test")
    push(f"{TOOLS}/test-image-tag", marked("all"), "all")
    push(f"{TOOLS}/test-image-tags", marked("tags"), "1", "2", "3")
    users = {
        "uid": "1002",
        "username": "www-data",
        "uid-group": "1003:users",
        "username-group": "www-data:100",
    }
    for name, user in users.items():
        push(f"{TOOLS}/test-image-user-{name}", marked(f"user-{name}", {"User": user, **SHELL}), "latest")
    groups = GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
    known = busybox(PASSWD + "default-user:x:1000:1000::/home/default-user:/bin/sh\n", groups)
    push(f"{TOOLS}/test-image-predefined-group", image([known], {"User": "1000", **SHELL}), "latest")


def push_web(registry: Registry) -> None:
    common = web(80)
    registry.push("e2e-test-images/nginx", common, "1.14-2", "1.14-4", "1.15-4")
    registry.push("library/nginx", common, "latest")
    registry.push("e2e-test-images/httpd", common, "2.4.39-4", "2.4.38-4")
    registry.push(f"{TOOLS}/hostnet-nginx-amd64", web(12003), "latest")
