"""The pages build without a warning, every link inside them leads somewhere, and they fetch nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("concepts", "choosing", "rewards", "recipes", "reproduce", "troubleshooting", "glossary", "api", "algorithm", "commands")


class Page(HTMLParser):
    """Collects links, anchors, and what a browser would fetch to show the page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.fetched = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id"))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get("src"):
            self.fetched.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "modulepreload"):
            self.fetched.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-d",
        str(out / ".cache"),
        "docs",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"}, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return out


def test_every_page_is_there_and_no_link_inside_the_site_is_dead(site):
    """Catches a page that was renamed, and a heading whose anchor is linked from elsewhere."""
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    assert {site / f"{name}.html" for name in PAGES} <= set(pages)
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name} links to {link}"


def test_the_pages_fetch_nothing_from_elsewhere(site):
    """Catches a web font, a script from a content network, and an image on another host."""
    for path in site.rglob("*.html"):
        for place in Page(path.read_text()).fetched:
            assert not urlsplit(place).netloc, f"{path.name} fetches {place}"
    for path in site.rglob("*.css"):
        for place in re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")\s]+)", path.read_text()):
            assert not place.startswith(("http", "//")), f"{path.name} fetches {place}"


def test_the_recipes_on_the_pages_are_the_files_that_are_tested(site):
    """Catches a listing that was pasted, and drifts."""
    shown = " ".join(re.sub(r"<[^>]+>", "", (site / "recipes.html").read_text()).split())
    for name in ("good_enough", "LetterEngine", "class Trend"):
        assert name in shown
    assert not re.search(r"```python\n(?!from maxent_ts|found|generate)", (ROOT / "docs" / "recipes.md").read_text())
