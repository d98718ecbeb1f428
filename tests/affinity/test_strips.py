"""Pictures of clips and sequences: weights at their time and place, arrows to the largest of them."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import StepPatch

from affinity.planted import arrows, heat_of, pixels, planted, rectangles
from nonlocalnn.affinity import AffinityMap, PositionGrid
from nonlocalnn.affinity.pictures import draw_rows
from nonlocalnn.affinity.pictures.views import meaning
from tolerances import assert_near, near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


def test_every_frame_of_a_strip_shows_the_keys_of_its_time():
    shown, weights = planted(3)
    clip = pixels(3)
    figure = draw_rows(shown, clip, queries=[(1, 2, 3), (0, 0, 5)])
    strips = np.array(figure.axes[:10]).reshape(2, 5)
    for strip, query in zip(strips, [(1, 2, 3), (0, 0, 5)], strict=True):
        for frame, axis in enumerate(strip):
            np.testing.assert_array_equal(axis.images[0].get_array(), clip[:, frame].permute(1, 2, 0))
            heat = axis.images[1]
            # Frames 0 and 1, then 2 and 3; frame 4 lies in no key's box.
            expected = weights[(0, *query)][frame // 2] if frame < 4 else torch.full((2, 3), torch.nan)
            drawn = torch.as_tensor(np.ma.filled(heat_of(heat, 3), np.nan))
            assert torch.equal(drawn.isnan(), expected.isnan())
            assert_near(drawn.nan_to_num(), expected.nan_to_num())
            assert tuple(heat.get_extent()) == (-0.5, 15.5, 11.5, -0.5)
            row = weights[(0, *query)]
            assert heat.get_clim() == near((0, max(float(row.max()), 3 * float(row.mean()))))
    assert [len(rectangles(axis)) for axis in strips[0]] == [0, 0, 1, 1, 0]
    assert [len(rectangles(axis)) for axis in strips[1]] == [1, 1, 0, 0, 0]
    assert rectangles(strips[0, 2]) == [(5.5, 3.5, 2, 2)]
    assert [axis.get_xlabel() for axis in strips[1]] == [f"frame {frame}" for frame in range(5)]
    assert [axis.get_ylabel() for axis in strips[:, 0]] == [
        "query 1: frame 3,\nrow 4, column 6", "query 2: frame 1,\nrow 0, column 10"
    ]  # fmt: skip
    assert "of 5 frames" not in figure.get_suptitle()


@pytest.mark.parametrize(("instantiation", "seed"), [("gaussian", 3), ("dot_product", 1)])
def test_arrows_lead_from_the_query_to_the_keys_that_stand_out(instantiation, seed):
    shown, weights = planted(3, instantiation=instantiation, batch=2, seed=seed, peaks=5)
    figure = draw_rows(shown, pixels(3), queries=[(1, 2, 3)], sample=1)
    axes = figure.axes[:5]
    row = weights[1, 1, 2, 3]
    # Three times the mean size and more, of either sign.
    number = int((row.abs() >= 3 * row.abs().mean()).sum())
    largest = row.flatten().abs().topk(number)
    places = torch.stack(torch.unravel_index(largest.indices, row.shape), 1).tolist()
    drawn = arrows(figure)
    assert len(drawn) == number > 1
    for arrow, (time, row_number, column) in zip(drawn, places, strict=True):
        assert arrow.coords1 is axes[2].transData
        assert arrow.xy1 == (6.5, 4.5)
        assert arrow.coords2 is axes[2 * time].transData
        left, top = max(0, 4 * column - 0.5), max(0, 4 * row_number - 0.5)
        # The last boxes end with the input.
        right = 12 if column == 2 else 4 * column + 3.5
        bottom = 8 if row_number == 1 else 3.5
        assert arrow.xy2 == ((left + right) / 2, (top + bottom) / 2)
        is_negative = float(row[time, row_number, column]) < 0
        assert arrow.get_linestyle() == (":" if is_negative else "-")
    widths = [arrow.get_linewidth() for arrow in drawn]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    assert instantiation == "gaussian" or {arrow.get_linestyle() for arrow in drawn} == {":", "-"}


def test_no_arrow_leads_to_where_it_begins_or_to_what_weighs_nothing():
    grid = PositionGrid((8, 2, 2), (8, 2, 2), steps=(1.0,) * 3, centres=(0.5,) * 3)
    # Of the eight keys at the query's place in space two stand out, one of them the query. The level is
    # that of these eight: of all 32 keys a third one would stand out, with 0.1.
    weights = torch.tensor([0.1, 0.4, 0.015, 0.015, 0.015, 0.425, 0.015, 0.015])
    theta, phi = weights.log().expand(1, 32, 8), torch.eye(8).expand(1, 4, 8, 8)
    shown = AffinityMap("gaussian", "time", grid, grid, theta=theta, phi=phi)
    figure = draw_rows(shown, torch.rand(3, 8, 2, 2), queries=[(1, 0, 1)])
    (arrow,) = arrows(figure)
    assert arrow.xy2 == (1.5, 0.5)
    assert arrow.coords2 is figure.axes[5].transData
    # Each end has a dot, that of the query too.
    assert [len(axis.lines) for axis in figure.axes[:8]] == [0, 1, 0, 0, 0, 1, 0, 0]


def test_of_two_keys_one_that_has_nearly_everything_stands_out():
    grid = PositionGrid((2, 1, 1), (2, 4, 4), steps=(1.0, 4.0, 4.0), centres=(0.5, 2.0, 2.0))
    phi = torch.eye(2).expand(1, 1, 2, 2)
    for share, number in ((0.8, 1), (0.6, 0)):
        theta = torch.tensor([1 - share, share]).log().expand(1, 2, 2)
        shown = AffinityMap("gaussian", "spacetime", grid, grid, theta=theta, phi=phi)
        assert len(arrows(draw_rows(shown, torch.rand(3, 2, 4, 4), queries=[(0, 0, 0)]))) == number


def test_a_long_clip_is_shown_by_16_of_its_frames():
    grid = PositionGrid((3, 1, 1), (33, 4, 4), steps=(1.0, 4.0, 4.0), centres=(15.5, 2.0, 2.0))
    theta = torch.eye(3)[None]
    shown = AffinityMap("dot_product", "spacetime", grid, grid, theta=theta, phi=theta[:, None])
    figure = draw_rows(shown, torch.rand(3, 33, 4, 4), queries=[(0, 0, 0)])
    frames = [round(number * 32 / 15) for number in range(16)]
    assert [axis.get_xlabel() for axis in figure.axes[:16]] == [f"frame {frame}" for frame in frames]
    assert "16 of 33 frames" in figure.get_suptitle()
    # The query lies in frame 15, of which 15 is shown; the key's own place gets a dot and no arrow.
    assert [len(rectangles(axis)) for axis in figure.axes[:16]] == [int(frame == 15) for frame in frames]
    assert arrows(figure) == []


def test_a_mark_is_shown_in_the_nearest_frame_where_its_own_is_left_out():
    grid = PositionGrid((33, 1, 1), (33, 4, 4), steps=(1.0, 4.0, 4.0), centres=(0.5, 2.0, 2.0))
    theta = torch.rand(1, 33, 2)
    shown = AffinityMap("dot_product", "spacetime", grid, grid, theta=theta, phi=theta[:, None])
    figure = draw_rows(shown, torch.rand(3, 33, 4, 4), queries=[(7, 0, 0), (8, 0, 0)])
    strips = np.array(figure.axes[:32]).reshape(2, 16)
    marked = [[column for column, axis in enumerate(strip) if rectangles(axis)] for strip in strips]
    assert [strips[1, column].get_xlabel() for (column,) in marked] == ["frame 6", "frame 9"]


@pytest.mark.parametrize("instantiation", ["gaussian", "dot_product"])
def test_a_sequence_is_shaded_by_weight_above_steps(instantiation):
    shown, weights = planted(1, instantiation=instantiation, seed=3)
    values = pixels(1)
    figure = draw_rows(shown, values, queries=[(5,), (0,)])
    above, below, *_ = figure.axes
    assert_near(above.lines[1].get_xdata(), np.arange(32) + 0.5)
    assert_near(above.lines[1].get_ydata(), values[1])
    row = weights[0, 5]
    # The last key is nearest to the end of the input.
    edges = [0, 6.5, 14.5, 22.5, 32]
    mesh = above.collections[0]
    assert_near(mesh.get_coordinates()[0, :, 0], edges)
    assert_near(mesh.get_coordinates()[:, 0, 1], above.get_ylim())
    colours = mesh.get_array()[0]
    # Of four keys one stands out from 2.5 times the even level on.
    top = max(float(row.abs().max()), 2.5 * float(row.abs().mean()))
    assert_near(colours[:, 3], 0.7 * row.abs() / top)
    expected = [to_rgb("#d55e00" if weight > 0 else "#0072b2") for weight in row.tolist()]
    assert_near(colours[:, :3], expected)
    steps = [patch for patch in below.patches if isinstance(patch, StepPatch)]
    total = np.zeros(4)
    for step in steps:
        assert_near(step.get_data().edges, edges)
        total += step.get_data().values
    assert_near(total, row)
    is_signed = instantiation == "dot_product"
    assert len(steps) == (2 if is_signed else 1)
    low, high = below.get_ylim()
    assert low == near(-high if is_signed else 0)
    for axis in (above, below):
        assert [mark for mark in rectangles(axis) if mark[0] == 18.5 and mark[2] == 4]
    # Positions are those of the input.
    assert above.get_title(loc="left") == "query 1: step 20"
    assert figure.axes[2].get_title(loc="left") == "query 2: step 0"
    assert below.get_xlim() == (0, 32)
    even = float(row.abs().mean())
    assert (
        " ".join(below.get_ylabel().split()) == f"{meaning(instantiation)}; 1x = {even:.3g}, all keys alike"
    )
    assert below.get_yticklabels()[1 if is_signed or even >= 0.1 * top else 0].get_text() == "1x"
