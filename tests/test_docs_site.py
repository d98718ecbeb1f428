"""The site leads to every page: its home, its navigation and what a reader types into its search."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOME = (DOCS / "index.md").read_text(encoding="utf-8")
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("guides/")])
def test_the_home_page_leads_to_every_guide(page):
    assert f"]({page})" in HOME


@pytest.mark.parametrize("page", PAGES)
def test_the_navigation_has_every_page(page):
    # Of the notebooks the gallery is the list.
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f": {page}\n" in listed or page.startswith("gallery/")


def test_the_home_page_lists_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", HOME, re.M)
    assert sorted(name for row in rows for name in re.findall(r"\w+", row)) == sorted(extras)


def sections(page):
    """The sections of a page, each its heading and its text, as the search has them."""
    text = (DOCS / page).read_text(encoding="utf-8")
    # A "#" in code is no heading.
    hidden = _FENCE.sub(lambda fence: fence[0].replace("\n#", "\n "), text)
    parts = re.split(r"^#+ (.+)$", hidden, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def found(query):
    """Pages that have a section with all the words of a query, and of these those with all in its heading."""
    words = re.split(r"[\s\-]+", query.lower())
    anywhere, in_headings = set(), set()
    for page in PAGES:
        for heading, text in sections(page):
            for pages, place in ((anywhere, f"{heading}\n{text}"), (in_headings, heading)):
                # The search of the site takes beginnings of words.
                if all(re.search(rf"\b{re.escape(word)}", place.lower()) for word in words):
                    pages.add(page)
    return anywhere, in_headings


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("medical", "guides/data.md"),
        ("nifti", "guides/data.md"),
        ("dicom", "guides/data.md"),
        ("resnet18 fine-tune", "guides/fine-tuning.md"),
        ("fine-tune resnet", "guides/fine-tuning.md"),
        ("out of memory", "guides/memory.md"),
        ("mmcv", "guides/coming-from.md"),
        ("slowfast", "guides/coming-from.md"),
        ("photographs", "guides/photographs.md"),
        ("which form", "guides/choosing.md"),
        ("should I use one", "guides/choosing.md"),
        ("doctor", "guides/choosing.md"),
        ("gallery", "gallery.md"),
    ],
)
def test_a_search_finds_the_page(query, page):
    anywhere, in_headings = found(query)
    assert page in anywhere
    # Headings come first in the list.
    assert page in in_headings
