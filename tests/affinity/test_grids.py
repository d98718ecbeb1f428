"""Where positions lie in the input, compared with what really reaches them."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nonlocalnn as nl
from nonlocalnn.affinity import PositionGrid
from tolerances import near


class Same(nn.Conv2d):
    """Pads inside its forward pass, as networks from other frameworks do."""

    def forward(self, x):
        height, width = x.shape[2:]
        down, right = (
            max(0, (-(-side // stride) - 1) * stride + kernel - side)
            for side, stride, kernel in zip((height, width), self.stride, self.kernel_size, strict=True)
        )
        return super().forward(F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2)))


class Mean(nn.Module):
    """A mean over windows by a function, of which no layer tells."""

    def forward(self, x):
        return F.avg_pool2d(x, 2)


NETWORKS = {
    "stem and stages": (
        nn.Sequential(
            nn.Conv2d(1, 1, 7, 2, 3),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(1, 1, 3, 2, 1),
            nn.Conv2d(1, 1, 3, 1, 1),
        ),
        (64, 96),
    ),
    "no padding": (nn.Sequential(nn.Conv2d(1, 1, 5), nn.MaxPool2d(2), nn.Conv2d(1, 1, 3)), (28, 36)),
    "even kernels": (nn.Sequential(nn.Conv2d(1, 1, 4, 4), nn.AvgPool2d(2, 2)), (32, 48)),
    "dilation": (nn.Sequential(nn.Conv2d(1, 1, 3, 1, 2, dilation=2), nn.Conv2d(1, 1, 3, 2, 0)), (21, 17)),
    "dilation without padding": (nn.Sequential(nn.Conv2d(1, 1, 3, 1, 0, dilation=3)), (21, 17)),
    "ceil mode": (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(1, 1, 1)), (20, 26)),
    "ceil mode that adds a window": (
        nn.Sequential(nn.MaxPool2d(3, 3, ceil_mode=True), nn.MaxPool2d(4, 4, ceil_mode=True)),
        (25, 34),
    ),
    "padding by name": (nn.Sequential(nn.Conv2d(1, 1, 5, padding="same"), nn.Conv2d(1, 1, 3, 2)), (17, 23)),
    "padding of its own": (nn.Sequential(Same(1, 1, 3, 2), Same(1, 1, 5, 2)), (32, 48)),
    "one side only": (nn.Sequential(nn.Conv2d(1, 1, (1, 5), (1, 2), (0, 2))), (8, 30)),
    "sequence": (nn.Sequential(nn.Conv1d(1, 1, 9, 4, 4), nn.MaxPool1d(2)), (96,)),
    "clip": (
        nn.Sequential(nn.Conv3d(1, 1, (5, 7, 7), (2, 2, 2), (2, 3, 3)), nn.MaxPool3d((2, 1, 1), (2, 1, 1))),
        (16, 32, 40),
    ),
}


def reached_from(network, sides, position):
    """Return (first, last) input pixel along each axis that a position's value depends on."""
    x = torch.rand(1, 1, *sides, dtype=torch.float64, requires_grad=True)
    y = network(x)
    (gradient,) = torch.autograd.grad(y[(0, 0, *position)], x)
    touched = gradient[0, 0].abs().nonzero()
    return touched.amin(0).tolist(), touched.amax(0).tolist()


def mean_of(network):
    """Make every weight positive and max-pools means, so that no pixel of a window is lost."""
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    kinds = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}
    for name, layer in network.named_children():
        if type(layer) in kinds:
            pool = kinds[type(layer)](
                layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode
            )
            setattr(network, name, pool)
    return network.double()


