"""The report in a real browser: nothing is fetched, nothing fails, and every control does its work.

Debian's Chromium is driven by Playwright; without either, these tests are skipped.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import make, second_moment

from sigprop.reporting import report
from sigprop.words import cell

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if PROGRAM is None:
    pytest.skip("there is no chromium (apt-get install chromium)", allow_module_level=True)

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
EVIL = '<a href="evil.html">x</a></script><b>'
NETWORKS = [EVIL, "batchnorm", "rescale", "fixup"]
BLOCKS, STEPS, SEEDS = 6, (0, 2, 4, 6), 2
FIGURES = ("signal_propagation", "training_heatmaps", "spectra", "loss_curves")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = make(["plain", *NETWORKS[1:]], blocks=BLOCKS, seeds=SEEDS, steps=STEPS, loss_steps=20)
    for frame in records.tables().values():
        frame["network"] = frame["network"].replace("plain", EVIL)
    theory = pd.DataFrame(
        {"network": "rescale", "block": range(BLOCKS), "direction": "forward",
         "quantity": "second_moment", "value": 1.25}
    )  # fmt: skip
    home = tmp_path_factory.mktemp("browser")
    return report(records, home, title="Shown <i>", figures=FIGURES, predictions=theory)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=PROGRAM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


class Tab:
    """A page in a context of its own, with what it asked for and what it complained of."""

    def __init__(self, browser, path, **how):
        how = {"viewport": {"width": 1200, "height": 900}, **how}
        self.context = browser.new_context(**how)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type != "log" else None,
        )
        self.page.goto(path.as_uri())
        if how.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready]", state="attached")

    def draw(self, figure):
        """Scroll to a figure and wait until all of its panels are drawn."""
        self.page.locator(f"[data-figure={figure}]").scroll_into_view_if_needed()
        self.page.wait_for_function(
            "name => { const plots = [...document.querySelectorAll(`[data-figure=${name}] .plot`)];"
            " return plots.length > 0 && plots.every((plot) => plot.data && plot._fullLayout); }",
            arg=figure,
        )

    def traces(self, figure, panel=0):
        """What Plotly draws: the traces of a panel, as plain data."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        )
        script = (
            "([figure, panel]) => {"
            " const plot = document.querySelectorAll(`[data-figure=${figure}] .plot`)[panel];"
            " return plot.data.map((t) => ({ name: t.name, type: t.type, y: Array.from(t.y),"
            " x: Array.from(t.x), text: t.text, dash: t.line && t.line.dash })); }"
        )
        return self.page.evaluate(script, [figure, panel])

    def named(self, figure, name, panel=0):
        return next(t for t in self.traces(figure, panel) if t["name"] == name)


@pytest.fixture(scope="module")
def shared(browser, written) -> Iterator[Tab]:
    """One tab for tests that leave the page as they found it."""
    tab = Tab(browser, written)
    for figure in FIGURES:
        tab.draw(figure)
    yield tab
    tab.context.close()


@pytest.fixture
def fresh(browser, written) -> Iterator[Tab]:
    tab = Tab(browser, written)
    yield tab
    tab.context.close()


def rows_of(written: Path, table: str) -> list[list[str]]:
    text = (written.parent / "tables" / f"{table}.csv").read_text("utf-8")
    return list(csv.reader(io.StringIO(text)))


def expected_moment(network: str, block: int, step: int) -> float:
    seeds = [second_moment(network, block, seed, step) for seed in range(SEEDS)]
    return math.exp(sum(map(math.log, seeds)) / SEEDS)


class TestOpening:
    def test_nothing_but_the_page_is_asked_for_and_nothing_fails(self, shared, written):
        assert shared.requests == [written.as_uri()]
        assert shared.complaints == []

    def test_the_page_cannot_evaluate_text(self, shared):
        # later, because what Playwright itself runs is exempt from the page's policy
        shared.page.evaluate(
            "() => setTimeout(() => { try { window.tried = new Function('return 1')(); }"
            " catch (error) { window.tried = error.name; } })"
        )
        shared.page.wait_for_function("() => window.tried !== undefined")
        assert shared.page.evaluate("() => window.tried") == "EvalError"
        shared.complaints.clear()  # the browser notes the attempt

    def test_a_linked_page_asks_for_its_script_too(self, browser, tmp_path):
        records = make(["rescale"], blocks=2, seeds=1, steps=(0,), loss_steps=4)
        path = report(records, tmp_path, figures=["loss_curves"], linked=True)
        tab = Tab(browser, path)
        tab.draw("loss_curves")
        assert tab.requests == [path.as_uri(), (tmp_path / "plotly-cartesian.min.js").as_uri()]
        assert tab.complaints == []
        tab.context.close()

    def test_without_scripts_the_pictures_are_there(self, browser, written):
        tab = Tab(browser, written, java_script_enabled=False)
        assert tab.page.locator(".static img").count() == len(FIGURES)
        assert all(image.is_visible() for image in tab.page.locator(".static img").all())
        assert not tab.page.locator("#theme").is_visible()
        tab.context.close()


