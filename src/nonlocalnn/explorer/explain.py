"""The document of one input: all that a page shows of it, as plain values that become JSON."""

from __future__ import annotations

import base64
import io
import itertools
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.affinity import AffinityMap, EffectMap, summarise
from nonlocalnn.affinity.capture import find_blocks
from nonlocalnn.affinity.effects import why_no_effects
from nonlocalnn.affinity.evenness import attends_evenly, even_level, says_most, stands_out
from nonlocalnn.affinity.pictures.planes import Planes
from nonlocalnn.affinity.pictures.views import meaning
from nonlocalnn.affinity.rows import Query
from nonlocalnn.explorer.answer import AnswerWithMaps, answer_with_maps
from nonlocalnn.explorer.labels import colours_of, image_of, overlay
from nonlocalnn.explorer.objects import colour_of, drawn_objects
from nonlocalnn.explorer.step_pictures import runs_of
from nonlocalnn.inference import Classifier, Detector
from nonlocalnn.inference.loading import Loaded
from nonlocalnn.tasks.inputs import ShownInput

# Bytes of compressed rows in a page of 10 MB: base64 makes them a third longer, and frames come on top.
_MOST_BYTES = 7_000_000
# A limit before compression, so that a map of 50,000 positions is never computed whole.
_MOST_RAW_BYTES = 2 * _MOST_BYTES
# With more pairs than these, a summary covers the stored queries only.
_MOST_PAIRS = 2**27
# A list of more objects is too long for a page.
_MOST_OBJECTS = 50
# Frames up to this side are stored as PNG, larger ones as JPEG.
_EXACT_SIDE = 64


def explain_file(
    loaded: Loaded,
    path: str | os.PathLike[str],
    *,
    title: str,
    model: str,
    blocks: Sequence[str] | None = None,
    rate: float | None = None,
) -> dict[str, Any]:
    """Return the document of a file; see :func:`explain`.

    Args:
        loaded: The network.
        path: The file.
        title: Heading of the page.
        model: Name of the model.
        blocks: Names of the blocks; None is all.
        rate: Steps a second of a sequence; files of other kinds have none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, the model takes another kind or another size, or has no such block.
    """
    given = loaded.show(path)
    if rate is not None and loaded.kind.num_sides == 1:
        given = replace(given, rate=rate)
    return explain(loaded, given, title=title, model=model, blocks=blocks)


def explain(
    loaded: Loaded,
    given: ShownInput,
    *,
    title: str,
    model: str,
    blocks: Sequence[str] | None = None,
    effects: bool = True,
) -> dict[str, Any]:
    """Return the document of an input: what a page shows of it, as plain values.

    Rows are stored with 8 bits a weight, each on a scale of its own. Where all rows of all blocks would not
    fit into a page of 10 MB, those of every second, fourth, ... position of the largest maps are stored.

    The network runs once: what is predicted, the maps and the effects are of one forward pass. The page
    opens on the block that attends least evenly; see :mod:`nonlocalnn.affinity.evenness` for what stands out.

    Args:
        loaded: The classifier, segmentation network or detector, in eval mode.
        given: Its input.
        title: Heading of the page.
        model: Name of the model.
        blocks: Names of the blocks; None is all.
        effects: Store, beside the weights, what each attended position does to the score of the predicted
            class: see :func:`nonlocalnn.affinity.class_effects`. Segmentation has no one class, and none. A
            block that has none says why, under ``no_effects``.

    Returns:
        Keys ``format``, ``title``, ``model``, ``kind``, ``prediction``, ``truth``, ``input``, ``opens_on``
        (a block's name) and ``blocks``.

    Raises:
        ValueError: The network does not take an input of this size, has no such block, or gives no finite
            answer.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> classes = tuple(map(str, range(10)))
        >>> model = create_model("nl_digits").eval()
        >>> loaded = Classifier(model, classes=classes, sample_shape=(1, 28, 28), recipe={})
        >>> image = torch.rand(1, 28, 28)
        >>> document = explain(loaded, ShownInput("noise", image, image), title="Noise", model="untrained")
        >>> document["kind"], [block["name"] for block in document["blocks"]]
        ('image', ['nl_1', 'nl_2'])
    """
    effects = effects and isinstance(loaded, Classifier)
    answer = answer_with_maps(loaded, given.sample, name=title, blocks=blocks, effects=effects)
    top = 5 if isinstance(loaded, Classifier) else len(loaded.classes)
    prediction = answer.prediction(loaded.classes, top=_MOST_OBJECTS if answer.objects is not None else top)
    # A detector may find nothing.
    described = _blocks(answer, prediction[0]["class"] if prediction else "")
    if effects:
        running = find_blocks(loaded.model, list(answer.maps))
        # A page that leaves effects out on its own must say why.
        described = [{**each, "no_effects": why_no_effects(running[each["name"]])} for each in described]
    shown = _described_input(given)
    if answer.labels is not None and given.planes is not None:
        shown |= {"voxel_labels": _zipped(answer.labels.to(torch.uint8)), "window": answer.window}
    elif answer.labels is not None and answer.labels.dim() == 2:
        shown |= _described_labels(given, answer.labels, loaded.classes)
    elif answer.labels is not None and answer.labels.dim() == 1:
        shown["step_labels"] = _described_runs(answer.labels, loaded.classes)
    if answer.labels is not None:
        colours = colours_of(loaded.classes)
        prediction = [{**each, "colour": list(colours[each["id"]])} for each in prediction]
    if answer.objects is not None:
        points = loaded.points if isinstance(loaded, Detector) else None
        shown |= {
            "labels": _data_uri(drawn_objects(given.pixels, answer.objects, loaded.classes, points)),
            "marked": True,
        }
        labels = answer.objects["labels"].tolist()
        prediction = [
            {**each, "colour": list(colour_of(label))}
            for label, each in zip(labels, prediction, strict=False)
        ]
    entropies = {block["name"]: block["summary"]["entropy"] for block in described}
    return {
        "format": 2,
        "title": title,
        "model": model,
        "kind": loaded.kind.name,
        "prediction": prediction,
        "truth": given.truth,
        "input": shown,
        "opens_on": says_most(entropies),
        "blocks": described,
    }


