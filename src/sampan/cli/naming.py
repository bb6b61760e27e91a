"""What a word on the command line names: a container, a pod or an image. Pure.

A word is an id, a name, or the first digits of an id, tried in this order. A container's names are its own
and POD/CONTAINER, a pod's its own and NAMESPACE/POD. What fits several things is refused, with all of them
listed.
"""

import re
from collections.abc import Iterable, Sequence

from sampan.api import cri_pb2 as cri
from sampan.cli.tables import printable, short
from sampan.model.errors import Invalid, NotFound

Thing = cri.Container | cri.PodSandbox

# On the pod and the container that `sampan run` makes: they live and die together.
RUN_LABEL = "sampan.run"


def container(
    word: str, containers: Sequence[cri.Container], pods: Sequence[cri.PodSandbox]
) -> cri.Container:
    """The container that is meant; a pod's name will do if it has just one. Raises NotFound or Invalid."""
    found = _latest(_matches(word, containers, pods))
    if not found:
        inside = {pod.id for pod in _matches(word, pods, pods)}
        found = _latest([each for each in containers if each.pod_sandbox_id in inside])
        if inside and not found:
            raise NotFound(f"pod {printable(word)} has no containers")
    only = _only("container", word, found, pods)
    assert isinstance(only, cri.Container)
    return only


def pod(word: str, pods: Sequence[cri.PodSandbox]) -> cri.PodSandbox:
    """The pod that is meant. Raises NotFound or Invalid."""
    only = _only("pod", word, _latest(_matches(word, pods, pods)), pods)
    assert isinstance(only, cri.PodSandbox)
    return only


def either(word: str, containers: Sequence[cri.Container], pods: Sequence[cri.PodSandbox]) -> Thing:
    """The container or pod that is meant. Raises NotFound or Invalid."""
    return _only("container or pod", word, _latest(_matches(word, [*containers, *pods], pods)), pods)


def unit(word: str, containers: Sequence[cri.Container], pods: Sequence[cri.PodSandbox]) -> Thing:
    """What is stopped or removed when this is said: what `sampan run` made is one thing, its pod."""
    found = [whole(thing, pods) for thing in _latest(_matches(word, [*containers, *pods], pods))]
    return _only("container or pod", word, list({thing.id: thing for thing in found}.values()), pods)


def whole(thing: Thing, pods: Sequence[cri.PodSandbox]) -> Thing:
    """The pod around a container that `sampan run` made: stopping or removing one means both."""
    if isinstance(thing, cri.Container) and RUN_LABEL in thing.labels:
        return next((pod for pod in pods if pod.id == thing.pod_sandbox_id), thing)
    return thing


def image(word: str, images: Iterable[cri.Image]) -> cri.Image | None:
    """The image whose id begins with `word`, with or without sha256:; Invalid if there are several."""
    digits = word.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{1,64}", digits):
        return None
    found = [each for each in images if each.id.removeprefix("sha256:").startswith(digits)]
    if len(found) > 1:
        listed = ", ".join(short(each.id) for each in found)
        raise Invalid(f"image {word} is ambiguous; give more digits of {listed}")
    return found[0] if found else None


def _matches(word: str, things: Sequence[Thing], pods: Sequence[cri.PodSandbox]) -> list[Thing]:
    found = [thing for thing in things if thing.id == word]
    if not found:
        pod_names = {each.id: each.metadata.name for each in pods}
        found = [thing for thing in things if word in _names(thing, pod_names)]
    if not found and re.fullmatch(r"[0-9a-f]{1,64}", word):
        found = [thing for thing in things if thing.id.startswith(word)]
    return found


def _names(thing: Thing, pod_names: dict[str, str]) -> set[str]:
    own = thing.metadata.name
    if isinstance(thing, cri.Container):
        return {own, f"{pod_names.get(thing.pod_sandbox_id, '')}/{own}"}
    return {own, f"{thing.metadata.namespace}/{own}"}


def _latest(things: Sequence[Thing]) -> list[Thing]:
    """Of the attempts under one name, the last."""
    last: dict[tuple[str, ...], Thing] = {}
    for thing in sorted(things, key=lambda each: (each.metadata.attempt, each.created_at)):
        if isinstance(thing, cri.Container):
            last[("container", thing.pod_sandbox_id, thing.metadata.name)] = thing
        else:
            last[("pod", thing.metadata.namespace, thing.metadata.name, thing.metadata.uid)] = thing
    return list(last.values())


def _only(kind: str, word: str, found: Sequence[Thing], pods: Sequence[cri.PodSandbox]) -> Thing:
    if not found:
        raise NotFound(f"there is no {kind} {printable(word)}; `sampan ps -a` and `sampan pods` list them")
    if len(found) > 1:
        listed = "\n".join(f"  {_described(thing, pods)}" for thing in found)
        raise Invalid(
            f"{printable(word)} is ambiguous; give more of the id, POD/CONTAINER or NAMESPACE/POD:\n{listed}"
        )
    return found[0]


def _described(thing: Thing, pods: Sequence[cri.PodSandbox]) -> str:
    name = printable(thing.metadata.name)
    if isinstance(thing, cri.PodSandbox):
        return f"pod {short(thing.id)} {printable(thing.metadata.namespace)}/{name}"
    around = next((each.metadata.name for each in pods if each.id == thing.pod_sandbox_id), "?")
    return f"container {short(thing.id)} {printable(around)}/{name}"