class TestFigures:
    def test_lines_are_the_means_over_seeds(self, shared):
        for name in NETWORKS[1:]:
            line = shared.named("signal_propagation", name)
            assert line["x"] == list(range(BLOCKS))
            expected = [expected_moment(name, block, 0) for block in range(BLOCKS)]
            assert line["y"] == pytest.approx(expected, rel=1e-6)

    def test_theory_is_dashed(self, shared):
        dashed = [t for t in shared.traces("signal_propagation") if t["dash"] == "dash"]
        assert [t["y"] for t in dashed] == [[1.25] * BLOCKS]

    def test_hovering_says_all_there_is_to_a_point(self, shared):
        text = shared.named("signal_propagation", "rescale")["text"][3]
        value = cell(np.float64(expected_moment("rescale", 3, 0)))
        low, high = sorted(second_moment("rescale", 3, seed) for seed in range(SEEDS))
        assert text == (
            f"<b>rescale</b><br>blocks.3 (block 3)<br>step 0<br>second moment: {value}<br>"
            f"seeds: {cell(low)} to {cell(high)}<br>theory: 1.25"
        )

    def test_the_pointer_brings_the_text_up(self, shared):
        shared.draw("signal_propagation")
        plot = shared.page.locator("[data-figure=signal_propagation] .plot").first
        point = plot.locator(".trace.scatter .points path").last
        point.hover(force=True)
        shared.page.wait_for_selector(".hoverlayer .hovertext")
        assert "block 5" in str(shared.page.locator(".hovertext").first.text_content())

    def test_a_name_with_markup_stays_text(self, shared):
        assert shared.page.locator("main a[href='evil.html'], .plot b").count() == 0
        assert shared.page.locator("button[data-network='0']").first.inner_text() == EVIL
        drawn = shared.named("signal_propagation", EVIL.replace("<", "&lt;").replace(">", "&gt;"))
        assert "<a" not in drawn["text"][0]
        assert shared.page.title().startswith("Shown <i>")

    def test_switching_a_network_off_takes_it_from_every_figure(self, fresh):
        fresh.draw("signal_propagation")
        fresh.draw("loss_curves")
        fresh.page.locator("[data-figure=signal_propagation] button", has_text="rescale").click()
        for figure in ("signal_propagation", "loss_curves"):
            names = [t["name"] for t in fresh.traces(figure)]
            assert "rescale" not in names
            assert "batchnorm" in names
        pressed = fresh.page.locator("button[data-network='2']").all()
        assert {button.get_attribute("aria-pressed") for button in pressed} == {"false"}
        pressed[-1].click()
        assert "rescale" in [t["name"] for t in fresh.traces("signal_propagation")]

    def test_all_or_none(self, fresh):
        fresh.draw("signal_propagation")
        every = fresh.page.locator("[data-figure=signal_propagation] .every")
        every.click()
        assert fresh.traces("signal_propagation") == []
        every.click()
        assert len(fresh.traces("signal_propagation")) > 4

    def test_the_slider_moves_through_the_steps(self, fresh):
        fresh.draw("signal_propagation")
        slider = fresh.page.locator("[data-figure=signal_propagation] input[type=range]")
        slider.focus()
        fresh.page.keyboard.press("End")
        assert fresh.page.locator("[data-figure=signal_propagation] output").inner_text() == "6"
        assert slider.get_attribute("aria-valuetext") == "step 6"
        line = fresh.named("signal_propagation", "batchnorm")
        expected = [expected_moment("batchnorm", block, 6) for block in range(BLOCKS)]
        assert line["y"] == pytest.approx(expected, rel=1e-6)
        assert not [t for t in fresh.traces("signal_propagation") if t["dash"] == "dash"]
        lost = [t for t in fresh.traces("signal_propagation") if "not finite" in str(t["text"])]
        assert len(lost) == 1, "of the network that diverged"
        assert lost[0]["x"] == list(range(BLOCKS))

    def test_port_and_axis_can_be_chosen(self, fresh):
        fresh.draw("signal_propagation")
        host = fresh.page.locator("[data-figure=signal_propagation]")
        plot = "document.querySelector('[data-figure=signal_propagation] .plot')"
        scale = f"() => {plot}.layout.yaxis.type"
        assert fresh.page.evaluate(scale) == "log"
        host.get_by_label("Vertical axis").select_option("linear")
        fresh.traces("signal_propagation")
        assert fresh.page.evaluate(scale) == "linear"
        host.get_by_label("Show").select_option(label="residual branches")
        fresh.draw("signal_propagation")
        line = fresh.named("signal_propagation", "rescale")
        assert line["y"][0] == pytest.approx(1e-3 * expected_moment("rescale", 0, 0), rel=1e-4)
        assert host.locator(".plot").count() == 3

    def test_heat_maps_have_a_panel_for_each_network_and_a_choice_of_quantity(self, fresh):
        fresh.draw("training_heatmaps")
        host = fresh.page.locator("[data-figure=training_heatmaps]")
        assert host.locator(".panel h3").all_inner_texts() == NETWORKS
        (values,) = fresh.traces("training_heatmaps", 2)
        assert values["type"] == "heatmap"
        assert values["x"] == [-1, 1, 3, 5, 7]
        assert "blocks.5 (block 5)<br>step 6<br>second moment" in values["text"][5][3]
        host.get_by_label("Quantity").select_option(label="dead fraction")
        assert "dead fraction: 0" in fresh.traces("training_heatmaps", 2)[0]["text"][0][0]

    def test_spectra_are_of_one_network(self, fresh):
        fresh.draw("spectra")
        host = fresh.page.locator("[data-figure=spectra]")
        host.get_by_label("Network").select_option(label="rescale")
        traces = fresh.traces("spectra", 0)
        assert len(traces) == BLOCKS
        assert traces[0]["y"] == sorted(traces[0]["y"], reverse=True)
        assert "blocks.0.conv1.weight" in traces[0]["text"][0]


