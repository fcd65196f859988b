"""The tree page in a real browser: what it computes, what it shows, and how it answers pointer and keys."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maxent_ts.engines.table import TableEngine
from maxent_ts.report.tree_data import best_completion, with_texts
from maxent_ts.report.tree_page import NODE_NUMBERS, render_tree_page
from maxent_ts.rewards.claims import Claims
from maxent_ts.search.maxent import maxent_sample
from maxent_ts.tree import ROOT, Tree
from maxent_ts.types import Budget, Rollout
from tests.conftest import additive_reward, run_one

LENGTH = 6
LETTERS = "abcdefg."
EVIL = "</script><img src=x onerror=alert(1)>"
CAPTION = "The series rises overall. The maximum is 5. The average is 40. A peak lies near the end."


def grown(num_rollouts=20, tilt=2.0, num_tokens=8):
    engine = TableEngine.random(num_tokens=num_tokens, concentration=0.6, seed=4)
    reward = additive_reward(num_tokens, LENGTH, 1)
    return run_one(
        engine, reward, maxent_sample, tilt=tilt, max_new_tokens=LENGTH, budget=Budget(rollouts=num_rollouts)
    ).outcome.tree


def as_data(tree, **changes):
    """What `tree_page_data` makes, at full precision and without a run directory."""
    texts = [" ".join(LETTERS[token % 8] for token in one.tokens) for one in tree.completions]
    found = with_texts(tree.to_dict(), texts)
    nodes = {name: [node[name] for node in found["nodes"]] for name in (*NODE_NUMBERS, "text")}
    nodes["num_tokens"] = [len(node["tokens"]) for node in found["nodes"]]
    return {
        "run": "run", "task": "task", "method": "maxent_sample", "item": "item/1", "number": 1, "model": "table", "reward": "r",
        "usage": {}, "returned": 0, "prompt": "the prompt", "target": None, "labels": [], "series": [[0.0, 1.0, 3.0, 2.0]],
        "series_names": ["level"], "tilt": found["tilt"], "reward_range": found["reward_range"], "nodes": nodes,
        "completions": found["completions"], "best": best_completion(found), **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def tree():
    return grown()


@pytest.fixture
def show(page, tmp_path):
    """Open the page of some data; transitions are over at once."""

    def call(data):
        file = tmp_path / "page.html"
        file.write_text(render_tree_page(data), encoding="utf-8")
        page.emulate_media(reduced_motion="reduce", color_scheme="light")
        page.goto(file.as_uri())
        return page

    return call


def state(page, count, stored=False):
    return page.evaluate(
        """([count, stored]) => {
          const state = window.treePage.model.at(count, stored), { shares, ...rest } = state;
          const plain = (one) => Array.from(one, (x) => (Number.isFinite(x) ? x : null));
          return { posterior: plain(shares.posterior), prior: plain(shares.prior), value: plain(shares.value),
                   visitShares: plain(shares.visits), logValue: plain(rest.logValue), logKnown: plain(rest.logKnown),
                   open: plain(rest.open), visits: plain(rest.visits), present: plain(rest.present) };
        }""",
        [count, stored],
    )


def close(found, expected, tolerance=1e-9):
    numbers = [-math.inf if one is None else one for one in expected]
    assert [-math.inf if one is None else one for one in found] == pytest.approx(numbers, abs=tolerance)


def test_the_browser_computes_what_the_search_computed(show, tree):
    """Catches a playback whose last moment differs from the stored tree: two backups that disagree."""
    data = as_data(tree)
    found, nodes = state(show(data), len(tree.completions)), data["nodes"]
    close(found["posterior"], nodes["mass"])
    close(found["logValue"], nodes["log_value"])
    close(found["logKnown"], nodes["log_known"])
    close(found["open"], [0.0 if one is None else math.exp(one) for one in nodes["log_open"]])
    assert found["visits"] == nodes["visits"]


@pytest.mark.parametrize("count", [1, 2, 7, 19])
def test_an_earlier_moment_is_the_tree_of_the_first_completions(show, tree, count):
    """Catches a playback that lets a value know what came later. The tree is grown again from the first completions alone."""
    earlier = Tree(tree.target)
    for one in tree.completions[:count]:
        nodes = [ROOT]
        for token in one.tokens:
            nodes.append(tree.children[nodes[-1]][token])
        leaf = earlier.add(ROOT, Rollout(one.tokens, tuple(tree.logprob[node] for node in nodes[1:]), one.finish_reason))
        earlier.evaluate(leaf, one.reward, one.finish_reason)
        earlier.back_up([leaf])
    found = state(show(as_data(tree)), count)
    close([found["logValue"][0], found["logKnown"][0]], [earlier.log_value[ROOT], earlier.log_known[ROOT]])
    close([found["open"][0]], [math.exp(earlier.log_open[ROOT])])
    leaves = as_data(tree)["nodes"]["completion"]
    masses = {leaf: mass for leaf, mass in zip(leaves, found["posterior"], strict=True) if leaf is not None}
    close([masses[index] for index in range(count)], np.exp(earlier.log_weights()))
    assert sum(masses.values()) == pytest.approx(1)
    assert found["visits"][0] == count


def test_every_measure_divides_a_piece_among_what_continues_it(show, tree):
    """Catches widths that do not add up, and a prior that still knows the reward."""
    data = as_data(tree)
    found, parents = state(show(data), len(tree.completions)), data["nodes"]["parent"]
    for index in range(len(parents)):
        children = [one for one, parent in enumerate(parents) if parent == index]
        for name in ("posterior", "prior", "value", "visitShares"):
            if children:
                assert sum(found[name][one] for one in children) == pytest.approx(found[name][index])
    flat = as_data(grown(tilt=0.0))
    found = state(show(flat), len(flat["completions"]))
    close(found["prior"], found["posterior"])


def box(page, node):
    return page.evaluate("(node) => window.treePage.icicle.box(node)", node)


def click(page, node):
    at, frame = box(page, node), page.locator("#tree").bounding_box()
    page.mouse.click(frame["x"] + at["x"] + at["width"] / 2, frame["y"] + at["y"] + at["height"] / 2)


def selected(page):
    return page.evaluate("window.treePage.selected")


def heaviest(data, parent=0):
    children = [one for one, above in enumerate(data["nodes"]["parent"]) if above == parent]
    return max(children, key=lambda one: data["nodes"]["mass"][one])


def test_a_click_shows_the_piece_and_a_double_click_zooms(show, tree):
    """Catches a hit test that is off by a row or a zoom, and numbers of another node."""
    data = as_data(tree)
    page, node = show(data), heaviest(data)
    click(page, node)
    assert selected(page) == node
    panel = page.locator("#panel").inner_text()
    assert data["nodes"]["text"][node].strip() in panel
    assert f"value {data['nodes']['log_value'][node] / data['tilt']:.3f}".replace("-", "−") in panel
    assert f"{data['nodes']['visits'][node]}" in panel
    width = page.evaluate("window.treePage.icicle.width")
    assert box(page, node)["width"] == pytest.approx(width * data["nodes"]["mass"][node])
    page.mouse.dblclick(*center(page, node))
    assert box(page, node)["width"] == pytest.approx(width)
    page.click("#out")
    assert box(page, node)["width"] < width


def center(page, node):
    at, frame = box(page, node), page.locator("#tree").bounding_box()
    return frame["x"] + at["x"] + at["width"] / 2, frame["y"] + at["y"] + at["height"] / 2


def test_toggles_change_the_widths(show, tree):
    """Catches a toggle without effect, and keys that choose another measure than they say."""
    data = as_data(tree)
    page, node = show(data), heaviest(data)
    width, total = page.evaluate("window.treePage.icicle.width"), data["nodes"]["visits"][0]
    page.get_by_text("Visits", exact=True).click()
    assert box(page, node)["width"] == pytest.approx(width * data["nodes"]["visits"][node] / total)
    found = state(page, len(tree.completions), stored=True)
    page.locator("body").click(position={"x": 2, "y": 2})
    for key, name in (("2", "prior"), ("4", "value"), ("1", "posterior")):
        page.keyboard.press(key)
        assert box(page, node)["width"] == pytest.approx(width * found[name][node])
        assert page.locator(f"[name=mode][value={name}]").is_checked()


def test_search_finds_text_across_pieces_and_dims_the_rest(show, tree):
    """Catches a search that sees single pieces only, and a count of something else."""
    data = as_data(tree)
    text = data["completions"][3]["text"]
    page = show(data)
    page.keyboard.press("/")
    page.keyboard.type(text)
    leaf = data["nodes"]["completion"].index(3)
    assert page.locator("#found").inner_text() == "1 place"
    page.keyboard.press("Enter")
    assert selected(page) == leaf
    near = page.evaluate("Array.from(window.treePage.icicle.near)")
    line = set(page.evaluate("(leaf) => window.treePage.model.path(leaf)", leaf))
    assert {index for index, one in enumerate(near) if one} == line
    page.keyboard.press("Escape")
    assert page.evaluate("window.treePage.icicle.near") is None
    page.fill("#search", "not a text of this tree")
    assert page.locator("#found").inner_text() == "0 places"


def test_the_keyboard_reaches_every_piece(show, tree):
    """Catches focus that is lost, and arrows that leave the tree."""
    data = as_data(tree)
    page = show(data)
    page.locator("#tree").focus()
    page.keyboard.press("Home")
    assert selected(page) == 0
    page.keyboard.press("ArrowUp")
    assert selected(page) == 0
    page.keyboard.press("ArrowDown")
    assert selected(page) == heaviest(data)
    seen = {selected(page)}
    for _ in range(len(data["nodes"]["parent"])):
        page.keyboard.press("ArrowRight")
        seen.add(selected(page))
    assert seen == {one for one, parent in enumerate(data["nodes"]["parent"]) if parent == 0}
    item = page.locator("#item")
    assert item.get_attribute("aria-level") == "2"
    assert item.get_attribute("aria-posinset") == item.get_attribute("aria-setsize") == str(len(seen))
    page.keyboard.press("Enter")
    assert page.evaluate("window.treePage.icicle.zoomed") == selected(page)
    page.keyboard.press("Escape")
    assert page.evaluate("window.treePage.icicle.zoomed") == 0
    page.keyboard.press("b")
    assert data["nodes"]["completion"][selected(page)] == data["best"]


def test_the_search_plays_completion_by_completion(show, page, tree):
    """Catches a playback that skips, goes on behind the end, or does not stop when told."""
    data = as_data(tree)
    page.clock.install()
    show(data)
    last = len(tree.completions)
    page.locator("#when").fill("1")
    assert page.locator("#count").inner_text() == f"1 / {last}"
    assert page.evaluate("window.treePage.icicle.state.count") == 1
    page.locator("#tree").focus()
    page.keyboard.press(".")
    assert page.locator("#count").inner_text() == f"2 / {last}"
    assert f"reward {data['completions'][1]['reward']:.3f}".replace("-", "−") in page.locator("#caption").inner_text()
    page.evaluate("window.counts = []; new MutationObserver(() => window.counts.push(parseInt(document.getElementById('count')."
                  "textContent))).observe(document.getElementById('count'), { childList: true })")  # fmt: skip
    page.keyboard.press(" ")
    assert page.locator("#play").inner_text() == "Pause"
    page.clock.run_for(60_000)
    assert page.evaluate("window.counts") == list(range(3, last + 1))
    assert page.locator("#play").inner_text() == "Play"
    page.click("#play")
    page.click("#play")
    assert page.locator("#play").inner_text() == "Play"


def test_a_long_search_plays_in_about_fifteen_seconds(show, page):
    """Catches a playback of thousands of completions that takes minutes, or never shows the end."""
    page.clock.install()
    data = as_data(grown(num_rollouts=1200, num_tokens=40))
    show(data)
    page.keyboard.press(" ")
    page.clock.run_for(8_000)
    assert 0.4 < page.evaluate("window.treePage.state.count") / len(data["completions"]) < 0.7
    page.clock.run_for(9_000)
    assert page.evaluate("window.treePage.state.complete")
    assert page.locator("#play").inner_text() == "Play"


def test_claims_are_marked_on_the_series_and_in_the_text(show, tree):
    """Catches true and false claims that look alike, and marks on the wrong series."""
    data = as_data(tree)
    series = [[float(one) for one in range(30)], [1.0, -1.0] * 15]
    columns = {"series": [series], "series_names": [["level", "noise"]]}
    (evidence,) = Claims().explain(prompts=[""], completions=[CAPTION], completion_ids=[[0]], **columns)
    data["completions"][data["best"]] |= {"text": CAPTION, "evidence": evidence}
    page = show({**data, "series": series, "series_names": ["level", "noise"]})
    verdicts = [one["verdict"] for one in evidence["statements"]]
    assert {"true", "false"} <= set(verdicts)
    signs = {"true": "✓", "false": "✗", "partly true": "◐", "contradicts an earlier statement": "✗"}
    listed = page.locator("ol.claims .verdict").all_inner_texts()
    assert listed == [f"{signs[one]} {one}" for one in verdicts]
    marked = page.locator(".text .claim").evaluate_all("(all) => all.map((one) => [one.dataset.statement, one.firstChild.data])")
    for index, one in enumerate(evidence["statements"]):
        assert "".join(text for statements, text in marked if str(index) in statements.split()) == one["text"]
    plots = page.locator("#panel figure")
    assert plots.count() == 2
    assert plots.nth(1).locator("[data-statement]").count() == 0
    index = next(k for k, one in enumerate(evidence["statements"]) if one["claimed"]["kind"] == "number")
    mark = plots.nth(0).locator(f"[data-statement='{index}']")
    assert mark.text_content().startswith(f"{index + 1}{signs[verdicts[index]]} maximum 5")
    page.locator("ol.claims li").nth(index).hover()
    assert "hot" in mark.get_attribute("class")


def test_text_of_a_model_is_shown_as_it_is(show, tree):
    """Catches a completion that becomes part of the page."""
    data = as_data(tree)
    for one in data["completions"]:
        one["text"] = EVIL
    data["nodes"]["text"] = ["", *([EVIL] * (len(data["nodes"]["text"]) - 1))]
    page = show({**data, "item": EVIL, "prompt": EVIL, "series_names": [EVIL]})
    assert EVIL in page.locator("#panel").inner_text()
    page.keyboard.press("Home")
    assert page.locator("#panel ul.below .words").first.inner_text() == EVIL
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_page_fits_screen_and_theme(show, page, tree, scheme, size):
    """Catches a page that scrolls sideways on a phone, and a theme that does not reach the picture."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show(as_data(tree))
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    panel, frame = page.locator("#panel").bounding_box(), page.locator("#tree").bounding_box()
    assert (panel["y"] > frame["y"] + frame["height"]) is (size[0] < 600)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    first = page.evaluate("window.treePage.icicle.shades[0].fill")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert page.evaluate("window.treePage.icicle.shades[0].fill") != first
    assert page.locator("#theme").inner_text() == ("Light" if scheme == "light" else "Dark")


