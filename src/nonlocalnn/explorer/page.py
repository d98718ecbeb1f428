"""A page that shows what a network attends to, as one self-contained HTML file."""

import html
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from nonlocalnn._files import json_text, write_text

# Scripts of the viewer in the order in which a page must run them: the class, its parts, users of the parts.
SCRIPTS = (
    "viewer.js",
    "viewer_geometry.js",
    "viewer_rows.js",
    "viewer_colours.js",
    "viewer_parts.js",
    "viewer_words.js",
    "viewer_links.js",
    "viewer_arrows.js",
    "viewer_picture.js",
    "viewer_volume.js",
    "viewer_input.js",
    "viewer_panel.js",
)
STYLES = "viewer.css"
_FORMAT = 2


def build_page(document: Mapping[str, Any]) -> str:
    """Return the HTML page that shows a document.

    The page holds its scripts, styles and pictures, opens from a disk, and asks no server for anything.

    Raises:
        ValueError: The document has another format than 2, or holds a number that is not finite.

    Example:
        >>> page = build_page({"format": 2, "title": "cat & dog.png", "blocks": []})
        >>> "<title>cat &amp; dog.png</title>" in page
        True
    """
    if document.get("format") != _FORMAT:
        raise ValueError(
            f"the document must have format {_FORMAT}; got {document.get('format')!r}: have it made anew by "
            "this version of nonlocalnn"
        )
    try:
        data = json_text(document, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError(f"the document must hold finite numbers only: {error}") from None
    parts = {
        "title": html.escape(str(document["title"])),
        "styles": _static(STYLES),
        # Without any "<" no text of the document can end the script or open a comment.
        "document": data.replace("<", "\\u003c"),
        "scripts": "\n".join(f"<script>\n{_static(name)}</script>" for name in SCRIPTS),
    }
    # In one pass, so that the inserted texts are not searched for names themselves.
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], _static("page.html"))


def write_page(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page of :func:`build_page` to a file; missing folders are made.

    Raises:
        ValueError: As for :func:`build_page`; nothing is written.
    """
    write_text(path, build_page(document))


def _static(name: str) -> str:
    return files("nonlocalnn.explorer").joinpath("static", name).read_text(encoding="utf-8")
