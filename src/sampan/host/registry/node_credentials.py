"""The credentials of the node, for pulls that bring none: docker's config.json files, and the helpers they name.

Files are read when a registry asks who we are, so that no restart is needed and a pull of what everybody may have
does not depend on them. Nothing of them is kept. A file or helper that cannot be used makes the node have no
credentials there: the log says it once, and so does the error of a pull that would have needed them. What a file
says is `wire.docker_config`'s business.
"""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.host import owned
from sampan.host.process import run
from sampan.host.threads import in_thread
from sampan.model.errors import Invalid, SampanError, ToolFailed, Unavailable
from sampan.tasks import bounded
from sampan.wire import docker_config
from sampan.wire.credentials import Credentials, canonical
from sampan.wire.docker_config import DockerConfig

log = logging.getLogger("sampan.registry")

HELPER_SECONDS = 10.0
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Found:
    """What the node has for a repository: `source` says where from, `troubles` what could not be used."""

    credentials: Credentials | None = None
    source: str = ""
    troubles: tuple[str, ...] = ()


class NodeCredentials:
    """`files` in the order in which they are asked; those that are not there are fine."""

    def __init__(self, files: Sequence[Path], helper_seconds: float = HELPER_SECONDS) -> None:
        self._files = tuple(files)
        self._helper_seconds = helper_seconds
        self._environment = _environment()
        self._said: set[str] = set()

    async def find(self, *places: tuple[str, str]) -> Found:
        """The first credentials for one of these (domain, path), the most particular of a file. Never fails."""
        names = dict.fromkeys((canonical(domain), path) for domain, path in places)
        troubles: list[str] = []
        for file in self._files:
            try:
                config = await in_thread(self._read, file)
            except SampanError as error:
                troubles.append(str(error))
                continue
            if config is None:
                continue
            for domain, path in names:
                credentials, source = await self._in(config, domain, path, troubles)
                if credentials is not None:
                    return self._told(Found(credentials, source, tuple(troubles)))
        return self._told(Found(troubles=tuple(troubles)))

    async def _in(
        self, config: DockerConfig, domain: str, path: str, troubles: list[str]
    ) -> tuple[Credentials | None, str]:
        """The helper goes before the file's own secrets, as with docker, which leaves old ones there."""
        try:
            if name := config.helper(domain, path):
                whose = f"docker-credential-{name}, named by {config.what},"
                if found := await self._ask(name, domain, whose):
                    return found, f"docker-credential-{name} ({config.what})"
        except SampanError as error:
            troubles.append(str(error))
        try:
            return config.stored(domain, path), config.what
        except Invalid as error:
            troubles.append(str(error))
            return None, ""

    async def _ask(self, name: str, domain: str, whose: str) -> Credentials | None:
        """`docker-credential-NAME get`. The registry's name goes by stdin, the secret comes by stdout."""
        argv = (f"docker-credential-{name}", "get")
        question, limit = docker_config.question(domain), docker_config.ANSWER_LIMIT + 1
        try:
            async with bounded(self._helper_seconds, whose):
                done = await run(argv, stdin=question, env=self._environment, check=False, limit=limit)
        except (ToolFailed, OSError):
            raise Unavailable(f"{whose} cannot be run: is it installed, and in sampand's PATH?") from None
        return docker_config.answer(done.code, done.stdout, domain, whose)

    def _read(self, file: Path) -> DockerConfig | None:
        """Runs in a thread."""
        try:
            # No FIFO may hold us up.
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._check(os.fstat(descriptor), file)
                with os.fdopen(descriptor, "rb", closefd=False) as opened:
                    return docker_config.parse(opened.read(docker_config.FILE_LIMIT + 1), str(file))
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"{file} cannot be read: {error.strerror}") from None

    def _check(self, found: os.stat_result, file: Path) -> None:
        """Whoever writes the file chooses which programs we run. Whoever reads it has the secrets, but that harm is
        done: it is said, as ssh does, and the file is used, as docker does."""
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode):
            raise Invalid(f"{file} is not used: it is not a regular file")
        owned.check(found, str(file))
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            self._warn(
                f"{file} holds credentials and may be read by others (mode {mode:o}): chmod 600 {file}"
            )

    def _told(self, found: Found) -> Found:
        for trouble in found.troubles:
            self._warn(f"the node's credentials cannot all be used: {trouble}")
        return found

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)


def _environment() -> Mapping[str, str]:
    """What helpers get of the daemon's environment: PATH, for the programs they call; HOME, where they have their own
    settings (systemd gives its services none); and the proxies, for those that ask a cloud."""
    try:
        home = str(Path.home())
    except RuntimeError:  # no HOME, and no such user
        home = "/"
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, **proxies}
