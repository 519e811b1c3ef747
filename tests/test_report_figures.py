"""The figures, read from their artists: lines, bands, marks, labels and scales. No pixels."""

from __future__ import annotations

import math
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import LAWS, gradient, make, second_moment

from sigprop.errors import BadInput, UnknownName
from sigprop.records import Records, concat, tidy
from sigprop.reporting.canvas import Sheet, fitting_columns, looks, safe_text, save, theme
from sigprop.reporting.curves import limits
from sigprop.reporting.figures import FIGURES, FigureSpec, NothingToDraw, Study, figure
from sigprop.reporting.figures.heatmaps import color_scale, edges

NAN, INF = float("nan"), float("inf")
LINES = ("signal_propagation", "gradient_propagation", "branch_to_skip", "gradient_to_weight")


def draw(name, records, predictions=None):
    return FIGURES[name](Study(records, predictions))


def panel(drawn, title):
    return next(axes for axes in drawn.axes if axes.get_title(loc="left") == title)


def lines(axes):
    """The measured lines by network."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def marks(axes, kind):
    """Where a kind of mark stands, by rank of the network."""
    return {
        int(line.get_gid().partition(":")[2]): list(line.get_xdata())
        for line in axes.lines
        if str(line.get_gid()).startswith(f"{kind}:")
    }


def legend_words(drawn, as_read=False):
    """The words of the legend, in the order of its handles or row by row as they are read."""
    texts = [text for legend in drawn.legends for text in legend.get_texts()]
    if as_read:
        with theme():
            drawn.draw_without_rendering()
        boxes = {text: text.get_window_extent() for text in texts}
        texts.sort(key=lambda text: (-round(boxes[text].y0), boxes[text].x0))
    return [text.get_text() for text in texts]


def broken_records():
    """Every kind of trouble at once."""
    records = make(["plain", "batchnorm", "rescale", "fixup"], blocks=12, seeds=2)
    rows = records.signals
    moments = ["second_moment", "channel_variance", "mean_shift"]
    rows.loc[(rows["network"] == "plain") & (rows["block"] >= 5), moments] = INF
    rows.loc[(rows["network"] == "fixup") & (rows["direction"] == "backward"), moments] = 0.0
    rows.loc[rows["network"] == "batchnorm", moments] = NAN
    rows.loc[rows["block"] == 3, "dead_fraction"] = NAN
    records.parameters.loc[records.parameters["block"] == 2, "grad_to_weight"] = NAN
    records.spectra.loc[records.spectra["index"] == 15, "singular_value"] = 0.0
    records.training.loc[records.training["network"] == "batchnorm", "loss"] = NAN
    return records


CASES = {
    "one network, one seed, one block": lambda: make(["plain"], blocks=1, seeds=1, diverge_at=None),
    "six networks, fifty blocks": lambda: make(list(LAWS), blocks=50, seeds=1, steps=(0, 9)),
    "trouble of every kind": broken_records,
}


@pytest.fixture(scope="module", params=list(CASES))
def records(request):
    return CASES[request.param]()


class TestContract:
    """Every figure in the registry, present and future."""

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_it_draws_and_its_layout_can_be_computed(self, name, records):
        drawn = draw(name, records)
        assert isinstance(drawn, Figure)
        with theme():
            drawn.draw_without_rendering()

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_every_panel_has_labels_and_a_title_somewhere(self, name, records):
        drawn = draw(name, records)
        assert any(axes.get_title(loc="left") for axes in drawn.axes)
        assert any(axes.get_xlabel() for axes in drawn.axes)
        assert any(axes.get_ylabel() for axes in drawn.axes)

    @pytest.mark.parametrize("name", list(FIGURES))
    @pytest.mark.parametrize("table", ["signals", "parameters", "spectra", "training"])
    def test_a_missing_table_gives_a_picture_or_one_sentence(self, name, table):
        records = make(["plain", "rescale"], blocks=3, seeds=1)
        setattr(records, table, tidy(table, []))
        try:
            words = "A picture." if isinstance(draw(name, records), Figure) else ""
        except NothingToDraw as absent:
            words = str(absent)
        assert re.fullmatch(r"[A-Z][^.]*\.", words)

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_empty_records_have_nothing_to_draw(self, name):
        with pytest.raises(NothingToDraw):
            draw(name, Records())

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_caption_is_two_sentences_and_the_title_is_short(self, name):
        spec = FIGURES[name]
        assert spec.name == name
        assert 0 < len(spec.title) < 60
        sentences = re.split(r"[.)]\s+(?=[A-Z])", spec.caption)
        assert len(sentences) == 2, sentences
        assert spec.caption.rstrip(")").endswith(".")

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_the_frames_are_not_changed(self, name):
        records = broken_records()
        before = {table: frame.copy() for table, frame in records.tables().items()}
        draw(name, records)
        for table, frame in records.tables().items():
            pd.testing.assert_frame_equal(frame, before[table])

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_no_figure_is_left_with_pyplot_and_no_setting_is_left_changed(self, name):
        before = dict(mpl.rcParams)
        draw(name, make(["plain"], blocks=2, seeds=1))
        assert dict(mpl.rcParams) == before
        pyplot = __import__("matplotlib.pyplot", fromlist=["get_fignums"])
        assert pyplot.get_fignums() == []

    @pytest.mark.parametrize("name", list(FIGURES))
    def test_the_same_records_give_the_same_bytes(self, name, tmp_path):
        records = make(["plain", "rescale"], blocks=3, seeds=2)
        for kind in ("svg", "png"):
            for copy in ("a", "b"):
                save(draw(name, records), kind, tmp_path / f"{copy}.{kind}", dpi=40)
            assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()

    @pytest.mark.parametrize("name", LINES)
    def test_legends_lie_outside_the_panels(self, name):
        drawn = draw(name, make(list(LAWS), blocks=8, seeds=2))
        with theme():
            drawn.draw_without_rendering()
        (legend,) = drawn.legends
        assert legend.get_window_extent().y1 <= min(a.get_window_extent().y0 for a in drawn.axes)
        assert not any(axes.get_legend() for axes in drawn.axes)

    @pytest.mark.parametrize("name", LINES)
    def test_every_network_is_in_the_legend_of_a_line_figure(self, name):
        words = legend_words(draw(name, make(list(LAWS), blocks=3, seeds=2)), as_read=True)
        assert words[: len(LAWS)] == list(LAWS)
        assert "band: min–max over seeds" in words


class TestSignalPropagation:
    def test_lines_carry_the_law(self):
        axes = panel(draw("signal_propagation", make(seeds=1, steps=(0, 10))), "Second moment")
        drawn = lines(axes)
        assert list(drawn) == ["plain", "batchnorm", "rescale"]
        for network, line in drawn.items():
            expected = [second_moment(network, block) for block in range(30)]
            assert line.get_xdata() == pytest.approx(np.arange(30))
            assert line.get_ydata() == pytest.approx(expected, rel=1e-12)

    def test_panels_are_the_parts_of_the_identity(self):
        drawn = draw("signal_propagation", make(seeds=1))
        whole, variance, shift = (
            lines(panel(drawn, title))["rescale"].get_ydata()
            for title in ("Second moment", "Channel variance", "Mean shift")
        )
        assert variance + shift == pytest.approx(whole, rel=1e-12)

    def test_line_is_the_geometric_mean_and_band_the_range_over_seeds(self):
        axes = panel(draw("signal_propagation", make(["plain"], seeds=3)), "Second moment")
        assert lines(axes)["plain"].get_ydata()[4] == pytest.approx(2.0**5, rel=1e-12)
        (band,) = axes.collections
        heights = band.get_paths()[0].vertices
        at_four = heights[heights[:, 0] == 4.0][:, 1]
        assert at_four.min() == pytest.approx(32 / 1.02, rel=1e-9)
        assert at_four.max() == pytest.approx(32 * 1.02, rel=1e-9)

    def test_one_seed_has_no_band(self):
        drawn = draw("signal_propagation", make(seeds=1))
        assert not any(axes.collections for axes in drawn.axes)
        assert "band: min–max over seeds" not in legend_words(drawn)

    def test_scales_follow_the_rule(self):
        drawn = draw("signal_propagation", make())
        assert panel(drawn, "Second moment").get_yscale() == "log"
        assert panel(drawn, "Dead units").get_yscale() == "linear"
        calm = draw("signal_propagation", make(["rescale"]))
        assert panel(calm, "Second moment").get_yscale() == "linear"

    def test_a_flat_line_does_not_look_like_a_cliff(self):
        axes = panel(draw("signal_propagation", make(["rescale"])), "Second moment")
        low, high = axes.get_ylim()
        assert low < 0.9
        assert high > 1.1

    def test_dead_units_are_aggregated_over_the_taps_of_a_block(self):
        axes = panel(draw("signal_propagation", make(seeds=1)), "Dead units")
        assert lines(axes)["plain"].get_ydata() == pytest.approx(np.full(30, 0.075))

    def test_labels_define_their_numbers(self):
        drawn = draw("signal_propagation", make(["plain"], blocks=2))
        labels = [axes.get_ylabel() for axes in drawn.axes]
        assert labels[0] == "second moment  E[x²]"
        assert "Var" in labels[1]
        assert "share" in labels[3]
        assert {axes.get_xlabel() for axes in drawn.axes} == {"block  blocks.*  (execution order)"}

    def test_only_the_first_step_is_shown(self):
        axes = panel(draw("signal_propagation", make(["rescale"], seeds=1)), "Second moment")
        assert lines(axes)["rescale"].get_ydata()[0] == pytest.approx(second_moment("rescale", 0))

    def test_extreme_values(self):
        records = make(["plain"], blocks=3, seeds=1)
        values = {0: 1e-30, 1: 1.0, 2: 1e30}
        records.signals["second_moment"] = records.signals["block"].map(values)
        axes = panel(draw("signal_propagation", records), "Second moment")
        assert lines(axes)["plain"].get_ydata() == pytest.approx([1e-30, 1.0, 1e30])
        low, high = axes.get_ylim()
        assert low < 1e-30
        assert high > 1e30

    def test_missing_dead_units_are_said_and_nothing_else_suffers(self):
        records = make(["rescale"], blocks=3)
        records.signals["dead_fraction"] = NAN
        axes = panel(draw("signal_propagation", records), "Dead units")
        assert [text.get_text() for text in axes.texts] == ["not recorded"]

    def test_no_more_than_a_dozen_markers_per_line(self):
        drawn = draw("signal_propagation", make(["plain"], blocks=50, seeds=1))
        line = lines(panel(drawn, "Second moment"))["plain"]
        start, every = line.get_markevery()
        assert len(range(start, 50, every)) <= 12


class TestTrouble:
    def test_non_finite_blocks_are_crossed_and_named(self):
        records = make(["plain", "rescale"], blocks=30, seeds=2, diverge_at=None)
        hit = (records.signals["network"] == "plain") & (records.signals["block"] >= 23)
        records.signals.loc[hit, ["second_moment", "channel_variance"]] = INF
        drawn = draw("signal_propagation", records)
        assert marks(panel(drawn, "Second moment"), "nonfinite") == {0: list(range(23, 30))}
        assert "plain: non-finite from block 23" in legend_words(drawn)
        assert drawn.notes == [
            "plain: second moment and channel variance non-finite from block 23."
        ]

    def test_finite_moments_over_broken_elements_are_drawn_and_marked(self):
        records = make(["plain"], blocks=4, seeds=1, diverge_at=None)
        records.signals.loc[records.signals["block"] == 2, "nonfinite"] = 1
        axes = panel(draw("signal_propagation", records), "Second moment")
        assert marks(axes, "nonfinite") == {0: [2]}
        assert np.isfinite(lines(axes)["plain"].get_ydata()).all()

    def test_one_broken_seed_does_not_hide_the_others(self):
        records = make(["plain"], blocks=4, seeds=3, diverge_at=None)
        hit = (records.signals["seed"] == 0) & (records.signals["block"] == 1)
        records.signals.loc[hit, "second_moment"] = INF
        axes = panel(draw("signal_propagation", records), "Second moment")
        assert marks(axes, "nonfinite") == {0: [1]}
        expected = math.sqrt(second_moment("plain", 1, 1) * second_moment("plain", 1, 2))
        assert lines(axes)["plain"].get_ydata()[1] == pytest.approx(expected, rel=1e-12)

    def test_zeros_on_a_logarithmic_axis_stand_at_its_foot(self):
        records = make(["plain", "fixup"], blocks=6, seeds=1, steps=(0,), diverge_at=None)
        rows = records.signals
        hit = (rows["network"] == "fixup") & (rows["direction"] == "backward") & (rows["block"] < 4)
        records.signals.loc[hit, "second_moment"] = 0.0
        drawn = draw("gradient_propagation", records)
        axes = panel(drawn, "Gradient second moment")
        assert axes.get_yscale() == "log"
        assert marks(axes, "zero") == {1: [0, 1, 2, 3]}
        assert np.isnan(lines(axes)["fixup"].get_ydata()[:4]).all()
        assert "fixup: exactly 0 up to block 3" in legend_words(drawn)

    def test_a_mean_shift_of_rounding_size_does_not_stretch_the_axis(self):
        records = make(["plain", "rescale"], blocks=4, seeds=1, diverge_at=None)
        records.signals.loc[records.signals["network"] == "rescale", "mean_shift"] = 1e-16
        drawn = draw("signal_propagation", records)
        assert panel(drawn, "Mean shift").get_ylim()[0] > 1e-6
        assert "rescale: 0 to rounding at every block" in legend_words(drawn)

    def test_undefined_values_are_marked_as_such(self):
        records = make(["plain"], blocks=4, seeds=1, diverge_at=None)
        records.signals.loc[records.signals["block"] == 1, "second_moment"] = NAN
        drawn = draw("signal_propagation", records)
        assert marks(panel(drawn, "Second moment"), "undefined") == {0: [1]}
        assert "plain: undefined (NaN) at block 1" in legend_words(drawn)

    def test_nothing_finite_is_written_into_the_panel(self):
        records = make(["plain"], blocks=4, seeds=1)
        records.signals["second_moment"] = NAN
        axes = panel(draw("signal_propagation", records), "Second moment")
        assert [text.get_text() for text in axes.texts] == ["no finite value"]


class TestDraws:
    def test_the_same_seed_in_two_runs_counts_twice(self):
        first, second = make(["plain"], blocks=3, seeds=1), make(["plain"], blocks=3, seeds=1)
        for frame in second.tables().values():
            frame["run"] = "other"
        second.signals["second_moment"] *= 4.0
        axes = panel(draw("signal_propagation", concat([first, second])), "Second moment")
        expected = [2 * second_moment("plain", block) for block in range(3)]
        assert lines(axes)["plain"].get_ydata() == pytest.approx(expected, rel=1e-12)
        assert len(axes.collections) == 1

    def test_seeds_with_different_first_steps_are_all_drawn(self):
        records = make(["rescale"], blocks=3, seeds=2)
        late = (records.signals["seed"] == 1) & (records.signals["step"] == 0)
        records.signals = records.signals[~late]
        axes = panel(draw("signal_propagation", records), "Second moment")
        expected = math.sqrt(
            second_moment("rescale", 0, 0, step=0) * second_moment("rescale", 0, 1, step=10)
        )
        assert lines(axes)["rescale"].get_ydata()[0] == pytest.approx(expected, rel=1e-12)

    def test_the_order_of_rows_does_not_matter(self):
        records = make(["plain", "rescale"], blocks=6, seeds=2)
        first = lines(panel(draw("signal_propagation", records), "Second moment"))
        for table, frame in records.tables().items():
            shuffled = frame.sample(frac=1, random_state=0)
            setattr(records, table, shuffled.sort_values("network", kind="stable"))
        again = lines(panel(draw("signal_propagation", records), "Second moment"))
        for network, line in first.items():
            assert line.get_ydata() == pytest.approx(again[network].get_ydata(), rel=1e-12)

    def test_eval_rows_do_not_mix_with_training_rows(self):
        records = make(["rescale"], blocks=3, seeds=1)
        evaluation = records.signals.assign(mode="eval", second_moment=1e9)
        records.signals = pd.concat([records.signals, evaluation], ignore_index=True)
        axes = panel(draw("signal_propagation", records), "Second moment")
        assert lines(axes)["rescale"].get_ydata().max() < 2


class TestSaboteurs:
    """What the pictures are for: a change in the records must be seen in them."""

    def growth(self, records):
        axes = panel(draw("signal_propagation", records), "Second moment")
        values = lines(axes)["rescale"].get_ydata()
        return values[-1] / values[0]

    def test_a_branch_scaled_by_a_tenth_shows(self):
        records = make(["rescale"], blocks=30, seeds=1)
        assert self.growth(records) == pytest.approx(1.0)
        records.signals["second_moment"] *= 1.01 ** records.signals["block"]
        assert self.growth(records) == pytest.approx(1.01**29)

    def test_a_detached_gradient_shows(self):
        records = make(["plain", "rescale"], blocks=6, seeds=1)
        rows = records.signals
        hit = (
            (rows["network"] == "rescale") & (rows["direction"] == "backward") & (rows["block"] < 3)
        )
        records.signals = rows[~hit]
        line = lines(panel(draw("gradient_propagation", records), "Gradient second moment"))
        assert line["rescale"].get_xdata().tolist() == [3, 4, 5]

    def test_dead_layers_show(self):
        records = make(["rescale"], blocks=6, seeds=1)
        records.signals.loc[records.signals["block"] == 4, "dead_fraction"] = 1.0
        axes = panel(draw("signal_propagation", records), "Dead units")
        assert lines(axes)["rescale"].get_ydata().tolist() == [0, 0, 0, 0, 1, 0]


class TestTheory:
    def predictions(self, **more):
        rows = [
            {"network": "plain", "block": block,
             "direction": "forward", "quantity": "second_moment",
             "value": 2.0 ** (block + 1), **more}
            for block in range(30)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def test_a_dashed_line_lies_over_the_measurement(self):
        drawn = draw("signal_propagation", make(seeds=1), self.predictions())
        axes = panel(drawn, "Second moment")
        (line,) = [line for line in axes.lines if line.get_gid() == "theory:0"]
        assert line.get_linestyle() == "--"
        assert line.get_ydata() == pytest.approx([2.0 ** (block + 1) for block in range(30)])
        assert line.get_zorder() > lines(axes)["plain"].get_zorder()
        assert "theory" in legend_words(drawn)

    def test_networks_without_a_prediction_are_listed(self):
        drawn = draw("signal_propagation", make(seeds=1), self.predictions())
        assert drawn.notes == ["batchnorm: no prediction.", "rescale: no prediction."]

    def test_it_appears_only_on_its_own_pass_and_quantity(self):
        predictions = self.predictions()
        predictions["direction"] = "backward"
        assert "theory" not in legend_words(draw("signal_propagation", make(seeds=1), predictions))
        backward = draw("gradient_propagation", make(seeds=1), predictions)
        found = [
            line for axes in backward.axes for line in axes.lines if line.get_gid() == "theory:0"
        ]
        assert len(found) == 1

    def test_predictions_of_unknown_networks_and_of_nothing_draw_nothing(self):
        for wrong in (self.predictions(network="other"), self.predictions(value=NAN)):
            assert "theory" not in legend_words(draw("signal_propagation", make(seeds=1), wrong))

    def test_a_missing_column_is_named(self):
        with pytest.raises(BadInput) as caught:
            Study(make(blocks=1), self.predictions().drop(columns="value"))
        assert str(caught.value) == (
            "predictions lack the column 'value'; "
            "they need network, block, direction, quantity, value"
        )


class TestGradientPropagation:
    def test_lines_carry_the_law(self):
        drawn = draw("gradient_propagation", make(seeds=1))
        line = lines(panel(drawn, "Gradient second moment"))["plain"]
        expected = [gradient("plain", block, 30) for block in range(30)]
        assert line.get_ydata() == pytest.approx(expected, rel=1e-12)

    def test_relative_lines_meet_at_one(self):
        axes = panel(draw("gradient_propagation", make()), "Relative to the last block")
        assert [line.get_ydata()[-1] for line in lines(axes).values()] == [1.0, 1.0, 1.0]


class TestBranchToSkip:
    def test_ratio_of_second_moments(self):
        drawn = draw("branch_to_skip", make(["plain"], seeds=1))
        values = lines(panel(drawn, "Branch / skip"))["plain"].get_ydata()
        # branch = (1/2 + 1e-3) of the output, skip the rest
        assert values == pytest.approx(np.full(30, 0.501 / 0.499), rel=1e-9)

    def test_correlation_is_centered_on_a_dotted_zero(self):
        axes = panel(draw("branch_to_skip", make(["plain"])), "Skip–branch correlation")
        low, high = axes.get_ylim()
        assert low == -high
        (zero,) = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert list(zero.get_ydata()) == [0.0, 0.0]


class TestGradientToWeight:
    def test_a_block_is_the_geometric_mean_of_its_matrices_alone(self):
        drawn = draw("gradient_to_weight", make(["rescale"], seeds=1))
        values = lines(panel(drawn, "Gradient / weight, first recorded step"))[
            "rescale"
        ].get_ydata()
        expected = [20 * math.sqrt(gradient("rescale", block, 30)) for block in range(30)]
        assert values == pytest.approx(expected, rel=1e-9)

    def test_first_and_last_step_share_their_axis(self):
        drawn = draw("gradient_to_weight", make())
        first, last = (
            panel(drawn, f"Gradient / weight, {when} recorded step") for when in ("first", "last")
        )
        assert first.get_ylim() == last.get_ylim()
        assert first.get_yscale() == last.get_yscale() == "log"
        assert marks(last, "nonfinite") == {0: list(range(30))}

    def test_a_picture_at_initialization_has_no_last_step_and_no_updates(self):
        records = make(["rescale"], steps=(0,))
        records.parameters["update_to_weight"] = NAN
        titles = [axes.get_title(loc="left") for axes in draw("gradient_to_weight", records).axes]
        assert titles == ["Gradient / weight, first recorded step"]

    def test_the_rule_of_thumb_is_visible_on_a_linear_axis_too(self):
        records = make(["rescale"], seeds=1, steps=(0,))
        records.parameters["update_to_weight"] = 3e-4
        axes = panel(draw("gradient_to_weight", records), "Update / weight, first recorded step")
        assert axes.get_yscale() == "linear"
        assert axes.get_ylim()[1] >= 1.05e-3

    def test_the_rule_of_thumb_is_visible(self):
        axes = panel(draw("gradient_to_weight", make()), "Update / weight, first recorded step")
        low, high = axes.get_ylim()
        assert low < 1e-3 < high


class TestHeatmaps:
    def meshes(self, drawn):
        return [axes.collections[0] for axes in drawn.axes if axes.collections][:3]

    def test_cells_hold_the_logarithm_of_the_geometric_mean(self):
        drawn = draw("training_heatmaps", make(["rescale", "fixup"], blocks=5, seeds=3))
        mesh = drawn.axes[1].collections[0]
        cells = np.asarray(mesh.get_array())
        assert cells.shape == (5, 4)
        expected = math.log10(second_moment("fixup", 3, seed=1, step=20))
        assert cells[3, 2] == pytest.approx(expected, rel=1e-9)

    def test_one_color_scale_per_quantity(self):
        drawn = draw("training_heatmaps", make(["rescale", "fixup"], blocks=5))
        left, right = (drawn.axes[index].collections[0] for index in (0, 1))
        assert (left.norm.vmin, left.norm.vmax) == (right.norm.vmin, right.norm.vmax)

    def test_non_finite_cells_are_hatched_and_said(self):
        drawn = draw("training_heatmaps", make(["plain", "rescale"], blocks=5, seeds=1))
        (patch,) = drawn.axes[0].patches
        assert patch.get_hatch()
        cells = [(step, block) for step in (0, 10, 20, 30) for block in range(5)]
        inside = [patch.get_path().contains_point((step, block)) for step, block in cells]
        assert inside == [step >= 10 for step, _ in cells]
        outlines = patch.get_path().to_polygons()
        assert len(outlines) == 3, "one seamless outline per step after divergence"
        assert not drawn.axes[1].patches
        assert drawn.notes[0] == (
            "plain: second moment non-finite or undefined in 15 of 20 cells, first at step 10."
        )
        assert legend_words(drawn) == ["non-finite or undefined in a seed"]

    def test_a_single_step_is_no_training(self):
        with pytest.raises(NothingToDraw, match="Fewer than two steps"):
            draw("training_heatmaps", make(steps=(0,)))

    def test_networks_head_the_columns(self):
        drawn = draw("training_heatmaps", make(blocks=3))
        assert [axes.get_title(loc="left") for axes in drawn.axes[:3]] == [
            "plain", "batchnorm", "rescale",
        ]  # fmt: skip

    def test_a_network_that_was_stopped_early_says_so(self):
        records = make(["plain", "rescale"], blocks=3)
        rows = records.signals
        records.signals = rows[(rows["network"] == "rescale") | (rows["step"] <= 10)]
        axes = draw("training_heatmaps", records).axes
        assert [text.get_text() for text in axes[0].texts] == ["no rows after\nstep 10"]
        assert not axes[1].texts

    def test_networks_of_different_depth_share_their_vertical_axis(self):
        shallow, deep = make(["plain"], blocks=3, seeds=1), make(["rescale"], blocks=9, seeds=1)
        axes = draw("training_heatmaps", concat([shallow, deep])).axes
        assert axes[0].get_ylim() == axes[1].get_ylim()
        assert axes[0].collections[0].get_array().shape == (3, 4)
        assert axes[1].collections[0].get_array().shape == (9, 4)

    def test_a_network_without_a_quantity_says_so(self):
        records = make(["plain", "rescale"], blocks=3)
        hit = records.signals["network"] == "rescale"
        records.signals.loc[hit, "dead_fraction"] = NAN
        texts = [
            t.get_text() for axes in draw("training_heatmaps", records).axes for t in axes.texts
        ]
        assert texts == ["not recorded"]

    def cells(self, values, network="a", nonfinite=0):
        return pd.DataFrame(
            {"network": network, "center": values, "nonfinite": nonfinite, "undefined": 0}
        )

    def test_the_scale_covers_the_data(self):
        norm, extend = color_scale(self.cells([1e-3, 1e2]), True)
        assert (norm.vmin, norm.vmax, extend) == (-3.0, 2.0, "neither")

    def test_the_scale_follows_the_networks_that_stayed_finite(self):
        cells = pd.concat([self.cells([1.0, 10.0]), self.cells([1.0, 1e30], "b", nonfinite=1)])
        norm, extend = color_scale(cells, True)
        assert (norm.vmin, norm.vmax, extend) == (0.0, 2.0, "max")

    def test_the_scale_is_never_wider_than_twelve_decades(self):
        norm, extend = color_scale(self.cells([1e-30, 1.0, 1e30]), True)
        assert (norm.vmin, norm.vmax, extend) == (-6.0, 6.0, "both")

    def test_a_steady_signal_does_not_look_like_a_storm(self):
        norm, _ = color_scale(self.cells([1.0, 1.0001]), True)
        assert norm.vmin is not None
        assert norm.vmax is not None
        assert norm.vmax - norm.vmin == pytest.approx(0.1)

    def test_zeros_open_the_lower_end(self):
        assert color_scale(self.cells([0.0, 1.0, 10.0]), True)[1] == "min"

    @pytest.mark.parametrize("values", [[], [NAN], [0.0]])
    @pytest.mark.parametrize("logarithmic", [True, False])
    def test_a_scale_without_data_is_still_a_scale(self, values, logarithmic):
        norm, extend = color_scale(self.cells(values), logarithmic)
        assert norm.vmin is not None
        assert norm.vmax is not None
        assert norm.vmin < norm.vmax
        assert extend == "neither"

    def test_cells_reach_half_way_to_their_neighbors(self):
        assert edges(np.array([3])).tolist() == [2.5, 3.5]
        assert edges(np.array([0, 1, 10])).tolist() == [-0.5, 0.5, 5.5, 14.5]


class TestSpectra:
    def test_every_weight_is_one_sorted_line(self):
        drawn = draw("spectra", make(["plain"], blocks=5, seeds=2))
        first, last = drawn.axes[:2]
        assert len(first.lines) == len(last.lines) == 5
        for line in first.lines:
            assert list(line.get_ydata()) == sorted(line.get_ydata(), reverse=True)
            assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0.0, 1.0)
        assert first.get_yscale() == "log"

    def test_first_middle_and_last_are_bold(self):
        axes = draw("spectra", make(["plain"], blocks=7, seeds=1)).axes[0]
        bold = [i for i, line in enumerate(axes.lines) if line.get_linewidth() > 1]
        assert bold == [0, 3, 6]

    def test_training_ends_in_a_second_row(self):
        drawn = draw("spectra", make(["plain", "rescale"], blocks=2))
        labels = [axes.get_ylabel() for axes in drawn.axes[:4]]
        assert [label.partition("\n")[0] for label in labels] == [
            "first recorded step", "", "last recorded step", "",
        ]  # fmt: skip
        assert drawn.axes[0].lines[0].get_ydata()[-1] > drawn.axes[2].lines[0].get_ydata()[-1]

    def test_singular_weights_are_said(self):
        records = make(["plain"], blocks=2, seeds=1, steps=(0,))
        records.spectra.loc[records.spectra["index"] == 15, "singular_value"] = 0.0
        assert draw("spectra", records).notes == [
            "plain: singular values that are exactly 0 or not finite are not drawn for "
            "blocks.0.conv1.weight, blocks.1.conv1.weight."
        ]

    def test_operators_that_are_no_weights_are_dashed_and_explained(self):
        records = make(["plain"], blocks=2, seeds=1, steps=(0,))
        records.spectra.loc[records.spectra["name"] == "blocks.1.conv1.weight", "operator"] = (
            "jacobian"
        )
        drawn = draw("spectra", records)
        assert [line.get_linestyle() for line in drawn.axes[0].lines] == ["-", "--"]
        assert legend_words(drawn) == ["dashed: jacobian (not a single weight)"]


class TestLossCurves:
    def test_a_diverging_network_is_crossed_and_named(self):
        drawn = draw("loss_curves", make(seeds=2))
        axes = panel(drawn, "Training loss")
        (cross,) = [line for line in axes.lines if line.get_label() == "_diverged"]
        assert list(cross.get_xdata()) == [2.0], "the last finite loss"
        assert [text.get_text() for text in axes.texts] == ["plain: diverged at step 3"]
        assert drawn.notes == ["plain: diverged at step 3 (largest finite loss 2.3e4)."]

    def test_the_axis_is_not_fitted_to_a_loss_far_above_all_others(self):
        axes = panel(draw("loss_curves", make(diverge_at=27)), "Training loss")
        assert axes.get_yscale() == "log"
        assert axes.get_ylim()[1] < 1e5

    def test_a_network_that_was_never_finite_is_crossed_on_the_border(self):
        drawn = draw("loss_curves", make(diverge_at=0, seeds=1))
        axes = panel(drawn, "Training loss")
        (cross,) = [line for line in axes.lines if line.get_label() == "_diverged"]
        assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([0.0], [1.0])
        assert drawn.notes == ["plain: diverged at step 0."]

    def test_all_networks_never_finite(self):
        drawn = draw("loss_curves", make(["plain"], diverge_at=0))
        assert drawn.notes == ["plain: diverged at step 0."]

    def test_some_seeds(self):
        records = make(["rescale"], seeds=3)
        hit = (records.training["seed"] == 1) & (records.training["step"] >= 40)
        records.training.loc[hit, "loss"] = INF
        drawn = draw("loss_curves", records)
        assert drawn.notes[0].startswith("rescale: diverged at step 40 (1 of 3 seeds)")

    def test_raw_lines_are_faint_and_one_per_draw(self):
        axes = panel(draw("loss_curves", make(["rescale"], seeds=3)), "Training loss")
        raw = [line for line in axes.lines if line.get_label() == "_raw"]
        assert len(raw) == 3
        assert all(line.get_alpha() < 0.5 for line in raw)

    def test_the_smooth_line_is_a_running_mean_over_a_twentieth(self):
        records = make(["rescale"], seeds=1, loss_steps=60)
        axes = panel(draw("loss_curves", records), "Training loss")
        loss = records.training.loc[records.training["mode"] == "train", "loss"].to_numpy()
        assert lines(axes)["rescale"].get_ydata()[10] == pytest.approx(loss[9:12].mean())

    def test_accuracy_is_the_mean_over_seeds(self):
        axes = panel(draw("loss_curves", make(["rescale"], seeds=3)), "Accuracy, eval mode")
        line = lines(axes)["rescale"]
        assert line.get_xdata().tolist() == [9, 19, 29, 39, 49, 59]
        assert line.get_ydata()[-1] == pytest.approx(0.97 - 0.85 * math.exp(-59 / 15) - 0.005)
        assert axes.get_ylim()[1] <= 1.04

    def test_both_panels_cover_the_same_steps(self):
        drawn = draw("loss_curves", make(["rescale"], loss_steps=12))
        left, right = panel(drawn, "Training loss"), panel(drawn, "Accuracy, eval mode")
        assert left.get_xlim() == right.get_xlim()

    def test_words_of_several_divergences_do_not_lie_on_each_other(self):
        records = make(seeds=1, diverge_at=17)
        hit = (records.training["network"] == "batchnorm") & (records.training["step"] > 30)
        records.training.loc[hit, "loss"] = NAN
        drawn = draw("loss_curves", records)
        with theme():
            drawn.draw_without_rendering()
        axes = panel(drawn, "Training loss")
        upper, lower = (text.get_window_extent() for text in axes.texts)
        assert lower.y1 < upper.y0
        assert upper.x1 < axes.get_window_extent().x1

    def test_no_accuracy(self):
        records = make(["rescale"])
        records.training["accuracy"] = NAN
        axes = panel(draw("loss_curves", records), "Accuracy, train mode")
        assert [text.get_text() for text in axes.texts] == ["not recorded"]


class TestCanvas:
    def test_six_networks_differ_in_color_and_marker(self):
        style = looks(list(LAWS))
        assert len({look.color for look in style.values()}) == 6
        assert len({look.marker for look in style.values()}) == 6

    def test_more_networks_than_colors(self):
        assert len({look.color for look in looks([f"n{i}" for i in range(14)]).values()}) == 14

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("plain", "plain"),
            ("$x$", r"\$x\$"),
            ("_hidden", " _hidden"),
            ("a" * 50, "a" * 35 + "…"),
        ],
    )
    def test_names_are_made_safe(self, name, shown):
        assert safe_text(name) == shown

    @pytest.mark.parametrize("figure_name", list(FIGURES))
    def test_hostile_names_draw_without_a_warning(self, figure_name, tmp_path):
        names = {
            "plain": "$broken{",
            "batchnorm": "_private",
            "rescale": "網絡 & <b>" + 9 * " very",
        }
        records = make(list(names), blocks=2, seeds=2)
        for frame in records.tables().values():
            frame["network"] = frame["network"].map(names)
        save(draw(figure_name, records), "svg", tmp_path / "x.svg")
        assert (tmp_path / "x.svg").stat().st_size > 1000

    def test_the_legend_fits_its_room(self):
        assert fitting_columns([10] * 6, 200) == 6
        assert fitting_columns([10] * 6, 60) == 3
        assert fitting_columns([100, 100], 60) == 1
        assert fitting_columns([5], 1) == 1

    @pytest.mark.parametrize(
        ("low", "high", "kind", "logarithmic"),
        [
            (1.0, 1.0, "scale", False), (0.0, 0.0, "scale", False), (0.0, 1.0, "share", False),
            (-0.5, 0.2, "signed", False), (1e-30, 1e30, "scale", True), (1.0, 2.0, "cost", False),
            (5e-324, 1e308, "scale", True), (-3.0, -1.0, "cost", False),
        ],
    )  # fmt: skip
    def test_limits_leave_room_around_the_data(self, low, high, kind, logarithmic):
        bottom, top = limits(low, high, kind, logarithmic)
        assert bottom < top
        assert math.isfinite(bottom)
        assert math.isfinite(top)
        if low > 1e-300:
            assert bottom < low
            assert high < top

    def test_svg_holds_no_date_and_no_address_but_namespaces(self, tmp_path):
        path = tmp_path / "x.svg"
        save(draw("signal_propagation", make(["plain"], blocks=2)), "svg", path)
        text = path.read_text("utf-8")
        assert "<dc:date>" not in text
        rest = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
        rest = re.sub(r"<!DOCTYPE[^>]*>", "", rest)
        assert "http" not in rest


class TestRegistry:
    def test_the_required_figures_in_the_order_of_the_page(self):
        assert list(FIGURES) == [
            "signal_propagation", "gradient_propagation", "branch_to_skip", "training_heatmaps",
            "gradient_to_weight", "spectra", "spectra_training", "loss_curves",
        ]  # fmt: skip

    def test_an_unknown_name_is_answered_with_a_near_one(self):
        with pytest.raises(UnknownName) as caught:
            FIGURES["loss_curve"]
        assert str(caught.value) == (
            "no figure is called 'loss_curve'; did you mean 'loss_curves'?"
        )

    def test_a_users_figure_is_one_function_and_one_registration(self):
        @figure("mine", title="Mine", caption="One. Two.")
        def mine(study):
            sheet = Sheet(2, 2)
            sheet.subplots().plot([0, 1], [0, 1])
            return sheet

        try:
            assert isinstance(draw("mine", make(["plain"], blocks=1)), Figure)
        finally:
            del FIGURES._entries["mine"]

    def test_a_figure_that_returns_none_has_nothing_to_draw(self):
        spec = FigureSpec("none", "None", "One. Two.", lambda study: None)
        with pytest.raises(NothingToDraw, match="hold no data"):
            spec(Study(make(["plain"], blocks=1)))
