"""Images that cannot be read, as videos that cannot: left out up to a limit, and listed."""

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from nonlocalnn.data import load_dataset, write_archives
from nonlocalnn.data.left_out import UNREADABLE
from nonlocalnn.tasks.evaluation import evaluate

LEVELS = {"cat/0.png": 40, "cat/1.png": 80, "dog/0.png": 120, "dog/1.png": 160}


@pytest.fixture
def photos(tmp_path):
    """A folder of images of which cat/1.png is broken in each split."""
    for split in ("train", "validation", "test"):
        for name, level in LEVELS.items():
            path = tmp_path / "photos" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (level,) * 3).save(path)
        (tmp_path / "photos" / split / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return tmp_path / "photos"


def load(root, split, **settings):
    return load_dataset("images", split, data_dir=root, image_size=8, **settings)


def test_one_too_many_is_an_error(photos):
    with pytest.raises(ValueError, match=r"cat/1\.png: .*1 of 4 images could not be read .* max_broken is 0"):
        load(photos, "train")[1]


def test_in_training_another_image_stands_in(photos):
    images = load(photos, "train", max_broken=1)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match=r"left out: cannot read image .*cat/1\.png"):
        first, target = images[1]
    assert target in (0, 1)
    assert round(float(first[0, 0, 0]) * 255) in (40, 120, 160)
    assert images.broken == [str(photos / "train" / "cat" / "1.png")]
    torch.manual_seed(3)
    # Known as broken by now, it is not tried again; what stands in stays the same.
    again, target_again = images[1]
    assert target_again == target
    torch.testing.assert_close(again, first, rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:left out")
def test_in_a_test_it_is_in_no_figure(photos, num_workers):
    images = load(photos, "test", max_broken=1)
    targets = torch.cat([each for _, each in DataLoader(images, batch_size=3, num_workers=num_workers)])
    assert targets.tolist() == [0, UNREADABLE, 1, 1]
    assert len(images.broken) == 1

    class Bright(torch.nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack((100 / 255 - mean, mean - 100 / 255), 1)

    found = evaluate(Bright(), images, batch_size=2, num_workers=num_workers)
    assert (found.num_samples, found.accuracy) == (3, 1.0)
    assert found.to_dict()["unreadable"] == [str(photos / "test" / "cat" / "1.png")]


@pytest.mark.filterwarnings("ignore:left out")
def test_images_of_archives_too(photos, tmp_path):
    write_archives(photos, tmp_path / "archives")
    images = load_dataset("archives", "test", data_dir=tmp_path / "archives", image_size=8, max_broken=1)
    assert [target for _, target in images].count(UNREADABLE) == 1


def test_none_left_and_settings_without_effect(photos):
    for name in ("cat/0.png", "dog/0.png", "dog/1.png"):
        (photos / "test" / name).write_bytes(b"")
    images = load(photos, "test", max_broken=10)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="4 of 4 images"):
        [target for _, target in images]
    with pytest.raises(ValueError, match="max_broken applies to 'images', 'archives' and videos only"):
        load_dataset("digits", "test", max_broken=1)
    with pytest.raises(ValueError, match="max_broken must be at least 0"):
        load(photos, "test", max_broken=-1)
