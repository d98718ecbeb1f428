"""A list of files, the models to ask, and what they answer; nothing writes to them."""

import pytest
import torch
from bulk_runs import contents, settings
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.inference.bulk import predict_list

FACTS = {"classes": [str(digit) for digit in range(10)], "sample_shape": [1, 28, 28]}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with two models, 40 images of which four cannot be read, and their list."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("bulk")
    for name in ("model", "other"):
        model = randomize_(nl.create_model("nl_digits"))
        with torch.no_grad():
            model.fc[-1].weight *= 1e-4
        nl.save_checkpoint(model, place / f"{name}.safetensors", metadata=FACTS)
    names = [f"images/{number:02}.png" for number in range(40)]
    (place / "images").mkdir()
    for name in names:
        pixels = (torch.rand(9, 7) * 255).byte()
        Image.fromarray(pixels.numpy()).save(place / name)
    (place / names[3]).write_bytes((place / names[3]).read_bytes()[:60])
    (place / names[17]).write_text("no image")
    (place / names[18]).unlink()
    (place / names[39]).unlink()
    (place / names[39]).mkdir()
    (place / "files.txt").write_text("".join(f"{name}\n" for name in names))
    return place


@pytest.fixture(scope="session")
def expected(place, tmp_path_factory):
    """Return what the loop writes without being disturbed."""
    folder = tmp_path_factory.mktemp("expected")
    assert predict_list(**settings(place, folder)).failed == 4
    return contents(folder)
