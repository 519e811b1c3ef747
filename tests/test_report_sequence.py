"""The order of blocks: repeated calls, stacks of blocks, their names; made by hand and real."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sigprop
from sigprop.capture import Blocks
from sigprop.records import Records, tidy
from sigprop.records.sequence import blocks_in_order, common_parent, relative_gradient, unrolled
from sigprop.reporting.axis import block_axis
from sigprop.reporting.figures import FIGURES, Study
from sigprop.reporting.summary import summarize

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """x + scale * x: the second moment grows by (1 + scale)² exactly."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            self.scale.weight.copy_(scale * torch.eye(8))

    def forward(self, x):
        return x + self.scale(x)


class Loop(nn.Module):
    """One block called twelve times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x):
        for _ in range(12):
            x = self.block(x)
        return x


class Siamese(nn.Module):
    """One stack of blocks for two inputs, the second a hundred times the first."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(Block(), Block(), Block())

    def forward(self, x):
        return self.tower(x) - self.tower(100 * x)


class Towers(nn.Module):
    """Two stacks of blocks for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(Block(), Block(), Block())
        self.right = nn.Sequential(Block(), Block(), Block())

    def forward(self, x):
        return self.left(x) - self.right(100 * x)


class Shared(nn.Module):
    """A block that is called again between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shared, self.b = Block(), Block(), Block()

    def forward(self, x):
        return self.b(self.shared(self.shared(self.a(x))))


