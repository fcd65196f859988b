"""The report in a real browser: it opens from disk, sorts, filters and switches, and reads without a script."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from maxent_ts.fingerprint import plain
from maxent_ts.records import Record
from maxent_ts.report.html import write_report
from tests.unit.evaluation_fakes import FreeTask, LetterTask
from tests.unit.toy_runs import make, run_toys

METHODS = ("greedy", "best_of_n", "majority_vote", "maxent")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = make(tmp_path_factory.mktemp("report"), methods=METHODS, tasks=("letters", "free"))
    finished = run_toys(config, LetterTask(), FreeTask())
    lines = (finished.path / "samples.jsonl").read_text().splitlines()
    records = [Record.model_validate_json(line) for line in lines]
    records[0].error = "<script>document.title = 'broken into'</script>"
    (finished.path / "samples.jsonl").write_text("".join(json.dumps(plain(one.model_dump())) + "\n" for one in records))
    return finished.path


@pytest.fixture(scope="module")
def report(run):
    return write_report(run)


def test_it_opens_without_an_error_and_every_link_leads_somewhere(page, report):
    """Catches a script that the page's own policy refuses, a dead link, and text of a model that runs."""
    page.goto(report.as_uri())
    assert "maxent-ts" in page.title()
    for link in page.locator("nav a").all():
        link.click()
        target = page.evaluate("location.hash.slice(1)")
        assert page.locator(f'[id="{target}"]').count() == 1
        top = page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", target)
        assert top < 800, f"{target} is not on the screen"


def test_a_click_on_a_heading_sorts_numbers_as_numbers_and_a_second_click_turns_the_order(page, report):
    """Catches 10 before 9, and rows that come apart."""
    page.goto(report.as_uri())
    table = page.locator("#letters-results table")
    heading = table.locator("th", has_text="generated tokens")
    cells = "rows => rows.map(row => [row.cells[0].innerText, Number(row.cells[8].innerText)])"
    before = dict(table.locator("tbody tr").evaluate_all(cells))
    heading.click()
    assert heading.get_attribute("aria-sort") == "descending"
    down = table.locator("tbody tr").evaluate_all(cells)
    assert [value for _, value in down] == sorted(before.values(), reverse=True)
    assert dict(down) == before
    heading.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [value for _, value in table.locator("tbody tr").evaluate_all(cells)] == sorted(before.values())


def test_a_section_shows_its_figure_or_its_table(page, report):
    """Catches a switch that shows both or none."""
    page.goto(report.as_uri())
    section = page.locator("#letters-differences")
    figure, table = section.locator("svg").first, section.locator("table")
    assert (figure.is_visible(), table.is_visible()) == (True, False)
    section.get_by_role("button", name="Table").click()
    assert (figure.is_visible(), table.is_visible()) == (False, True)
    section.get_by_role("button", name="Figure", exact=True).click()
    assert (figure.is_visible(), table.is_visible()) == (True, False)


def test_items_are_found_by_text_kind_and_method(page, report):
    """Catches a search that finds only what is unfolded, and filters that forget each other."""
    page.goto(report.as_uri())
    section = page.locator("#letters-items")
    items = section.locator("details.item")
    visible = section.locator("details.item:visible")
    assert visible.count() == items.count() == 12
    section.get_by_role("searchbox").fill("item/7")
    assert visible.count() == 1
    assert section.locator("output").inner_text() == "1 of 12 items"
    section.get_by_role("searchbox").fill("no such text")
    assert visible.count() == 0
    section.get_by_role("searchbox").fill("")
    section.get_by_role("combobox").select_option("failed")
    assert visible.count() == 1
    section.get_by_role("combobox").select_option("")
    first = items.first
    first.locator("summary").first.click()
    assert first.locator("tbody tr[data-method]:visible").count() == len(METHODS)
    section.get_by_role("button", name="majority_vote").click()
    assert first.locator("tbody tr[data-method]:visible").count() == len(METHODS) - 1
    section.get_by_role("button", name="majority_vote").click()
    assert first.locator("tbody tr[data-method]:visible").count() == len(METHODS)


def test_files_of_tables_and_figures_can_be_saved(page, report, tmp_path):
    """Catches a link that the policy blocks, and a figure that is no file of its own."""
    page.goto(report.as_uri())
    with page.expect_download() as saved:
        page.locator("#letters-results .files a", has_text="csv").click()
    saved.value.save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == list(METHODS)
    with page.expect_download() as saved:
        page.locator("#letters-quality").get_by_role("button", name="SVG").click()
    saved.value.save_as(tmp_path / saved.value.suggested_filename)
    assert ElementTree.parse(tmp_path / "quality.svg").getroot().tag.endswith("svg")


def test_dark_and_light_can_be_switched(page, report):
    """Catches a switch that leaves text and paper alike."""
    page.goto(report.as_uri())
    colours = "() => { const one = getComputedStyle(document.body); return [one.backgroundColor, one.color]; }"
    light = page.evaluate(colours)
    page.locator("#theme").click()
    dark = page.evaluate(colours)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(18, 22, 27)"
    assert light[1] != dark[1]
    page.locator("#theme").click()
    assert page.evaluate(colours) == light


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(page, report, width):
    """Catches a table or figure that pushes the text out of a phone."""
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_reads_without_a_script(browser, report, run):
    """Catches numbers that only a script brings to light, and controls that do nothing."""
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#letters-results table").is_visible()
    assert page.locator("#letters-differences svg").first.is_visible()
    page.locator("#letters-differences summary").click()
    assert page.locator("#letters-differences table").is_visible()
    assert not page.locator("#letters-items .tools").is_visible()
    page.locator("#letters-items details.item > summary").first.click()
    assert page.locator("#letters-items details.item table").first.is_visible()
    context.close()


def test_an_interrupted_run_says_so(page, run, tmp_path):
    """Catches a page of half a run that looks complete."""
    shutil.copytree(run, tmp_path / "half")
    info = json.loads((tmp_path / "half" / "run.json").read_text())
    (tmp_path / "half" / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    page.goto(write_report(tmp_path / "half").as_uri())
    assert page.locator("header .pill").inner_text() == "Not finished"
    assert page.locator("#failures + .wide tbody tr").count() == 1
