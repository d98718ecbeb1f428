"""The page of a volume in a browser: three planes that follow one another, and words in millimetres."""

import re

import numpy as np
import pytest
import torch
from browser import open_browser, open_page

from helpers import randomize_
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.explorer.explain import explain
from nonlocalnn.explorer.page import write_page
from nonlocalnn.explorer.volume_pictures import as_volume, labelled_planes
from nonlocalnn.inference import VolumeSegmenter
from nonlocalnn.models import create_model
from nonlocalnn.tasks.inputs import ShownInput
from nonlocalnn.tasks.volume_windows import Held, score_slabs
from nonlocalnn.tasks.volumes import Planes
from tolerances import assert_same

SIDES = (12, 16, 20)
# Slices are 2 mm apart, and rows and columns run against the axes of the body.
PLANES = Planes(((0, 0, -0.5, 10), (0, -1.5, 0, 20), (2, 0, 0, -30)))


@pytest.fixture(scope="module")
def shown():
    torch.manual_seed(0)
    pixels = torch.rand(1, *SIDES) * 0.2
    pixels[0, 2, 3, 4] = 1
    return ShownInput("scan.nii.gz", pixels, pixels, planes=PLANES)


@pytest.fixture(scope="module")
def document(shown):
    torch.manual_seed(0)
    model = randomize_(create_model("nl_unet3d_tiny", width=4, depth=2)).eval()
    loaded = VolumeSegmenter(model=model, classes=("background", "ball"), sample_shape=(1, 16, 16, 16))
    return explain(loaded, shown, title="A scan", model="tiny")


def test_the_document_holds_the_voxels(document, shown):
    assert (document["kind"], document["input"]["sides"], document["input"]["frames"]) == (
        "volume",
        list(SIDES),
        [],
    )
    assert document["input"]["planes"]["spacing"] == pytest.approx([2, 1.5, 0.5])
    assert document["blocks"][0]["sides"] == [3, 4, 5]


def test_the_classes_are_those_of_predict(shown, tmp_path):
    torch.manual_seed(0)
    model = randomize_(create_model("nl_unet3d_tiny", width=4, depth=2)).eval()
    small, large = (
        VolumeSegmenter(model=model, classes=("background", "ball"), sample_shape=(1, side, side, side))
        for side in (8, 32)
    )
    whole, cut = answer_with_maps(large, shown.sample), answer_with_maps(small, shown.sample)
    assert (whole.window, cut.window) == (None, 8)
    # The patches' side decides: within it the answer is that of one pass, and it is another one beyond.
    expected = torch.cat([part for _, part in score_slabs(model, Held(shown.sample), window=8)], 1).argmax(0)
    assert_same(cut.labels, expected)
    assert (whole.labels != cut.labels).any()
    page_file = tmp_path / "page.html"
    write_page(explain(small, shown, title="A scan", model="tiny"), page_file)
    with open_browser() as browser, open_page(browser, page_file.as_uri()) as page:
        words = "classes by windows of 8 voxels, maps of one pass over the whole"
        wait_until(page, lambda: words in page.locator("body").inner_text())


def wait_until(page, holds):
    """Wait until something holds of the page, 20 s at most: its policy forbids scripts that wait."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("the page never came to it")


def test_planes_follow_the_pointer(document, tmp_path):
    page_file = tmp_path / "page.html"
    write_page(document, page_file)
    with open_browser() as browser, open_page(browser, page_file.as_uri()) as page:
        wait_until(page, lambda: all(page.locator("figcaption").all_inner_texts()))
        captions = page.locator("figcaption").all_inner_texts()
        assert captions == [
            "axial, slice 6 (z \u221218 mm)",
            "coronal, row 8 (y 8 mm)",
            "sagittal, column 10 (x 5 mm)",
        ]
        # A click into the coronal plane, near its top: near to the head, where slices are many.
        box = page.locator(".nl-screen").nth(1).bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.225, box["y"] + box["height"] * 0.04)
        wait_until(page, lambda: "pinned" in page.locator(".nl-status").inner_text())
        assert "slice 11, row 8, column 4 (x 8, y 8, z \u22128 mm)" in page.locator(".nl-status").inner_text()
        captions = page.locator("figcaption").all_inner_texts()
        assert [re.search(r"\d+", caption)[0] for caption in captions] == ["11", "8", "4"]
        page.keyboard.press("PageDown")
        page.keyboard.press("[")
        heads = page.locator("table").first.locator("th").all_text_contents()
        assert heads[1:4] == ["slice", "row", "column"]
        page.get_by_text("Labels over the volume").click()
        # The grey canvas shows the voxel that is white where it lies: slice 2, row 3, column 4.
        page.evaluate("NonlocalViewer.first().setQuery([2, 3, 4])")
        page.get_by_text("Labels over the volume").click()
        wait_until(page, lambda: "slice 2 " in page.locator("figcaption").first.inner_text())
        for plane, (x, y) in enumerate([(4, 3), (4, 11 - 2), (3, 11 - 2)]):
            value = page.evaluate(
                f"Array.from(document.querySelectorAll('.nl-plane')[{plane}].getContext('2d')"
                f".getImageData({x}, {y}, 1, 1).data)"
            )
            assert value[:3] == [255, 255, 255]


def test_pictures_of_labels(shown):
    labels = torch.zeros(SIDES, dtype=torch.uint8)
    labels[2, 3, 4] = 1
    image, ids = labelled_planes(as_volume(shown), labels)
    assert image.shape[1:] == ids.shape
    # Each of the three planes goes through the only voxel of its class.
    widths = np.cumsum([round(256 * 10 / 24), round(256 * 10 / 24), round(256 * 24 / 24)])
    parts = [ids[:, low:high] for low, high in zip([0, *widths[:2]], widths, strict=True)]
    assert all(bool((part == 1).any()) for part in parts)
    # The head is on top: slice 2 of 12 is low in the two planes that have slices.
    for part in parts[1:]:
        assert float((part == 1).nonzero()[:, 0].float().mean()) > 200
    assert_same(ids.unique(), torch.tensor([0, 1]))
