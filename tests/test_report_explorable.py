"""The data of explorable figures, against the tables and the records themselves; no browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
import pandas as pd
import pytest
from synthetic import gradient, make, second_moment

import vendor as fetching
from sigprop.records import Records
from sigprop.reporting import vendor
from sigprop.reporting.explorable import EXPLORABLE, page_data
from sigprop.reporting.explorable.lines import STEPS, VALUES
from sigprop.reporting.explorable.packing import extremes, packed, packed_bytes, spread
from sigprop.reporting.explorable.spectra import WEIGHTS
from sigprop.reporting.figures import FIGURES, Study
from sigprop.reporting.scripts import compressed, json_text, plotly_compressed
from sigprop.reporting.tables import TABLES

NETWORKS = ["plain", "batchnorm", "rescale"]
LETTERS = {"f4": "f", "f8": "d", "u1": "B"}


def unpacked(spec: dict[str, str]) -> list[float]:
    """Decode a typed array without numpy."""
    data = base64.b64decode(spec["bdata"])
    letter = LETTERS[spec["dtype"]]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data))


@pytest.fixture(scope="module")
def records() -> Records:
    return make(NETWORKS, blocks=6, seeds=2, steps=(0, 2, 4, 6), loss_steps=20)


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    blocks = range(6)
    return pd.DataFrame(
        {"network": "plain", "block": blocks, "direction": "forward",
         "quantity": "second_moment", "value": [2.0 ** (block + 1) for block in blocks]}
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(records, predictions):
    """As the page has it: through JSON."""
    return json.loads(json_text(page_data(Study(records, predictions), list(FIGURES))))


def panel(data, figure, title, view=0):
    panels = data["figures"][figure]["views"][view]["panels"]
    return next(panel for panel in panels if panel["title"] == title)


class TestNumbers:
    @pytest.mark.parametrize("values", [[0.0, 1.5, -2.25], [1e-30, 1e30], [float("nan"), 3.0], []])
    def test_seven_digits_are_kept(self, values):
        found = packed(values)
        assert found["dtype"] == "f4"
        assert unpacked(found) == pytest.approx(values, rel=1e-6, nan_ok=True)

    @pytest.mark.parametrize("value", [1e39, 1e-39, -1e300])
    def test_what_float32_cannot_hold_is_kept_whole(self, value):
        found = packed([1.0, value])
        assert found["dtype"] == "f8"
        assert unpacked(found) == [1.0, value]

    def test_bytes(self):
        assert unpacked(packed_bytes([[0, 1], [2, 255]])) == [0, 1, 2, 255]

    @pytest.mark.parametrize(("count", "most"), [(2, 2), (7, 3), (100, 30), (31, 30)])
    def test_thinning_keeps_the_ends_and_repeats_nothing(self, count, most):
        found = spread(range(count), most)
        assert (found[0], found[-1]) == (0, count - 1)
        assert len(found) == len(set(found)) == min(count, most)
        assert found == sorted(found)

    def test_spikes_survive_thinning(self):
        values = np.ones(100_000)
        values[77_777], values[5] = 9.0, -9.0
        values[200:300] = np.nan
        kept = extremes(values, 1000)
        assert {77_777, 5} <= set(kept.tolist())
        assert len(kept) <= 1000

    def test_compressed_text_is_plain_letters_and_always_the_same(self):
        text = "</script><!-- ‖∂h‖²"
        packed_text = compressed(text)
        assert gzip.decompress(base64.b64decode(packed_text)).decode("utf-8") == text
        assert not set(packed_text) & set("<>&\"'")
        assert packed_text == compressed(text)

    def test_json_has_no_nan(self):
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_text(float("nan"))


class TestEveryFigure:
    def test_there_is_one_for_each_static_figure(self):
        assert set(EXPLORABLE) == set(FIGURES)

    def test_each_has_data(self, data):
        assert list(data["figures"]) == list(FIGURES)
        assert [network["name"] for network in data["networks"]] == NETWORKS

    def test_without_records_none_has(self):
        assert page_data(Study(Records()), list(FIGURES))["figures"] == {}

    def test_only_those_asked_for(self, records):
        assert list(page_data(Study(records), ["spectra"])["figures"]) == ["spectra"]

    def test_networks_stand_in_one_order(self, data):
        for figure in data["figures"].values():
            for view in figure.get("views", []):
                for part in view["panels"]:
                    order = [line["network"] for line in part["lines"]]
                    assert order == sorted(order)
            for layer in figure.get("layers", []):
                order = [one["network"] for one in layer["maps"]]
                assert order == sorted(order)


class TestLines:
    @pytest.mark.parametrize(
        ("table", "figure", "title", "column"),
        [
            ("init_by_block", "signal", "Second moment", "second_moment"),
            ("init_by_block", "signal", "Channel variance", "channel_variance"),
            ("init_by_block", "signal", "Mean shift", "mean_shift"),
            ("init_by_block", "signal", "Dead units", "dead_fraction"),
            ("gradient_by_block", "gradient", "Gradient second moment", "second_moment"),
            ("gradient_by_block", "gradient", "Relative to the last block", "relative_gradient"),
        ],
    )  # fmt: skip
    def test_the_first_step_is_the_table(self, data, records, table, figure, title, column):
        rows = TABLES[table].build(records, None)
        lines = panel(data, f"{figure}_propagation", title)["lines"]
        assert len(lines) == len(NETWORKS)
        for line in lines:
            expected = rows[rows["network"] == NETWORKS[line["network"]]]
            count = len(line["x"])
            assert line["x"] == expected["block"].tolist()
            assert unpacked(line["center"])[:count] == pytest.approx(
                expected[column].tolist(), rel=1e-6
            )

    def test_each_step_is_what_was_put_in(self, data):
        """The law of the synthetic records, worked out by hand: no table, no averages."""
        part = panel(data, "signal_propagation", "Second moment")
        assert data["figures"]["signal_propagation"]["steps"] == [0, 2, 4, 6]
        line = part["lines"][NETWORKS.index("rescale")]
        for row, step in enumerate([0, 2, 4, 6]):
            for block in range(6):
                seeds = [second_moment("rescale", block, seed, step) for seed in (0, 1)]
                here = row * 6 + block
                assert unpacked(line["low"])[here] == pytest.approx(min(seeds), rel=1e-6)
                assert unpacked(line["high"])[here] == pytest.approx(max(seeds), rel=1e-6)
                mean = np.sqrt(seeds[0] * seeds[1])
                assert unpacked(line["center"])[here] == pytest.approx(mean, rel=1e-6)

    def test_steps_that_are_not_finite_are_marked(self, data):
        line = panel(data, "signal_propagation", "Second moment")["lines"][0]
        assert unpacked(line["state"]) == [0] * 12 + [1] * 12, "plain breaks at step 3"
        assert np.isnan(unpacked(line["center"])[12:]).all()
        steady = panel(data, "signal_propagation", "Second moment")["lines"][1]
        assert "state" not in steady

    def test_theory_stands_beside_the_outputs_alone(self, data):
        outputs, branches = (
            panel(data, "signal_propagation", "Second moment", view) for view in (0, 1)
        )
        (line,) = outputs["theory"]
        assert (line["network"], line["x"]) == (0, list(range(6)))
        assert unpacked(line["value"]) == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
        assert branches["theory"] == []
        assert panel(data, "gradient_propagation", "Gradient second moment")["theory"] == []

    def test_ports_can_be_chosen(self, data):
        views = data["figures"]["signal_propagation"]["views"]
        assert [view["name"] for view in views] == [
            "block outputs", "residual branches", "skip connections",
        ]  # fmt: skip
        assert len(views[0]["panels"]) == 4
        skip = panel(data, "signal_propagation", "Second moment", 2)["lines"][2]
        branch = second_moment("rescale", 0, 1) * 1e-3  # of a network that keeps its moment
        expected = np.sqrt((1 - 1e-3) ** 2 * second_moment("rescale", 0, 0) * (branch * 1e3))
        assert unpacked(skip["center"])[0] == pytest.approx(expected, rel=1e-6)

    def test_gradients_run_through_the_blocks(self, data):
        line = panel(data, "gradient_propagation", "Gradient second moment")["lines"][0]
        both = [gradient("plain", 0, 6, seed) for seed in (0, 1)]
        assert unpacked(line["center"])[0] == pytest.approx(np.sqrt(both[0] * both[1]), rel=1e-6)

    def test_the_guide_and_the_scale(self, data):
        update = panel(data, "gradient_to_weight", "Update / weight")
        assert update["guide"] == 1e-3
        assert panel(data, "branch_to_skip", "Skip–branch correlation")["log"] is False
        assert panel(data, "signal_propagation", "Second moment")["log"] is True

    def test_blocks_have_names(self, data):
        axis = data["figures"]["signal_propagation"]["axis"]
        assert axis["names"][0] == {str(block): f"blocks.{block}" for block in range(6)}
        assert axis["ticks"] == {}, "their names are their numbers"
        assert axis["breaks"] == [[], [], []]

    def test_one_seed_has_no_band(self):
        records = make(["rescale"], blocks=2, seeds=1, steps=(0,), loss_steps=3)
        found = page_data(Study(records), ["signal_propagation", "loss_curves"])
        line = panel(found, "signal_propagation", "Second moment")["lines"][0]
        assert not {"low", "high"} & set(line)
        assert found["figures"]["signal_propagation"]["steps"] == [0]

    def test_many_steps_and_many_blocks_are_thinned(self):
        records = make(["rescale", "plain"], blocks=2, seeds=1, steps=range(90), loss_steps=3)
        steps = page_data(Study(records), ["signal_propagation"])["figures"]["signal_propagation"][
            "steps"
        ]
        assert len(steps) == STEPS
        assert (steps[0], steps[-1]) == (0, 89)
        assert VALUES // (12 * 300) == 2, "300 blocks of twelve networks keep two steps"


class TestMaps:
    def test_they_are_whole(self, data):
        layers = data["figures"]["training_heatmaps"]["layers"]
        assert [layer["quantity"] for layer in layers] == [
            "second_moment", "grad_to_weight", "dead_fraction",
        ]  # fmt: skip
        one = layers[0]["maps"][NETWORKS.index("batchnorm")]
        assert (one["blocks"], one["steps"]) == (list(range(6)), [0, 2, 4, 6])
        values = np.reshape(unpacked(one["values"]), (6, 4))
        for block in range(6):
            for column, step in enumerate((0, 2, 4, 6)):
                seeds = [second_moment("batchnorm", block, seed, step) for seed in (0, 1)]
                mean = np.sqrt(seeds[0] * seeds[1])
                assert values[block, column] == pytest.approx(mean, rel=1e-6)
        assert "marked" not in one

    def test_cells_that_are_not_finite_are_marked_and_hold_no_value(self, data):
        one = data["figures"]["training_heatmaps"]["layers"][0]["maps"][0]
        marked = np.reshape(unpacked(one["marked"]), (6, 4))
        assert (marked == [0, 0, 1, 1]).all()
        assert (np.isnan(np.reshape(unpacked(one["values"]), (6, 4))) == (marked == 1)).all()

    def test_the_scale_follows_what_stayed_finite(self, data):
        layer = data["figures"]["training_heatmaps"]["layers"][0]
        seeds = [second_moment("batchnorm", 5, seed, 6) for seed in (0, 1)]
        largest = np.log10(np.sqrt(seeds[0] * seeds[1]))
        assert layer["high"] == pytest.approx(largest + 1), "a decade above those that are finite"
        assert layer["open"] == ["above"], "plain's last finite values lie beyond"
        assert len(layer["palette"]) == 12


class TestSpectra:
    def test_values_fall_from_the_largest(self, data, records):
        figure = data["figures"]["spectra"]
        assert figure["moments"] == ["first recorded step", "last recorded step"]
        line = figure["networks"][0]["lines"][2]
        assert (line["name"], line["operator"]) == ("blocks.2.conv1.weight", "conv")
        values = unpacked(line["values"][0]["sigma"])
        rows = records.spectra
        rows = rows[(rows["network"] == "plain") & (rows["seed"] == 0) & (rows["step"] == 0)]
        expected = rows.loc[rows["name"] == line["name"], "singular_value"].tolist()
        assert values == pytest.approx(expected, rel=1e-6)
        assert values == sorted(values, reverse=True)
        assert line["values"][0]["of"] == 16

    def test_many_weights_are_thinned_and_counted(self):
        records = make(["rescale"], blocks=WEIGHTS + 20, seeds=1, steps=(0,), loss_steps=3)
        (network,) = page_data(Study(records), ["spectra"])["figures"]["spectra"]["networks"]
        assert network["weights"] == WEIGHTS + 20
        depths = [line["depth"] for line in network["lines"]]
        assert len(depths) == WEIGHTS
        assert (depths[0], depths[-1]) == (0.0, 1.0)


class TestLoss:
    def test_every_seed_is_there_and_the_end_is_marked(self, data, records):
        part = panel(data, "loss_curves", "Training loss")
        assert len(part["faint"]) == 6
        faint = next(line for line in part["faint"] if line["network"] == 2 and line["seed"] == 1)
        rows = records.training
        rows = rows[
            (rows["network"] == "rescale") & (rows["seed"] == 1) & (rows["mode"] == "train")
        ]
        assert faint["x"] == rows["step"].tolist()
        assert unpacked(faint["center"]) == pytest.approx(rows["loss"].tolist(), rel=1e-6)
        (mark,) = part["marks"]
        assert (mark["network"], mark["x"], mark["text"]) == (0, 2, "diverged at step 3")
        assert mark["y"] == pytest.approx(2.3e4)

    def test_accuracy_is_the_table(self, data, records):
        table = TABLES["training"].build(records, None)
        lines = panel(data, "loss_curves", "Accuracy, eval mode")["lines"]
        for line in lines:
            rows = table[
                (table["network"] == NETWORKS[line["network"]]) & (table["mode"] == "eval")
            ]
            assert line["x"] == rows["step"].tolist()
            assert unpacked(line["center"]) == pytest.approx(rows["accuracy"].tolist(), rel=1e-6)


def test_fifty_blocks_two_hundred_steps_and_four_networks_stay_below_6_mb():
    """What a page holds: data, the script that draws, and at most 1 MB of pictures and tables."""
    names = ["plain", "batchnorm", "rescale", "fixup"]
    records = make(names, blocks=50, seeds=2, steps=(0,), loss_steps=200, diverge_at=None)
    for table in ("signals", "parameters"):
        rows = getattr(records, table)
        varied = [
            name for name in rows.columns[rows.dtypes == "float64"] if rows[name].notna().any()
        ]
        parts = [
            rows.assign(step=step, **{n: rows[n] * 1.001**step for n in varied})
            for step in range(200)
        ]
        setattr(records, table, pd.concat(parts, ignore_index=True))
    data = page_data(Study(records), list(FIGURES))
    whole = len(data["figures"]["training_heatmaps"]["layers"][0]["maps"][0]["steps"])
    assert whole == 200, "heat maps are not thinned"
    assert len(compressed(json_text(data))) + len(plotly_compressed()) < 5_000_000


class TestVendoredScripts:
    """What `vendor.py` keeps is what npm serves."""

    @pytest.mark.parametrize("script", fetching.SCRIPTS, ids=lambda script: script.package)
    def test_facts_stand_beside_the_files(self, script):
        folder = fetching.ROOT / script.folder
        assert (folder / f"{script.package}.json").read_text("utf-8") == script.facts
        for name in script.files.values():
            assert (folder / name).stat().st_size > 1000
        assert script.version in next(folder.glob("*.min.js")).read_text("utf-8")[:200]

    def test_an_archive_with_another_checksum_is_refused(self):
        script = fetching.SCRIPTS[0]
        with pytest.raises(ValueError, match="nothing was written") as caught:
            fetching.unpacked(b"tampered", script)
        assert script.integrity in str(caught.value)

    def test_an_archive_with_the_checksum_is_unpacked(self):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in ("a.js", "unwanted.js"):
                member = tarfile.TarInfo(f"package/{name}")
                member.size = 2
                archive.addfile(member, io.BytesIO(b"ok"))
        sum_of = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
        script = fetching.Script("a", "1", "MIT", f"sha512-{sum_of}", ".", {"a.js": "b.js"})
        assert fetching.unpacked(buffer.getvalue(), script) == {"b.js": b"ok"}

    def test_nothing_in_the_package_fetches(self):
        assert "eval(" not in vendor.plotly()
        assert "new Function" not in vendor.plotly()
