"""Which server gets a request, by a clock of the test's own."""

import pytest

from butwait.engines.servers.router import (
    DEAD_AFTER,
    FIRST_PROBE_S,
    LONGEST_PROBE_S,
    Router,
)

A, B, C = "http://a/v1", "http://b/v1", "http://c/v1"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Router:
    return Router([A, B, C], clock)


def lose(router: Router, url: str, times: int = DEAD_AFTER, **how: bool) -> None:
    for _ in range(times):
        router.began(url)
        router.lost(url, "hung up", **how)


def test_sessions_go_to_the_least_loaded_and_stay(router: Router) -> None:
    assert [router.choose(name) for name in "123456"] == [A, B, C, A, B, C]
    for _ in range(5):
        router.began(B)
    assert router.choose("2") == B  # however much it has to do
    assert [router.choose(name) for name in "78"] == [A, C]
    router.began(A)
    router.answered(B)
    assert router.choose("9") == C


def test_what_has_no_session_goes_to_the_least_loaded(router: Router) -> None:
    router.began(A)
    assert router.choose("") == B
    router.began(B)
    assert router.choose("") == C


def test_a_lost_request_goes_elsewhere_and_its_session_stays(router: Router) -> None:
    assert router.choose("1") == A
    lose(router, A, 1)
    assert router.members[A].health == "suspect"
    assert router.choose("1", {A}) == B
    assert router.choose("1") == A  # a suspect serves
    assert router.choose("2") == B  # but a session begins elsewhere
    router.began(A)
    router.answered(A)
    assert (router.members[A].health, router.members[A].reason) == ("healthy", "")
    assert router.choose("3") == C
    assert router.choose("4") == A
    assert router.members[A].moved == 0


def test_a_suspect_is_looked_at_when_nothing_goes_there(router: Router, clock: Clock) -> None:
    lose(router, A, 1)
    assert [router.choose(name) for name in "1234"] == [B, C, B, C]
    assert router.due() == []
    clock.now += FIRST_PROBE_S
    assert router.due() == [A]
    router.proved(A)
    assert (router.choose("5"), router.due()) == (A, [])


def test_sessions_of_a_dead_server_move_once(router: Router) -> None:
    assert [router.choose(name) for name in "1234"] == [A, B, C, A]
    lose(router, A)
    assert router.members[A].health == "dead"
    assert [router.choose(name) for name in "14"] == [B, C]
    assert [router.choose(name) for name in "14"] == [B, C]
    assert router.members[A].moved == 2
    assert router.figures()[A] == {"requests": 3, "failures": 3, "tokens": 0, "moved": 2}
    router.proved(A)
    assert router.choose("1") == B  # its prefix is there now
    assert router.choose("5") == A


def test_a_server_that_is_gone_is_dead_at_once_and_a_busy_one_never(router: Router) -> None:
    lose(router, A, 1, gone=True)
    assert router.members[A].health == "dead"
    lose(router, B, 50, busy=True)
    assert router.members[B].health == "healthy"
    assert router.members[B].failures == 50
    assert (router.members[B].reason, router.members[B].last) == ("", "hung up")
    router.began(B)
    router.lost(B, "cut off")
    lose(router, B, 1, busy=True)  # it says nothing of what is wrong with a suspect
    assert (router.members[B].health, router.members[B].reason) == ("suspect", "hung up")
    router.began(B)
    router.answered(B)
    assert (router.members[B].health, router.members[B].reason) == ("healthy", "")


def test_a_dead_server_is_left_alone_for_longer_and_longer(router: Router, clock: Clock) -> None:
    lose(router, A)
    waits = []
    for _ in range(9):
        begun = clock.now
        while router.due() != [A]:
            clock.now += 0.5
        waits.append(clock.now - begun)
        router.died(A, "still gone")
    assert waits == [min(LONGEST_PROBE_S, FIRST_PROBE_S * 2**i) for i in range(9)]
    router.proved(A)
    assert router.due() == []
    lose(router, A)
    clock.now += FIRST_PROBE_S
    assert router.due() == [A]  # from the beginning


def test_a_draining_server_keeps_what_it_has(router: Router, clock: Clock) -> None:
    assert router.choose("1") == A
    router.drain(A, 30)
    assert router.choose("1") == A
    assert {router.choose(name) for name in "2345"} == {B, C}
    clock.now += 31
    assert router.due() == [A]  # whatever serves there now is looked at first
    assert router.choose("6") != A
    router.proved(A)
    assert router.choose("7") == A


def test_a_session_that_a_draining_server_sends_away_moves(router: Router) -> None:
    assert router.choose("1") == A
    router.drain(A, 30)
    assert router.choose("1", {A}) == B
    assert router.choose("1") == B
    assert router.members[A].moved == 1


def test_where_all_drain_the_least_loaded_serves(router: Router) -> None:
    for url in (A, B, C):
        router.drain(url, 30)
    router.began(A)
    assert router.choose("1") == B


def test_all_dead_is_nobody_and_a_single_server_never_dies(router: Router) -> None:
    for url in (A, B, C):
        lose(router, url)
    assert router.choose("1") is None
    alone = Router([A])
    lose(alone, A, 50, gone=True)
    assert alone.choose("1") == A
