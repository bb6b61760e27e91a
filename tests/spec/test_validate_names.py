"""A pod's host name and a container's log path."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.spec import validate


def test_the_host_name_is_the_nodes_with_the_nodes_network() -> None:
    config = cri.PodSandboxConfig(hostname="web")
    config.linux.security_context.namespace_options.network = cri.NODE
    assert validate.hostname(config, "node-1") == "node-1"
    assert validate.hostname(cri.PodSandboxConfig(hostname="web"), "node-1") == "web"
    assert validate.hostname(cri.PodSandboxConfig(), "node-1") == "node-1"


@pytest.mark.parametrize(
    ("directory", "relative", "path"),
    [
        ("/var/log/pods/a", "app/0.log", "/var/log/pods/a/app/0.log"),
        ("/var/log/pods/a/", "0.log", "/var/log/pods/a/0.log"),
        ("", "0.log", ""),
        ("/var/log/pods/a", "", ""),
    ],
)
def test_where_a_container_logs(directory: str, relative: str, path: str) -> None:
    config = cri.ContainerConfig(log_path=relative)
    assert validate.log_path(config, cri.PodSandboxConfig(log_directory=directory)) == path
