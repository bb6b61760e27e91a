"""The configuration: the names are a promise, and whatever is wrong in a file is said at once."""

import re
from pathlib import Path

import pytest

from sampan import config
from sampan.config import Config, ConfigInvalid, Handler, default_toml, load, loads
from sampan.model.errors import Invalid

DOCS = Path(__file__).parents[1] / "docs" / "configuration.md"

# The keys that are promised. A key may be added here, never renamed or removed.
PROMISED = [
    "root",
    "state",
    "listen",
    "log_level",
    "cgroup.driver",
    "cgroup.blockio_config",
    "cgroup.ignore_blockio_not_enabled",
    "cgroup.ignore_rdt_not_enabled",
    "trust.policy",
    "registry.config_paths",
    "registry.auth_files",
    "images.root",
    "images.keep_blobs",
    "images.pull_progress_timeout",
    "images.max_parallel_downloads",
    "images.pinned",
    "images.ignore_volumes",
    "images.slow_chown",
    "cni.conf_dir",
    "cni.bin_dirs",
    "cni.builtin",
    "cni.conf_template",
    "runtime.default_handler",
    "runtime.cdi_dirs",
    "runtime.device_ownership_from_security_context",
    "runtime.handlers.crun.path",
    "runtime.handlers.crun.monitor",
    "runtime.handlers.crun.args",
    "runtime.handlers.crun.root",
    "runtime.handlers.crun.privileged_without_host_devices",
    "runtime.handlers.crun.base_runtime_spec",
    "streaming.address",
    "streaming.port",
    "streaming.idle_timeout",
    "streaming.tls_cert",
    "streaming.tls_key",
    "streaming.tls_client_ca",
    "streaming.end_exec_with_client",
    "nri.enable",
    "nri.socket",
    "metrics.listen",
]


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        loads(text)
    return caught.value.problems


def at(key: str, value: str) -> str:
    """TOML that gives one dotted key."""
    section, _, name = key.rpartition(".")
    return f"[{section}]\n{name} = {value}" if section else f"{name} = {value}"


