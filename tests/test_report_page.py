"""The written report: files, HTML parsed as HTML, numbers re-derived from the CSV beside it."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from synthetic import make

from sigprop.errors import BadInput, RunError, UnknownName
from sigprop.records import Records, tidy
from sigprop.reporting import report, vendor
from sigprop.reporting.folder import MARKER, ReportFolder
from sigprop.reporting.glossary import QUANTITIES
from sigprop.reporting.page import SHOWN, gaps
from sigprop.reporting.summary import SUMMARY
from sigprop.reporting.tables import TABLES
from sigprop.words import cell

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page as text by id, tables by id, and every address it names."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tables = [], [], {}
        self.images, self.addresses, self.text, self.bad = [], [], [], []
        self.scripts: list[tuple[dict[str, str | None], list[str]]] = []
        self._table: list[list[str]] = []
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in facts:
            self.ids.append(facts["id"])
        self.addresses += [facts[name] for name in ("href", "src", "action") if name in facts]
        if tag == "script":
            self.scripts.append((facts, []))
        if tag == "img":
            self.images.append(facts)
        if tag == "table":
            self._table = self.tables.setdefault(facts["id"].removeprefix("table-"), [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)
        if tag in ("td", "th"):
            self._table[-1].append("".join(self._cell or []))
            self._cell = None

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            return
        if self.open[-1:] == ["script"]:
            self.scripts[-1][1].append(data)
            return
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def unpacked(self, name):
        """What the page's script gets from the element of that id."""
        (packed,) = ["".join(parts) for facts, parts in self.scripts if facts.get("id") == name]
        return gzip.decompress(base64.b64decode(packed)).decode("utf-8")

    def held(self):
        """The tables that the page holds: name -> CSV."""
        tables = json.loads(self.unpacked("page-data"))["tables"]
        return {name: table["csv"] for name, table in tables.items()}

    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def records():
    records = make(["plain", "rescale"], blocks=35, seeds=2, steps=(0, 10), loss_steps=20)
    records.missing = ["runs/b was not completed: it ends after step 12"]
    return records


@pytest.fixture(scope="module")
def written(records, tmp_path_factory):
    predictions = pd.DataFrame(
        {"network": "plain", "block": range(35),
         "direction": "forward", "quantity": "second_moment",
         "value": [2.0 ** (block + 1) for block in range(35)]}
    )  # fmt: skip
    home = tmp_path_factory.mktemp("report")
    return report(records, home / "deep" / "first", predictions=predictions)


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text("utf-8"))


