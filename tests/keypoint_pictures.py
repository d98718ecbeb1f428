"""Small folders of images with points of objects, drawn for tests."""

import json

import numpy as np
from PIL import Image

NAMES = ["middle", "left_edge", "right_edge"]
SIDE = 20


def figure(index, *, sides=(32, 48)):
    """A dark picture with a square, red at its left edge and blue at its right one, and its points."""
    image = np.full((*sides, 3), 40, dtype=np.uint8)
    left, top = 4 + 3 * index % 20, 2 + index % 8
    image[top : top + SIDE, left : left + SIDE] = 140
    image[top : top + SIDE, left : left + 3] = (220, 40, 40)
    image[top : top + SIDE, left + SIDE - 3 : left + SIDE] = (40, 40, 220)
    middle = top + SIDE // 2
    points = [left + SIDE // 2, middle, 2, left + 1, middle, 2, left + SIDE - 2, middle, 1 + index % 2]
    return image, (left, top), points


def keypoints(names, *, sides=(32, 48)):
    """COCO's JSON of pictures by name: one class with three points."""
    images, annotations = [], []
    for index, name in enumerate(names):
        _, (left, top), points = figure(index, sides=sides)
        images.append({"id": index + 5, "file_name": name, "height": sides[0], "width": sides[1]})
        annotations.append(
            {
                "id": index + 1,
                "image_id": index + 5,
                "category_id": 4,
                "bbox": [left, top, SIDE, SIDE],
                "area": SIDE * SIDE,
                "iscrowd": 0,
                "keypoints": points,
                "num_keypoints": 3,
            }
        )
    category = {"id": 4, "name": "square", "keypoints": NAMES, "skeleton": [[2, 1], [1, 3]]}
    return {"images": images, "annotations": annotations, "categories": [category]}


def write_keypoints(root, *, train=8, others=3, change=None):
    """A folder with a split in a folder each; ``change`` spoils the training's JSON."""
    for split, number in (("train", train), ("valid", others), ("test", others)):
        folder = root / split
        folder.mkdir(parents=True)
        names = [f"{split}-{index}.png" for index in range(number)]
        for index, name in enumerate(names):
            Image.fromarray(figure(index)[0]).save(folder / name)
        content = keypoints(names)
        if change is not None and split == "train":
            change(content)
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root
