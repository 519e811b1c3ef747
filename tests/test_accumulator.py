"""Statistics that merge by tap equal the statistics of all their samples together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.reader import TensorReader
from sigprop.capture.recording.step_statistics import StepStatistics
from sigprop.capture.recording.tap import Tap
from sigprop.errors import BadInput
from sigprop.signals.pooled import QUANTITIES
from sigprop.signals.signal import interpret, measure_signal, pool

CHANNELS = {"a": 1, "b": 3, "c": 2}


def tap(name: str) -> Tap:
    channels = CHANNELS.get(name, 2)
    return Tap("train", 0, "block", name, name, name, 0, "out", "forward", 1, channels)


def add(accumulator: Accumulator, x: torch.Tensor, *names: str) -> None:
    """Add the statistics of a tensor that was seen at these taps."""
    statistics = TensorReader(accumulator, 1).read(x)
    assert statistics is not None
    statistics.taps += map(tap, names)


def returned(accumulator: Accumulator) -> StepStatistics:
    statistics, others = accumulator.statistics()
    assert others == []
    return statistics


# The taps at which a tensor is seen (of one channel count), or None: fetch now.
events = st.lists(
    st.one_of(
        st.none(),
        st.sampled_from([["a"], ["b"], ["c"], ["c", "d"], ["d"], ["e", "c", "d"]]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(events, min_size=1, max_size=3), st.booleans(), st.integers(0, 2**16))
def test_any_order_of_tensors_and_fetches_gives_the_whole(steps, early, seed: int) -> None:
    """Over several steps, whose memory is used again."""
    generator = torch.Generator().manual_seed(seed)
    accumulator = Accumulator()
    for happens in steps:
        samples: dict[str, list[torch.Tensor]] = {}
        for names in happens:
            if names is None:
                accumulator.flush() if early else accumulator.statistics()
                continue
            channels = CHANNELS.get(names[0], 2)
            x = torch.randn(4, channels, generator=generator, dtype=torch.float64)
            add(accumulator, x, *names)
            for name in names:
                samples.setdefault(name, []).append(x)
        statistics = returned(accumulator)
        assert list(statistics.taps) == [tap(name) for name in samples]
        for quantity in QUANTITIES:
            numbers = QUANTITIES[quantity](pool(statistics.tables))
            for row, parts in enumerate(samples.values()):
                whole = measure_signal(torch.cat(parts), 1).number(quantity)
                found = numbers[statistics.index[row]]
                assert found == pytest.approx(whole, rel=1e-9, abs=1e-12), (quantity, row)
        accumulator.clear()


def test_forgetting_the_merge_is_caught() -> None:
    """The saboteur: the last tensor alone is not the whole."""
    x, y = torch.zeros(4, 1), torch.ones(4, 1)
    accumulator = Accumulator()
    for part in (x, y):
        add(accumulator, part, "a")
    (table,) = returned(accumulator).tables
    assert interpret(table).number("second_moment") == 0.5
    assert measure_signal(y).number("second_moment") == 1.0


def test_a_channel_count_that_changes_within_a_step_is_an_error() -> None:
    accumulator = Accumulator()
    add(accumulator, torch.ones(4, 2), "c")
    add(accumulator, torch.ones(4, 5), "c")
    with pytest.raises(BadInput, match=r"^cannot merge a signal of 2 channels with one of 5$"):
        accumulator.statistics()


def test_nothing_of_a_step_is_left_in_the_next() -> None:
    accumulator = Accumulator()
    add(accumulator, torch.ones(4, 2), "c")
    accumulator.rectified.add(tap("c"))
    empty = [accumulator.empty]
    accumulator.statistics()
    accumulator.clear()
    empty.append(accumulator.empty)
    assert empty == [False, True]
    nothing = returned(accumulator)
    assert (list(nothing.taps), list(nothing.tables), nothing.rectified) == ([], [], frozenset())


def test_what_was_returned_is_not_changed_by_what_follows_in_the_step() -> None:
    accumulator = Accumulator()
    add(accumulator, torch.zeros(4, 1), "a")
    first = returned(accumulator)
    taps, index = list(first.taps), list(first.index)
    tables = [table.copy() for table in first.tables]
    add(accumulator, torch.ones(4, 1), "a")
    add(accumulator, torch.ones(4, 3), "b")
    second = returned(accumulator)
    assert (list(first.taps), list(first.index)) == (taps, index)
    assert all(np.array_equal(a, b) for a, b in zip(first.tables, tables, strict=True))
    assert list(second.taps) == [tap("a"), tap("b")]


def test_a_step_like_the_one_before_has_the_very_same_taps() -> None:
    """So that what follows from the taps need not be worked out again."""
    accumulator, taps = Accumulator(), []
    for names in (["a", "b"], ["a", "b"], ["b", "a"]):
        for name in names:
            add(accumulator, torch.ones(4, CHANNELS[name]), name)
        taps.append(returned(accumulator).taps)
        accumulator.clear()
    assert taps[0] is taps[1]
    assert [t.name for t in taps[2]] == ["b", "a"]


def test_memory_is_used_again_once_its_step_is_over() -> None:
    """After any number of steps there are as many tables as one step needs; and 5,000 channels."""
    accumulator, addresses = Accumulator(), []
    for _ in range(3):
        add(accumulator, torch.ones(2, 5000), "wide")
        add(accumulator, torch.ones(2, 3), "b")
        addresses.append([t.__array_interface__["data"][0] for t in returned(accumulator).tables])
        accumulator.clear()
    assert addresses[0] == addresses[1] == addresses[2]
    assert len(set(addresses[0])) == 2


def test_a_tap_may_join_until_its_statistics_are_fetched() -> None:
    accumulator = Accumulator()
    statistics = TensorReader(accumulator, 1).read(torch.ones(2, 2))
    assert statistics is not None
    statistics.version = 0
    accumulator.statistics()
    assert statistics.version == -1  # the version of no tensor: nothing joins any more
