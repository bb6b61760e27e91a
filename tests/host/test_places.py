import os
import resource
import socket
from pathlib import Path

import pytest

from sampan.config import Paths
from sampan.host import places
from sampan.model.errors import AlreadyExists, Invalid


def test_places_are_private_and_one_daemons_at_a_time(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "root", tmp_path / "state")
    locks = places.claim(paths)
    assert {place.stat().st_mode & 0o777 for place in (paths.root, paths.state)} == {0o700}
    with pytest.raises(AlreadyExists, match="another sampand"):
        places.claim(paths)
    with pytest.raises(AlreadyExists, match="state"):
        places.claim(Paths(tmp_path / "other", paths.state))
    for lock in locks:
        os.close(lock)
    for lock in places.claim(paths):
        os.close(lock)


def test_a_file_where_a_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(Invalid, match="root"):
        places.claim(Paths(tmp_path / "root", tmp_path / "state"))


def test_a_dead_daemons_socket_is_cleared_and_a_live_ones_is_not(short_tmp: Path) -> None:
    path = short_tmp / "dir" / "s.sock"
    places.clear_socket(path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(AlreadyExists, match="in use"):
            places.clear_socket(path)
    places.clear_socket(path)
    assert not path.exists()


def test_something_else_in_the_sockets_place_is_left_alone(short_tmp: Path) -> None:
    (short_tmp / "s.sock").write_text("precious")
    with pytest.raises(Invalid, match="not a socket"):
        places.clear_socket(short_tmp / "s.sock")
    assert (short_tmp / "s.sock").read_text() == "precious"


def test_the_descriptor_limit_is_raised_and_what_it_was_is_told() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert places.raise_descriptor_limit() == (512, before[1])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
