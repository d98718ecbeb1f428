"""Averages of a map, beside sums over every pair."""

import itertools
import math

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.affinity import summarise
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near, near


def captured(block, x):
    model = nn.Sequential(nn.MaxPool3d((1, 2, 2)) if x.dim() == 5 else nn.Identity(), block).eval()
    with nl.capture_affinity(model) as maps:
        model(x)
    return maps["1"]


def slow_summary(shown, sample, queries):
    """Return entropy, distances in space and time, and the uniform ones, by loops."""
    found = {name: [] for name in ("entropy", "space", "time", "even space", "even time")}
    keys = list(itertools.product(*map(range, shown.key_grid.sides)))
    for query in queries:
        row = shown.of_query(*query)[sample]
        at = shown.grid.centre(*query)
        seen = [key for key in keys if shown.extent == "spacetime" or key[0] == query[0]]
        weights = [abs(float(row[key])) for key in seen]
        total = sum(weights)
        if total == 0:
            continue
        space, time = [], []
        for key in seen:
            to = shown.key_grid.centre(*key)
            first = 1 if len(to) == 3 else 0
            space.append(math.dist(at[first:], to[first:]))
            time.append(abs(at[0] - to[0]))
        shares = [weight / total for weight in weights]
        entropy = -sum(share * math.log(share) for share in shares if share > 0)
        found["entropy"].append(entropy / math.log(len(seen)))
        for name, distances in (("space", space), ("time", time)):
            found[name].append(sum(s * d for s, d in zip(shares, distances, strict=True)))
            found[f"even {name}"].append(sum(distances) / len(distances))
    return {name: sum(values) / len(values) for name, values in found.items()}


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize(
    ("kind", "settings", "shape"),
    [
        (nl.NonLocal1d, {}, (11,)),
        (nl.NonLocal2d, {}, (4, 7)),
        (nl.NonLocal3d, {}, (3, 8, 6)),
        (nl.NonLocal3d, {"extent": "space"}, (3, 8, 6)),
    ],
    ids=["1d", "2d", "3d", "space"],
)
def test_against_sums_over_every_pair(kind, settings, shape, instantiation, monkeypatch):
    monkeypatch.setattr("nonlocalnn.affinity.rows._CHUNK", 64)
    block = randomize_(kind(4, instantiation=instantiation, **settings))
    shown = captured(block, torch.randn(2, 4, *shape))
    # Each third query, to tell the mean over queries from the mean over all.
    queries = shown.all_queries()[::3]
    summary = summarise(shown, queries=queries)
    mean_row = shown.rows(queries).abs().mean(1)
    assert_near(summary.attended, mean_row)
    for sample in range(2):
        slow = slow_summary(shown, sample, queries)
        assert float(summary.entropy[sample]) == near(slow["entropy"])
        assert float(summary.distance[sample]) == near(slow["space"])
        if len(shape) == 3:
            assert float(summary.distance_frames[sample]) == near(slow["time"], largest=1.0)
        if instantiation != "concatenation":
            # There, queries without any weight are left out of the slow uniform distance.
            assert float(summary.uniform_distance[sample]) == near(slow["even space"])
    if len(shape) != 3:
        assert summary.distance_frames is summary.uniform_distance_frames is None


def test_one_key_and_all_keys_alike():
    block = nl.NonLocal1d(2, instantiation="gaussian", sub_sample=None, norm=None)
    alike = summarise(captured(block, torch.zeros(1, 2, 8)))
    assert float(alike.entropy) == near(1.0)
    assert float(alike.distance) == near(float(alike.uniform_distance))
    # Orthogonal and long: each position sees itself only.
    itself = summarise(
        captured(nl.NonLocal1d(8, instantiation="gaussian", sub_sample=None), 20 * torch.eye(8)[None])
    )
    assert float(itself.entropy) == near(0.0)
    assert float(itself.distance) == near(0.0)
    numbers = itself.as_numbers()
    assert list(numbers) == [
        "entropy",
        "distance_pixels",
        "uniform_distance_pixels",
        "distance_frames",
        "uniform_distance_frames",
    ]
    assert numbers["distance_frames"] is None


def test_what_there_is_not_is_none():
    """A single key has no entropy to compare with, and a block that rectifies everything no shares."""
    assert summarise(captured(nl.NonLocal1d(2), torch.randn(1, 2, 1))).as_numbers()["entropy"] is None
    block = nl.NonLocal1d(2, instantiation="concatenation")
    nn.init.zeros_(block.w_f)
    numbers = summarise(captured(block, torch.randn(1, 2, 6))).as_numbers()
    assert numbers["entropy"] is numbers["distance_pixels"] is None
    assert numbers["uniform_distance_pixels"] > 0
