"""User strings and the image's user database: who runs, and what no text may turn into."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.user import User
from sampan.wire import passwd

PASSWD = b"""\
# a comment:x:7:7
root:x:0:0:root:/root:/bin/sh
+nis:x:8:8:::
broken:x:nine:9
short:x:10
nobody:x:65534:65534:nobody:/:/bin/false
app:x:1000:1001:An App:/home/app:/bin/sh
app:x:2000:2001:the second is not seen:/home/two:/bin/sh
2147483648:x:0:0:a name like a number:/root:/bin/sh
-1:x:0:0::/root:
huge:x:4294967295:4294967295::/:
win:x:11:11::/home/win\r
bad\rhome:x:12:12::/a\rb:
colon:x:13:13::/a:b:c
name only
last:x:14:15"""
GROUP = b"""\
root:x:0:
staff:x:50:bob,app,eve
audio:x:29:app
video:x:44:apple,snap
app:x:1001:
notanid:x:z:app
last:x:99:app"""


def context(**fields: object) -> cri.LinuxContainerSecurityContext:
    return cri.LinuxContainerSecurityContext(**fields)  # type: ignore[arg-type]


def ids(user: int, group: int | None = None) -> cri.LinuxContainerSecurityContext:
    asked = context(run_as_user=cri.Int64Value(value=user))
    if group is not None:
        asked.run_as_group.value = group
    return asked


def resolve(user: str, asked: cri.LinuxContainerSecurityContext | None = None) -> User:
    return passwd.resolve(user, asked or context(), PASSWD, GROUP)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (), "/root"),
        ("root", 0, 0, (), "/root"),
        ("0", 0, 0, (), "/root"),
        ("0000", 0, 0, (), "/root"),
        ("nobody", 65534, 65534, (), "/"),
        ("app", 1000, 1001, (29, 50, 99), "/home/app"),
        ("1000", 1000, 1001, (29, 50, 99), "/home/app"),
        ("app:staff", 1000, 50, (29, 99), "/home/app"),
        ("app:7", 1000, 7, (29, 50, 99), "/home/app"),
        ("app:0", 1000, 0, (29, 50, 99), "/home/app"),
        ("app:root", 1000, 0, (29, 50, 99), "/home/app"),
        ("app:", 1000, 1001, (29, 50, 99), "/home/app"),
        ("1000:staff", 1000, 50, (29, 99), "/home/app"),
        ("77", 77, 0, (), "/"),
        ("77:88", 77, 88, (), "/"),
        ("2147483647:2147483647", 2147483647, 2147483647, (), "/"),
        ("last", 14, 15, (), "/"),
        ("14", 14, 15, (), "/"),
        ("12", 12, 12, (), "/"),
        ("win", 11, 11, (), "/"),
        ("colon", 13, 13, (), "/a"),
        ("8", 8, 0, (), "/"),
    ],
)
def test_an_image_says_who_runs(user: str, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    assert resolve(user) == User(uid, gid, (gid, *groups), home)


def test_the_request_says_it_better() -> None:
    assert resolve("root", ids(1000)) == User(1000, 1001, (1001, 29, 50, 99), "/home/app")
    assert resolve("root", ids(1000, 5)) == User(1000, 5, (5, 29, 50, 99), "/home/app")
    assert resolve("root", ids(1000, 0)) == User(1000, 0, (0, 29, 50, 99), "/home/app")
    assert resolve("root", ids(0)) == User(0, 0, (0,), "/root")
    assert resolve("root", context(run_as_username="app")).uid == 1000
    assert resolve("root", context(run_as_username="1000")).uid == 1000
    named = context(run_as_username="app", run_as_group=cri.Int64Value(value=5))
    assert resolve("", named).gid == 5


def test_requested_groups_come_beside_the_images_or_alone() -> None:
    asked = context(supplemental_groups=[7, 50, 7, 1001])
    assert resolve("app", asked).groups == (1001, 7, 29, 50, 99)
    asked.supplemental_groups_policy = cri.Strict
    assert resolve("app", asked).groups == (1001, 7, 50)


def test_numbers_need_no_files_and_names_do() -> None:
    assert passwd.resolve("5:6", context(), None, None) == User(5, 6, (6,), "/")
    assert passwd.resolve("", context(), None, None) == User(0, 0, (0,), "/")
    with pytest.raises(Invalid, match="'app' is not in the image's /etc/passwd"):
        passwd.resolve("app", context(), None, None)
    with pytest.raises(Invalid, match="group 'staff' is not in the image's /etc/group"):
        passwd.resolve("5:staff", context(), None, None)


@pytest.mark.parametrize(
    "user",
    [
        *("2147483648", "4294967295", "4294967296", "9" * 36, "0:99999999999", "0:4294967295", "00000000001"),
        *("-1", "+1", " 1", "1 ", "1\n", "1_000", "１", "٣", "²", "0x0", "0:-1", "0:+0", "0:1_0"),
        *(":", ":0", "a:b:c", "app:staff:x", "ap p", "app\n", "app\0", "a,b", "a/b", "-app", "+nis", "\x85"),
        *(
            "absent",
            "huge",
            "broken",
            "short",
            "name only",
            "# a comment",
            "app:absent",
            "root:notanid",
            ".*",
        ),
    ],
)
def test_no_other_text_runs_as_anybody(user: str) -> None:
    with pytest.raises(Invalid):
        resolve(user)


@pytest.mark.parametrize("field", ["run_as_user", "run_as_group"])
@pytest.mark.parametrize("value", [-1, 2**31, 2**32 - 1, 2**40, -(2**63)])
def test_requested_ids_out_of_range_are_refused(field: str, value: int) -> None:
    asked = ids(1, 1)
    getattr(asked, field).value = value
    with pytest.raises(Invalid, match=f"{field} is out of range"):
        resolve("", asked)


def test_a_user_whose_line_holds_an_id_too_large_does_not_run_as_root() -> None:
    with pytest.raises(Invalid, match="out of range"):
        resolve("huge")


def test_a_group_needs_a_user_and_a_user_is_named_once() -> None:
    with pytest.raises(Invalid, match="without run_as_user"):
        resolve("app", context(run_as_group=cri.Int64Value(value=1)))
    both = ids(1)
    both.run_as_username = "app"
    with pytest.raises(Invalid, match="exclude each other"):
        resolve("", both)


def test_lines_end_at_line_feeds_alone() -> None:
    smuggled = b"a:x:1:1::/\x85evil:x:0:0::/:\xe2\x80\xa8evil:x:0:0::/:\revil:x:0:0::/:\x0cevil:x:0:0::/:\n"
    with pytest.raises(Invalid, match="'evil' is not in"):
        passwd.resolve("evil", context(), smuggled, None)


def test_members_are_whole_names() -> None:
    group = b"a:x:1:app2\nb:x:2:2app\nc:x:3:ap,p\nd:x:4:x,app\ne:x:5:app,x\nf:x:6:xapp,app\ng:x:7: app\n"
    assert passwd.resolve("app", context(), PASSWD, group).groups == (1001, 4, 5, 6)


def test_names_are_not_patterns() -> None:
    database = b"a.c:x:1:1\nabc:x:2:2\n"
    assert passwd.resolve("a.c", context(), database, None).uid == 1
    with pytest.raises(Invalid):
        passwd.resolve("a*", context(), database, None)


def test_a_file_past_the_limit_is_an_error_not_a_shorter_file() -> None:
    for files in ((b"\n" * (passwd.LIMIT + 1), None), (None, b"\n" * (passwd.LIMIT + 1))):
        with pytest.raises(Invalid, match="the limit is"):
            passwd.resolve("0", context(), *files)


def test_more_groups_than_the_kernel_takes_are_refused() -> None:
    group = b"".join(b"g%d:x:%d:app\n" % (number, number + 5000) for number in range(66_000))
    with pytest.raises(Invalid, match="66000 groups"):
        passwd.resolve("app", context(), PASSWD, group)


@pytest.mark.parametrize(
    "hostile",
    [
        b"a" * passwd.LIMIT,
        b"a:" * (passwd.LIMIT // 2),
        b"a:x:1:" + b"b," * (passwd.LIMIT // 2 - 3),
        b"a:x:1:1:a\n" * (passwd.LIMIT // 10),
        b"\n" * passwd.LIMIT,
        b"a:x:" + b"1" * (passwd.LIMIT - 4),
    ],
    ids=["one word", "one line of colons", "one line of members", "a million lines", "empty lines", "digits"],
)
def test_no_file_within_the_limit_takes_long(hostile: bytes) -> None:
    began = time.process_time()
    for user in ("absent", "42:absent"):
        with pytest.raises(Invalid):
            passwd.resolve(user, context(), hostile, hostile)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("", (0, "")),
        ("0", (0, "")),
        ("1000", (1000, "")),
        ("1000:1000", (1000, "")),
        ("00", (0, "")),
        ("app", (None, "app")),
        ("app:staff", (None, "app")),
        ("2147483647", (2147483647, "")),
        ("2147483648", (None, "2147483648")),
        ("4294967296", (None, "4294967296")),
        ("-1", (None, "-1")),
        ("１", (None, "１")),
        (":5", (None, ":5")),
    ],
)
def test_what_image_status_shows(user: str, shown: tuple[int | None, str]) -> None:
    assert passwd.image_identity(user) == shown


@given(st.text() | st.from_regex(r"[0-9+\-_: ]{1,12}"))
def test_image_status_and_create_never_disagree(user: str) -> None:
    uid, name = passwd.image_identity(user)
    assert (uid is None) == bool(name)
    try:
        ran = resolve(user)
    except Invalid:
        return
    assert 0 <= ran.uid < 2**31
    assert uid is None or ran.uid == uid


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_file_breaks_it(users: bytes, groups: bytes) -> None:
    for user in ("", "7", "app", "app:staff"):
        try:
            found = passwd.resolve(user, context(), users + b"\napp:x:1:1\n", groups)
        except Invalid:
            continue
        assert found.gid in found.groups
        assert found.home.startswith("/")
        assert not set("\n\r\0:") & set(found.home)
