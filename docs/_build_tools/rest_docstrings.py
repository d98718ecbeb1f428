"""Griffe extension: the reStructuredText in the library's docstrings, written as Markdown for the site."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(func|class|meth|mod|attr):`~?([\w.]+)`")
_MATH = re.compile(r"^( *)\.\. math:: (.+)$", re.MULTILINE)
_RULE = re.compile(r"^ *=+( +=+)+ *$")


class RestDocstrings(griffe.Extension):
    """Rewrites every docstring when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value, obj)


def to_markdown(text: str, obj: griffe.Object) -> str:
    """Return the docstring of ``obj`` with roles, formulas, simple tables and literal blocks in Markdown."""
    text = _ROLE.sub(lambda found: _link(found[1], found[2], obj), text)
    text = _MATH.sub(lambda found: f"{found[1]}$$ {found[2]} $$", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    # The one spelling that the parser takes for a section of doctests.
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return "\n".join(_tables(text.split("\n")))


def _link(role: str, name: str, obj: griffe.Object) -> str:
    """Return a link to what ``obj`` calls ``name``, or only the name where the site does not have it."""
    path = name
    if not name.startswith("nonlocalnn"):
        scope = obj if obj.is_class else obj.parent
        inside = role == "meth" and "." not in name and scope is not None and scope.is_class
        path = f"{scope.path if inside else obj.module.path}.{name}"
    return f'<autoref optional identifier="{path}"><code>{name.rsplit(".", 1)[-1]}</code></autoref>'


def _tables(lines: list[str]) -> list[str]:
    rules = [number for number, line in enumerate(lines) if _RULE.match(line)]
    if len(rules) < 3:
        return lines
    top, middle, bottom = rules[:3]
    starts = [found.start() for found in re.finditer("=+", lines[top])]
    indent = " " * starts[0]

    def cells(line: str) -> list[str]:
        ends = [*starts[1:], None]
        return [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]

    rows: list[list[str]] = []
    for line in lines[middle + 1 : bottom]:
        row = cells(line)
        if row[0]:
            rows.append(row)
        else:  # the cells of the row above go on
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], row, strict=True)]
    table = [cells(lines[top + 1]), ["---"] * len(starts), *rows]
    written = [indent + "| " + " | ".join(row) + " |" for row in table]
    return [*lines[:top], *written, *_tables(lines[bottom + 1 :])]
