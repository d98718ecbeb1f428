"""What tests of pages in a browser share; each file has a browser of its own."""

from contextlib import contextmanager

import documents
import pytest
from browser import open_browser, open_page
from viewer_page import DESKTOP, HURRY, rest

from nonlocalnn.explorer.page import write_page

KINDS = {"video": documents.video, "image": documents.image, "sequence": documents.sequence}


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


@pytest.fixture(scope="module")
def shown():
    """One document of each kind."""
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def addresses(shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for kind, made in shown.items():
        write_page(made.document, folder / f"{kind}.html")
    return {kind: (folder / f"{kind}.html").as_uri() for kind in shown}


@pytest.fixture
def opened(browser, addresses):
    """Open the page of a kind, at rest."""

    @contextmanager
    def open_kind(kind, *, link="", script="", **context):
        window = {**DESKTOP, **context}
        with open_page(browser, addresses[kind] + link, script=HURRY + script, **window) as page:
            rest(page)
            yield page

    return open_kind
