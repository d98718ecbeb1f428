"""What training does to an image, it does to its mask."""

import colorsys

import pytest
import torch

from nonlocalnn._names import GENERATED_MASK_SETS
from nonlocalnn.data.masks import IGNORED, load_masks, palette, resize_short
from nonlocalnn.data.masks.crops import RandomCrops
from nonlocalnn.data.masks.scenes import NUM_SCENES
from tolerances import assert_same


def blocks(height, width):
    """An image whose red says the id of each pixel, in blocks of 8, and the mask of these ids."""
    ids = (torch.arange(height)[:, None] // 8 * 3 + torch.arange(width) // 8) % 5
    return (ids / 10 + 0.2).expand(3, height, width).contiguous(), ids.to(torch.uint8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sides", [(48, 40), (16, 24)], ids=["larger", "smaller"])
def test_image_and_mask_stay_together(seed, sides):
    image, mask = blocks(*sides)
    crops = RandomCrops(32, scales=(0.75, 2.0), fill=(0.9, 0.9, 0.9))
    torch.manual_seed(seed)
    cut, ids = crops(image, mask)
    assert (cut.shape, ids.shape, ids.dtype) == ((3, 32, 32), (32, 32), torch.uint8)
    outside = ids == IGNORED
    if outside.any():
        assert_same(cut[:, outside], torch.full_like(cut[:, outside], 0.9))
    told = ((cut[0] - 0.2) * 10).round()
    # Between two blocks the image is a mean of both, and the mask is one of them.
    right = (told == ids)[~outside].float().mean()
    assert right > 0.7
    assert set(ids[~outside].tolist()) <= set(range(5))


def test_crops_are_mirrored_scaled_and_moved():
    image, mask = blocks(48, 40)
    crops = RandomCrops(16, scales=(0.5, 2.0))
    torch.manual_seed(0)
    found = [crops(image, mask)[1] for _ in range(8)]
    assert len({tuple(each.flatten().tolist()) for each in found}) == 8
    torch.manual_seed(0)
    assert_same([crops(image, mask)[1] for _ in range(8)], found)


def test_without_chance_the_middle_is_cut():
    image, mask = blocks(48, 40)
    crops = RandomCrops(16, random=False)
    cut, ids = crops(image, mask)
    assert_same(cut, image[:, 16:32, 12:28])
    assert_same(ids, mask[16:32, 12:28])
    small, padded = RandomCrops(50, random=False)(image, mask)
    assert (small.shape, padded.shape) == ((3, 50, 50), (50, 50))
    assert int((padded == IGNORED).sum()) == 50 * 50 - 48 * 40


def test_whole_images_keep_their_shape():
    assert resize_short(torch.zeros(3, 40, 60), None).shape == (3, 40, 60)
    assert resize_short(torch.zeros(3, 60, 41), 20).shape == (3, 29, 20)


def test_scenes():
    data = load_masks("segment-cue", "test")
    assert len(data) == NUM_SCENES["test"]
    image, mask = data[0]
    assert_same(data[0], (image, mask))
    assert not torch.equal(load_masks("segment-cue", "train")[0][1], mask)
    pixels, _ = data.read(0)
    # A digit has the cue's colour exactly where the mask says so: the cue is the brightest at the left.
    left = pixels[:, :, :30]
    spread = left.amax(0) - left.amin(0)
    cue = left[:, spread > 0.5].mean(1)
    for label, is_near in ((1, True), (2, False)):
        for index in range(20):
            pixels, mask = data.read(index)
            left = pixels[:, :, :30]
            cue = left[:, left.amax(0) - left.amin(0) > 0.5].mean(1)
            ink = pixels[:, (mask == label) & (pixels.amax(0) > 0.9)]
            if ink.numel():
                assert (float((ink.mean(1) - cue).abs().max()) < 0.1) is is_near
    assert set(mask.unique().tolist()) <= {0, 1, 2}


def places_of_squares(pixels):
    """The parts of a scene that hold one square of its legend each: four rows of two."""
    return [part for row in pixels[:, :, :34].split(24, 1) for part in row.split(17, 2)]


def test_scenes_with_a_legend():
    data = load_masks("segment-legend", "test")
    assert len(data) == NUM_SCENES["test"]
    assert data.classes == ("background", "marked", "plain")
    assert data.sample_id(3) == "segment-legend/test/3"
    counts = {1: 0, 2: 0}
    for index in range(30):
        pixels, mask = data.read(index)
        colours, is_marked = [], []
        for place in places_of_squares(pixels):
            is_coloured = place.amax(0) - place.amin(0) > 0.5
            colours.append(place[:, is_coloured].mean(1))
            rows, columns = (is_coloured.any(axis).nonzero().flatten() for axis in (1, 0))
            assert len(rows) == len(columns) == 13
            is_marked.append(not bool(is_coloured[rows[6], columns[6]]))
        for label in counts:
            ink = pixels[:, (mask == label) & (pixels.amax(0) > 0.9)]
            counts[label] += ink.shape[1]
            nearest = torch.cdist(ink.T, torch.stack(colours)).argmin(1)
            # No digit's class is told by its own colour, and each by that of one square.
            assert all(is_marked[square] is (label == 1) for square in nearest.unique().tolist())
    assert min(counts.values()) > 500


def test_hues_of_a_legend_are_apart_and_drawn_anew():
    data, hues = load_masks("segment-legend", "train"), []
    for index in range(50):
        pixels, _ = data.read(index)
        found = []
        for place in places_of_squares(pixels):
            colour = place[:, place.amax(0) - place.amin(0) > 0.5][:, 0]
            found.append(colorsys.rgb_to_hsv(*colour.tolist())[0])
        turns = sorted(found)
        assert min((b - a) % 1 for a, b in zip(turns, [*turns[1:], turns[0]], strict=True)) > 0.07
        hues += found
    # Every twelfth of the circle has some.
    assert {int(12 * hue) for hue in hues} == set(range(12))


@pytest.mark.parametrize("name", GENERATED_MASK_SETS)
def test_training_scenes_are_drawn_anew(name):
    data = load_masks(name, "train", augment=True)
    torch.manual_seed(0)
    first = data.read(0)
    assert not torch.equal(data.read(0)[0], first[0])
    torch.manual_seed(0)
    assert_same(data.read(0), first)


def test_a_colour_for_each_class():
    colours = palette(255)
    assert len(set(colours)) == 255
    assert colours[1:3] == [(128, 0, 0), (0, 128, 0)]
