"""Delays between attempts."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core.backoff import Backoff

backoffs = st.builds(
    Backoff,
    st.floats(0, 1e3),
    st.floats(0, 1e6),
    factor=st.floats(1, 16),
    jitter=st.floats(0, 1, allow_subnormal=False),
)
attempts = st.integers(1, 10**9)
chances = st.floats(0, 1)


@given(backoffs, attempts, chances)
def test_delays_grow_up_to_the_longest(backoff: Backoff, attempt: int, chance: float) -> None:
    delay = backoff.delay(attempt, chance)
    assert 0 <= delay <= backoff.longest
    assert delay <= backoff.delay(attempt + 1, chance)
    assert backoff.delay(1) == min(backoff.first, backoff.longest)


@given(backoffs, attempts, chances)
def test_jitter_takes_its_share_at_most(backoff: Backoff, attempt: int, chance: float) -> None:
    full = backoff.delay(attempt)
    assert full * (1 - backoff.jitter) <= backoff.delay(attempt, chance) <= full
    assert backoff.delay(attempt, 0.0) == full * (1 - backoff.jitter)


@given(backoffs, st.integers(1, 200))
def test_each_is_the_factor_times_the_one_before(backoff: Backoff, attempt: int) -> None:
    before, after = itertools.islice(backoff, attempt - 1, attempt + 1)
    assert (before, after) == (backoff.delay(attempt), backoff.delay(attempt + 1))
    assert math.isclose(after, min(backoff.longest, before * backoff.factor), rel_tol=1e-9, abs_tol=1e-300)


def test_integers_stay_integers() -> None:
    assert list(itertools.islice(Backoff(0.5, 6.0), 6)) == [0.5, 1.0, 2.0, 4.0, 6.0, 6.0]
    assert Backoff(0.0, 6.0).delay(10**9) == 0.0
    assert Backoff(5.0, 300.0).delay(10**9) == 300.0


@pytest.mark.parametrize(
    "unfit",
    [{"first": -1}, {"longest": -1}, {"factor": 0.5}, {"jitter": 1.5}, {"jitter": -0.5}, {"first": math.nan}],
)
def test_unfit_values_are_refused(unfit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must have"):
        Backoff(**{"first": 1.0, "longest": 2.0, **unfit})