def csv_rows(written, name):
    with (written.parent / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def small():
    return make(["plain"], blocks=2, seeds=1, steps=(0, 1), loss_steps=5)


class TestFiles:
    def test_page_figures_and_tables_are_there(self, written):
        home = written.parent
        assert written.name == "report.html"
        figures = {path.name for path in (home / "figures").iterdir()}
        assert figures == {
            f"{name}.{kind}"
            for kind in ("png", "svg")
            for name in (
                "signal_propagation", "gradient_propagation", "branch_to_skip",
                "training_heatmaps", "gradient_to_weight", "spectra", "spectra_training",
                "loss_curves",
            )
        }  # fmt: skip
        assert {path.name for path in (home / "tables").iterdir()} == {f"{n}.csv" for n in TABLES}

    def test_no_temporary_file_is_left(self, written):
        assert not list(written.parent.rglob(".*"))

    def test_csv_keeps_full_precision(self, written, records):
        frame = pd.read_csv(written.parent / "tables" / "init_by_block.csv")
        expected = TABLES["init_by_block"].build(records, None)
        assert frame["second_moment"].tolist() == expected["second_moment"].tolist()

    def test_pngs_are_pngs_good_for_paper(self, written):
        data = (written.parent / "figures" / "loss_curves.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(data[16:20], "big") >= 1800, "9.6 inches at 200 dots per inch"

    def test_two_runs_give_the_same_bytes(self, tmp_path):
        for copy in ("a", "b"):
            report(small(), tmp_path / copy)
        first = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
        assert len(first) > 15
        for path in first:
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes(), path.name

    def test_an_existing_report_is_overwritten_and_figures_not_asked_for_stay(self, tmp_path):
        report(small(), tmp_path, figures=["signal_propagation", "loss_curves"])
        kept = (tmp_path / "figures" / "signal_propagation.png").read_bytes()
        (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
        report(small(), tmp_path, figures=["loss_curves"], title="Second")
        assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
            "loss_curves.png", "loss_curves.svg", "mine.png",
            "signal_propagation.png", "signal_propagation.svg",
        ]  # fmt: skip
        assert (tmp_path / "figures" / "signal_propagation.png").read_bytes() == kept
        assert "<title>Second</title>" in (tmp_path / "report.html").read_text("utf-8")

    def test_a_figure_that_can_no_longer_be_drawn_goes(self, tmp_path):
        report(small(), tmp_path, figures=["loss_curves", "spectra"])
        without = small()
        without.spectra = tidy("spectra", [])
        report(without, tmp_path)
        names = {path.name for path in (tmp_path / "figures").iterdir()}
        assert "loss_curves.png" in names
        assert not names & {"spectra.png", "spectra.svg"}

    def test_a_run_directory_will_do(self, tmp_path):
        run = small().save(tmp_path / "run")
        for source in (run, str(run)):
            path = report(source, tmp_path / "out", figures=["loss_curves"])
            assert path.exists()

    def test_a_single_name_is_a_list_of_one(self, tmp_path):
        report(small(), tmp_path, figures="loss_curves")
        assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"loss_curves"}


class TestRefusals:
    def test_empty_records_say_what_to_do(self, tmp_path):
        with pytest.raises(BadInput) as caught:
            report(Records(), tmp_path)
        assert str(caught.value) == (
            "the records are empty, there is nothing to report; measure something first, "
            "for example records = sigprop.measure(model, inputs)"
        )
        assert not list(tmp_path.iterdir())

    def test_an_unknown_figure_writes_nothing(self, tmp_path):
        with pytest.raises(UnknownName) as caught:
            report(small(), tmp_path / "out", figures=["spectre"])
        assert str(caught.value) == "no figure is called 'spectre'; did you mean 'spectra'?"
        assert not (tmp_path / "out").exists()

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(RunError, match=r"cannot make the report directory .*taken"):
            report(small(), tmp_path / "taken", figures=[])
        assert (tmp_path / "taken").read_text() == "mine"

    def test_predictions_without_a_column(self, tmp_path):
        with pytest.raises(BadInput, match="predictions lack the column 'block'"):
            report(small(), tmp_path, predictions=pd.DataFrame({"network": ["plain"]}))

    def test_no_run_there(self, tmp_path):
        with pytest.raises(RunError, match="there is no directory"):
            report(tmp_path / "nowhere", tmp_path / "out")


class TestFilesOfOthers:
    """A report overwrites and deletes only what a report wrote."""

    @pytest.mark.parametrize(
        "name", ["report.html", "figures/loss_curves.svg", "tables/coverage.csv"]
    )
    def test_a_file_of_the_same_name_is_refused_and_kept(self, tmp_path, name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        with pytest.raises(RunError) as caught:
            report(small(), tmp_path)
        assert str(caught.value) == (
            f"{path} is there and was not written by a report; "
            "move it away or choose another directory"
        )
        assert path.read_text() == "mine"
        assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]

    def test_several_are_counted(self, tmp_path):
        for name in ("report.html", "loss_curves.svg"):
            (tmp_path / "figures").mkdir(exist_ok=True)
            (tmp_path / "figures" / name).write_text("mine")
        (tmp_path / "report.html").write_text("mine")
        with pytest.raises(RunError, match=r"loss_curves.svg \(and 1 more\) is there"):
            report(small(), tmp_path)

    def test_a_figure_that_was_not_asked_for_is_not_in_the_way(self, tmp_path):
        mine = tmp_path / "figures" / "spectra.png"
        mine.parent.mkdir()
        mine.write_bytes(b"mine")
        report(small(), tmp_path, figures=["loss_curves"])
        assert mine.read_bytes() == b"mine"

    def test_a_figure_of_ones_own_is_kept_when_there_is_nothing_to_draw(self, tmp_path):
        report(small(), tmp_path, figures=["loss_curves"])
        mine = tmp_path / "figures" / "spectra.svg"
        mine.write_bytes(b"mine")
        without = small()
        without.spectra = tidy("spectra", [])
        with pytest.raises(RunError, match=r"spectra\.svg is there"):
            report(without, tmp_path)
        assert mine.read_bytes() == b"mine"

    def test_a_file_called_like_the_list_of_files_is_refused(self, tmp_path):
        (tmp_path / MARKER).write_text('{"files": ["report.html"]}')
        with pytest.raises(RunError) as caught:
            report(small(), tmp_path)
        assert str(caught.value) == (
            f"{tmp_path / MARKER} is not the list of files that a report writes; "
            "move it away or choose another directory"
        )

    def test_names_in_the_list_do_not_lead_out_of_the_folder(self, tmp_path):
        home = tmp_path / "home"
        outside = tmp_path / "precious.csv"
        outside.write_text("mine")
        report(small(), home, figures=["loss_curves"])
        text = (home / MARKER).read_text().replace("report.html", "../precious.csv")
        (home / MARKER).write_text(text)
        (home / "report.html").unlink()
        report(small(), home, figures=["loss_curves"])
        assert outside.read_text() == "mine"

    def test_a_folder_removes_only_what_a_report_wrote(self, tmp_path):
        folder = ReportFolder(tmp_path)
        folder.claim(["figures/ours.png"])
        for name in ("ours.png", "mine.png"):
            (tmp_path / "figures" / name).write_bytes(b"")
        folder.remove(["figures/ours.png", "figures/mine.png"])
        assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.png"]
        assert ReportFolder(tmp_path).made == set()

    def test_an_interrupted_report_can_be_repeated(self, tmp_path, monkeypatch):
        from sigprop.records import atomic_write
        from sigprop.reporting import write

        original = atomic_write

        def interrupted(path: Path, fill):
            if path.suffix == ".html":
                raise KeyboardInterrupt
            original(path, fill)

        with monkeypatch.context() as patch:
            patch.setattr(write, "atomic_write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                report(small(), tmp_path, figures=["loss_curves"])
        assert report(small(), tmp_path, figures=["loss_curves"]).exists()

    def test_the_list_names_every_file_that_is_there(self, written):
        made = json.loads((written.parent / MARKER).read_text("utf-8"))["files"]
        found = [path for path in written.parent.rglob("*") if path.is_file()]
        names = {path.relative_to(written.parent).as_posix() for path in found}
        assert names == {*made, MARKER}


class TestHtml:
    def test_tags_are_balanced_and_ids_unique(self, page):
        assert page.bad == []
        assert page.open == []
        assert len(page.ids) == len(set(page.ids))

    def test_nothing_is_fetched(self, page, written):
        text = written.read_text("utf-8")
        assert not re.search(r"https?://", text), "Plotly's own are compressed"
        assert not re.search(r"<(link|iframe|object|embed)\b|@import|url\(", text)
        assert not [facts for facts, _ in page.scripts if "src" in facts]
        assert all(address.startswith(("#", "data:image/webp;")) for address in page.addresses)

    def test_the_page_forbids_itself_to_fetch_or_to_evaluate(self, written):
        policy = re.search(
            r'Content-Security-Policy" content="([^"]*)"', written.read_text("utf-8")
        )
        assert policy
        assert policy[1] == (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "img-src data: blob:"
        )

    def test_the_drawing_script_is_the_vendored_one_with_its_license(self, page):
        assert page.unpacked("plotly") == vendor.plotly()
        assert "Copyright (c) 2016-2024 Plotly Technologies Inc." in page.words()
        assert f"plotly.js {vendor.plotly_version()}" in page.words()

    def test_linked_pages_share_a_script_beside_them(self, tmp_path):
        path = report(small(), tmp_path, figures=["loss_curves"], linked=True)
        beside = tmp_path / vendor.PLOTLY
        assert beside.read_text("utf-8") == vendor.plotly()
        scripts = [facts for facts, _ in Page(path.read_text("utf-8")).scripts]
        assert [facts["src"] for facts in scripts if "src" in facts] == [vendor.PLOTLY]
        assert not [facts for facts in scripts if facts.get("id") == "plotly"]
        assert path.stat().st_size < 200_000

    def test_every_link_leads_into_the_page_itself(self, page):
        for address in page.addresses:
            assert address.startswith("data:") or address[1:] in page.ids

    def test_a_page_sent_alone_holds_its_tables(self, page, written):
        held = page.held()
        assert list(held) == list(TABLES)
        for name, text in held.items():
            path = written.parent / "tables" / f"{name}.csv"
            assert text == path.read_bytes().decode("utf-8")

    def test_a_large_table_is_only_a_file_beside_the_page(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sigprop.reporting.page.LARGEST", 10)
        page = Page(report(small(), tmp_path, figures=[]).read_text("utf-8"))
        assert page.held() == {}
        assert "rows at full precision: tables/training.csv in the report's folder" in page.words()

    def test_pictures_are_the_figures_smaller_and_have_words(self, page, written):
        assert len(page.images) == 8
        pngs = (written.parent / "figures").glob("*.png")
        sizes = []
        for png in pngs:
            with Image.open(png) as image:
                sizes.append((round(0.6 * image.width), round(0.6 * image.height)))
        for facts in page.images:
            assert len(facts["alt"]) > 40
            data = base64.b64decode(facts["src"].partition(",")[2])
            with Image.open(io.BytesIO(data)) as image:
                assert image.format == "WEBP"
                sizes.remove(image.size)
        assert sizes == []

    def test_alt_text_says_what_is_marked(self, page):
        assert "plain: diverged at step 3" in page.images[-1]["alt"]

    def test_the_story_is_told_in_order(self, page):
        order = [
            "headline", "signal_propagation", "gradient_propagation", "branch_to_skip",
            "training_heatmaps", "gradient_to_weight", "spectra", "loss_curves", "glossary",
            "tables", "coverage", "provenance",
        ]  # fmt: skip
        assert [name for name in page.ids if name in order] == order

    def test_headline(self, page):
        words = page.words()
        assert (
            "plain: the second moment grows ×2.00 per block (×3.4e10 over 35 blocks) "
            "and training diverged at step 3." in words
        )
        assert "rescale: the second moment stays within 0 % of its start over 35 blocks" in words

    def test_every_number_has_its_definition(self, page):
        words = page.words()
        assert "second_moment = channel_variance + mean_shift" in words
        for entry in QUANTITIES.values():
            assert entry.definition in words
            assert f"Unit: {entry.unit}." in words or not entry.unit
            assert f"Missing: {entry.undefined}." in words or not entry.undefined
        for meaning in SUMMARY.values():
            assert meaning in words or meaning == SUMMARY["network"]

    def test_networks_without_a_prediction_are_listed(self, page):
        assert "rescale: no prediction." in page.words()

    @pytest.mark.parametrize("name", [name for name in TABLES if name != "summary"])
    def test_table_is_the_csv_rounded(self, page, written, name):
        shown, full = page.tables[name], csv_rows(written, name)
        assert shown[0] == full[0]
        assert len(shown) == 1 + min(len(full) - 1, SHOWN)
        for row, exact in zip(shown[1:], full[1:], strict=False):
            for text, value in zip(row, exact, strict=True):
                assert text in (
                    cell(_parsed(value)),
                    value,
                    {"True": "yes", "False": "no"}.get(value),
                )

    def test_summary_is_the_csv_turned(self, page, written):
        full = csv_rows(written, "summary")
        shown = page.tables["summary"]
        assert shown[0] == ["quantity", *(row[0] for row in full[1:]), "meaning"]
        for index, row in enumerate(shown[1:], start=1):
            assert row[0] == full[0][index]
            assert row[1:-1] == [cell(_parsed(line[index])) for line in full[1:]]

    def test_long_tables_say_how_long(self, page):
        assert (
            "First 30 of 70 rows; all rows at full precision: tables/init_by_block.csv"
            in page.words()
        )

    def test_a_table_that_is_shown_whole_is_not_called_a_part(self, page):
        assert len(page.tables["summary"]) == len(SUMMARY), "a heading, and every column but one"
        assert "All rows at full precision: tables/summary.csv" in page.words()

    def test_coverage_missing_and_provenance(self, page):
        words = page.words()
        assert (
            "plain: 35 of 36 modules recorded; not recorded: 1 module (never called: drop)."
            in words
        )
        assert "runs/b was not completed: it ends after step 12" in words
        assert ["command", "sigprop compare plain batchnorm rescale"] in page.tables["provenance"]
        assert "records made 2024-01-02T03:04:05+00:00" in words

    def test_phone_and_print(self, written):
        text = written.read_text("utf-8")
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
        assert "@media print" in text


def _parsed(text):
    if text == "":
        return float("nan")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


class TestHostileAndSparse:
    def test_names_and_reasons_are_escaped(self, tmp_path):
        records = small()
        evil = '<script>alert("x")</script>&'
        for frame in records.tables().values():
            frame["network"] = evil
        records.coverage["reason"] = "<b>"
        records.missing = ["<i>lost</i>"]
        path = report(records, tmp_path, title="<h1>&", figures=["loss_curves"])
        text = path.read_text("utf-8")
        assert "<script>alert" not in text
        assert "<i>lost" not in text
        assert "<h1>&<" not in text
        page = Page(text)
        assert page.bad == []
        assert evil in page.words()
        data = json.loads(page.unpacked("page-data"))
        assert [network["name"] for network in data["networks"]] == [evil]

    def test_absent_data_is_said_in_one_sentence(self, tmp_path):
        records = Records(training=small().training)
        page = Page(report(records, tmp_path).read_text("utf-8"))
        words = page.words()
        for sentence in (
            "No block outputs of a forward pass were recorded.",
            "No gradients at block outputs were recorded.",
            "No residual additions (skip and branch operands) were recorded.",
            "Fewer than two steps were recorded, so there is no training to show as heat maps.",
            "No gradients of block weights were recorded.",
            "No singular values were recorded.",
            "The records hold no coverage table",
            "The records carry no manifest",
            "Nothing that was written is missing.",
        ):
            assert sentence in words
        assert len(page.images) == 1

    def test_a_picture_at_initialization(self, tmp_path):
        records = small()
        records.training = tidy("training", [])
        page = Page(report(records, tmp_path).read_text("utf-8"))
        assert "No losses or accuracies of a training loop were recorded." in page.words()
        assert "training ends" not in page.words()

    def test_figures_that_were_not_asked_for_are_not_mentioned(self, tmp_path):
        page = Page(report(small(), tmp_path, figures=["spectra"]).read_text("utf-8"))
        assert "loss_curves" not in page.ids
        assert len(page.images) == 1

    def test_only_coverage(self, tmp_path):
        page = Page(report(Records(coverage=small().coverage), tmp_path).read_text("utf-8"))
        assert page.images == []
        assert "no second moments of block outputs were recorded" in page.words()


def test_gaps_group_modules_by_reason_and_shorten_long_lists():
    frame = pd.DataFrame(
        {
            "network": "a",
            "name": [f"m{index}" for index in range(6)],
            "recorded": [True, False, False, False, False, False],
            "reason": ["", "never called", "never called", "never called", "never called", ""],
            "status": "",
            "gradient": "",
        }
    )
    assert gaps(frame) == [
        "a: 1 of 6 modules recorded; not recorded: 4 modules (never called: m1, m2, m3, …), "
        "1 module (no reason given: m5)."
    ]


def test_modules_without_a_gradient_are_listed_by_reason():
    frame = pd.DataFrame(
        {
            "network": "a",
            "name": ["x", "y", "z"],
            "recorded": True,
            "reason": "",
            "status": ["recorded", "no_gradient", "no_gradient"],
            "gradient": ["recorded", "none seen", "frozen"],
        }
    )
    assert gaps(frame) == [
        "a: 3 of 3 modules recorded; no gradient: 1 module (none seen: y), 1 module (frozen: z)."
    ]


@pytest.mark.parametrize(
    ("lost", "words"),
    [(2, "m1, m2"), (3, "m1, m2, m3"), (4, "m1, m2, m3, …")],
)
def test_an_ellipsis_stands_for_names_that_are_left_out_and_for_nothing_else(lost, words):
    frame = pd.DataFrame(
        {
            "network": "a",
            "name": [f"m{index}" for index in range(lost + 1)],
            "recorded": [index == 0 for index in range(lost + 1)],
            "reason": "never called",
            "status": "",
            "gradient": "",
        }
    )
    assert gaps(frame) == [
        f"a: 1 of {lost + 1} modules recorded; "
        f"not recorded: {lost} modules (never called: {words})."
    ]


def test_cells_that_a_spreadsheet_would_run_are_neutralized(tmp_path):
    records = small()
    for frame in records.tables().values():
        frame["network"] = '=HYPERLINK("x")'
    page = report(records, tmp_path, figures=[])
    for path in (page.parent / "tables").iterdir():
        rows = csv_rows(page, path.stem)
        assert not [text for row in rows for text in row if text.startswith(("=", "+", "@"))]
    assert csv_rows(page, "summary")[1][0] == '\'=HYPERLINK("x")'


def test_the_page_is_written_last(tmp_path, monkeypatch):
    """A page that exists has all its files: it is the last one written."""
    from sigprop.records import atomic_write
    from sigprop.reporting import write

    order = []
    original = atomic_write

    def spy(path: Path, fill):
        order.append(path.name)
        original(path, fill)

    monkeypatch.setattr(write, "atomic_write", spy)
    report(small(), tmp_path, figures=["loss_curves"])
    assert order[-1] == "report.html"
    assert len(order) == 2 + len(TABLES) + 1
