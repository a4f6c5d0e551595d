"""Rates, caps and the line, by a clock of the test's own."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadwire.limits import Counts, Rates, address_key, day_of, seconds_left
from threadwire.line import Line, Place

# --- rates ------------------------------------------------------------------------------------------------------------


def test_a_bucket_holds_its_limit() -> None:
    """As many at once as the limit says; the next is told when it may come, and may come then."""
    rates = Rates(3, 60)
    assert [rates.take("a", 100.0) for _ in range(3)] == [0, 0, 0]
    wait = rates.take("a", 100.0)
    assert wait == pytest.approx(20)
    assert rates.take("a", 100.0 + wait / 2) == pytest.approx(wait / 2)
    assert rates.take("a", 100.0 + wait) == 0
    assert rates.take("a", 100.0 + wait) == pytest.approx(20)


def test_a_refusal_costs_nothing() -> None:
    """Who asks again and again is not refused for longer."""
    rates = Rates(1, 10)
    assert rates.take("a", 0) == 0
    assert [rates.take("a", at) for at in (1, 2, 3)] == [pytest.approx(9), pytest.approx(8), pytest.approx(7)]
    assert rates.take("a", 10) == 0


def test_keys_are_apart() -> None:
    """One that is over its limit takes nothing from another."""
    rates = Rates(1, 1)
    assert rates.take("a", 0) == 0
    assert rates.take("a", 0) > 0
    assert rates.take("b", 0) == 0


def test_no_limit() -> None:
    """0 is no limit, and remembers nobody."""
    rates, counts = Rates(0, 1), Counts(0)
    assert not any(rates.take("a", 0) for _ in range(1000))
    assert all(counts.take("a") for _ in range(1000))
    assert len(rates) == 0


def test_a_limit_below_one() -> None:
    """A rate below one a period still lets one through at a time."""
    rates = Rates(0.5, 1)
    assert rates.take("a", 0) == 0
    assert rates.take("a", 1) == pytest.approx(1)
    assert rates.take("a", 2) == 0


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.floats(0, 3, allow_nan=False), max_size=100),
)
def test_no_window_holds_more_than_a_bucket_and_its_filling(limit: int, steps: list[float]) -> None:
    """Within any ``seconds`` at most twice the limit passes, over long the limit; a wait that is told is true."""
    rates, now, passed = Rates(limit, 1.0), 0.0, []
    for step in steps:
        now += step
        wait = rates.take("a", now)
        if wait:
            assert 0 < wait <= 1.0
            now += wait
            assert rates.take("a", now) == 0
        passed.append(now)
    window: deque[float] = deque()
    for at in passed:
        window.append(at)
        while at - window[0] > 1.0 - 1e-6:
            window.popleft()
        assert len(window) <= 2 * limit
    assert len(passed) <= limit * (now + 1) + 1e-6


def test_a_million_addresses_are_not_remembered() -> None:
    """Keys are forgotten when their bucket is full again, and beyond the bound whatever they have."""
    rates = Rates(10, 60, max_keys=1000)
    for number in range(50_000):
        assert rates.take(number, number / 1e6) == 0
        assert len(rates) <= 1000
    assert rates.take("late", 1000.0) == 0
    for number in range(2000):
        rates.take("late", 1000.0 + 10 * number)
    assert len(rates) == 1, "those whose bucket is full are gone"


def test_the_loudest_is_not_forgotten_first() -> None:
    """Among many who come once, one who keeps coming stays limited."""
    rates = Rates(5, 1000, max_keys=100)
    refused = 0
    for number in range(500):
        rates.take(("once", number), number * 0.001)
        refused += bool(rates.take("loud", number * 0.001))
    assert refused == 495


# --- counts -----------------------------------------------------------------------------------------------------------


def test_counts() -> None:
    """As many as the limit says; what is given back can be taken again, and nobody is remembered who holds nothing."""
    counts = Counts(2)
    assert [counts.take("a"), counts.take("a"), counts.take("a"), counts.take("b")] == [True, True, False, True]
    counts.give("a")
    assert counts.take("a")
    for key in "aab":
        counts.give(key)
    assert len(counts) == 0


# --- addresses and days -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("unknown" * 100, ("unknown" * 100)[:64]),
    ],
)
def test_an_address_stands_for_its_host(address: str, key: str) -> None:
    """A host with a whole IPv6 network is one client, and IPv4 is itself however it is written."""
    assert address_key(address) == key


def test_days() -> None:
    """A day is UTC's, and ends when the next begins."""
    assert day_of(0) == day_of(86_399.9) == 0
    assert day_of(86_400) == 1
    assert seconds_left(86_000) == 400
    assert seconds_left(86_400) == 86_400


