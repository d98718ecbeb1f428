"""The page as a file: whole, safe, and nothing but itself."""

import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files

import documents
import pytest

from nonlocalnn.explorer.page import SCRIPTS, STYLES, build_page, write_page

STATIC = files("nonlocalnn.explorer") / "static"


class Parts(HTMLParser):
    """Titles, scripts and all attributes of a page, as a browser would split it."""

    def __init__(self, page):
        super().__init__()
        self.open = ""
        self.texts = {"title": [], "script": [], "style": []}
        self.attributes = []
        self.comments = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open = tag
        self.attributes += attrs
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open in self.texts:
            self.texts[self.open][-1] += data

    def handle_comment(self, data):
        self.comments.append(data)


@pytest.fixture(scope="module")
def document():
    return documents.image().document


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "</title><img src=x>",
    "{{scripts}} {{document}}",
    "\\u003c & \u2028 \N{GRINNING FACE}",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_stay_texts(document, text):
    hostile = {**document, "title": text, "prediction": [{"class": text, "probability": 1.0}]}
    parts = Parts(build_page(hostile))
    assert parts.texts["title"] == [text]
    data, *scripts = parts.texts["script"]
    assert json.loads(data) == hostile
    assert len(scripts) == len(SCRIPTS) + 1
    assert parts.comments == []


def test_names_stay_as_people_write_them(document):
    page = build_page({**document, "title": "K\u00e4se \u65e5\u672c", "model": "a\u2028b"})
    data = Parts(page).texts["script"][0]
    assert "K\u00e4se \u65e5\u672c" in data
    assert json.loads(data)["model"] == "a\u2028b"
    # A file name that is no UTF-8 has no other way than an escape.
    broken = {**document, "title": "", "model": b"caf\xe9".decode("utf-8", "surrogateescape")}
    page = build_page(broken)
    page.encode()
    assert json.loads(Parts(page).texts["script"][0]) == broken


def test_the_page_holds_every_script_in_order_and_the_styles(document):
    parts = Parts(build_page(document))
    assert [text.strip() for text in parts.texts["script"][1:-1]] == [
        (STATIC / name).read_text().strip() for name in SCRIPTS
    ]
    assert (STATIC / STYLES).read_text().strip() in parts.texts["style"][0]


def test_scripts_are_all_there_are():
    assert set(SCRIPTS) == {file.name for file in STATIC.iterdir() if re.match(r"viewer.*\.js", file.name)}
    assert SCRIPTS[0] == "viewer.js"


@pytest.mark.parametrize("name", [*SCRIPTS, STYLES])
def test_static_files_do_not_end_their_element(name):
    text = (STATIC / name).read_text()
    assert re.search(r"</(script|style)|<!--", text, re.IGNORECASE) is None


def test_nothing_from_elsewhere(document):
    page = build_page(document)
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    addresses = [value for name, value in Parts(page).attributes if name in ("src", "href")]
    assert addresses
    assert all(value.startswith("data:") for value in addresses)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_are_finite(document, tmp_path, number):
    broken = {**document, "prediction": [{"class": "3", "probability": number}]}
    with pytest.raises(ValueError, match="finite numbers only"):
        write_page(broken, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1, None])
def test_another_format(document, number):
    with pytest.raises(ValueError, match=f"must have format 2; got {number}"):
        build_page({**document, "format": number})


def test_write_page(document, tmp_path):
    path = tmp_path / "folder" / "page.html"
    titled = {**document, "title": "café"}
    write_page(titled, str(path))
    assert path.read_text(encoding="utf-8") == build_page(titled)
    assert "<title>café</title>" in path.read_text(encoding="utf-8")