class Stages(nn.Module):
    """Two stages with a layer between them that changes size and signal."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(Wide(8), Wide(8))
        self.between = nn.Linear(8, 16)
        self.stage2 = nn.Sequential(Wide(16), Wide(16))

    def forward(self, x):
        return self.stage2(self.between(self.stage1(x)))


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Linear(width, width)

    def forward(self, x):
        return x + self.f(x)


def own(name: str, module: nn.Module) -> bool:
    return isinstance(module, Block | Wide)


def measured(model: nn.Module, inputs: object = X, blocks: Blocks = "auto") -> Records:
    return sigprop.measure(model, inputs, blocks=blocks, network="n", spectra=False)


def order_of(records: Records) -> pd.DataFrame:
    return blocks_in_order(unrolled(records.signals))


def drawn_line(records: Records, name: str = "signal_propagation", title: str = "Second moment"):
    figure = FIGURES[name](Study(records))
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left") == title)
    (line,) = [line for line in axes.lines if line.get_label() == "n"]
    return axes, line


class TestCalls:
    def test_a_loop_is_a_sequence_of_its_calls(self):
        axes, line = drawn_line(measured(Loop()))
        assert line.get_xdata().tolist() == list(range(12))
        first = float((1.5 * X.double()).square().mean())
        expected = [first * 1.5 ** (2 * call) for call in range(12)]
        assert line.get_ydata() == pytest.approx(expected, rel=1e-5)
        assert [text.get_text() for text in axes.get_xticklabels()] == [
            "block", *(f"block#{call}" for call in range(1, 12)),
        ]  # fmt: skip

    def test_the_story_of_a_loop_spans_its_calls(self):
        row = summarize(measured(Loop())).iloc[0]
        assert (row["blocks"], row["blocks_spanned"]) == (12, 12)
        assert row["growth_per_block"] == pytest.approx(2.25, rel=1e-5)
        assert row["total_ratio"] == pytest.approx(2.25**12, rel=1e-4)
        assert row["gradient_ratio"] == pytest.approx(2.25**11, rel=1e-4)

    def test_every_figure_and_table_has_all_calls(self):
        records = measured(Loop())
        _, line = drawn_line(records, "branch_to_skip", "Branch / skip")
        assert line.get_ydata() == pytest.approx(np.full(12, 0.25), rel=1e-5)
        _, line = drawn_line(records, "gradient_propagation", "Relative to the last block")
        expected = [2.25 ** (11 - call) for call in range(12)]
        assert line.get_ydata() == pytest.approx(expected, rel=1e-4)

    def test_a_siamese_pass_is_neither_dropped_nor_joined(self):
        records = measured(Siamese())
        axes, line = drawn_line(records)
        x, y = line.get_xdata(), line.get_ydata()
        assert x.tolist() == [0, 1, 2, 2.5, 3, 4, 5]
        assert np.isnan(y[3])
        assert y[4] / y[0] == pytest.approx(1e4, rel=1e-4)
        names = [text.get_text() for text in axes.texts if str(text.get_gid()).startswith("stack")]
        assert names == ["tower", "tower#1"]
        assert order_of(records)["label"].tolist() == [
            "tower.0", "tower.1", "tower.2", "tower.0#1", "tower.1#1", "tower.2#1",
        ]  # fmt: skip

    def test_a_block_called_again_stands_where_it_ran(self):
        order = order_of(measured(Shared()))
        assert order["label"].tolist() == ["a", "shared", "shared#1", "b"]
        assert order["stack"].tolist() == [0, 0, 0, 0]

    def test_what_is_inside_a_block_follows_its_call(self):
        signals = unrolled(measured(Loop()).signals)
        skip = signals[(signals["port"] == "skip") & (signals["direction"] == "forward")]
        assert skip["block"].tolist() == list(range(12))

    def test_several_additions_in_a_block_are_not_several_calls(self):
        model = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            3,
            enable_nested_tensor=False,
        )
        records = measured(model, torch.randn(2, 5, 8))
        assert unrolled(records.signals) is records.signals

    def test_rows_are_not_changed_where_every_block_is_called_once(self):
        records = measured(Towers())
        assert unrolled(records.signals) is records.signals

    def test_unrolling_twice_is_unrolling_once(self):
        once = unrolled(measured(Siamese()).signals)
        assert unrolled(once) is once

    def test_shuffled_rows_put_a_call_after_the_same_call_of_the_block_before(self):
        records = measured(Siamese())
        records.signals = records.signals.sample(frac=1, random_state=0)
        labels = order_of(records)["label"].tolist()
        assert labels == [
            "tower.0", "tower.1", "tower.2", "tower.0#1", "tower.1#1", "tower.2#1",
        ]  # fmt: skip

    def test_no_rows(self):
        empty = tidy("signals", [])
        assert unrolled(empty) is empty
        assert blocks_in_order(empty).empty


class TestStacks:
    def test_two_towers_are_two_lines(self):
        records = measured(Towers())
        assert order_of(records)["stack_name"].tolist() == ["left"] * 3 + ["right"] * 3
        _, line = drawn_line(records)
        assert np.isnan(line.get_ydata()).tolist() == [False] * 3 + [True] + [False] * 3
        _, line = drawn_line(records, "gradient_propagation", "Relative to the last block")
        values = line.get_ydata()
        assert values[2] == values[-1] == 1.0, "each stack by its own last block"

    def test_encoder_and_decoder_are_two_lines(self):
        model = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)
        pair = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
        order = order_of(measured(model, pair))
        assert order["stack_name"].tolist() == ["encoder.layers"] * 2 + ["decoder.layers"] * 2

    def test_the_stages_of_a_network_are_one_line(self):
        order = order_of(measured(Stages(), blocks=own))
        assert len(order) == 4
        assert set(order["stack"]) == {0}

    def test_a_signal_that_goes_on_goes_on(self):
        model = nn.Sequential()
        model.stem, model.body = nn.Sequential(Block()), nn.Sequential(Block(), Block())
        order = order_of(measured(model, blocks=own))
        assert order["module"].tolist() == ["stem.0", "body.0", "body.1"]
        assert set(order["stack"]) == {0}

    def test_the_story_is_that_of_the_stack_that_goes_furthest(self):
        model = Towers()
        with torch.no_grad():
            for weight in model.right.parameters():
                weight.mul_(4)
        row = summarize(measured(model)).iloc[0]
        assert row["stack"] == "right"
        assert row["total_ratio"] == pytest.approx(3.0**6, rel=1e-4)
        assert (row["blocks"], row["blocks_spanned"]) == (6, 3)

    def test_a_jump_between_towers_is_no_growth(self):
        """The second tower's input is 10⁴ times the first's; nothing explodes."""
        row = summarize(measured(Towers())).iloc[0]
        assert row["largest_fold"] == pytest.approx(2.25**3, rel=1e-4)

    def test_one_stack_has_no_name(self):
        row = summarize(measured(Loop())).iloc[0]
        assert pd.isna(row["stack"])


class TestNames:
    def names(self, *networks):
        rows = [
            {"network": network, "block": block, "kind": "block", "module": module, "name": module,
             "port": "out", "direction": "forward", "second_moment": 1.0}
            for network, modules in networks
            for block, module in enumerate(modules)
        ]  # fmt: skip
        return block_axis(blocks_in_order(tidy("signals", rows)))

    def test_what_all_names_have_in_common_is_on_the_axis(self):
        axis = self.names(("a", ["h.layers.0", "h.layers.1"]))
        assert (axis.names, axis.label) == ({0: "0", 1: "1"}, "block  h.layers.*")

    def test_networks_of_different_depth_agree(self):
        axis = self.names(("a", ["b.0", "b.1"]), ("c", ["b.0", "b.1", "b.2"]))
        assert axis.names == {0: "0", 1: "1", 2: "2"}

    def test_networks_with_other_blocks_are_numbered(self):
        axis = self.names(("a", ["b.0", "b.1"]), ("c", ["layers.0"]))
        assert (axis.names, axis.label) == ({}, "block index")

    def test_common_parent(self):
        assert common_parent(["layer1.0", "layer1.1"]) == "layer1"
        assert common_parent(["layer1.0", "layer10.1"]) == ""
        assert common_parent([]) == ""

    @pytest.mark.parametrize("blocks", [3, 40, 400])
    def test_names_are_thinned_until_they_can_be_read(self, blocks):
        from sigprop.reporting.canvas import theme

        rows = [
            {"network": "n", "block": block, "kind": "block", "module": f"part{block % 7}.b{block}",
             "name": "", "port": "out", "direction": "forward", "second_moment": 1.0 + block}
            for block in range(blocks)
        ]  # fmt: skip
        figure = FIGURES["signal_propagation"](Study(Records(signals=tidy("signals", rows))))
        with theme():
            figure.draw_without_rendering()
        labels = [text for text in figure.axes[0].get_xticklabels() if text.get_text()]
        assert 1 < len(labels) <= 16
        lefts = [text.get_window_extent().x1 for text in labels]
        assert min(np.diff(lefts)) > 8, "turned names stand a line apart"


def test_a_gradient_relative_to_a_lost_last_block_is_undefined():
    rows = pd.DataFrame(
        {"network": "n", "run": "", "seed": 0, "step": 0, "block": [0, 1, 2],
         "second_moment": [4.0, 2.0, math.nan]}
    )  # fmt: skip
    order = pd.DataFrame(columns=["network", "block", "stack", "stack_name"])
    assert relative_gradient(rows, order)["relative_gradient"].isna().all()
    known = rows.assign(second_moment=[4.0, 2.0, 1.0])
    assert relative_gradient(known, order)["relative_gradient"].tolist() == [4.0, 2.0, 1.0]


def test_each_stack_is_relative_to_its_own_last_block():
    rows = pd.DataFrame(
        {"network": "n", "run": "", "seed": 0, "step": 0, "block": [0, 1, 2, 3],
         "second_moment": [4.0, 2.0, 900.0, 300.0]}
    )  # fmt: skip
    order = pd.DataFrame(
        {"network": "n", "block": range(4), "stack": [0, 0, 1, 1], "stack_name": list("aabb")}
    )
    assert relative_gradient(rows, order)["relative_gradient"].tolist() == [2.0, 1.0, 3.0, 1.0]


def test_a_detached_block_is_said_to_have_no_gradient():
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(Block() for _ in range(4)))

        def forward(self, x):
            for index, block in enumerate(self.blocks):
                x = block(x)
                x = x.detach() if index == 1 else x
            return x

    row = summarize(measured(Detached())).iloc[0]
    assert (row["gradient_missing"], row["gradient_from_block"], row["gradient_blocks"]) == (
        2,
        2,
        2,
    )
    assert row["gradient_ratio"] == pytest.approx(2.25, rel=1e-5)
