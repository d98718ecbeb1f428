"""Synthetic documents of the viewer, with the weights as they were before they were packed."""

import base64
import io
import zlib
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

STANDS_OUT = 3.0
LABELS = {"affinity": "share of the attention (a row sums to 1)", "effect": "change of the score of class 3"}


@dataclass(frozen=True)
class Synthetic:
    """A document, and its true rows: float64 (Q, M), by block and measure."""

    document: dict[str, Any]
    rows: dict[tuple[str, str], np.ndarray]

    def row(self, block, measure, point):
        """The true weights of the stored position nearest to the pixel at ``point``."""
        return self.rows[block, measure][row_number(self.block(block), point)]

    def block(self, name):
        (found,) = (block for block in self.document["blocks"] if block["name"] == name)
        return found

    def steps(self, block, measure, point):
        """The size of one step of the stored weights of a row."""
        signed = measure == "effect"
        return np.abs(self.row(block, measure, point)).max() / (127 if signed else 255)

    def even(self, block, measure, point):
        """The mean size of a row's weights."""
        return np.abs(self.row(block, measure, point)).mean()


def stored_position(block, point):
    """Along each axis the stored place whose centre is nearest to the pixel's; the first of two."""
    grid = block["grid"]
    return [
        min(places, key=lambda place: abs(centre + place * step - (pixel + 0.5)))
        for places, centre, step, pixel in zip(
            block["query_places"], grid["centres"], grid["steps"], point, strict=True
        )
    ]


def row_number(block, point):
    stored = list(product(*block["query_places"]))
    return stored.index(tuple(stored_position(block, point)))


def pack(name, rows):
    """A measure of the document from its weights (Q, M)."""
    signed = name == "effect"
    scales = np.abs(rows).max(1).astype("<f4")
    most = 127 if signed else 255
    levels = np.rint(rows / np.where(scales == 0, 1, scales)[:, None] * most)
    levels = levels.clip(-most, most).astype(np.int8 if signed else np.uint8)
    return {
        "name": name,
        "label": LABELS[name],
        "signed": signed,
        "rows": base64.b64encode(zlib.compress(levels.tobytes())).decode(),
        "scales": base64.b64encode(scales.tobytes()).decode(),
        "even": base64.b64encode(np.abs(rows).mean(1).astype("<f4").tobytes()).decode(),
    }


def make_rows(name, queries, keys, rng):
    """Smooth rows: some bumps around places that drift with the query."""
    places = np.stack(np.meshgrid(*(np.linspace(0, 1, side) for side in keys), indexing="ij"), -1)
    places = places.reshape(-1, len(keys))
    asked = np.stack(np.meshgrid(*(np.linspace(0, 1, len(q)) for q in queries), indexing="ij"), -1)
    asked = asked.reshape(-1, len(keys))
    total = np.zeros((len(asked), len(places)))
    for bump in range(4):
        middle = 0.5 * asked + rng.uniform(0, 0.5, len(keys))
        distance = ((places[None] - middle[:, None]) ** 2).sum(-1)
        sign = -1 if name == "effect" and bump % 2 else 1
        total += sign * rng.uniform(0.4, 1) * np.exp(-distance / 0.02)
    # No two weights alike: which are the largest must be certain.
    total += rng.uniform(0, 0.02, total.shape)
    return total / total.sum(1, keepdims=True) if name == "affinity" else total


def grid_of(input_sides, sides, centres=None):
    steps = [whole / part for whole, part in zip(input_sides, sides, strict=True)]
    return {"steps": steps, "centres": centres or [step / 2 for step in steps]}


