"""A real browser for tests of pages, where there is one."""

import shutil
from contextlib import contextmanager

import pytest

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def open_browser():
    """A running Chromium; the test is skipped where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is on the PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def open_page(browser, address, *, script="", only=None, **context):
    """A page in a window of its own, with what must hold of all of them.

    Args:
        browser: From :func:`open_browser`.
        address: What to open.
        script: Run before those of the page.
        only: Beginning of every address that the page may ask for; by default itself alone.
        context: Of the window: viewport, color_scheme, has_touch, ...
    """
    window = browser.new_context(**context)
    window.add_init_script(script)
    page = window.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    asked = [url for url in requests if not url.startswith(("data:", only or address.partition("#")[0]))]
    window.close()
    assert asked == []
    assert errors == []
