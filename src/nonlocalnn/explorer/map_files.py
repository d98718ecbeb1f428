"""Files of the maps of one input: pictures, rows of weights, and a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nonlocalnn._files import atomic_path, json_text, write_text
from nonlocalnn._names import ANIMATIONS
from nonlocalnn.affinity import AffinityMap, AffinitySummary, summarise
from nonlocalnn.affinity.evenness import attends_evenly
from nonlocalnn.affinity.grids import Sides
from nonlocalnn.affinity.pictures import Picture, draw_attended, draw_rows
from nonlocalnn.explorer.animation import write_animation
from nonlocalnn.tasks.inputs import ShownInput

_NUM_TOP = 5


def write_maps(
    folder: Path,
    shown: ShownInput,
    maps: Mapping[str, AffinityMap],
    *,
    queries: Mapping[str, Sequence[Sides]],
    prediction: Sequence[Mapping[str, Any]],
    suffix: str = "png",
    all_rows: bool = False,
) -> dict[str, Any]:
    r"""Write the maps of all blocks for one input.

    For a block these are a picture of what the queries attend to (``BLOCK.png``, or an animation a query,
    ``BLOCK-query-1.gif``), one of what all attend to (``BLOCK-attended.png``), and rows of weights
    (``BLOCK.npy``); for all blocks ``summary.json``.

    Args:
        folder: Where they go; existing files of these names are replaced.
        shown: The input.
        maps: The maps of the blocks, of this one input.
        queries: For each block the places that are drawn.
        prediction: ``{"class", "probability"}`` of the most probable classes, the best first; of segmentation
            ``{"class", "id", "share"}`` of those with the most pixels; of a detector ``{"class", "score",
            "box"}`` of the objects, perhaps none.
        suffix: "png" or "svg"; for clips also "gif" or "mp4".
        all_rows: Write the whole map, (N, M) or where an extent makes groups (groups, N, M), and not the
            rows of the queries, (Q, \*key sides).

    Returns:
        What is in ``summary.json``: the input's ``input`` (name), ``sides``, ``frame_numbers``, ``seconds``,
        ``prediction`` and ``truth``; of volumes ``millimetres``, their affine, or None; and under ``blocks``,
        for each, ``instantiation``, of videos ``extent``, ``sides``, ``key_sides``, ``queries`` (``place``,
        ``box`` in the input, and the ``top`` five keys with ``weight``, ``place`` and ``box``), ``summary``,
        and ``attends_evenly``.

    Memory: rows of the queries; with ``all_rows`` the whole map.
    """
    facts: dict[str, Any] = {
        "input": shown.name,
        "sides": list(shown.pixels.shape[1:]),
        "frame_numbers": shown.frame_numbers,
        "seconds": shown.seconds,
        "prediction": list(prediction),
        "truth": shown.truth,
        "blocks": {},
    }
    if shown.planes is not None:
        # From (slice, row, column, 1) to x, y and z.
        facts["millimetres"] = shown.planes.affine if shown.planes.has_spacing else None
    for block, each in maps.items():
        summary, places = summarise(each), queries[block]
        title = f"{block}, {answer_in_words(facts)}"
        attended = draw_attended(
            each,
            shown.pixels,
            picture=shown.picture,
            summary=summary,
            title=title,
            rate=shown.rate,
            channel_names=shown.channel_names,
            planes=shown.planes,
        )
        # A still picture for clips too: it is a mean over all queries, and no query moves.
        Picture(attended).save(folder / f"{block}-attended.{'png' if suffix in ANIMATIONS else suffix}")
        if suffix in ANIMATIONS:
            for number, place in enumerate(places, 1):
                path = folder / f"{block}-query-{number}.{suffix}"
                write_animation(each, shown.pixels, path, picture=shown.picture, query=place)
        else:
            figure = draw_rows(
                each,
                shown.pixels,
                picture=shown.picture,
                queries=places,
                title=title,
                rate=shown.rate,
                channel_names=shown.channel_names,
                planes=shown.planes,
            )
            Picture(figure).save(folder / f"{block}.{suffix}")
        _save(folder / f"{block}.npy", _whole(each) if all_rows else each.rows(places)[0])
        facts["blocks"][block] = _described(each, places, summary)
    write_text(folder / "summary.json", json_text(facts, indent=1) + "\n")
    return facts


def answer_in_words(facts: Mapping[str, Any]) -> str:
    """Return the predicted class, and the true one where that is known, or what objects there are, in words.

    Example:
        >>> answer_in_words({"prediction": [{"class": "3", "probability": 0.974}], "truth": "8"})
        "predicted '3' (0.97), in truth '8'"
        >>> answer_in_words({"prediction": [{"class": "sky", "id": 2, "share": 0.4}], "truth": None})
        "most pixels 'sky' (40 %)"
    """
    if not facts["prediction"]:
        return "no object"
    best = facts["prediction"][0]
    if "box" in best:
        number = len(facts["prediction"])
        return f"{number} object{'' if number == 1 else 's'}, best {best['class']!r} ({best['score']:.2g})"
    if "share" in best:
        what = "voxels" if "millimetres" in facts else "pixels"
        what = "steps" if len(facts.get("sides", ())) == 1 else what
        return f"most {what} {best['class']!r} ({100 * best['share']:.0f} %)"
    predicted = f"predicted {best['class']!r} ({best['probability']:.2g})"
    return predicted if facts["truth"] is None else f"{predicted}, in truth {facts['truth']!r}"


def _whole(shown: AffinityMap) -> Tensor:
    weights = shown.affinity
    return weights[0] if len(weights) == 1 else weights


def _save(path: Path, rows: Tensor) -> None:
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, rows.float().numpy())


def _described(shown: AffinityMap, places: Sequence[Sides], summary: AffinitySummary) -> dict[str, Any]:
    k = min(_NUM_TOP, math.prod(shown.key_grid.sides))
    values, keys = (part[0].tolist() for part in shown.top(places, k))
    return {
        "instantiation": shown.instantiation,
        # Images and sequences have no frames that positions could see or not see.
        **({"extent": shown.extent} if len(shown.grid.sides) == 3 else {}),
        "sides": shown.grid.sides,
        "key_sides": shown.key_grid.sides,
        "queries": [
            {
                "place": place,
                "box": shown.grid.box(*place),
                "top": [
                    {"weight": weight, "place": key, "box": shown.key_grid.box(*key)}
                    for weight, key in zip(weights, these, strict=True)
                ],
            }
            for place, weights, these in zip(places, values, keys, strict=True)
        ],
        "summary": summary.as_numbers(),
        "attends_evenly": attends_evenly(summary.as_numbers()["entropy"]),
    }
