"""Pictures: the right numbers at the right places."""

import numpy as np
import pytest
import torch
from PIL import Image

from nonlocalnn.affinity import AffinityMap
from nonlocalnn.explorer import choose_queries, draw_affinity, draw_confusion
from nonlocalnn.explorer.pictures import _show_heat

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


def shown(instantiation="embedded_gaussian", batch=1):
    weights = torch.zeros(batch, 6 * 10, 3 * 5)
    weights[:, 2 * 10 + 7, 1 * 5 + 4] = -0.5 if instantiation == "dot_product" else 0.5
    return AffinityMap(weights, (6, 10), (3, 5), instantiation)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("instantiation", ["dot_product", "embedded_gaussian", "concatenation"])
def test_a_non_square_map_is_drawn(tmp_path, instantiation, channels):
    path = tmp_path / "deep" / "map.png"
    drawn = draw_affinity(torch.rand(channels, 24, 40), shown(instantiation), path, queries=[(2, 7), (0, 0)])
    assert drawn == [(2, 7), (0, 0)]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 10


def test_heat_is_the_query_s_row_and_signed_scales_have_zero_in_the_middle():
    from matplotlib.figure import Figure

    image = torch.rand(1, 24, 40)
    for instantiation, signed in (("dot_product", True), ("embedded_gaussian", False)):
        heat = shown(instantiation).of_query(2, 7)[0]
        layer = _show_heat(Figure().subplots(), heat, image, signed=signed)
        np.testing.assert_array_equal(layer.get_array(), heat.numpy())
        assert heat.nonzero().tolist() == [[1, 4]]
        assert layer.get_clim() == ((-0.5, 0.5) if signed else (0, 0.5))
        # The keys cover the whole image: 40 pixels wide, 24 high, the first row on top.
        assert tuple(layer.get_extent()) == (-0.5, 39.5, 23.5, -0.5)


def test_queries_are_where_the_image_has_detail_and_apart():
    image = torch.zeros(1, 24, 40)
    image[0, 2, 3], image[0, 21, 38] = 1.0, 1.0
    chosen = choose_queries(image, (6, 10), 2)
    assert sorted(chosen) == [(0, 0), (5, 9)]
    assert len(set(choose_queries(torch.zeros(1, 24, 40), (6, 10), 5))) == 5
    assert len(choose_queries(image, (1, 2), 5)) == 2


def test_wrong_maps(tmp_path):
    with pytest.raises(ValueError, match=r"takes the map of one image; got a batch of 2"):
        draw_affinity(torch.rand(1, 24, 40), shown(batch=2), tmp_path / "a.png")
    with pytest.raises(ValueError, match="query must be a place in"):
        draw_affinity(torch.rand(1, 24, 40), shown(), tmp_path / "a.png", queries=[(6, 0)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [3, 40])
def test_confusion(tmp_path, number):
    draw_confusion(
        torch.eye(number, dtype=torch.int64), [f"class {i}" for i in range(number)], tmp_path / "c.png"
    )
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300
