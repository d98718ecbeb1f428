"""Models and files that several commands are tried on; nothing writes to them."""

import numpy as np
import pytest
import torch
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from videos import write_video

CLASSES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A model of images whose blocks see much of what the input has."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    facts = {"classes": CLASSES, "image_size": [28, 28], "channels": 1, "recipe": {"data": "digits"}}
    model = randomize_(nl.create_model("nl_digits", instantiation="dot_product"))
    nl.save_checkpoint(model, path, metadata=facts)
    return path


@pytest.fixture(scope="session")
def of_clips(tmp_path_factory):
    """A model of clips; its blocks are layer2.0.nl, 4 x 8 x 8, and layer3.0.nl, 4 x 4 x 4."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "clips.safetensors"
    facts = {"classes": CLASSES, "sample_shape": [3, 8, 32, 32], "stride": 2}
    nl.save_checkpoint(nl.create_model("nl2_c2d_tiny", num_classes=10), path, metadata=facts)
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)).save(path)
    return path


@pytest.fixture
def video(tmp_path):
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 255, (36, 72, 3)).astype(np.uint8) for _ in range(20)]
    return write_video(tmp_path / "film.mp4", frames)