def make_block(name, input_sides, sides, key_sides, *, measures, places=None, centres=None, seed=0):
    """A block of the document, and its rows by (block, measure)."""
    rng = np.random.default_rng(seed)
    places = places or [list(range(side)) for side in sides]
    rows = {measure: make_rows(measure, places, key_sides, rng) for measure in measures}
    in_time = len(sides) == 3
    block = {
        "name": name,
        "instantiation": "embedded_gaussian",
        "extent": "spacetime",
        "sides": list(sides),
        "grid": grid_of(input_sides, sides, centres),
        "key_sides": list(key_sides),
        "key_grid": grid_of(input_sides, key_sides),
        "query_places": places,
        "summary": {
            "entropy": 0.83,
            "distance_pixels": 61.25,
            "uniform_distance_pixels": 88.0,
            "distance_frames": 1.2 if in_time else None,
            "uniform_distance_frames": 1.25 if in_time else None,
        },
        "stands_out": STANDS_OUT,
        "evenly": False,
        "measures": [pack(measure, rows[measure]) for measure in measures],
    }
    return block, {(name, measure): rows[measure] for measure in measures}


def data_url(pixels):
    """A picture, uint8 (H, W, 3), as the document holds it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def smooth_frames(count, height, width):
    """Frames in which a light square moves over a slope of colours, uint8 (T, H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    slope = np.stack([90 + 80 * x / width, 70 + 90 * y / height, np.full(x.shape, 110.0)], -1)
    frames = np.repeat(slope[None], count, 0)
    side = max(height // 5, 1)
    for frame in range(count):
        left = int((width - side) * frame / max(count - 1, 1))
        frames[frame, height // 2 : height // 2 + side, left : left + side] = 240
    return frames.astype(np.uint8)


def assemble(kind, input_values, blocks, **other):
    made = [make_block(input_sides=input_values["sides"], **block) for block in blocks]
    document = {
        "format": 2,
        "title": f"some {kind} <b>",
        "model": "nl2_c2d_tiny",
        "kind": kind,
        "prediction": [
            {"class": "3", "probability": 0.874},
            {"class": "8", "probability": 0.1},
            {"class": "5", "probability": 0.02},
        ],
        "truth": "3",
        "input": {
            **dict.fromkeys(("frame_numbers", "seconds", "channels")),
            "frames": [],
            "picture_sides": None if kind == "sequence" else input_values["sides"][-2:],
            **input_values,
        },
        "opens_on": made[0][0]["name"],
        "blocks": [block for block, _ in made],
        **other,
    }
    return Synthetic(document, {key: rows for _, some in made for key, rows in some.items()})


def video(frames=None, **other):
    """Eight frames of 56 x 84; a block with all rows and two measures, one with every other row."""
    frames = smooth_frames(8, 56, 84) if frames is None else frames
    count, height, width = frames.shape[:3]
    values = {
        "sides": [count, height, width],
        "frames": [data_url(frame) for frame in frames],
        "frame_numbers": [12 + 8 * frame for frame in range(count)],
        "seconds": [round((12 + 8 * frame) / 30, 3) for frame in range(count)],
    }
    half = count // 2
    wide = {
        "name": "layer2.3",
        "sides": (half, 14, 14),
        "key_sides": (half, 7, 7),
        "places": [list(range(half)), list(range(0, 14, 2)), list(range(0, 14, 2))],
        "centres": [1.0, 0.5, 0.5],
        "measures": ["affinity"],
        "seed": 1,
    }
    deep = {
        "name": "layer3.4",
        "sides": (half, 7, 7),
        "key_sides": (half, 4, 3),
        "measures": ["affinity", "effect"],
    }
    return assemble("video", values, [deep, wide], **other)


def image(**other):
    """A square of 28 pixels; one block whose keys are fewer than its queries."""
    values = {"sides": [28, 28], "frames": [data_url(smooth_frames(1, 28, 28)[0])]}
    block = {"name": "nl_1", "sides": (14, 14), "key_sides": (7, 7), "measures": ["affinity"]}
    return assemble("image", values, [block], **other)


def sequence(**other):
    """Three channels of 120 values; one block."""
    places = np.arange(120) / 120
    channels = [np.sin(6 * (channel + 1) * places).round(4).tolist() for channel in range(3)]
    block = {"name": "nl_1", "sides": (60,), "key_sides": (30,), "measures": ["affinity"]}
    values = {"sides": [120], "channels": channels, "channel_names": ["hip", "knee", "<b>toe</b>"]}
    return assemble("sequence", values, [block], **other)
