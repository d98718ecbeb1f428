"""Where pictures lay the weights of keys: at the edges of boxes, and of the input."""

import pytest
import torch
from matplotlib.figure import Figure

from nonlocalnn.affinity import PositionGrid
from nonlocalnn.affinity.pictures import panels


@pytest.mark.parametrize(
    ("side", "first", "edges", "rows"),
    [
        # Boxes from 0 to 4, which is all of the input; and from 2 to 6, far from both of its ends.
        (4, 1.0, (0.0, 4.0), [0, 1]),
        (10, 3.0, (2.0, 6.0), [0, 1]),
        # From 0.5 to 4.5 in an input of 5: both ends are nearest to these keys, which are drawn once more.
        (5, 1.5, (-1.5, 6.5), [0, 0, 1, 1]),
    ],
)
def test_keys_at_the_ends_reach_as_far_as_nothing_else_is_nearer(side, first, edges, rows):
    grid = PositionGrid((2, 2), (side, side), steps=(2.0, 2.0), centres=(first, first))
    axis = Figure().add_subplot()
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    layer = panels.show_heat(axis, weights, grid, panels.Scale("inferno", 0.0, 1.0))
    left, right, bottom, top = layer.get_extent()
    assert ((top, bottom), (left, right)) == (edges, edges)
    assert torch.equal(torch.tensor(layer.get_array()), weights[rows][:, rows])
    assert (axis.get_xlim(), axis.get_ylim()) == ((0, side), (side, 0))
    # A weight is that of a key, and not a mean with its neighbours.
    assert layer.get_interpolation() == "nearest"


def test_a_frame_belongs_to_the_box_that_holds_its_centre():
    assert panels.frames_of((0.5, 2.5), range(5)) == [0, 1]
    grid = PositionGrid((2, 1, 1), (5, 8, 8), steps=(1.0, 8.0, 8.0), centres=(1.0, 4.0, 4.0))
    weights = torch.tensor([0.25, 0.75]).view(2, 1, 1)
    shown = [panels.heat_of_frame(weights, grid, frame).item() for frame in range(3)]
    assert shown[:2] == [0.25, 0.75]
    assert shown[2] != shown[2]


def test_the_last_frame_is_of_the_last_key_where_its_box_is_longer():
    grid = PositionGrid((2, 1, 1), (4, 8, 8), steps=(2.0, 8.0, 8.0), centres=(0.5, 4.0, 4.0))
    weights = torch.tensor([0.25, 0.75]).view(2, 1, 1)
    assert [panels.heat_of_frame(weights, grid, frame).item() for frame in range(4)] == [0.25, *[0.75] * 3]