def _described_input(given: ShownInput) -> dict[str, Any]:
    sides = list(given.pixels.shape[1:])
    picture = given.pixels if given.picture is None else given.picture
    frames: Sequence[Tensor] = ()
    if len(sides) == 2:
        frames = [picture]
    elif len(sides) == 3 and given.planes is None:
        frames = picture.unbind(1)
    rounded = None
    if len(sides) == 1:
        rounded = [[round(value, 4) for value in channel] for channel in given.pixels.tolist()]
    return {
        "sides": sides,
        # Rows and columns are those of ``sides``, what the network sees; pictures have their own resolution.
        "picture_sides": list(picture.shape[-2:]) if frames else None,
        "file_sides": None if given.file_sides is None else list(given.file_sides),
        "frames": [_data_uri(frame) for frame in frames],
        "frame_numbers": None if given.frame_numbers is None else list(given.frame_numbers),
        "seconds": None if given.seconds is None else list(given.seconds),
        "channels": rounded,
        **({} if given.rate is None else {"rate": given.rate}),
        **({"channel_names": list(given.channel_names)} if given.channel_names else {}),
        **({} if given.planes is None else _described_volume(given.pixels, given.planes)),
    }


def _described_volume(pixels: Tensor, planes: Planes) -> dict[str, Any]:
    """Return all voxels, of which the page cuts its planes, and where they lie."""
    return {
        # Channels are shown as their mean: a grey value a voxel.
        "voxels": _zipped((pixels.mean(0).clamp(0, 1) * 255).round().to(torch.uint8)),
        "planes": {
            "affine": [list(row) for row in planes.affine],
            "spacing": list(planes.spacing),
            "is_oriented": planes.is_oriented,
            "has_spacing": planes.has_spacing,
        },
    }


def _zipped(numbers: Tensor) -> str:
    """Return bytes of a uint8 tensor, compressed."""
    return _base64(zlib.compress(numbers.contiguous().numpy().tobytes(), 6))


