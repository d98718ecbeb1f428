"""Small folders of images with objects, drawn for tests."""

import json

import numpy as np
from PIL import Image

CATEGORIES = [
    # Roboflow's, a class of which all others are kinds.
    {"id": 0, "name": "shapes", "supercategory": "none"},
    {"id": 3, "name": "red", "supercategory": "shapes"},
    {"id": 90, "name": "blue", "supercategory": "shapes"},
]
COLOURS = {3: (220, 40, 40), 90: (40, 40, 220)}


def squares(index, *, sides=(32, 48)):
    """A dark picture, and its squares as (class, left, top, side)."""
    height, width = sides
    image = np.full((height, width, 3), 40, dtype=np.uint8)
    found = []
    for place, number in enumerate((3, 90) if index % 2 else (90,)):
        left, top, side = 2 + 22 * place + index % 3, 3 + 2 * index % 9, 14
        image[top : top + side, left : left + side] = COLOURS[number]
        found.append((number, left, top, side))
    return image, found


def annotation(number, image_id, category_id, left, top, side, **more):
    right, bottom = left + side, top + side
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [left, top, side, side],
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "area": side * side,
        "iscrowd": 0,
        **more,
    }


def coco(names, *, first=1, sides=(32, 48)):
    """COCO's JSON of pictures by name: two classes, ids with holes."""
    images, annotations = [], []
    for index, name in enumerate(names):
        number = 10 * index + 7
        images.append({"id": number, "file_name": name, "height": sides[0], "width": sides[1]})
        for marked in squares(index, sides=sides)[1]:
            annotations.append(annotation(first + len(annotations), number, *marked))
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def write_roboflow(root, *, train=8, others=3, change=None):
    """A folder with a split in a folder each; ``change`` spoils the training's JSON."""
    for split, number in (("train", train), ("valid", others), ("test", others)):
        folder = root / split
        folder.mkdir(parents=True)
        names = [f"{split}-{index}.png" for index in range(number)]
        for index, name in enumerate(names):
            Image.fromarray(squares(index)[0]).save(folder / name)
        content = coco(names)
        if change is not None and split == "train":
            change(content)
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def write_xml(folder, name, index, *, more=""):
    """A picture and its XML of VOC's format."""
    folder.mkdir(parents=True, exist_ok=True)
    image, found = squares(index)
    Image.fromarray(image).save(folder / f"{name}.png")
    names = {3: "red", 90: "blue"}
    objects = "".join(
        f"<object><name>{names[number]}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{left + side}</xmax><ymax>{top + side}</ymax></bndbox></object>"
        for number, left, top, side in found
    )
    (folder / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.png</filename><size><width>48</width><height>32</height>"
        f"<depth>3</depth></size>{objects}{more}</annotation>"
    )