class TestTables:
    def open(self, tab, name):
        tab.page.evaluate(
            "() => document.querySelectorAll('details').forEach((d) => (d.open = true))"
        )
        region = tab.page.locator(f"details:has(> .scroll #table-{name}), #coverage").first
        return tab.page.locator(f"#table-{name}"), region

    def cells(self, table):
        return table.locator("tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
        )

    @pytest.mark.parametrize("name", ["training", "init_by_block", "coverage", "spectra_summary"])
    def test_every_row_can_be_shown_and_is_the_csv_rounded(self, fresh, written, name):
        table, _ = self.open(fresh, name)
        while fresh.page.locator(f"#rows-{name} button").is_visible():
            fresh.page.locator(f"#rows-{name} button").click()
        full = rows_of(written, name)[1:]
        shown = self.cells(table)
        assert len(shown) == len(full)
        for row, exact in zip(shown, full, strict=True):
            for text, value in zip(row, exact, strict=True):
                assert text in (
                    value,
                    cell(parsed(value)),
                    {"True": "yes", "False": "no"}.get(value),
                )

    def test_sorting_by_a_number(self, fresh, written):
        table, _ = self.open(fresh, "init_by_block")
        at = rows_of(written, "init_by_block")[0].index("second_moment")
        head = table.locator("th").nth(at)
        for way in ("ascending", "descending"):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == way
            shown = [float(row[at]) for row in self.cells(table)]
            assert shown == sorted(shown, reverse=way == "descending")
        largest = max(float(row[at]) for row in rows_of(written, "init_by_block")[1:])
        assert shown[0] == pytest.approx(largest, rel=1e-3), "of all rows, not of those shown"

    def test_sorting_by_a_name_counts(self, fresh):
        table, _ = self.open(fresh, "coverage")
        table.locator("th", has_text="name").locator("button").click()
        names = [row[1] for row in self.cells(table)]
        assert names[:5] == ["blocks.0"] * 4 + ["blocks.1"]

    def test_searching(self, fresh):
        table, _ = self.open(fresh, "coverage")
        fresh.page.get_by_label("Search Coverage").fill("Drop")
        assert len(self.cells(table)) == len(NETWORKS)
        assert all("Dropout" in row for row in self.cells(table))
        assert fresh.page.locator("#coverage [role=status]").inner_text() == "4 of 4 rows"

    def test_copying_gives_the_rows_that_were_found_in_full(self, browser, written):
        tab = Tab(browser, written)
        tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.open(tab, "coverage")
        copy = tab.page.locator("#coverage button", has_text="Copy as CSV")
        copy.click()
        tab.page.wait_for_selector("text=Copied")
        text = tab.page.evaluate("() => navigator.clipboard.readText()")
        assert text == (written.parent / "tables" / "coverage.csv").read_text("utf-8")
        tab.context.close()

    def test_saving_gives_the_file(self, fresh, written):
        self.open(fresh, "training")
        with fresh.page.expect_download() as waiting:
            fresh.page.locator("a", has_text="Save training.csv").click()
        assert waiting.value.suggested_filename == "training.csv"
        saved = Path(waiting.value.path()).read_bytes()
        assert saved == (written.parent / "tables" / "training.csv").read_bytes()


