"""hosts.toml as containerd documents it."""

import pytest

from sampan.model.errors import Invalid
from sampan.wire import hosts_toml
from sampan.wire.hosts_toml import Host


def parse(text: str, domain: str = "docker.io") -> tuple[Host, ...]:
    return hosts_toml.parse(text, domain, "/certs/here")


def urls(text: str, domain: str = "docker.io") -> list[str]:
    return [host.url for host in parse(text, domain)]


def test_an_empty_file_means_the_registry_itself() -> None:
    assert parse("") == (Host("https", "registry-1.docker.io", origin=True),)
    assert parse("", "a.test:5000") == (Host("https", "a.test:5000", origin=True),)


def test_hosts_come_in_the_order_of_the_file_and_the_server_last() -> None:
    text = 'server = "https://up.test"\n[host."https://z.test"]\n[host."http://a.test:81"]\n[host."m.test"]'
    assert urls(text) == [
        "https://z.test/v2",
        "http://a.test:81/v2",
        "https://m.test/v2",
        "https://up.test/v2",
    ]
    assert [host.origin for host in parse(text)] == [False, False, False, True]


def test_without_a_server_the_registry_itself_comes_last() -> None:
    assert urls('[host."https://m.test"]') == ["https://m.test/v2", "https://registry-1.docker.io/v2"]


def test_a_server_that_is_a_host_too_is_asked_once() -> None:
    (host,) = parse('server = "http://a.test"\n[host."http://a.test"]\nskip_verify = true')
    assert host.origin
    assert host.skip_verify


@pytest.mark.parametrize(
    ("url", "extra", "expected"),
    [
        ("https://m.test", "", "https://m.test/v2"),
        ("https://m.test/", "", "https://m.test/v2"),
        ("https://m.test/v2", "", "https://m.test/v2"),
        ("https://m.test/proxy", "", "https://m.test/proxy/v2"),
        ("https://m.test/v2/proxy", "", "https://m.test/v2/proxy/v2"),
        ("https://m.test/v2/proxy", "override_path = true", "https://m.test/v2/proxy"),
        ("https://m.test/v2/proxy/", "override_path = true", "https://m.test/v2/proxy"),
        ("http://[::1]:5000", "", "http://[::1]:5000/v2"),
        ("HTTPS://m.test//a/./b/../v2/", "", "https://m.test/a/v2"),
        ("https://m.test/../..", "", "https://m.test/v2"),
        ("https://m.test", "override_path = true", "https://m.test"),
        ("http://registry_cache:5000", "", "http://registry_cache:5000/v2"),
        ("https://docker.io", "", "https://registry-1.docker.io/v2"),
        ("docker.io/mirror", "", "https://registry-1.docker.io/mirror/v2"),
    ],
)
def test_paths(url: str, extra: str, expected: str) -> None:
    assert urls(f'[host."{url}"]\n{extra}')[0] == expected


def test_what_a_host_may_be_asked() -> None:
    assert parse('[host."https://m.test"]')[0].capabilities >= {"pull", "resolve"}
    assert parse('[host."https://m.test"]\ncapabilities = ["pull"]')[0].capabilities == {"pull"}
    assert parse('[host."https://m.test"]\ncapabilities = ["Pull", "push", "referrers"]')[0].capabilities == {
        *("pull", "push", "referrers")
    }
    assert parse('[host."https://m.test"]\ncapabilities = []')[0].capabilities >= {"pull", "resolve"}


@pytest.mark.parametrize(
    ("ca", "client", "files", "pairs"),
    [
        ('"a.crt"', '"c.pem"', ["a.crt"], [("c.pem", "")]),
        (
            '["a.crt", "/abs/b.crt"]',
            '["c.pem", "d.pem"]',
            ["a.crt", "/abs/b.crt"],
            [("c.pem", ""), ("d.pem", "")],
        ),
        ('["a.crt"]', '[["c.cert", "c.key"], ["d.pem"]]', ["a.crt"], [("c.cert", "c.key"), ("d.pem", "")]),
        ('"a.crt"', '[["c.cert", "c.key"], ["d.pem", ""]]', ["a.crt"], [("c.cert", "c.key"), ("d.pem", "")]),
    ],
)
def test_certificates(ca: str, client: str, files: list[str], pairs: list[tuple[str, str]]) -> None:
    def absolute(name: str) -> str:
        return name if not name or name.startswith("/") else f"/certs/here/{name}"

    host = parse(f'[host."https://m.test"]\nca = {ca}\nclient = {client}')[0]
    assert host.ca == tuple(map(absolute, files))
    assert host.client == tuple((absolute(certificate), absolute(key)) for certificate, key in pairs)


def test_headers_may_have_several_values() -> None:
    host = parse('[host."https://m.test"]\n[host."https://m.test".header]\nx-one = "1"\nx-two = ["2", "3"]')[
        0
    ]
    assert host.headers == (("x-one", "1"), ("x-two", "2"), ("x-two", "3"))
    assert "x-one" not in repr(host)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(('"30s"', 30), ('"1m30s"', 90), ('"500ms"', 0.5), ('"1.5h"', 5400), ('"0"', 30), ('""', 30)),
        *(('".5s"', 0.5), ('"2.s"', 2), ('"+1s"', 1), ('"5000\u00b5s"', 0.005), ('"5000\u03bcs"', 0.005)),
    ],
)
def test_dial_timeout(text: str, seconds: float) -> None:
    assert parse(f'[host."https://m.test"]\ndial_timeout = {text}')[0].dial_timeout == seconds


