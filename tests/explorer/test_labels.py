"""Labels as pictures: ids in a file, colours over an image, and the page that shows both."""

import documents
import numpy as np
import torch
from browser import open_page
from PIL import Image
from viewer_page import DESKTOP, HURRY, rest

from nonlocalnn.explorer.labels import colours_of, overlay, write_labels, write_overlay
from nonlocalnn.explorer.page import write_page
from tolerances import assert_near, assert_same

LABELS = torch.tensor([[0, 0, 1], [2, 1, 0]])
CLASSES = ("background", "leaf", "stem")


def test_the_background_stays_clear_and_has_the_only_black():
    image = torch.rand(3, 2, 3)
    drawn = overlay(image, LABELS, CLASSES)
    assert_same(drawn[:, LABELS == 0], image[:, LABELS == 0])
    colour = torch.tensor(colours_of(CLASSES)[2]) / 255
    assert_near(drawn[:, 1, 0], 0.45 * image[:, 1, 0] + 0.55 * colour)
    # Of classes without a background the first is drawn like all others.
    assert (0, 0, 0) not in colours_of(("road", "car"))
    assert len(set(colours_of([str(number) for number in range(254)]))) == 254


def test_a_file_of_ids_shows_colours(tmp_path):
    write_labels(LABELS, tmp_path / "labels.png", CLASSES)
    with Image.open(tmp_path / "labels.png") as picture:
        assert np.array(picture).tolist() == LABELS.tolist()
        shown = np.array(picture.convert("RGB"))
    assert tuple(shown[1, 0]) == colours_of(CLASSES)[2]


def test_a_legend_names_the_classes_that_are_there(tmp_path):
    shares = [
        {"class": "Bl\u00e4tter \u8449", "id": 1, "share": 0.4},
        {"class": "stem", "id": 2, "share": 0.1},
    ]
    for count in (1, 2):
        write_overlay(
            torch.zeros(3, 2, 3), LABELS, tmp_path / "overlay.png", classes=CLASSES, shares=shares[:count]
        )
        with Image.open(tmp_path / "overlay.png") as picture:
            # Enlarged to some 320 pixels, and a line for each class.
            assert picture.size == (321, 214 + 16 + 18 * count)


def test_a_page_shows_labels_in_place_of_the_image(browser, tmp_path):
    made = documents.image(
        truth=None,
        prediction=[
            {"class": "sky", "id": 1, "share": 0.75, "colour": [0, 128, 0]},
            {"class": "background", "id": 0, "share": 0.25, "colour": [0, 0, 0]},
        ],
    )
    plain = made.document["input"]["frames"][0]
    labels = documents.data_url(np.full((28, 28, 3), 99, dtype=np.uint8))
    made.document["input"]["labels"] = labels
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), script=HURRY, **DESKTOP) as page:
        rest(page)
        assert "Most pixels: sky, 75.0 %." in page.locator("header").inner_text()
        assert page.locator(".nl-percent").all_inner_texts() == ["75.0 %", "25.0 %"]
        image = page.locator(".nl-screen img")
        assert image.get_attribute("src") == plain
        box = page.get_by_label("Labels over the image")
        box.check()
        assert image.get_attribute("src") == labels
        box.uncheck()
        assert image.get_attribute("src") == plain
