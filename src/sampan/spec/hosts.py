"""A pod's /etc/hosts (hosts(5)), for pods that the kubelet does not bring one for."""

LOCAL = b"""\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


def hosts(*, own_network: bool, node: bytes) -> bytes:
    """The node's own file with the node's network, else nothing but the local names: the node's aliases
    are not the pod's business."""
    return LOCAL if own_network or not node else node
