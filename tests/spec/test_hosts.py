from sampan.spec.hosts import LOCAL, hosts


def test_a_pod_with_its_own_network_sees_none_of_the_nodes_aliases() -> None:
    assert hosts(own_network=True, node=b"10.0.0.1 secret\n") == LOCAL


def test_a_pod_on_the_nodes_network_has_the_nodes_names() -> None:
    assert hosts(own_network=False, node=b"10.0.0.1 node\n") == b"10.0.0.1 node\n"
    assert hosts(own_network=False, node=b"") == LOCAL
