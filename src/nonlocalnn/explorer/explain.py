"""The document of one input: all that a page shows of it, as plain values that become JSON."""

from __future__ import annotations

import base64
import io
import itertools
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import missing_extra
from nonlocalnn.affinity import AffinityMap, EffectMap, capture_affinity, class_effects, summarise
from nonlocalnn.affinity.pictures import meaning
from nonlocalnn.inference import Classifier
from nonlocalnn.tasks.answers import most_probable
from nonlocalnn.tasks.inputs import ShownInput
from nonlocalnn.tasks.kinds import kind_of_samples

# Bytes of compressed rows in a page of 10 MB: base64 makes them a third longer, and frames come on top.
_MOST_BYTES = 7_000_000
# A limit before compression, so that a map of 50,000 positions is never computed whole.
_MOST_RAW_BYTES = 2 * _MOST_BYTES
# With more pairs than these, a summary covers the stored queries only.
_MOST_PAIRS = 2**27
# Frames up to this side are stored as PNG, larger ones as JPEG.
_EXACT_SIDE = 64


def explain_file(
    loaded: Classifier,
    path: str | os.PathLike[str],
    *,
    title: str,
    model: str,
    blocks: Sequence[str] | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Return the document of an image or video file; see :func:`explain`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, the model takes another kind or another size, or has no such block.
    """
    shown = loaded.show(path, whole=whole)
    return explain(loaded, shown, title=title, model=model, blocks=blocks)


def explain(
    loaded: Classifier,
    shown: ShownInput,
    *,
    title: str,
    model: str,
    blocks: Sequence[str] | None = None,
    effects: bool = True,
) -> dict[str, Any]:
    """Return the document of an input: what a page shows of it, as plain values.

    Rows are stored with 8 bits a weight, each on a scale of its own. Where all rows of all blocks would not
    fit into a page of 10 MB, those of every second, fourth, ... position of the largest maps are stored.

    Args:
        loaded: The classifier, in eval mode.
        shown: Its input.
        title: Heading of the page.
        model: Name of the model.
        blocks: Names of the blocks; None is all.
        effects: Store, beside the weights, what each attended position does to the score of the predicted
            class: see :func:`nonlocalnn.affinity.class_effects`.

    Returns:
        Keys ``format``, ``title``, ``model``, ``kind``, ``prediction``, ``truth``, ``input`` and ``blocks``.

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
    x = shown.sample.unsqueeze(0).to(loaded.device)
    probabilities = _probabilities(loaded, x)
    answer = most_probable(probabilities, loaded.classes, top=5)
    maps: Mapping[str, AffinityMap]
    found: Mapping[str, EffectMap] = {}
    if effects:
        found = class_effects(loaded.model, x, target=int(probabilities.argmax()), blocks=blocks)
        maps = {name: effect.weights for name, effect in found.items()}
    else:
        with torch.no_grad(), capture_affinity(loaded.model, blocks) as maps:
            loaded.model(x)
    return {
        "format": 1,
        "title": title,
        "model": model,
        "kind": kind_of_samples(shown.sample.shape).name,
        "prediction": answer["top"],
        "truth": shown.truth,
        "input": _described_input(shown),
        "blocks": _blocks(maps, found, answer["class"]),
    }


def _probabilities(loaded: Classifier, x: Tensor) -> Tensor:
    """Return the class probabilities that ``predict`` gives, (K,)."""
    try:
        return loaded.ask(x)[0]
    except RuntimeError as error:
        raise ValueError(
            f"the network does not take an input of shape {tuple(x.shape[1:])}: {error}"
        ) from error


def _described_input(shown: ShownInput) -> dict[str, Any]:
    sides = list(shown.pixels.shape[1:])
    frames: Sequence[Tensor] = ()
    if len(sides) == 2:
        frames = [shown.pixels]
    elif len(sides) == 3:
        frames = shown.pixels.unbind(1)
    rounded = (
        [[round(value, 4) for value in channel] for channel in shown.pixels.tolist()]
        if len(sides) == 1
        else None
    )
    return {
        "sides": sides,
        "frames": [_data_uri(frame) for frame in frames],
        "frame_numbers": None if shown.frame_numbers is None else list(shown.frame_numbers),
        "seconds": None if shown.seconds is None else list(shown.seconds),
        "channels": rounded,
    }


def _data_uri(frame: Tensor) -> str:
    """Return an image (C, H, W) in [0, 1] as a data URI."""
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", "data", "a page") from None
    values = (frame.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = values[0] if len(values) == 1 else values.permute(1, 2, 0)
    image, file = Image.fromarray(pixels.contiguous().numpy()), io.BytesIO()
    kind = "png" if max(image.size) <= _EXACT_SIDE else "jpeg"
    image.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{_base64(file.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass(eq=False)
class _Stored:
    """The rows of one block that a page holds: those of every ``stride``-th position in space."""

    name: str
    shown: AffinityMap
    effect: EffectMap | None
    stride: int = 1

    @property
    def places(self) -> list[range]:
        sides = self.shown.grid.sides
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
        return num_queries * math.prod(self.shown.key_grid.sides) * num_measures

    def can_be_thinned(self) -> bool:
        first = 1 if len(self.shown.grid.sides) == 3 else 0
        return max(map(len, self.places[first:])) > 1

    def measures(self, label: str) -> list[dict[str, Any]]:
        queries = list(itertools.product(*self.places))
        weights = _packed(self.shown, queries, is_signed=self.shown.is_signed)
        found = [{"name": "affinity", "label": meaning(self.shown.instantiation), **weights}]
        if self.effect is not None:
            found.append({"name": "effect", "label": label, **_packed(self.effect, queries, is_signed=True)})
        return found


def _blocks(
    maps: Mapping[str, AffinityMap], effects: Mapping[str, EffectMap], predicted: str
) -> list[dict[str, Any]]:
    stored = [_Stored(name, shown, effects.get(name)) for name, shown in maps.items()]
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
    return sum(len(measure["rows"]) + len(measure["scales"]) for measure in measures) * 3 // 4


def _packed(
    source: AffinityMap | EffectMap, queries: Sequence[tuple[int, ...]], *, is_signed: bool
) -> dict[str, Any]:
    """Return rows in 8 bits, compressed, and the largest weight of each."""
    # Nothing on a page is read more exactly than a colour: 8 bits are enough.
    top, dtype = (127, torch.int8) if is_signed else (255, torch.uint8)
    packer, parts, scales = zlib.compressobj(6), [], []
    for start in range(0, len(queries), 256):
        rows = source.rows(queries[start : start + 256])[0].flatten(1).float()
        scale = rows.abs().amax(1)
        shares = rows / torch.where(scale > 0, scale, 1.0)[:, None]
        parts.append(packer.compress((shares * top).round().to(dtype).numpy().tobytes()))
        scales.append(scale)
    packed = b"".join([*parts, packer.flush()])
    return {
        "signed": is_signed,
        "rows": _base64(packed),
        "scales": _base64(torch.cat(scales).numpy().astype("<f4").tobytes()),
    }


def _described_block(stored: _Stored, measures: list[dict[str, Any]]) -> dict[str, Any]:
    shown, places = stored.shown, stored.places
    num_pairs = math.prod(shown.grid.sides) * math.prod(shown.key_shape)
    queries = None if num_pairs <= _MOST_PAIRS else list(itertools.product(*places))
    return {
        "name": stored.name,
        "instantiation": shown.instantiation,
        "extent": shown.extent,
        "sides": list(shown.grid.sides),
        "grid": {"steps": list(shown.grid.steps), "centres": list(shown.grid.centres)},
        "key_sides": list(shown.key_grid.sides),
        "key_grid": {"steps": list(shown.key_grid.steps), "centres": list(shown.key_grid.centres)},
        "query_places": [list(along) for along in places],
        "summary": summarise(shown, queries=queries).as_numbers(),
        "measures": measures,
    }