def test_the_servers_own_settings_stand_at_the_top() -> None:
    host = parse('server = "https://up.test"\nskip_verify = true\nca = "x"\n[host."https://m.test"]')[1]
    assert host.skip_verify
    assert host.ca == ("/certs/here/x",)


@pytest.mark.parametrize("server", ["", 'server = ""\n'])
def test_the_top_of_the_file_is_the_registrys_own_where_no_server_is_named(server: str) -> None:
    text = server + 'ca = "x"\nclient = "y"\ndial_timeout = "3s"\noverride_path = true\n'
    text += 'capabilities = ["pull"]\n[header]\na = "b"\n[host."https://m.test"]'
    host = parse(text, "a.test:5000")[1]
    assert host == Host(
        *("https", "a.test:5000", "/v2"),
        ca=("/certs/here/x",),
        client=(("/certs/here/y", ""),),
        headers=(("a", "b"),),
        dial_timeout=3.0,
        origin=True,
    )
    assert parse('skip_verify = true\n[host."https://m.test"]')[1].skip_verify


def test_a_server_that_may_do_more_than_its_table_says_is_asked_again() -> None:
    first, last = parse('server = "http://a.test"\n[host."http://a.test"]\ncapabilities = ["pull"]')
    assert first.capabilities == {"pull"}
    assert last.capabilities == {"pull", "resolve"}
    assert first.origin and last.origin


@pytest.mark.parametrize(
    ("domain", "loopback"),
    [
        *(("localhost", True), ("localhost:5000", True), ("LOCALHOST:5000", True), ("127.0.0.1", True)),
        *(("127.9.9.9:5000", True), ("[::1]", True), ("[::1]:5000", True), ("[::ffff:127.0.0.1]:1", True)),
        *(("localhost.test:5000", False), ("10.0.0.1:5000", False), ("[fe80::1]:5000", False)),
        *(("127.0.0.1.test", False), ("a.test", False), ("docker.io", False), ("0.0.0.0:5000", False)),
    ],
)
def test_only_on_loopback_is_anything_assumed(domain: str, loopback: bool) -> None:
    host = hosts_toml.default(domain)
    assert (host.assumed, host.skip_verify, host.scheme) == (loopback, loopback, "https")
    assert host.origin


def test_what_a_file_says_of_a_registry_on_loopback_is_not_assumed() -> None:
    domain = "localhost:5000"
    assert hosts_toml.default("localhost:80").url == "http://localhost:80/v2"
    assert hosts_toml.default("localhost:80").assumed
    assert hosts_toml.from_certificates(domain, "/d", ["README"]) == (hosts_toml.default(domain),)
    for host in (
        *parse('server = "http://localhost:5000"', domain),
        *parse('ca = "x"', domain),
        *parse("skip_verify = false", domain),
        *hosts_toml.from_certificates(domain, "/d", ["a.crt"]),
    ):
        assert not host.assumed and not host.skip_verify
    (plain,) = parse('[header]\na = "b"', domain)
    assert plain.assumed and plain.skip_verify and plain.headers


def test_a_url_that_is_refused_is_shown_without_its_secrets() -> None:
    for url in (
        "https://john:s3cret@a.test",
        "https://a.test/?token=s3cret",
        "ftp://j:s3cret@a.test/@s3?s3cret",
    ):
        with pytest.raises(Invalid, match="not a URL") as caught:
            parse(f'server = "{url}"')
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(Invalid, match="not a URL"):
        parse(f'server = "https://a.test:{port}"')


def test_keys_of_other_runtimes_are_passed_over() -> None:
    assert urls('future = 1\n[host."https://m.test"]\nfuture = [1]')[0] == "https://m.test/v2"


@pytest.mark.parametrize(
    "text",
    [
        "server",
        "server = 1",
        "server = false",
        '[host."https://a.test"]\ncapabilities = ["pul"]',
        '[host."https://a.test"]\ndial_timeout = "-1s"',
        '[host.""]',
        'server = "ftp://a.test"',
        'server = "https://user:pw@a.test"',
        'server = "https://a.test?x=1"',
        'server = "https://a.test/a b"',
        'server = "https://a.test\\n"',
        "host = 1",
        'host = ["https://a.test"]',
        '[host]\n"https://a.test" = 1',
        '[host."https://a.test"]\ncapabilities = 1',
        '[host."https://a.test"]\ncapabilities = [1]',
        '[host."https://a.test"]\nca = 1',
        '[host."https://a.test"]\nca = [""]',
        '[host."https://a.test"]\nclient = 1',
        '[host."https://a.test"]\nclient = [["a", "b", "c"]]',
        '[host."https://a.test"]\nclient = [[]]',
        '[host."https://a.test"]\nskip_verify = "yes"',
        '[host."https://a.test"]\noverride_path = 1',
        '[host."https://a.test"]\nheader = 1',
        '[host."https://a.test".header]\n"a b" = "1"',
        '[host."https://a.test".header]\na = "1\\r\\nb: 2"',
        '[host."https://a.test"]\ndial_timeout = 30',
        '[host."https://a.test"]\ndial_timeout = "soon"',
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_files_name(text: str) -> None:
    with pytest.raises(Invalid, match=r"^/certs/here/hosts\.toml"):
        parse(text)


@pytest.mark.parametrize(
    ("domain", "names"),
    [
        ("a.test", ("a.test", "_default")),
        ("a.test:5000", ("a.test_5000_", "a.test:5000", "_default")),
        ("[::1]:5000", ("[::1]_5000_", "[::1]:5000", "_default")),
        ("[::1]", ("[::1]", "_default")),
    ],
)
def test_a_port_may_be_written_in_two_ways(domain: str, names: tuple[str, ...]) -> None:
    assert hosts_toml.directories(domain) == names
