"""A real Chromium for pages that are opened as files: a console error or a request to a network fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOCAL = ("file:", "data:", "blob:", "about:")
"""Addresses that need no network."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One headless Chromium of this machine for all tests here; none is ever downloaded.

    It ends with them: as long as playwright runs, no other test can start an event loop.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _unavailable("the package playwright is not installed (pip install -c constraints.txt playwright)")
    if CHROMIUM is None:
        _unavailable("there is no chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page of 1280 × 800 pixels; whatever a page logs as an error or asks of a network fails the test at its end."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    opened.on("request", lambda request: None if request.url.startswith(LOCAL) else wrong.append(f"request: {request.url}"))
    yield opened
    context.close()
    assert not wrong, wrong


def _unavailable(reason: str) -> None:
    """Skip; but where a missing browser would go unnoticed, in continuous integration, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"Browser tests cannot run: {reason}.")
    pytest.skip(f"Browser tests need a browser: {reason}.")
