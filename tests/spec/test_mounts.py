"""Mounts of a request beyond the golden cases: which flags and ids they may name, what goes over what, and labels."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.spec import container, mounts, userns, volumes
from sampan.spec.facts import ContainerFacts, Host, PodFacts, Source, User

SOURCE = Source("/srv/data", True, "shared")
FIRST, COUNT = 100_000, 65_536  # of the host's ids in the pod's mapping


def pod_config(*, own_users: bool = False) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig()
    if own_users:
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        options = config.linux.security_context.namespace_options.userns_options
        options.mode = cri.POD
        options.uids.append(cri.IDMapping(host_id=FIRST, container_id=0, length=COUNT))
        options.gids.append(cri.IDMapping(host_id=FIRST, container_id=0, length=COUNT))
    return config


def facts(*asked: cri.Mount, own_users: bool = False, **changes: Any) -> ContainerFacts:
    pod = PodFacts(
        id="p",
        config=pod_config(own_users=own_users),
        hostname="web",
        network_namespace="/ns/net",
        ipc_namespace="/ns/ipc",
        uts_namespace="/ns/uts",
        user_namespace="/ns/user" if own_users else "",
        pid_namespace="/ns/pid",
        resolv_conf="/pod/resolv.conf",
        hosts_file="/pod/hosts",
        shm="/shm",
    )
    made = ContainerFacts(
        id="c",
        config=cri.ContainerConfig(mounts=asked),
        image=ImageConfig(entrypoint=("/app",)),
        pod=pod,
        host=Host(),
        user=User(),
        rootfs="/rootfs",
        cgroups_path="/c",
        sources={"/h": SOURCE},
    )
    return replace(made, **changes)


def mount(**fields: Any) -> cri.Mount:
    return cri.Mount(**({"container_path": "/data", "host_path": "/h"} | fields))


def at(built: list[dict[str, Any]], place: str) -> dict[str, Any]:
    (found,) = (one for one in built if one["destination"] == place)
    return found


# --- C11: mount_options can only take away ----------------------------------------------------------------

HARMLESS = [
    (),
    ("noexec",),
    ("nodev", "nosuid"),
    ("noexec", "nosuid", "nodev"),
    ("noexec", "noexec"),
]
HOSTILE = [
    *("rw", "suid", "dev", "exec", "rshared", "shared", "rslave", "slave", "rbind", "bind", "private"),
    *("idmap", "ridmap", "tmpcopyup", "copy-symlink", "context=x", "remount", "lowerdir=/", "upperdir=/"),
    *("noexec,rw", "noexec\n", "\nnoexec", " noexec", "noexec ", "NOEXEC", "", "ro", "rro", "defaults"),
    *("size=1", "nosymfollow", "noatime", "X-x", "dest-nofollow", "src-nofollow", "noexec\0", "ｎoexec"),
]


@pytest.mark.parametrize("options", HARMLESS, ids=repr)
@pytest.mark.parametrize("read_only", [False, True])
def test_c11_options_that_restrict_are_added_to_the_access(options: tuple[str, ...], read_only: bool) -> None:
    built = mounts.build(facts(mount(mount_options=options, readonly=read_only)))
    access = "ro" if read_only else "rw"
    assert at(built, "/data")["options"] == ["rbind", "rprivate", access, *sorted(set(options))]


@pytest.mark.parametrize("option", HOSTILE, ids=repr)
def test_c11_any_other_option_is_refused(option: str) -> None:
    with pytest.raises(Invalid, match=r"mounts\[0\].mount_options"):
        mounts.build(facts(mount(mount_options=["noexec", option])))


@given(st.text())
def test_c11_no_text_gets_into_the_options_but_the_three(option: str) -> None:
    try:
        built = mounts.build(facts(mount(mount_options=[option])))
    except Invalid:
        return
    assert set(at(built, "/data")["options"]) <= {"rbind", "rprivate", "rw", *mounts.OPTIONS}


# --- ids ----------------------------------------------------------------------------------------------------


def ids(*ranges: tuple[int, int, int]) -> list[cri.IDMapping]:
    return [
        cri.IDMapping(container_id=inside, host_id=host, length=length) for inside, host, length in ranges
    ]


WHOLE = (0, FIRST, COUNT)


@pytest.mark.parametrize(
    ("given", "oci"),
    [
        ([WHOLE], [WHOLE]),
        ([(5, FIRST + 5, 1)], [(5, FIRST + 5, 1)]),
        ([(COUNT - 1, FIRST + COUNT - 1, 1)], [(COUNT - 1, FIRST + COUNT - 1, 1)]),
        ([(10, FIRST + 10, 5), (0, FIRST, 10)], [(0, FIRST, 10), (10, FIRST + 10, 5)]),
    ],
)
def test_ids_within_the_pods_are_mapped(
    given: list[tuple[int, int, int]], oci: list[tuple[int, int, int]]
) -> None:
    asked = mount(uidMappings=ids(*given), gidMappings=ids(WHOLE))
    found = at(mounts.build(facts(asked, own_users=True)), "/data")
    assert [(one["containerID"], one["hostID"], one["size"]) for one in found["uidMappings"]] == oci
    assert found["gidMappings"] == [{"containerID": 0, "hostID": FIRST, "size": COUNT}]


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([WHOLE], [COUNT // 2, COUNT // 2]),
        ([(5, FIRST + 5, 3)], [1, 2]),
        ([(COUNT - 1, FIRST + COUNT - 1, 1)], [1]),
        ([(0, FIRST, 10), (20, FIRST + 20, 1)], [10, 1]),
    ],
)
@pytest.mark.parametrize(("own", "pods"), [(cri.POD, cri.POD), (cri.TARGET, cri.CONTAINER)])
def test_in_a_pid_namespace_of_others_the_same_ids_are_in_more_ranges(
    given: Any, sizes: list[int], own: Any, pods: Any
) -> None:
    known = facts(mount(uidMappings=ids(*given), gidMappings=ids(*given)), own_users=True)
    known.config.linux.security_context.namespace_options.pid = own
    known.pod.config.linux.security_context.namespace_options.pid = pods
    found = at(mounts.build(known), "/data")
    assert found["uidMappings"] == found["gidMappings"]
    mapped = [
        (one["containerID"] + n, one["hostID"] + n)
        for one in found["uidMappings"]
        for n in range(one["size"])
    ]
    assert mapped == [(first + n, outside + n) for first, outside, size in given for n in range(size)]
    assert [one["size"] for one in found["uidMappings"]] == sizes


@pytest.mark.parametrize(
    ("uids", "gids", "words"),
    [
        ([WHOLE], [], "only one of uidMappings and gidMappings"),
        ([], [WHOLE], "only one of uidMappings and gidMappings"),
        ([(0, FIRST, 0)], [WHOLE], "uidMappings has a mapping of length 0"),
        ([(0, 0, COUNT)], [WHOLE], "uidMappings: .* not part of the pod's mapping"),
        ([(0, FIRST + 1, 5)], [WHOLE], "not part of the pod's mapping"),
        ([(0, FIRST, COUNT + 1)], [WHOLE], "not part of the pod's mapping"),
        ([(COUNT, FIRST + COUNT, 1)], [WHOLE], "not part of the pod's mapping"),
        ([(2**32 - 1, 2**32 - 1, 2**32 - 1)], [WHOLE], "not part of the pod's mapping"),
        ([WHOLE], [(0, 0, 1)], "gidMappings: .* not part of the pod's mapping"),
        ([WHOLE, WHOLE], [WHOLE], "overlaps"),
        ([(0, FIRST, 10), (9, FIRST + 9, 2)], [WHOLE], "overlaps"),
        ([(9, FIRST + 9, 2), (0, FIRST, 10)], [WHOLE], "overlaps"),
        ([(n, FIRST + n, 1) for n in range(341)], [WHOLE], "341 mappings"),
    ],
)
def test_other_ids_are_refused(uids: Any, gids: Any, words: str) -> None:
    asked = mount(uidMappings=ids(*uids), gidMappings=ids(*gids))
    with pytest.raises(Invalid, match=rf"mounts\[0\].*{words}"):
        mounts.check(cri.ContainerConfig(mounts=[asked]), pod_config(own_users=True), Host())


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))))
def test_whatever_is_asked_only_ids_of_the_pod_come_out(ranges: list[tuple[int, int, int]]) -> None:
    asked = mount(uidMappings=ids(*ranges), gidMappings=ids(WHOLE))
    try:
        found = at(mounts.build(facts(asked, own_users=True)), "/data").get("uidMappings", [])
    except Invalid:
        return
    for one in found:
        assert one["hostID"] == FIRST + one["containerID"] and one["containerID"] + one["size"] <= COUNT
    inside = [id for one in found for id in (one["containerID"], one["containerID"] + one["size"] - 1)]
    assert inside == sorted(inside)


def test_a_pod_with_the_hosts_users_maps_no_ids_of_mounts() -> None:
    asked = mount(uidMappings=ids(WHOLE), gidMappings=ids(WHOLE))
    with pytest.raises(Invalid, match=r"mounts\[0\].* user namespace of its own"):
        mounts.build(facts(asked))


def test_ids_go_with_every_propagation_and_access() -> None:
    mapped = {"uidMappings": ids(WHOLE), "gidMappings": ids(WHOLE)}
    for fields in (
        {"readonly": True},
        {"propagation": cri.PROPAGATION_BIDIRECTIONAL},
        {"readonly": True, "recursive_read_only": True},
    ):
        built = mounts.build(facts(mount(**mapped, **fields), own_users=True))
        assert at(built, "/data")["uidMappings"]


def test_the_range_that_is_checked_is_the_pods_own() -> None:
    maps = userns.mappings(pod_config(own_users=True).linux.security_context.namespace_options)
    assert maps is not None and (maps.uids.host, maps.uids.length) == (FIRST, COUNT)


@pytest.mark.parametrize("mapped", [True, False])
def test_mounts_that_crun_would_drop_are_refused(mapped: bool) -> None:
    maps = {"uidMappings": ids(WHOLE), "gidMappings": ids(WHOLE)} if mapped else {}
    covered: dict[str, Any] = {"sources": {"/h": replace(SOURCE, submounts=True)}}
    drops = Host(keeps_submounts=False)
    with pytest.raises(
        Invalid, match=r"mounts\[0\]\.host_path '/h' has other mounts beneath it.* crun 1\.21"
    ):
        mounts.build(facts(mount(**maps), own_users=True, host=drops, **covered))
    for known in (
        facts(mount(**maps), own_users=True, host=drops),
        facts(mount(**maps), own_users=True, **covered),
        facts(mount(), host=drops, **covered),
    ):
        assert at(mounts.build(known), "/data")


# --- what goes over what -------------------------------------------------------------------------------------


def test_a_users_mount_comes_after_every_volume_of_the_image() -> None:
    """However deep a VOLUME is: a link of the image cannot make it cover what the user mounts."""
    known = facts(mount(container_path="/v"), volumes={"/a/b/c/d": "/vol/0", "/a": "/vol/1"})
    places = [one["destination"] for one in mounts.build(known)]
    assert places.index("/a") < places.index("/a/b/c/d") < places.index("/v")
    assert places.index("/a/b/c/d") < places.index("/etc/hosts")


@pytest.mark.parametrize(
    "place", ["/", "/proc", "/proc/self/fd", "/sys", "/sys/fs/cgroup", "/dev", "/dev/shm"]
)
def test_a1_a_volume_that_ends_at_the_kernels_files_is_refused(place: str) -> None:
    with pytest.raises(Invalid, match="VOLUME of the image leads through links"):
        mounts.build(facts(volumes={place: "/vol/0"}))


def test_an_image_keeps_its_flags_whatever_is_asked() -> None:
    asked = cri.Mount(container_path="/m", image=cri.ImageSpec(image="x"), readonly=True)
    known = facts(asked, image_mounts={0: "/shown/0"})
    assert at(mounts.build(known), "/m") == {
        "destination": "/m",
        "type": "bind",
        "source": "/shown/0",
        "options": ["rbind", "rprivate", "ro", "nodev", "nosuid"],
    }


def test_an_image_in_a_pod_with_its_own_users_is_not_mapped_twice() -> None:
    asked = cri.Mount(
        container_path="/m",
        image=cri.ImageSpec(image="x"),
        readonly=True,
        uidMappings=ids(WHOLE),
        gidMappings=ids(WHOLE),
    )
    built = container.build(facts(asked, own_users=True, image_mounts={0: "/shown/0"}))["mounts"]
    assert "uidMappings" not in at(built, "/m")


# --- labels ---------------------------------------------------------------------------------------------------

SELINUX = Host(selinux=True)


def labelled(path: str, **changes: Any) -> ContainerFacts:
    return facts(mount(selinux_relabel=True), sources={"/h": Source(path, True, "private")}, **changes)


@pytest.mark.parametrize(
    "path", ["/srv/data", "/var/lib/kubelet/pods/1/volumes/x", "/tmp/x", "/home/a", "/etcetera"]
)
def test_a_volume_is_relabelled_where_selinux_runs(path: str) -> None:
    known = labelled(path, host=SELINUX)
    assert volumes.to_relabel(known) == (path,)
    assert volumes.to_relabel(labelled(path)) == ()
    known.config.mounts[0].selinux_relabel = False
    assert volumes.to_relabel(known) == ()


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run"),
        *(
            "/sbin",
            "/srv",
            "/sys",
            "/tmp",
            "/usr",
            "/var",
            "/var/lib",
            "/var/log",
            "/etc/ssh",
            "/usr/share/x",
        ),
        *("/proc/self", "/sys/fs/cgroup", "/dev/shm/x", "/boot/efi", "/lib/modules"),
    ],
)
def test_c10_the_hosts_system_is_never_relabelled(path: str) -> None:
    with pytest.raises(Invalid, match="never relabelled"):
        volumes.to_relabel(labelled(path, host=SELINUX))
    assert volumes.to_relabel(labelled(path)) == ()


def test_what_nobody_asks_to_relabel_is_not() -> None:
    assert volumes.to_relabel(facts(mount(), host=SELINUX)) == ()


def test_directories_for_the_images_volumes_get_the_label_too() -> None:
    assert volumes.to_relabel(facts(host=SELINUX, volumes={"/data": "/own/0"})) == ("/own/0",)
