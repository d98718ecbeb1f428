"""Small folders of images with masks, drawn for tests."""

import numpy as np
from PIL import Image

CLASSES = ("background", "square")


def draw(index, *, sides=(24, 40)):
    """A dark picture with a bright square, and the mask of it, with a column that is ignored."""
    height, width = sides
    image = np.full((height, width, 3), 40, dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    top, left = 2 + index % 7, 3 + 2 * index % 19
    image[top : top + 10, left : left + 10] = (220, 60, 60)
    mask[top : top + 10, left : left + 10] = 1
    mask[:, -1] = 255
    return image, mask


def write_pair(images, masks, name, index, **settings):
    image, mask = draw(index, **settings)
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(images / f"{name}.png")
    Image.fromarray(mask).save(masks / f"{name}.png")


def write_folder(root, *, train=8, others=2, classes=CLASSES):
    """A folder with a split in a folder each."""
    for split, number in (("train", train), ("validation", others), ("test", others)):
        for index in range(number):
            write_pair(root / split / "images", root / split / "masks", f"{split}-{index}", index)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root
