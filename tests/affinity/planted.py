"""Maps of known weights, and what is looked for in their pictures."""

import numpy as np
import torch
from matplotlib.patches import ConnectionPatch, Rectangle

from nonlocalnn.affinity import AffinityMap, PositionGrid

# Grids whose boxes neither begin nor end with the input.
IMAGE = PositionGrid((6, 10), (24, 40), steps=(4.0, 4.0), centres=(0.5, 0.5))
IMAGE_KEYS = PositionGrid((3, 5), (24, 40), steps=(8.0, 8.0), centres=(2.5, 2.5))
CLIP = PositionGrid((2, 4, 6), (5, 8, 12), steps=(2.0, 2.0, 2.0), centres=(1.0, 0.5, 0.5))
CLIP_KEYS = PositionGrid((2, 2, 3), (5, 8, 12), steps=(2.0, 4.0, 4.0), centres=(1.0, 1.5, 1.5))
SEQUENCE = PositionGrid((8,), (32,), steps=(4.0,), centres=(0.5,))
SEQUENCE_KEYS = PositionGrid((4,), (32,), steps=(8.0,), centres=(2.5,))
GRIDS = {1: (SEQUENCE, SEQUENCE_KEYS), 2: (IMAGE, IMAGE_KEYS), 3: (CLIP, CLIP_KEYS)}


def planted(num_axes, *, instantiation="gaussian", batch=1, seed=0, peaks=1, **settings):
    """A map whose theta gives known weights, and these: (B, \\*sides, \\*key sides).

    No key stands out of random weights; a power of them, `peaks`, has a few that do.
    """
    grid, key_grid = GRIDS[num_axes]
    num_queries, num_keys = np.prod(grid.sides), np.prod(key_grid.sides)
    numbers = torch.rand(batch, num_queries, num_keys, generator=torch.Generator().manual_seed(seed)) + 0.01
    if instantiation == "dot_product":
        weights = (numbers - 0.5) * (numbers - 0.5).abs() ** (peaks - 1)
        theta = weights * num_keys
    else:
        weights = numbers**peaks / (numbers**peaks).sum(2, keepdim=True)
        theta = weights.log()
    phi = torch.eye(num_keys).expand(batch, 1, -1, -1)
    shown = AffinityMap(instantiation, "spacetime", grid, key_grid, theta=theta, phi=phi, **settings)
    return shown, weights.unflatten(2, key_grid.sides).unflatten(1, grid.sides)


def pixels(num_axes, channels=3):
    return torch.rand(channels, *GRIDS[num_axes][0].input_sides)


def rectangles(axis):
    """(left, top, width, height) of each mark."""
    marks = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    # What is marked is seen through; a stretch of a sequence is a band.
    assert not any(mark.get_fill() and mark.get_alpha() is None for mark in marks)
    return [(*mark.get_xy(), mark.get_width(), mark.get_height()) for mark in marks]


def heat_of(layer, num_axes=2):
    """The weights that a layer of heat shows; keys at the edges are drawn once more beyond."""
    height, width = GRIDS[num_axes][1].sides[-2:]
    return layer.get_array()[:height, :width]


def arrows(figure):
    return [artist for artist in figure.artists if isinstance(artist, ConnectionPatch)]
