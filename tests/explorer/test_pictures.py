"""Pictures in files."""

import numpy as np
import pytest
import torch
from PIL import Image

from affinity.planted import planted
from nonlocalnn.explorer import choose_queries, draw_affinity, draw_confusion

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.mark.parametrize(
    ("num_axes", "sides"), [(1, (32,)), (2, (24, 40)), (3, (5, 8, 12))], ids=["sequence", "image", "clip"]
)
def test_maps_of_every_kind_of_input_are_drawn(tmp_path, num_axes, sides):
    shown, _ = planted(num_axes)
    pixels = torch.rand(3, *sides)
    path = tmp_path / "deep" / "map.png"
    queries = [(1,) * num_axes, (0,) * num_axes]
    assert draw_affinity(pixels, shown, path, queries=queries) == queries
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 10
    chosen = draw_affinity(pixels, shown, tmp_path / "map.svg")
    assert chosen == choose_queries(pixels, shown.grid.sides)
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_wrong_maps_leave_no_file(tmp_path):
    image = torch.rand(1, 24, 40)
    with pytest.raises(ValueError, match=r"the map must be of one input; got a batch of 2"):
        draw_affinity(image, planted(2, batch=2)[0], tmp_path / "a.png")
    shown, _ = planted(2)
    with pytest.raises(ValueError, match="query must be a place in"):
        draw_affinity(image, shown, tmp_path / "a.png", queries=[(6, 0)])
    with pytest.raises(ValueError, match=r"must be one of '.png', '.svg'"):
        draw_affinity(image, shown, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [3, 40])
def test_confusion(tmp_path, number):
    draw_confusion(
        torch.eye(number, dtype=torch.int64), [f"class {i}" for i in range(number)], tmp_path / "c.png"
    )
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300
