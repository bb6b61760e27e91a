"""Which user namespaces can be had, and what they change (security C16)."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.user import User
from sampan.spec import namespaces, sysctls, userns, validate
from sampan.spec.facts import Host
from sampan.spec.userns import Mappings, Range

MAPS = Mappings(Range(100000, 65536), Range(200000, 65536))


def mapping(host: int = 100000, length: int = 65536, container: int = 0) -> cri.IDMapping:
    return cri.IDMapping(host_id=host, container_id=container, length=length)


def options(
    *uids: cri.IDMapping,
    gids: "list[cri.IDMapping] | None" = None,
    mode: "cri.NamespaceMode.ValueType" = cri.POD,
) -> cri.NamespaceOption:
    """The gids are the uids unless given."""
    both = cri.UserNamespace(mode=mode, uids=uids, gids=list(uids) if gids is None else gids)
    return cri.NamespaceOption(userns_options=both)


GOOD = options(mapping(), gids=[mapping(200000)])


def test_one_mapping_each_is_what_it_says() -> None:
    assert userns.mappings(GOOD) == MAPS
    assert MAPS.root == (100000, 200000)


@pytest.mark.parametrize("ids", [Range(1, 1), Range(1000, 100000), Range(2**32 - 2, 1), Range(1, 2**32 - 2)])
def test_the_whole_range_but_root_of_the_host_is_possible(ids: Range) -> None:
    assert userns.mappings(options(mapping(ids.host, ids.length))) == Mappings(ids, ids)


@pytest.mark.parametrize(
    "asked",
    [cri.NamespaceOption(), options(mode=cri.NODE)],
    ids=["nothing asked", "NODE"],
)
def test_the_hosts_user_namespace_is_none_of_the_pods(asked: cri.NamespaceOption) -> None:
    assert userns.mappings(asked) is None
    assert "user" not in namespaces.owned(asked)


# Security C16: a wrong mapping would give a pod ids of the host.
C16 = {
    "length 0": (options(mapping(length=0)), "uids[0].length"),
    "length 2^32-1": (options(mapping(host=1, length=2**32 - 1)), "uids[0]: host_id 1 and length 4294967295"),
    "beyond the last id": (options(mapping(host=2**32 - 2, length=2)), "uids[0]: host_id"),
    "the id that means no change": (options(mapping(host=2**32 - 1, length=1)), "uids[0]: host_id"),
    "overlap": (options(mapping(), mapping(100001)), "uids has 2 mappings"),
    "two mappings": (options(mapping(), mapping(200000, container=65536)), "uids has 2 mappings"),
    "two mappings of groups": (options(mapping(), gids=[mapping(), mapping()]), "gids has 2 mappings"),
    "no mapping": (options(), "uids has 0 mappings"),
    "no mapping of groups": (options(mapping(), gids=[]), "gids has 0 mappings"),
    "container id 0 unmapped": (options(mapping(container=1)), "uids[0].container_id is 1"),
    "container group 0 unmapped": (
        options(mapping(), gids=[mapping(container=1)]),
        "gids[0].container_id is 1",
    ),
    "root of the host": (options(mapping(host=0)), "uids[0].host_id is 0"),
    "group root of the host": (options(mapping(), gids=[mapping(host=0)]), "gids[0].host_id is 0"),
    "mode CONTAINER": (options(mode=cri.CONTAINER), "mode CONTAINER"),
    "mode TARGET": (options(mode=cri.TARGET), "mode TARGET"),
    "mode CONTAINER with a mapping": (options(mapping(), mode=cri.CONTAINER), "mode CONTAINER"),
    "a mode that is not one": (options(mode=9), "mode 9"),  # type: ignore[arg-type]
    "NODE with mappings": (options(mapping(), mode=cri.NODE), "NODE takes no mappings"),
    "NODE with groups alone": (options(gids=[mapping()], mode=cri.NODE), "NODE takes no mappings"),
}


@pytest.mark.parametrize(("asked", "why"), C16.values(), ids=C16.keys())
def test_c16_wrong_mappings_are_refused_for_pods(asked: cri.NamespaceOption, why: str) -> None:
    with pytest.raises(Invalid) as error:
        namespaces.check_pod(asked)
    assert str(error.value).startswith("namespace_options.userns_options")
    assert why in str(error.value)


@pytest.mark.parametrize(("asked", "why"), C16.values(), ids=C16.keys())
def test_c16_wrong_mappings_are_refused_for_containers(asked: cri.NamespaceOption, why: str) -> None:
    with pytest.raises(Invalid, match=r"namespace_options\.userns_options"):
        namespaces.check_container(asked, GOOD)


@pytest.mark.parametrize(
    ("container", "pod"),
    [
        (options(mode=cri.NODE), GOOD),
        (GOOD, cri.NamespaceOption()),
        (GOOD, options(mode=cri.NODE)),
        (options(mapping()), GOOD),
        (options(mapping(length=65535), gids=[mapping(200000)]), GOOD),
    ],
    ids=["the host's", "the pod has none", "the pod has the host's", "other groups", "shorter"],
)
def test_c16_a_container_cannot_differ_from_its_pod(
    container: cri.NamespaceOption, pod: cri.NamespaceOption
) -> None:
    with pytest.raises(Invalid, match="differs from the pod's"):
        namespaces.check_container(container, pod)


@pytest.mark.parametrize("container", [GOOD, cri.NamespaceOption()], ids=["the same", "nothing said"])
def test_a_container_in_the_pods_user_namespace_is_fine(container: cri.NamespaceOption) -> None:
    namespaces.check_container(container, GOOD)


def test_a_pod_owns_what_its_user_namespace_owns() -> None:
    assert namespaces.owned(GOOD) == {"net", "ipc", "uts", "user"}
    with_host = cri.NamespaceOption(network=cri.NODE, userns_options=GOOD.userns_options)
    assert namespaces.owned(with_host) == {"ipc", "user"}


def pod(asked: cri.NamespaceOption = GOOD, **sysctls: str) -> cri.PodSandboxConfig:
    context = cri.LinuxSandboxSecurityContext(namespace_options=asked)
    named = {name.replace("__", "."): value for name, value in sysctls.items()}
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name="web", uid="u", namespace="n"),
        linux=cri.LinuxPodSandboxConfig(security_context=context, sysctls=named),
    )


def test_a_host_that_cannot_says_so() -> None:
    validate.check_pod(pod(), Host(user_namespaces=True))
    validate.check_pod(pod(cri.NamespaceOption()), Host(user_namespaces=False))
    with pytest.raises(Invalid, match=r"runtime handler or this host cannot .* `sampan info` shows which"):
        validate.check_pod(pod(), Host(user_namespaces=False))


# --- sysctls ----------------------------------------------------------------------------------------------


def test_every_group_of_the_pod_may_ping_and_no_other() -> None:
    assert sysctls.resolved(pod())[userns.PING_GROUPS] == "200000 265535"
    assert sysctls.resolved(pod(cri.NamespaceOption()))[userns.PING_GROUPS] == "0 2147483647"


@pytest.mark.parametrize(
    ("asked", "written"),
    [("0 0", "200000 200000"), ("5\t65535", "200005 265535"), ("1 0", "1 0")],
    ids=["root", "a tab", "nobody"],
)
def test_ping_groups_are_the_pods_own_numbers(asked: str, written: str) -> None:
    config = pod(net__ipv4__ping_group_range=asked, net__ipv4__ip_forward="1")
    resolved = sysctls.resolved(config)
    assert resolved[userns.PING_GROUPS] == written
    assert resolved["net.ipv4.ip_forward"] == "1"


@pytest.mark.parametrize("asked", ["0 65536", "70000 70001", "0", "a b", "0 1 2", "-1 5"])
def test_ping_groups_that_are_not_the_pods_are_refused(asked: str) -> None:
    with pytest.raises(Invalid, match="ping_group_range"):
        sysctls.resolved(pod(net__ipv4__ping_group_range=asked))


# --- users ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [User(), User(65535, 65535, (65535,)), User(1, 2, (2, 3))])
def test_users_that_the_namespace_has(user: User) -> None:
    userns.check_user(user, MAPS)


@pytest.mark.parametrize(
    "user",
    [User(65536, 0, (0,)), User(0, 65536, (65536,)), User(0, 0, (0, 70000))],
    ids=["user", "group", "further"],
)
def test_users_that_the_namespace_lacks_are_refused(user: User) -> None:
    userns.check_user(user, None)
    with pytest.raises(Invalid, match="does not exist in the pod's user namespace"):
        userns.check_user(user, MAPS)
