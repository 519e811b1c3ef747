"""Readings that merge by address equal one reading of all their samples together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.tap import Tap
from sigprop.errors import BadInput
from sigprop.signals.channel_statistics import compute
from sigprop.signals.pooled import QUANTITIES
from sigprop.signals.signal import interpret, measure_signal, pool

CHANNELS = {"a": 1, "b": 3, "c": 2}


def address(name: str) -> Tap:
    at = (name, name, name, 0, "out", "forward", 1, CHANNELS.get(name, 2))
    return Tap("train", 0, "block", *at)


# Which addresses a reading answers for (of one channel count), or None: fetch now.
events = st.lists(
    st.one_of(
        st.none(),
        st.sampled_from([["a"], ["b"], ["c"], ["c", "d"], ["d"], ["e", "c", "d"]]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(events, st.integers(0, 2**16))
def test_any_order_of_readings_and_fetches_gives_the_whole(happens, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gathering = Accumulator()
    samples: dict[Any, Any] = {}
    for names in happens:
        if names is None:
            gathering.flush()
            continue
        x = torch.randn(4, CHANNELS.get(names[0], 2), generator=generator, dtype=torch.float64)
        gathering.reading(compute(x, 1), [address(name) for name in names])
        for name in names:
            samples.setdefault(name, []).append(x)
    gathering.flush()
    assert list(gathering.places) == [address(name) for name in samples]
    for name, quantity in QUANTITIES.items():
        numbers = quantity(pool(gathering.tables))
        for key, parts in samples.items():
            whole = measure_signal(torch.cat(parts), 1).number(name)
            found = numbers[gathering.places[address(key)]]
            assert found == pytest.approx(whole, rel=1e-9, abs=1e-12), (name, key)


def test_forgetting_the_merge_is_caught() -> None:
    """The saboteur: the last reading alone is not the whole."""
    x, y = torch.zeros(4, 1), torch.ones(4, 1)
    gathering = Accumulator()
    for part in (x, y):
        gathering.reading(compute(part, 1), [address("a")])
    gathering.flush()
    assert interpret(gathering.tables[0]).number("second_moment") == 0.5
    assert measure_signal(y).number("second_moment") == 1.0


def test_a_channel_count_that_changes_within_a_step_is_told() -> None:
    gathering = Accumulator()
    gathering.reading(compute(torch.ones(4, 2), 1), [address("c")])
    gathering.reading(compute(torch.ones(4, 5), 1), [address("c")])
    with pytest.raises(BadInput, match="a signal of 2 channels with one of 5"):
        gathering.flush()


def test_nothing_of_a_step_is_left_in_the_next() -> None:
    gathering = Accumulator()
    gathering.reading(compute(torch.ones(4, 2), 1), [address("c")])
    gathering.flush()
    gathering.clear()
    assert gathering.empty
    gathering.flush()
    assert gathering.tables == []
    assert gathering.places == {}