def test_without_a_file_everything_is_as_documented() -> None:
    it = load(None)
    assert it == Config()
    assert (it.root, it.state) == (Path("/var/lib/sampan"), Path("/run/sampan"))
    assert it.listen == "unix:///run/sampan/sampan.sock"
    assert it.socket == Path("/run/sampan/sampan.sock")
    assert it.registry.config_paths == (Path("/etc/sampan/certs.d"), Path("/etc/containerd/certs.d"))
    assert (it.images.pull_progress_timeout, it.images.max_parallel_downloads) == (300.0, 6)
    assert it.cni.bin_dirs == (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
    assert (it.streaming.address, it.streaming.port, it.streaming.idle_timeout) == ("127.0.0.1", 0, 14400.0)
    assert (it.nri.enable, it.nri.socket) == (True, Path("/var/run/nri/nri.sock"))


def test_the_default_text_describes_the_defaults() -> None:
    assert loads(default_toml()) == Config()


def test_every_key_of_the_default_text_is_explained() -> None:
    lines = default_toml().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+ = |\[", line)]
    assert len(keys) == len(PROMISED) + 10
    assert all(lines[number - 1].startswith("# ") for number in keys)


@pytest.mark.parametrize("key", PROMISED)
def test_a_promised_key_is_there(key: str) -> None:
    section, _, name = key.rpartition(".")
    block = (
        default_toml().split(f"[{section}]\n" if section else "# The configuration", 1)[1].split("\n[", 1)[0]
    )
    assert re.search(rf"^{name} = ", block, re.MULTILINE)


def test_the_manual_shows_the_default_text() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert default_toml() in blocks
    for block in blocks:
        loads(block)


@pytest.mark.parametrize("name", [*PROMISED, "--config", "--root", "--state", "--listen", "--log-level"])
def test_the_manual_names_every_key_and_flag(name: str) -> None:
    assert f"`{name.replace('handlers.crun', 'handlers.NAME')}`" in DOCS.read_text()


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('log_level = "debug"\n[images]\nkeep_blobs = true\npinned = ["a", "b"]\n')
    it = load(file)
    assert (it.log_level, it.images.keep_blobs, it.images.pinned) == ("debug", True, ("a", "b"))
    assert it.cni == Config().cni
    assert it.images.pull_progress_timeout == 300.0


def test_flags_win_over_the_file_and_those_not_given_do_not(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('root = "/srv/boats"\nstate = "/run/boats"\nlog_level = "error"')
    it = load(file, {"root": "/srv/other", "state": None, "listen": "unix:///run/b.sock", "log_level": None})
    assert (it.root, it.state, it.listen, it.log_level) == (
        Path("/srv/other"), Path("/run/boats"), "unix:///run/b.sock", "error",
    )  # fmt: skip
    assert it.paths == config.Paths(Path("/srv/other"), Path("/run/boats"))


def test_a_wrong_flag_is_reported_like_a_wrong_key() -> None:
    with pytest.raises(
        ConfigInvalid, match=r'log_level = "loud": must be one of debug, info, warning, error'
    ):
        load(None, {"log_level": "loud"})


def test_handlers_know_where_their_runtime_keeps_its_state() -> None:
    it = loads('state = "/run/boats"\n[runtime.handlers.kata]\npath = "/opt/kata/bin/kata-runtime"\n')
    assert it.handlers == {
        "crun": Handler("crun", "crun", "conmon", Path("/run/boats/runtime/crun")),
        "kata": Handler("kata", "/opt/kata/bin/kata-runtime", "conmon", Path("/run/boats/runtime/kata")),
    }
    assert it.default_handler.name == "crun"


def test_a_handler_has_what_its_table_says() -> None:
    it = loads(
        '[runtime.handlers.bare]\npath = "crun"\nargs = ["--rootless=false", "--x=y z"]\nroot = "/run/bare/x"\n'
        'privileged_without_host_devices = true\nbase_runtime_spec = "/etc/base.json"\n'
    )
    assert it.handlers["bare"] == Handler(
        "bare",
        "crun",
        "conmon",
        Path("/run/bare/x"),
        ("--rootless=false", "--x=y z"),
        "/etc/base.json",
        False,
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('args = ["debug"]', "must be options"),
        ('args = ["--root=/x"]', "--root is given by sampan"),
        ('args = ["--root", "/x"]', "--root is given by sampan"),
        ('args = ["--systemd-cgroup"]', "--systemd-cgroup is given by sampan"),
        ('args = ["--log=/x"]', "--log is given by sampan"),
        ('args = ["--debug"]', "would fill the logs of containers"),
        ("args = [1]", "must be a string"),
        ('root = "relative"', "must be an absolute path"),
        ('root = "/run/a b"', "white space"),
        ('root = "/run/sampan/runtime/crun"', "handler crun has the same"),
        ('base_runtime_spec = "base.json"', "must be an absolute path"),
        ('cgroup_driver = "systemd"', "did you mean `driver`|unknown key"),
    ],
)
def test_a_handler_that_cannot_be_is_refused(line: str, words: str) -> None:
    (problem,) = problems(f"[runtime.handlers.other]\n{line}\n")
    assert re.search(words, problem)


def test_a_handler_that_was_taken_out_can_still_end_its_containers() -> None:
    it = loads('state = "/run/boats"')
    assert "gone" not in it.handlers and it.handlers.get("gone") is None
    assert it.handlers["gone"] == Handler("gone", "gone", "conmon", Path("/run/boats/runtime/gone"))


def test_a_handler_without_a_path_is_found_by_its_name() -> None:
    it = loads('[runtime]\ndefault_handler = "runc"\n[runtime.handlers.runc]\n')
    assert (it.default_handler.name, it.default_handler.path) == ("runc", "runc")


def test_a_default_handler_that_is_not_there_is_an_error() -> None:
    (problem,) = problems('[runtime]\ndefault_handler = "kata"')
    assert problem == 'runtime.default_handler = "kata": no such handler; there is crun'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[cni]\nconfdir = '/x'", "unknown key `cni.confdir`: did you mean `conf_dir`?"),
        ("[cni]\nconf-dir = '/x'", "unknown key `cni.conf-dir`: did you mean `conf_dir`?"),
        ("conf_dir = '/x'", "unknown key `conf_dir`: did you mean `cni.conf_dir`?"),
        ("loglevel = 'info'", "unknown key `loglevel`: did you mean `log_level`?"),
        ("[stream]\nport = 1", "unknown key `stream`: did you mean `streaming`?"),
        ("[nri]\nzzz = 1", "unknown key `nri.zzz`: known here: enable, socket"),
        ("[cgroup]\ndrivr = 'x'", "unknown key `cgroup.drivr`: did you mean `driver`?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(text: str, said: str) -> None:
    assert problems(text) == (said,)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("root", '"relative/path"', "must be an absolute path without .."),
        ("root", '"/srv/../etc"', "must be an absolute path without .."),
        ("root", '"/srv/a:b"', "without colon, comma, backslash or white space"),
        ("root", '"/srv/a,b"', "without colon, comma, backslash or white space"),
        ("state", '"/srv/a b"', "without colon, comma, backslash or white space"),
        ("state", '"/tmp"', "at least two levels deep"),
        ("root", "5", "must be a string"),
        ("listen", '"tcp://0.0.0.0:1"', "must be unix:///ABSOLUTE/PATH"),
        ("listen", '"/run/x.sock"', "must be unix:///ABSOLUTE/PATH"),
        ("listen", '"unix://run/x.sock"', "must be unix:///ABSOLUTE/PATH"),
        ("listen", f'"unix:///{"x" * 107}"', "must be at most 107 bytes long"),
        ("log_level", '"trace"', "must be one of debug, info, warning, error"),
        ("cgroup.driver", '"v2"', "must be one of auto, systemd, cgroupfs"),
        ("registry.config_paths", '"/etc/x"', "must be a list"),
        ("registry.config_paths", '["etc"]', "must be an absolute path"),
        ("images.keep_blobs", '"yes"', "must be true or false"),
        ("images.keep_blobs", "1", "must be true or false"),
        ("images.pull_progress_timeout", "5", "must be a duration such as"),
        ("images.pull_progress_timeout", '"5 m"', "must be a duration such as"),
        ("images.pull_progress_timeout", '"-5m"', "must be a duration such as"),
        ("images.max_parallel_downloads", "0", "must be a whole number from 1 to 64"),
        ("images.max_parallel_downloads", "2.0", "must be a whole number from 1 to 64"),
        ("images.max_parallel_downloads", "true", "must be a whole number from 1 to 64"),
        ("images.pinned", "[1]", "must be a string"),
        ("cni.conf_template", '"x"', "must be an absolute path"),
        ("runtime.handlers.crun.path", '"./crun"', "must be an absolute path, or a plain name"),
        ("runtime.handlers.crun.monitor", '""', "must be an absolute path, or a plain name"),
        ("runtime.handlers", "1", "must be tables, [runtime.handlers.NAME]"),
        ("runtime.handlers.crun", "1", "must be a table, [runtime.handlers.crun]"),
        ("streaming.address", '"0.0.0.0"', "not a loopback address"),
        ("streaming.address", '""', "must be an IP address"),
        ("streaming.address", '"localhost"', "must be an IP address"),
        ("streaming.port", "65536", "must be a whole number from 0 to 65535"),
        ("metrics.listen", '"9464"', 'must be "" or IP:PORT'),
        ("metrics.listen", '"host:9464"', 'must be "" or IP:PORT'),
        ("metrics.listen", '"127.0.0.1:0"', 'must be "" or IP:PORT'),
        ("metrics.listen", '"127.0.0.1:99999"', 'must be "" or IP:PORT'),
        ("metrics.listen", '"::1:9464"', 'must be "" or IP:PORT'),
        ("cni", "1", "must be a table, [cni]"),
        ("nri.socket", "1979-05-27", "must be a string"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(key: str, value: str, allowed: str) -> None:
    (problem,) = problems(at(key, value))
    assert problem.startswith(f"{key} = {value}: ")
    assert allowed in problem


@pytest.mark.parametrize("name", ["Kata", "../x", "a_b", "-a", "a" * 64, ""])
def test_a_handler_name_that_could_be_a_path_is_refused(name: str) -> None:
    (problem,) = problems(f'[runtime.handlers."{name}"]')
    assert "must be lower case letters, digits and dashes" in problem


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("4h", 14400.0),
        ("1h30m", 5400.0),
        ("90s", 90.0),
        ("500ms", 0.5),
        ("0", 0.0),
        ("0s", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert loads(at("streaming.idle_timeout", f'"{text}"')).streaming.idle_timeout == seconds


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_addresses_may_serve_sessions(address: str) -> None:
    assert loads(at("streaming.address", f'"{address}"')).streaming.address == address


@pytest.mark.parametrize("listen", ["", "127.0.0.1:9464", "[::1]:9464", "0.0.0.0:1"])
def test_addresses_of_the_metrics_endpoint(listen: str) -> None:
    assert loads(at("metrics.listen", f'"{listen}"')).metrics.listen == listen


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = (
        'root = 1\ntypo = 2\n[cni]\nbuiltin = 3\n[streaming]\nport = "x"\n[runtime]\ndefault_handler = "no"\n'
    )
    found = problems(text)
    assert len(found) == 5
    with pytest.raises(Invalid) as caught:
        loads(text)
    assert str(caught.value) == "\n".join(["configuration: 5 problems", *(f"  {each}" for each in found)])


def test_root_and_state_must_differ() -> None:
    (problem,) = problems('root = "/srv/x"\nstate = "/srv/x"')
    assert "root and state are both /srv/x" in problem


@pytest.mark.parametrize("place", ["/srv/x/root", "/srv/x", "/srv/x/state"])
def test_images_have_no_place_that_others_are_in(place: str) -> None:
    others = 'root = "/srv/x/root"\nstate = "/srv/x/state"\n'
    (problem,) = problems(f'{others}images.root = "{place}"')
    assert f'images.root = "{place}"' in problem
    assert loads(f'{others}images.root = "/srv/x/root/images"').paths.images == Path("/srv/x/root/images")


@pytest.mark.parametrize("content", [b"[cni", b"a = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_what_is_not_toml_is_said_with_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=rf"{file}: a problem\n  is not TOML: "):
        load(file)


def test_a_file_that_is_not_there_is_said_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read: No such file or directory"):
        load(tmp_path / "config.toml")


def test_a_key_that_this_version_does_nothing_about_is_told() -> None:
    assert config.without_effect(load(None)) == []
    assert config.without_effect(loads('[metrics]\nlisten = "127.0.0.1:9464"\n')) == ["metrics"]
    assert config.without_effect(loads('[nri]\nsocket = "/run/n.sock"\n')) == ["nri"]


@pytest.mark.parametrize("more", ["", 'socket = "/run/n.sock"\n'])
def test_what_is_switched_off_asks_for_nothing(more: str) -> None:
    assert config.without_effect(loads("[nri]\nenable = false\n" + more)) == []