def test_colours_grow_in_lightness_and_text_on_them_can_be_read(show, tree):
    """Catches a scale that a reader without colour vision cannot order, and pale text on pale ground (WCAG 2.1: 4.5 to 1)."""
    page = show(as_data(tree))
    for scheme, direction in (("light", -1), ("dark", 1)):
        page.evaluate("(name) => window.treePage.icicle.theme(name)", scheme)
        shades = page.evaluate("window.treePage.icicle.shades")
        light = np.array([luminance([int(part) for part in one["fill"][4:-1].split()]) for one in shades])
        assert (np.diff(light) * direction > 0).all()
        for fill, one in zip(light, shades, strict=True):
            ink = luminance([int(one["ink"][k : k + 2], 16) for k in (1, 3, 5)])
            assert (max(fill, ink) + 0.05) / (min(fill, ink) + 0.05) >= 4.5


def luminance(rgb):
    linear = [one / 255 / 12.92 if one <= 10 else ((one / 255 + 0.055) / 1.055) ** 2.4 for one in rgb]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_five_thousand_nodes_are_shown_and_answer(show):
    """Catches a page that breaks, or draws every node, where the tree is large."""
    data = as_data(grown(num_rollouts=5000, num_tokens=40))
    size = len(data["nodes"]["parent"])
    assert size >= 5000
    page = show(data)
    drawn = page.evaluate(
        """() => { const { icicle } = window.treePage, piece = icicle.piece; let num = 0;
          icicle.piece = function (...one) { num += 1; return piece.apply(this, one); };
          icicle.draw(); icicle.piece = piece; return num; }"""
    )
    assert 10 < drawn < size
    page.keyboard.press("b")
    assert data["nodes"]["completion"][selected(page)] == data["best"]
    assert box(page, selected(page))["width"] >= 40