@pytest.mark.parametrize("name", NETWORKS)
def test_centres_are_the_middles_of_what_reaches_a_position(name):
    network, sides = NETWORKS[name]
    block = {1: nl.NonLocal1d, 2: nl.NonLocal2d, 3: nl.NonLocal3d}[len(sides)](1)
    with nl.capture_affinity(whole := nn.Sequential(network, block)) as maps:
        whole(torch.rand(1, 1, *sides))
    grid = maps["1"].grid
    assert grid.input_sides == sides
    means = mean_of(network)
    # Where windows reach over the border, their middle is not that of what lies inside: a position in the
    # middle of the map, and its neighbour.
    middle = [side // 2 for side in grid.sides]
    for position in (middle, [max(0, place - 1) for place in middle]):
        first, last = reached_from(means, sides, position)
        expected = tuple((a + b + 1) / 2 for a, b in zip(first, last, strict=True))
        assert grid.centre(*position) == near(expected)


def test_resnet_and_the_keys_of_a_block():
    model = nl.create_model("nl5_c2d_r50_8x8", num_classes=2).eval()
    with torch.no_grad(), nl.capture_affinity(model) as maps:
        model(torch.rand(1, 3, 8, 64, 96))
    first, *_, last = maps.values()
    assert first.grid == PositionGrid(
        (4, 8, 12), (8, 64, 96), steps=(2.0, 8.0, 8.0), centres=first.grid.centres
    )
    assert first.grid.centres == (1.0, 0.5, 0.5)
    assert last.grid.steps == (2.0, 16.0, 16.0)
    # Pooled by (1, 2, 2): in the middle between two positions, and twice as far from one to the next.
    assert last.key_grid.sides == (4, 2, 3)
    assert last.key_grid.steps == (2.0, 32.0, 32.0)
    assert last.key_grid.centres == (1.0, 8.5, 8.5)


def test_a_place_has_a_number_for_each_side():
    grid = PositionGrid((4, 8), (8, 16), steps=(2.0, 2.0), centres=(1.0, 1.0))
    assert grid.centre(3, 5) == (7.0, 11.0)
    for place in ((3,), (3, 5, 1)):
        with pytest.raises(ValueError, match=r"query must be a place in \(4, 8\)"):
            grid.centre(*place)


def test_grid_without_a_layer_that_tells_divides_the_input_evenly():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), Mean(), nn.Conv2d(2, 2, 1), nl.NonLocal2d(2))
    with nl.capture_affinity(model) as maps:
        model(torch.rand(1, 1, 12, 20))
    assert maps["3"].grid == PositionGrid((6, 10), (12, 20), steps=(2.0, 2.0), centres=(1.0, 1.0))


def test_a_map_of_other_dimensions_than_the_input_is_its_own_input():
    model = nn.Sequential(nn.Flatten(2), nl.NonLocal1d(1))
    with nl.capture_affinity(model) as maps:
        model(torch.rand(1, 1, 6, 8))
    assert maps["1"].grid == PositionGrid((48,), (48,), steps=(1.0,), centres=(0.5,))


@pytest.mark.parametrize(
    ("layer", "step"),
    [
        (nn.AdaptiveAvgPool2d(4), 3.0),
        (nn.Upsample(scale_factor=2), 0.5),
        (nn.ConvTranspose2d(1, 1, 2, 2), 0.5),
    ],
    ids=["adaptive", "upsample", "transposed"],
)
def test_layers_without_a_window_divide_what_they_get(layer, step):
    model = nn.Sequential(layer, nl.NonLocal2d(1))
    with nl.capture_affinity(model) as maps:
        model(torch.rand(1, 1, 12, 12))
    assert maps["1"].grid.steps == (step, step)
    assert maps["1"].grid.centres == (step / 2, step / 2)


class Lists(nn.Module):
    """Takes a list of images, as detectors do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nl.NonLocal2d(2))

    def forward(self, images):
        return self.body(torch.stack(images))


class Labelled(nn.Module):
    """Takes a vector of each sample before its map."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nl.NonLocal2d(2))

    def forward(self, labels, images):
        return self.body(images) + labels.sum()


def test_models_that_take_lists_and_parts_that_are_run_alone():
    model = Lists()
    with nl.capture_affinity(model) as maps:
        model([torch.rand(1, 8, 10)] * 2)
    expected = PositionGrid((4, 5), (8, 10), steps=(2.0, 2.0), centres=(0.5, 0.5))
    assert maps["body.1"].grid == expected
    assert maps["body.1"].input is None
    with nl.capture_affinity(model) as maps:
        model.body(torch.rand(1, 1, 8, 10))
    assert maps["body.1"].grid == expected
    # What comes before the map, such as a label for each sample, has no positions.
    labelled = Labelled()
    with nl.capture_affinity(labelled) as maps:
        labelled(torch.zeros(2, 9), torch.rand(2, 1, 8, 10))
    assert maps["body.1"].grid == expected
    assert maps["body.1"].input.shape == (2, 1, 8, 10)
    # A block alone is its own input.
    block = nl.NonLocal2d(2)
    with nl.capture_affinity(block) as maps:
        block(torch.rand(1, 2, 4, 5))
    assert maps[""].grid == PositionGrid((4, 5), (4, 5), steps=(1.0, 1.0), centres=(0.5, 0.5))


