"""/proc/net/dev, as the kernel writes it."""

from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import net_dev
from sampan.wire.net_dev import Interface

HEAD = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast"
    b"|bytes    packets errs drop fifo colls carrier compressed\n"
    b"    lo: 23287674448 1041301    0    0    0     0          0         0"
    b" 23287674448 1041301    0    0    0     0       0          0\n"
)
NET1 = (
    b"  net1:       7       6    5    4    0     0          0         0"
    b"        3       2    1    0    0     0       0          0\n"
)
ETH0 = (
    b"  eth0: 2396962623   68262    1    2    0     0          0         0"
    b"  3957204   38813    3    4    0     0       0          0\n"
)


def test_counters_of_each_interface_but_the_loopback() -> None:
    assert net_dev.parse(HEAD + NET1 + ETH0) == (
        Interface("net1", 7, 6, 5, 4, 3, 2, 1, 0),
        Interface("eth0", 2396962623, 68262, 1, 2, 3957204, 38813, 3, 4),
    )
    assert net_dev.parse(HEAD) == ()


def test_a_name_may_have_a_colon() -> None:
    (found,) = net_dev.parse(ETH0.replace(b"eth0", b"a:b"))
    assert found.name == "a:b"


def test_eth0_stands_for_the_pod_and_else_the_first() -> None:
    both = net_dev.parse(NET1 + ETH0)
    assert net_dev.default(both) == both[1]
    assert net_dev.default(both[:1]) == both[0]
    assert net_dev.default(()) is None


@given(st.binary(max_size=300))
def test_no_text_breaks_the_parser(text: bytes) -> None:
    net_dev.parse(text)
