"""Which of two pairwise functions with equal keys a file is of, as its name and its texts say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from nonlocalnn.checkpoints.state import CheckpointError, State

ALIKE = ("embedded_gaussian", "dot_product")
_IN_NAMES = (
    (r"dot[-_ ]?prod(uct)?", "dot_product"),
    (r"concat(enat(e|ed|ion))?", "concatenation"),
    (r"embed(ded)?[-_ ]?(gauss(ian)?)?|softmax", "embedded_gaussian"),
    (r"gauss(ian)?", "gaussian"),
)
# SlowFast's configuration, and mmaction2's.
_IN_TEXTS = re.compile(r"INSTANTIATION:\s*['\"]?(\w+)|\bmode['\"]?\s*[=:]\s*['\"](\w+)['\"]")
_KINDS = {"softmax": "embedded_gaussian", **{kind: kind for _, kind in _IN_NAMES}}


def kind_named(file_name: str) -> str | None:
    """Return the pairwise function in a file's name; None where there is none.

    Example:
        >>> kind_named("i3d_r50_nl-dot-product_8x8.pth"), kind_named("weights.pth")
        ('dot_product', None)
    """
    # nlDotProduct is two words.
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", file_name).lower()
    for pattern, kind in _IN_NAMES:
        if re.search(rf"(?<![a-z])({pattern})(?![a-z])", words):
            return kind
    return None


def kind_written(content: object) -> str | None:
    """Return the pairwise function in a configuration that a file holds as text; None where there is none."""
    for text in _texts(content):
        for found in _IN_TEXTS.finditer(text):
            kind = _KINDS.get((found[1] or found[2]).lower())
            if kind is not None:
                return kind
    return None


def _texts(content: object) -> Iterator[str]:
    stack, seen = [content], set()  # a pickle may hold one mapping in many places, or in itself
    while stack:
        each = stack.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping) and id(each) not in seen:
            seen.add(id(each))
            stack.extend(each.values())


def are_alike(state: State) -> bool:
    """Return whether keys under our names, or like them, are of blocks that may be either of the two."""
    has_theta = any(key.endswith("theta.weight") for key in state)
    return has_theta and not any(key.endswith(("w_f", "concat_project.0.weight")) for key in state)


def check_said(said: str | None, asked: str | None, path: object) -> None:
    """Check that nothing speaks against the embedded Gaussian, which is assumed where nobody was asked.

    Raises:
        CheckpointError: The file says another kind, and the caller has not chosen.
    """
    # An error and not a choice: the name of a file proves nothing.
    if asked is None and said not in (None, "embedded_gaussian"):
        raise CheckpointError(
            f"{path} says {said!r} by its name or its configuration, and has the keys of both "
            "'embedded_gaussian' and 'dot_product': say which, by instantiation='dot_product' (nonlocalnn "
            "convert --instantiation dot_product) or the other"
        )