@pytest.mark.parametrize(
    "grid",
    [
        PositionGrid((7,), (28,), steps=(4.0,), centres=(2.0,)),
        PositionGrid((7,), (28,), steps=(4.0,), centres=(0.5,)),
        PositionGrid((3,), (7,), steps=(2.0,), centres=(1.0,)),
        PositionGrid((6,), (3,), steps=(0.5,), centres=(0.25,)),
    ],
    ids=["even", "strided", "floored", "enlarged"],
)
def test_each_pixel_has_the_position_in_whose_box_its_centre_is(grid):
    for pixel in range(grid.input_sides[0]):
        (found,) = grid.position(pixel)
        centres = [grid.centre(place)[0] for place in range(grid.sides[0])]
        assert abs(centres[found] - pixel - 0.5) == min(abs(centre - pixel - 0.5) for centre in centres)
        covering = [
            place
            for place in range(grid.sides[0])
            if grid.box(place)[0][0] <= pixel + 0.5 < grid.box(place)[0][1]
        ]
        assert covering in ([found], [])
    assert grid.position(-1) == (grid.sides[0] - 1,)


def test_boxes_are_cut_at_the_border():
    grid = PositionGrid((7, 7), (28, 28), steps=(4.0, 4.0), centres=(0.5, 2.0))
    assert grid.box(0, 0) == ((0.0, 2.5), (0.0, 4.0))
    assert grid.box(-1, 6) == ((22.5, 28.0), (24.0, 28.0))


def test_places_that_do_not_exist():
    grid = PositionGrid((7, 7), (28, 30), steps=(4.0, 4.0), centres=(2.0, 2.0))
    for call in (grid.box, grid.centre):
        with pytest.raises(ValueError, match=r"query must be a place in \(7, 7\); got \(7, 0\)"):
            call(7, 0)
    with pytest.raises(ValueError, match=r"pixel must be a place in \(28, 30\); got \(0, 30\)"):
        grid.position(0, 30)


def test_centres_along_each_axis():
    grid = PositionGrid((2, 3), (8, 12), steps=(4.0, 4.0), centres=(2.0, 1.0))
    rows, columns = grid.axis_centres()
    assert rows.tolist() == [2.0, 6.0]
    assert columns.tolist() == [1.0, 5.0, 9.0]
    assert [grid.centre(row, column) for row, column in itertools.product(range(2), range(3))] == list(
        itertools.product(rows.tolist(), columns.tolist())
    )


def test_boxes_go_to_the_edges_of_the_input_but_for_what_a_pool_left_out():
    # As of a residual network: centres on the first pixel of each window.
    layer3 = PositionGrid((4, 4), (64, 64), steps=(16.0, 16.0), centres=(0.5, 0.5))
    assert [layer3.box(0, place)[1] for place in range(4)] == [
        (0, 8.5),
        (8.5, 24.5),
        (24.5, 40.5),
        (40.5, 64),
    ]
    keys = layer3.pooled((2, 2), (2, 2))
    assert [keys.box(place, 0)[0] for place in range(2)] == [(0, 24.5), (24.5, 64)]
    # A pixel lies in the box of the position that is nearest to it.
    for pixel in range(64):
        low, high = layer3.box(*layer3.position(pixel, pixel))[0]
        assert low <= pixel + 0.5 <= high
    # Seven positions pooled by two are three: the seventh is in no window.
    seven = PositionGrid((7,), (28,), steps=(4.0,), centres=(2.0,))
    assert seven.reach(0) == (0, 28)
    assert seven.pooled((3,)).reach(0) == (0, 24)
    # As of a layer without padding: what its first window begins with is nearest to the first position.
    assert PositionGrid((3,), (10,), steps=(3.0,), centres=(2.5,)).box(0) == ((0, 4),)
