"""Pictures of maps: the right numbers at the right places."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

import nonlocalnn as nl
from affinity.planted import arrows, heat_of, pixels, planted, rectangles
from nonlocalnn.affinity import AffinityMap, PositionGrid, summarise
from nonlocalnn.affinity.pictures import (
    Picture,
    choose_queries,
    draw_attended,
    draw_rows,
    queries_to_draw,
)
from nonlocalnn.affinity.pictures.views import meaning
from tolerances import assert_near, near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.mark.parametrize("instantiation", ["gaussian", "dot_product"])
def test_the_heat_over_an_image_lies_where_the_keys_do(instantiation):
    shown, weights = planted(2, instantiation=instantiation)
    image = pixels(2)
    figure = draw_rows(shown, image, queries=[(2, 7), (0, -10)], title="nl_1")
    whole, first, second = figure.axes[:3]
    np.testing.assert_array_equal(whole.images[0].get_array(), image.permute(1, 2, 0))
    assert tuple(whole.images[0].get_extent()) == (0, 40, 24, 0)
    for axis, row in ((first, weights[0, 2, 7]), (second, weights[0, 0, 0])):
        heat = axis.images[1]
        assert_near(heat_of(heat), row)
        # Boxes of 8 x 8 around 2.5: from -1.5 on. The last ends with the input, at 40 and 24 and not at 38.5
        # and 22.5: its key is drawn twice, and the picture ends where the input does.
        assert tuple(heat.get_extent()) == (-1.5, 46.5, 30.5, -1.5)
        assert_near(heat.get_array()[3], heat.get_array()[2])
        assert_near(heat.get_array()[:, 5], heat.get_array()[:, 4])
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, 40), (24, 0))
        # The largest weight, but never less than what stands out: three times the even level.
        top = max(float(row.abs().max()), 3 * float(row.abs().mean()))
        is_signed = instantiation == "dot_product"
        assert heat.get_clim() == near((-top, top) if is_signed else (0, top))
        assert heat.get_cmap().name == ("RdBu_r" if is_signed else "inferno")
    assert rectangles(first) == [(26.5, 6.5, 4, 4)]
    assert rectangles(second) == [(0, 0, 2.5, 2.5)]
    assert rectangles(whole) == [*rectangles(first), *rectangles(second)]
    assert [text.get_text() for text in whole.texts] == ["1", "2"]
    # Rows and columns are pixels of the input, of the position's centre.
    assert [axis.get_title() for axis in (first, second)] == [
        "query 1: row 8, column 28", "query 2: row 0, column 0"
    ]  # fmt: skip
    bar, even = second.images[1].colorbar.ax, float(weights[0, 0, 0].abs().mean())
    assert (
        " ".join(bar.get_ylabel().split())
        == f"{meaning(shown.instantiation)}; 1x = {even:.3g}, all keys alike"
    )
    ticks = dict(zip([text.get_text() for text in bar.get_yticklabels()], bar.get_yticks(), strict=True))
    assert ticks["1x"] == near(even)
    assert f"nl_1; {instantiation}, keys 3 x 5" in " ".join(figure.get_suptitle().split())


def test_numbers_of_marks_stand_inside_the_picture():
    shown, _ = planted(2)
    figure = draw_rows(shown, pixels(2), queries=[(0, 3), (5, 3)])
    first, second = figure.axes[0].texts
    assert (first.xy, first.get_va()) == ((12.5, 2.5), "top")
    assert (second.xy, second.get_va()) == ((12.5, 18.5), "bottom")


@pytest.mark.parametrize(("channels", "is_colour"), [(1, False), (2, False), (3, True), (5, False)])
def test_three_channels_are_colours_and_others_grey(channels, is_colour):
    shown, _ = planted(2)
    image = pixels(2, channels)
    drawn = draw_rows(shown, image, queries=[(0, 0)]).axes[0].images[0].get_array()
    assert_near(drawn, image.permute(1, 2, 0) if is_colour else image.mean(0))


def test_many_queries_of_an_image_go_into_several_lines():
    shown, weights = planted(2)
    queries = [(row, 3) for row in range(6)]
    figure = draw_rows(shown, pixels(2), queries=queries)
    panels = figure.axes[:10]
    assert [axis.get_title() for axis in panels[1:7]] == [
        f"query {row + 1}: row {4 * row}, column 12" for row in range(6)
    ]
    assert_near(heat_of(panels[6].images[1]), weights[0, 5, 3])
    # Words stand beside the last bar of each line.
    labels = [axis.images[1].colorbar.ax.get_ylabel() for axis in panels[1:7]]
    assert [bool(label) for label in labels] == [False, False, False, True, False, True]
    assert panels[0].get_gridspec().get_geometry() == (2, 5)
    assert [axis.axison for axis in panels] == [True] * 7 + [False] * 3


@pytest.mark.parametrize("num_axes", [1, 2, 3], ids=["sequence", "image", "clip"])
def test_what_is_attended_most_is_the_mean_over_the_queries(num_axes):
    shown, weights = planted(num_axes, batch=2)
    mean = weights.flatten(1, num_axes).mean(1)[1]
    figure = draw_attended(shown, pixels(num_axes), sample=1)
    if num_axes == 1:
        (steps,) = [patch for patch in figure.axes[1].patches if isinstance(patch, StepPatch)]
        drawn, label = steps.get_data().values, figure.axes[1].get_ylabel()
    else:
        layer = figure.axes[1 if num_axes == 2 else 3].images[1]
        last = figure.axes[1 if num_axes == 2 else 4].images[1]
        drawn, label = heat_of(layer, num_axes), last.colorbar.ax.get_ylabel()
        mean = mean if num_axes == 2 else mean[1]
        assert not any(rectangles(axis) for axis in figure.axes[:2])
    assert_near(drawn, mean)
    assert " ".join(label.split()).startswith(f"mean over the queries: {meaning('gaussian')}; 1x = ")
    assert not arrows(figure)


def test_a_summary_that_is_there_is_drawn():
    shown, weights = planted(2, instantiation="dot_product")
    summary = summarise(shown, queries=[(1, 1)])
    layer = draw_attended(shown, pixels(2), summary=summary).axes[1].images[1]
    assert_near(heat_of(layer), weights[0, 1, 1].abs())
    # Sizes have no sign.
    assert layer.get_clim()[0] == 0
    assert "size of the signed weight" in " ".join(layer.colorbar.ax.get_ylabel().split())


def test_without_pixels_the_recorded_input_is_shown_from_its_smallest_value_to_its_largest():
    recorded = torch.randn(2, 1, 24, 40) * 5
    shown, weights = planted(2, batch=2, input=recorded)
    figure = draw_rows(shown, queries=[(1, 2)], sample=1)
    drawn = figure.axes[0].images[0].get_array()
    low, high = recorded[1].min(), recorded[1].max()
    assert_near(drawn, (recorded[1, 0] - low) / (high - low))
    assert_near(heat_of(figure.axes[1].images[1]), weights[1, 1, 2])
    flat, _ = planted(2, input=torch.full((1, 1, 24, 40), 3.0))
    drawn = draw_rows(flat, queries=[(1, 2)]).axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(drawn, np.nan), np.zeros((24, 40)))


def test_queries_are_where_the_input_has_detail_and_apart():
    image = torch.zeros(1, 24, 40)
    image[0, 2, 3], image[0, 21, 38] = 1.0, 1.0
    assert sorted(choose_queries(image, (6, 10), 2)) == [(0, 0), (5, 9)]
    # What is bright has no detail by that.
    assert sorted(choose_queries(1 - image, (6, 10), 2)) == [(0, 0), (5, 9)]
    clip = torch.zeros(3, 8, 16, 16)
    clip[1, 7, 3, 12], clip[0, 0, 13, 1] = 1.0, 0.8
    assert choose_queries(clip, (4, 4, 4), 2) == [(3, 0, 3), (0, 3, 0)]
    sequence = torch.zeros(2, 32)
    sequence[0, 9], sequence[1, 21] = 1.0, 0.5
    assert choose_queries(sequence, (8,), 2) == [(2,), (5,)]
    assert len(set(choose_queries(torch.zeros(1, 24, 40), (6, 10), 5))) == 5
    assert len(choose_queries(image, (1, 2), 5)) == 2
    assert len(choose_queries(image, (6, 10))) == 4


def test_queries_that_were_recorded_are_drawn():
    model = nl.create_model("nl_digits").eval()
    recorded = [(1, 2), (3, 4), (5, 6), (0, 0), (6, 6)]
    with nl.capture_affinity(model, ["nl_2"], recorded) as maps:
        model(torch.rand(1, 1, 28, 28))
    assert queries_to_draw(maps["nl_2"], torch.rand(1, 28, 28)) == recorded[:4]
    assert draw_rows(maps["nl_2"]).axes[2].get_title() == "query 2: row 14, column 18"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"queries": [(6, 0)]}, r"query must be a place in \(6, 10\); got \(6, 0\)"),
        ({"queries": []}, "queries must name at least one place"),
        ({"sample": 2}, "sample must be from 0 to 1"),
        ({"sample": -1}, "sample must be from 0 to 1"),
        ({"pixels": torch.rand(1, 40, 24)}, r"pixels must be \(C, 24, 40\).*got \(1, 40, 24\)"),
        ({"pixels": None}, "no tensor to draw on: give pixels"),
    ],
    ids=["query", "no query", "sample", "negative sample", "size", "no input"],
)
def test_wrong_settings(settings, says):
    shown, _ = planted(2, batch=2)
    with pytest.raises(ValueError, match=says):
        draw_rows(shown, **{"pixels": pixels(2), **settings})
    if "queries" not in settings:
        with pytest.raises(ValueError, match=says):
            draw_attended(shown, **{"pixels": pixels(2), **settings})


@pytest.mark.parametrize("num_axes", [1, 2, 3], ids=["sequence", "image", "clip"])
def test_no_text_is_cut_off_and_signs_of_money_are_no_formulas(num_axes):
    shown, _ = planted(num_axes, instantiation="dot_product")
    title = "a class that costs $5 or $6 " * 9
    figure = draw_rows(shown, pixels(num_axes), queries=[(0,) * num_axes], title=title)
    (drawn,) = [text for text in figure.texts if "$5" in text.get_text()]
    assert not drawn.get_parse_math()
    figure.draw_without_rendering()
    assert " ".join(figure.get_suptitle().split()).startswith(title.strip())
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.01
    assert box.x1 < width + 0.01
    assert box.y1 < height + 0.01


@pytest.mark.parametrize("num_axes", [2, 3], ids=["image", "clip"])
def test_words_of_low_bars_stand_in_the_title(num_axes):
    sides = (1, 8, 40)[3 - num_axes :]
    grid = PositionGrid(sides, sides, steps=(1.0,) * num_axes, centres=(0.5,) * num_axes)
    theta = torch.rand(1, 320, 2)
    shown = AffinityMap("gaussian", "spacetime", grid, grid, theta=theta, phi=theta[:, None])
    figure = draw_rows(shown, torch.rand(1, *sides), queries=[(0,) * num_axes])
    axis = figure.axes[num_axes == 2]
    assert axis.images[1].colorbar.ax.get_ylabel() == ""
    assert meaning("gaussian") in " ".join(figure.get_suptitle().split())


def test_a_map_shows_itself_in_notebooks(tmp_path):
    shown, weights = planted(2, batch=2, input=torch.rand(2, 1, 24, 40))
    picture = shown.show((3, 4), sample=1)
    assert isinstance(picture, Picture)
    assert_near(heat_of(picture.figure.axes[1].images[1]), weights[1, 3, 4])
    assert picture._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [axis.get_title()[:7] for axis in shown.show().figure.axes[1:5]] == [
        f"query {number}" for number in range(1, 5)
    ]
    image = torch.rand(1, 24, 40)
    drawn = shown.show((0, 0), pixels=image).figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn, image[0])


def test_pictures_are_files_of_the_kind_that_their_name_says(tmp_path):
    shown, _ = planted(2)
    picture = Picture(draw_rows(shown, pixels(2), queries=[(0, 0)]))
    picture.save(tmp_path / "new" / "map.PNG")
    assert (tmp_path / "new" / "map.PNG").read_bytes().startswith(b"\x89PNG")
    picture.save(tmp_path / "map.svg")
    content = (tmp_path / "map.svg").read_text()
    assert "<svg" in content
    assert "<dc:date>" not in content
    with pytest.raises(ValueError, match=r"must be one of '.png', '.svg'; got '.jpg'"):
        picture.save(tmp_path / "map.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.svg", "new"]


def test_the_heat_is_as_strong_in_svg_as_in_png():
    """One alpha for a whole layer is applied twice where matplotlib joins layers into one picture."""
    shown, _ = planted(2)
    layer = draw_rows(shown, pixels(2), queries=[(0, 0)]).axes[1].images[1]
    assert np.shape(layer.get_alpha()) == np.shape(layer.get_array())
    assert layer.colorbar.alpha is None


@pytest.mark.parametrize("instantiation", nl.functional.INSTANTIATIONS)
def test_each_form_says_what_its_weights_are(instantiation):
    sums_to_one = instantiation in ("gaussian", "embedded_gaussian")
    assert ("a row sums to 1" in meaning(instantiation)) is sums_to_one
    assert ("number of keys" in meaning(instantiation)) is not sums_to_one


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shown, _ = planted(2)
    for draw in (draw_rows, draw_attended):
        with pytest.raises(ImportError, match=r"pip install 'nonlocalnn\[plots\]'"):
            draw(shown, pixels(2))


@pytest.mark.parametrize("instantiation", ["gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("num_axes", [1, 2, 3], ids=["sequence", "image", "clip"])
def test_even_attention_is_said_and_not_painted_as_a_finding(num_axes, instantiation):
    shown = nearly_even(num_axes, instantiation)
    query = (1,) * num_axes
    figure = draw_rows(shown, pixels(num_axes), queries=[query])
    both = draw_rows(shown, pixels(num_axes), queries=[query, (0,) * num_axes])
    # A picture of all queries says it of the block, one of some says it of their rows.
    for each, whose in (
        (figure, "this row attends"),
        (both, "these rows attend"),
        (draw_attended(shown, pixels(num_axes)), "attends"),
    ):
        words = " ".join(each.get_suptitle().split())
        assert words.endswith(f"; {whose} nearly evenly (entropy 1.00 of 1)")
    assert not arrows(figure)
    largest = float(shown.of_query(*query).abs().max())
    # The last colour, or the top of the axis, is that of three times as much; of four keys, 2.5 times.
    if num_axes == 1:
        assert figure.axes[1].get_ylim()[1] == pytest.approx(1.08 * 2.5 * largest, rel=0.01)
    else:
        layer = figure.axes[num_axes == 2].images[1]
        assert layer.get_clim()[1] == pytest.approx(3 * largest, rel=0.01)


def nearly_even(num_axes, instantiation):
    """A map whose weights differ by a hundredth of their size; not all of them sum to 1."""
    base, _ = planted(num_axes)
    sizes = 1 + 0.01 * torch.rand(base.theta.shape)
    if instantiation == "concatenation":
        # ReLU of one number of the query and one of the key, over the number of keys.
        phi = torch.rand(*base.phi.shape[:3], 1)
        return replace(base, instantiation=instantiation, theta=sizes[..., :1], phi=0.01 * phi,
                       w_f=torch.tensor([70.0, 1.0]))  # fmt: skip
    if instantiation == "dot_product":
        return replace(base, instantiation=instantiation, theta=-40 * sizes)
    return replace(base, theta=sizes.log())


@pytest.mark.parametrize("num_axes", [1, 2, 3], ids=["sequence", "image", "clip"])
def test_peaked_attention_is_not_called_even(num_axes):
    shown, _ = planted(num_axes, peaks=6)
    assert "evenly" not in draw_rows(shown, pixels(num_axes)).get_suptitle()


def test_a_picture_is_drawn_in_its_own_resolution_and_shape():
    shown, weights = planted(2)
    picture = torch.rand(3, 90, 60)
    for figure in (
        draw_rows(shown, pixels(2), picture=picture, queries=[(2, 7)]),
        draw_attended(shown, pixels(2), picture=picture),
    ):
        for axis in figure.axes[:2]:
            np.testing.assert_array_equal(axis.images[0].get_array(), picture.permute(1, 2, 0))
            # In coordinates of the input, 24 x 40, but as high and wide as it is.
            assert tuple(axis.images[0].get_extent()) == (0, 40, 24, 0)
            assert axis.get_aspect() == near(90 / 60 * 40 / 24)
    assert_near(heat_of(draw_rows(shown, pixels(2), picture=picture, queries=[(2, 7)]).axes[1].images[1]),
                weights[0, 2, 7])  # fmt: skip
    clip, _ = planted(3)
    frames = torch.rand(3, 5, 16, 30)
    figure = draw_rows(clip, pixels(3), picture=frames, queries=[(1, 2, 3)])
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), frames[:, 3].permute(1, 2, 0))
    for wrong in (torch.rand(3, 4, 16, 30), torch.rand(3, 16, 30)):
        with pytest.raises(ValueError, match="picture must be the image or the clip of pixels"):
            draw_rows(clip, pixels(3), picture=wrong, queries=[(1, 2, 3)])
    sequence, _ = planted(1)
    with pytest.raises(ValueError, match="picture must be"):
        draw_rows(sequence, pixels(1), picture=pixels(1))