def _described_labels(given: ShownInput, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the picture of an input with its labels as colours over it, in the picture's resolution."""
    picture = given.pixels if given.picture is None else given.picture
    rows, columns = (
        (torch.arange(side) * len(along)).div(side, rounding_mode="floor")
        for side, along in zip(picture.shape[1:], (labels, labels[0]), strict=True)
    )
    return {"labels": _data_uri(overlay(picture, labels[rows][:, columns], classes))}


def _described_runs(labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs of equal classes along a sequence, and the colour of each."""
    colour = dict(zip(classes, colours_of(classes), strict=True))
    return [{**run, "colour": list(colour[run["class"]])} for run in runs_of(labels, classes)]


def _data_uri(frame: Tensor) -> str:
    """Return an image (C, H, W) in [0, 1] as a data URI."""
    image, file = image_of(frame), io.BytesIO()
    kind = "png" if max(image.size) <= _EXACT_SIDE else "jpeg"
    image.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{_base64(file.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass(eq=False)
class _Stored:
    """The rows of one block that a page holds: those of every ``stride``-th position in space."""

    name: str
    weights: AffinityMap
    effect: EffectMap | None
    stride: int = 1

    @property
    def places(self) -> list[range]:
        sides = self.weights.grid.sides
        first = 1 if len(sides) == 3 else 0
        # The first is half a stride in: each stored position is in the middle of those that it stands for.
        return [
            range(side) if axis < first else range(min(self.stride // 2, side - 1), side, self.stride)
            for axis, side in enumerate(sides)
        ]

    @property
    def raw_bytes(self) -> int:
        num_queries = math.prod(map(len, self.places))
        num_measures = 1 if self.effect is None else 2
        return num_queries * math.prod(self.weights.key_grid.sides) * num_measures

    def can_be_thinned(self) -> bool:
        first = 1 if len(self.weights.grid.sides) == 3 else 0
        return max(map(len, self.places[first:])) > 1

    def measures(self, label: str) -> list[dict[str, Any]]:
        queries = list(itertools.product(*self.places))
        num_keys = math.prod(self.weights.key_shape)
        weights = _packed(self.weights.rows, queries, num_keys, is_signed=self.weights.is_signed)
        found = [{"name": "affinity", "label": meaning(self.weights.instantiation), **weights}]
        if self.effect is not None:
            effects = _packed(self.effect.rows, queries, num_keys, is_signed=True)
            found.append({"name": "effect", "label": label, **effects})
        return found


def _blocks(answer: AnswerWithMaps, predicted: str) -> list[dict[str, Any]]:
    stored = [_Stored(name, weights, answer.effects.get(name)) for name, weights in answer.maps.items()]
    while sum(each.raw_bytes for each in stored) > _MOST_RAW_BYTES and _thin_largest(stored):
        pass
    label = f"effect on the score of {predicted!r}, to first order"
    measures = {each.name: each.measures(label) for each in stored}
    sizes = {name: _num_bytes(found) for name, found in measures.items()}
    while sum(sizes.values()) > _MOST_BYTES:
        thinned = _thin_largest([each for each in stored if sizes[each.name] == max(sizes.values())])
        if thinned is None:
            break
        measures[thinned.name] = thinned.measures(label)
        sizes[thinned.name] = _num_bytes(measures[thinned.name])
    return [_described_block(each, measures[each.name]) for each in stored]


def _thin_largest(stored: Sequence[_Stored]) -> _Stored | None:
    """Double the stride of the largest block and return the block; None if no block can be thinned."""
    candidates = [each for each in stored if each.can_be_thinned()]
    if not candidates:
        return None
    largest = max(candidates, key=lambda each: each.raw_bytes)
    largest.stride *= 2
    return largest


def _num_bytes(measures: Sequence[Mapping[str, Any]]) -> int:
    packed = ("rows", "scales", "even")
    return sum(len(measure[name]) for measure in measures for name in packed) * 3 // 4


def _packed(
    rows_of: Callable[[Sequence[Query]], Tensor],
    queries: Sequence[tuple[int, ...]],
    num_keys: int,
    *,
    is_signed: bool,
) -> dict[str, Any]:
    """Return rows in 8 bits, compressed, and of each the largest weight and the even level."""
    # Nothing on a page is read more exactly than a colour: 8 bits are enough.
    top, dtype = (127, torch.int8) if is_signed else (255, torch.uint8)
    packer, parts, scales, levels = zlib.compressobj(6), [], [], []
    for start in range(0, len(queries), 256):
        rows = rows_of(queries[start : start + 256])[0].flatten(1).float()
        scale = rows.abs().amax(1)
        shares = rows / torch.where(scale > 0, scale, 1.0)[:, None]
        parts.append(packer.compress((shares * top).round().to(dtype).numpy().tobytes()))
        scales.append(scale)
        # Here and not in the browser: of a peaked row 8 bits leave zeros, whose sum says nothing.
        levels.append(even_level(rows, num_keys))
    packed = b"".join([*parts, packer.flush()])
    return {
        "signed": is_signed,
        "rows": _base64(packed),
        "scales": _base64(torch.cat(scales).numpy().astype("<f4").tobytes()),
        "even": _base64(torch.cat(levels).numpy().astype("<f4").tobytes()),
    }


def _described_block(stored: _Stored, measures: list[dict[str, Any]]) -> dict[str, Any]:
    weights, places = stored.weights, stored.places
    num_pairs = math.prod(weights.grid.sides) * math.prod(weights.key_shape)
    queries = None if num_pairs <= _MOST_PAIRS else list(itertools.product(*places))
    summary = summarise(weights, queries=queries).as_numbers()
    return {
        "name": stored.name,
        "instantiation": weights.instantiation,
        "extent": weights.extent,
        "sides": list(weights.grid.sides),
        "grid": {"steps": list(weights.grid.steps), "centres": list(weights.grid.centres)},
        "key_sides": list(weights.key_grid.sides),
        "key_grid": {"steps": list(weights.key_grid.steps), "centres": list(weights.key_grid.centres)},
        "query_places": [list(along) for along in places],
        "summary": summary,
        "stands_out": stands_out(math.prod(weights.key_shape)),
        "evenly": attends_evenly(summary["entropy"]),
        "measures": measures,
    }