def parsed(text: str) -> object:
    if text == "":
        return float("nan")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class TestReaders:
    """On a phone, in the dark, on paper, with a keyboard and with a screen reader."""

    BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"

    def test_the_system_s_dark_theme_and_the_button(self, browser, written):
        tab = Tab(browser, written, color_scheme="dark")
        assert tab.page.evaluate(self.BACKGROUND) == "rgb(20, 24, 28)"
        button = tab.page.locator("#theme")
        assert button.inner_text() == "Light theme"
        button.click()
        assert tab.page.evaluate(self.BACKGROUND) == "rgb(255, 255, 255)"
        assert button.inner_text() == "Dark theme"
        tab.context.close()

    def test_a_phone_scrolls_one_way(self, browser, written):
        tab = Tab(browser, written, viewport={"width": 390, "height": 844}, is_mobile=True,
                  has_touch=True)  # fmt: skip
        for figure in FIGURES:
            tab.draw(figure)
        assert tab.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        edges = tab.page.locator("[data-figure=signal_propagation] .plot").evaluate_all(
            "plots => plots.map((plot) => plot.getBoundingClientRect().left)"
        )
        assert len(set(edges)) == 1, "one panel below the other"
        tab.context.close()

    def test_paper_shows_every_picture_and_every_finding(self, browser, written):
        tab = Tab(browser, written, color_scheme="dark")
        tab.page.emulate_media(media="print")
        assert all(image.is_visible() for image in tab.page.locator(".static img").all())
        assert not any(host.is_visible() for host in tab.page.locator(".live").all())
        assert tab.page.evaluate(self.BACKGROUND) in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
        tab.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert tab.page.locator("details:not([open])").count() == 0
        tab.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        assert tab.page.locator("details:not([open])").count() > 0
        tab.context.close()

    def test_the_keyboard_reaches_every_control(self, fresh):
        fresh.draw("signal_propagation")
        fresh.page.locator("[data-figure=signal_propagation] button").first.focus()
        seen = []
        for _ in range(9):
            seen.append(
                fresh.page.evaluate(
                    "() => { const e = document.activeElement; return e.tagName + ':' + "
                    "(e.type || '') + ':' + (e.closest('[data-figure]') || {dataset: {}})"
                    ".dataset.figure; }"
                )
            )
            fresh.page.keyboard.press("Tab")
        here = ":signal_propagation"
        assert seen[:8] == [
            *[f"BUTTON:button{here}"] * 5, *[f"SELECT:select-one{here}"] * 2, f"INPUT:range{here}",
        ]  # fmt: skip
        fresh.page.locator("[data-figure=signal_propagation] button").nth(2).focus()
        fresh.page.keyboard.press("Space")
        assert "rescale" not in [t["name"] for t in fresh.traces("signal_propagation")]

    def test_panels_are_described(self, shared):
        label = shared.page.locator("[data-figure=signal_propagation] .plot").first
        assert label.get_attribute("role") == "img"
        assert label.get_attribute("aria-label") == (
            f"Second moment (second moment  E[x²]): {', '.join(NETWORKS)}"
        )

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing_serious(self, browser, written, scheme):
        tab = Tab(browser, written, color_scheme=scheme, bypass_csp=True)
        for figure in FIGURES:
            tab.draw(figure)
        tab.page.evaluate(
            "() => document.querySelectorAll('details').forEach((d) => (d.open = true))"
        )
        tab.page.add_script_tag(path=str(AXE))
        assert self.serious(tab) == []
        tab.page.evaluate(
            "() => document.querySelector('main').append(document.createElement('button'))"
        )
        assert [name for name, *_ in self.serious(tab)] == ["button-name"], "it can find something"
        tab.context.close()

    def serious(self, tab):
        """What axe calls serious or critical: rule, its words, and what breaks it."""
        found = tab.page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
        return [
            (one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]


def test_the_page_s_numbers_are_those_of_the_csv(written):
    """What the script is given, read from the file as a browser would."""
    text = written.read_text("utf-8")
    held = text.partition('id="page-data">')[2].partition("</script>")[0]
    data = json.loads(gzip.decompress(base64.b64decode(held)))
    lines = data["figures"]["signal_propagation"]["views"][0]["panels"][0]["lines"]
    header, *rows = rows_of(written, "init_by_block")
    at = {name: header.index(name) for name in ("network", "second_moment", "low", "high")}
    for line in lines:
        expected = [row for row in rows if row[at["network"]] == NETWORKS[line["network"]]]
        for column, key in (("second_moment", "center"), ("low", "low"), ("high", "high")):
            values = np.frombuffer(base64.b64decode(line[key]["bdata"]), line[key]["dtype"])
            exact = [float(row[at[column]]) for row in expected]
            assert values[:BLOCKS].tolist() == pytest.approx(exact, rel=1e-6)
