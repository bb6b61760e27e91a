import re
import tracemalloc

import pytest

from sampan.model.errors import Exhausted
from sampan.runtime.streaming import AttachTo, ExecIn, ForwardTo, Operation
from sampan.server.streaming.tokens import IN_FLIGHT, SECONDS, Tokens
from sampan.wire.remotecommand.channels import Wanted

ALL = Wanted(stdin=True, stdout=True)
EXEC = ExecIn("a" * 64, ("sh",), ALL)
OPERATIONS: list[Operation] = [EXEC, AttachTo("a" * 64, ALL), ForwardTo("b" * 64, (80,))]


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_token_gives_its_operation_once(operation: Operation) -> None:
    tokens = Tokens()
    token = tokens.issue(operation)
    assert tokens.take(token, operation.kind) is operation
    assert tokens.take(token, operation.kind) is None


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["exec", "attach", "portforward"])
def test_a_token_opens_nothing_else_and_is_not_spent_by_that(operation: Operation, kind: str) -> None:
    tokens = Tokens()
    token = tokens.issue(operation)
    if kind != operation.kind:
        assert tokens.take(token, kind) is None
    assert tokens.take(token, operation.kind) is operation


@pytest.mark.parametrize(("after", "lives"), [(0.0, True), (59.9, True), (60.0, False), (61.0, False)])
def test_a_token_lives_a_minute(after: float, lives: bool) -> None:
    clock = Clock()
    tokens = Tokens(clock)
    token = tokens.issue(EXEC)
    clock.at += after
    assert (tokens.take(token, "exec") is EXEC) is lives


def test_a_token_is_256_random_bits_that_a_url_holds_as_they_are() -> None:
    tokens = Tokens()
    made = {tokens.issue(EXEC) for _ in range(500)}
    assert len(made) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in made)  # 43 x 6 bits


def test_too_many_that_nobody_comes_for_are_refused_until_the_oldest_have_expired() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    made = [tokens.issue(EXEC) for _ in range(IN_FLIGHT)]
    with pytest.raises(Exhausted, match="try again in a minute"):
        tokens.issue(EXEC)
    tokens.take(made[500], "exec")
    tokens.issue(EXEC)
    with pytest.raises(Exhausted):
        tokens.issue(EXEC)
    clock.at += SECONDS
    assert len(tokens) == 0
    tokens.issue(EXEC)


@pytest.mark.parametrize("wrong", ["", "x", "x" * 10_000, "\udc80", "…", "a/b", "%00", "\0"])
def test_what_is_no_token_is_nothing(wrong: str) -> None:
    tokens = Tokens()
    token = tokens.issue(EXEC)
    assert tokens.take(wrong, "exec") is None
    assert tokens.take(token + wrong, "exec") is None or not wrong


def test_guesses_cost_no_memory() -> None:
    tokens = Tokens()
    token = tokens.issue(EXEC)
    tokens.take("a guess", "exec")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(20_000):
        assert tokens.take(f"{number:043}", "exec") is None
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4096
    assert tokens.take(token, "exec") is EXEC


def test_tokens_are_kept_as_digests_alone() -> None:
    tokens = Tokens()
    token = tokens.issue(EXEC)
    assert token not in repr(vars(tokens)) and token.encode() not in repr(vars(tokens)).encode()
