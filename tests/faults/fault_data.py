"""Small folders of images and videos, and the recipes that train on them."""

import random

import torch
from PIL import Image

from videos import write_video

CLASSES = ("dark", "bright")
_NUMBERS = {"train": 6, "validation": 3, "test": 3}

DIGITS = ("--data", "digits", "--image-size", "8", "--batch-size", "256", "--epochs", "2")
_IMAGES = ("--data", "images", "--image-size", "8", "--batch-size", "4", "--epochs", "2")
_VIDEOS = ("--data", "videos", "--model", "c2d_tiny", "--frames", "2", "--stride", "1", "--image-size", "16")


def image_folder(folder):
    """Write 12 training images and a few others, all of noise; return the recipe's words."""
    draw = random.Random(0)
    for path, light in _places(folder, ".png"):
        values = bytes(draw.randrange(128) + 127 * light for _ in range(10 * 12 * 3))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (10, 12), values).save(path)
    return (*_IMAGES, "--data-dir", str(folder))


def video_folder(folder):
    """Write 12 training videos of 6 frames and a few others; return the recipe's words."""
    generator = torch.Generator().manual_seed(0)
    for path, light in _places(folder, ".mp4"):
        noise = torch.randint(128, (6, 24, 24, 3), generator=generator, dtype=torch.uint8) + 127 * light
        write_video(path, list(noise.numpy()))
    return (*_VIDEOS, "--test-views", "1", "--batch-size", "4", "--epochs", "2", "--data-dir", str(folder))


def _places(folder, suffix):
    for split, number in _NUMBERS.items():
        for light, name in enumerate(CLASSES):
            for place in range(number):
                yield folder / split / name / f"{place}{suffix}", light