# --- the line ---------------------------------------------------------------------------------------------------------


def granted(places: list[Place]) -> list[bool]:
    return [place.granted for place in places]


def test_the_first_are_let_in() -> None:
    """So many run at once; the next waits until one leaves, and is woken."""
    line, woken = Line(at_once=2), []
    places = [line.join("a", lambda n=n: woken.append(n)) for n in range(4)]  # type: ignore[misc]
    assert granted(places) == [True, True, False, False]
    assert [line.position(place) for place in places] == [0, 0, 1, 2]
    assert (line.running, len(line)) == (2, 2)
    line.leave(places[1])
    assert granted(places) == [True, True, True, False]
    assert woken == [2], "who was let in at once is not called"


def test_a_limit_of_zero_is_none() -> None:
    """Nobody waits."""
    line = Line()
    assert all(line.join("a", lambda: None).granted for _ in range(100))


def test_it_is_fair_between_users() -> None:
    """Somebody's fiftieth waits behind everybody's first."""
    line, order = Line(at_once=1), []

    def join(user: str) -> Place:
        return line.join(user, lambda: order.append(user))

    current = join("greedy")
    waiting = [join("greedy") for _ in range(5)] + [join("b"), join("c"), join("b")]
    expected = ["greedy", "b", "c", "greedy", "b", "greedy", "greedy", "greedy"]
    assert [line.position(place) for place in waiting] == [1, 4, 6, 7, 8, 2, 3, 5]
    while waiting:
        line.leave(current)
        [current] = [place for place in waiting if place.granted]
        waiting.remove(current)
    assert order == expected


def test_one_user_may_have_so_many() -> None:
    """What is over a user's own bound waits, and stands in nobody's way."""
    line = Line(at_once=3, of_one_user=1)
    a1, a2, b1 = (line.join(user, lambda: None) for user in "aab")
    assert granted([a1, a2, b1]) == [True, False, True]
    line.leave(b1)
    assert not a2.granted
    line.leave(a1)
    assert a2.granted


def test_who_gives_up_is_passed_over() -> None:
    """A place that is left while it waits is nobody's, and a user without any is forgotten."""
    line = Line(at_once=1)
    first, second, third = (line.join("a", lambda: None) for _ in range(3))
    line.leave(second)
    line.leave(first)
    assert third.granted
    line.leave(third)
    assert not line._waiting
    assert not line._running
    assert not line._round


@given(
    at_once=st.integers(0, 4),
    of_one_user=st.integers(0, 3),
    steps=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 1_000_000)), max_size=120),
)
def test_whatever_happens_the_line_keeps_its_promises(
    at_once: int, of_one_user: int, steps: list[tuple[str, int]]
) -> None:
    """Never over a bound, never idle while somebody may run, first come first served within a user, woken once."""
    line, woken = Line(at_once, of_one_user), Counter[int]()
    places: list[tuple[int, Place]] = []
    for identity, (user, number) in enumerate(steps):
        if places and number % 3 == 0:
            line.leave(places.pop(number % len(places))[1])
        else:
            place = line.join(user, lambda identity=identity: woken.update([identity]))  # type: ignore[misc]
            places.append((identity, place))
        running = [place for _, place in places if place.granted]
        waiting = [place for _, place in places if not place.granted]
        assert line.running == len(running)
        assert len(line) == len(waiting)
        per_user = Counter(place.user for place in running)
        if at_once:
            assert len(running) <= at_once
        if of_one_user:
            assert max(per_user.values(), default=0) <= of_one_user
        if not at_once or len(running) < at_once:
            assert all(of_one_user and per_user[place.user] >= of_one_user for place in waiting)
        for name in "abcd":
            own = [place.granted for _, place in places if place.user == name]
            assert own == sorted(own, reverse=True)
        if not of_one_user:
            assert sorted(line.position(place) for place in waiting) == list(range(1, len(waiting) + 1))
    assert all(count == 1 for count in woken.values())
