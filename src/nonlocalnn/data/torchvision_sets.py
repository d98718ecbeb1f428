"""MNIST and Fashion-MNIST: found on disk in any of their usual places, read and downloaded by torchvision."""

import gzip
import os
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice, needs, one_line
from nonlocalnn._names import SPLITS
from nonlocalnn.data.labelled import InMemoryImages, LabelledImages, augmentation, check_image_size

# Where Debian's package dataset-fashion-mnist installs its four files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_NUM_VALIDATION = 5_000
_SPLIT_SEED = 2018
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_NUM_IMAGES = {"train": 60_000, "test": 10_000}
_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_CLASSES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
# The two data sets use the same file names and sizes; only what is inside tells them apart.
_FIRST_LABELS = {
    ("mnist", "train"): [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
    ("mnist", "test"): [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
    ("fashion-mnist", "train"): [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
    ("fashion-mnist", "test"): [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
}

# What torchvision raises of a damaged file depends on the damage.
_DAMAGES = (AssertionError, EOFError, KeyError, RuntimeError, ValueError, gzip.BadGzipFile, zlib.error)


def read_idx(path: str | os.PathLike[str], shape: tuple[int, ...]) -> Tensor:
    """Read a file of unsigned bytes in MNIST's IDX format with torchvision, plain or compressed (``.gz``).

    Returns:
        uint8, of ``shape``.

    Raises:
        ValueError: It is cut, damaged, not IDX, not of bytes, or of another shape; the message names it.
        ImportError: torchvision is missing.
    """
    with needs("torchvision", "data", "reading IDX files"):
        from torchvision import datasets
    path = Path(path)
    try:
        with TemporaryDirectory() as folder:
            # torchvision reads plain files only.
            plain = datasets.utils.extract_archive(path, folder) if path.suffix == ".gz" else path
            values: Tensor = datasets.mnist.read_sn3_pascalvincent_tensor(plain)
    except _DAMAGES as error:
        raise ValueError(
            f"{path} must be a whole IDX file of shape {shape}, and torchvision cannot read it "
            f"({one_line(error)}): delete it and fetch it again"
        ) from error
    if (values.dtype, values.shape) != (torch.uint8, shape):
        raise ValueError(
            f"{path} must hold unsigned bytes of shape {shape}; it holds {values.dtype} of shape "
            f"{tuple(values.shape)}"
        )
    return values


def _find(name: str, file_names: tuple[str, ...], data_dirs: list[Path]) -> list[Path] | None:
    """Return the paths of ``file_names`` in the first folder that has them all, or ``None``."""
    for data_dir in data_dirs:
        for folder in (data_dir, data_dir / _FOLDERS[name] / "raw"):
            found = [
                [path for path in (folder / each, folder / f"{each}.gz") if path.is_file()]
                for each in file_names
            ]
            if all(found):
                return [paths[0] for paths in found]
    return None


def _download(name: str, data_dir: Path) -> None:
    """Let torchvision put the files into ``data_dir``."""
    with needs("torchvision", "data", f"downloading {name!r}"):
        from torchvision import datasets
    download = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
    try:
        download(str(data_dir), download=True)
    except (RuntimeError, OSError) as error:
        raise _not_found(name, data_dir, f"the download failed ({one_line(error)})") from error


def _not_found(name: str, data_dir: Path, why: str) -> FileNotFoundError:
    files = ", ".join(f"{file_name}.gz" for pair in _FILES.values() for file_name in pair)
    return FileNotFoundError(
        f"{name!r} is not in {data_dir}, and {why}: put {files} into {data_dir / _FOLDERS[name] / 'raw'}"
    )


def _locate(name: str, file: str, data_dir: str | os.PathLike[str] | None) -> tuple[Path, Path]:
    """Return the paths of the images and the labels, downloading them if they are nowhere."""
    home = Path("data" if data_dir is None else data_dir)
    data_dirs = [home]
    if data_dir is None and name == "fashion-mnist":
        data_dirs.append(DEBIAN_FASHION_MNIST)
    paths = _find(name, _FILES[file], data_dirs)
    if paths is None:
        # That folder belongs to the system's package manager.
        if home == DEBIAN_FASHION_MNIST:
            raise FileNotFoundError(
                f"{name!r} is not in {home}: install Debian's package dataset-fashion-mnist, or give another "
                "data_dir"
            )
        _download(name, home)
        paths = _find(name, _FILES[file], data_dirs)
    if paths is None:
        raise _not_found(name, home, "the download left no such files there")
    return paths[0], paths[1]


def _check_labels(name: str, file: str, labels: list[int], path: Path) -> None:
    """Check that ``labels`` are class indices, and not those of the other data set."""
    if max(labels) > 9:
        raise ValueError(f"{path} must hold labels from 0 to 9; it holds {max(labels)}")
    for other in _FOLDERS:
        if other != name and labels[:10] == _FIRST_LABELS[other, file]:
            raise ValueError(f"{path} belongs to {other!r}, not to {name!r}: correct the name or data_dir")


def split_indices(split: str) -> list[int]:
    """Return the indices of the images of ``split`` in the file they come from, ascending.

    Validation is the last 5000 of a fixed permutation of the 60 000 training images, train the other 55 000;
    test has its own file.
    """
    if split == "test":
        return list(range(_NUM_IMAGES["test"]))
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    order: list[int] = torch.randperm(_NUM_IMAGES["train"], generator=generator).tolist()
    return sorted(order[-_NUM_VALIDATION:] if split == "validation" else order[:-_NUM_VALIDATION])


def load_torchvision_set(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    augment: bool = False,
) -> LabelledImages:
    """Load a split of MNIST or Fashion-MNIST: 55 000 train, 5000 validation, 10 000 test.

    The four files, plain or ``.gz``, may lie in ``data_dir`` itself or where torchvision puts them
    (``data_dir/MNIST/raw``, ``data_dir/FashionMNIST/raw``).

    Args: See :func:`nonlocalnn.data.load_dataset`. ``mnist`` is augmented as ``"characters"`` and
        ``fashion-mnist`` as ``"objects"`` of :func:`~nonlocalnn.data.labelled.augmentation`.

    Returns:
        The split; ``sample_id`` is such as ``"mnist/train/17"``: the file it comes from, which for validation
        is the training file, and the index there.

    Raises:
        ValueError: ``name`` or ``split`` is unknown; ``image_size`` is below 1 pixel; a file is damaged, or
            is the other data set's.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        FileNotFoundError: The files are missing and could not be downloaded.
        ImportError: torchvision is missing.

    Memory: 41 MiB for train.
    """
    check_choice("name", name, tuple(_FOLDERS))
    check_choice("split", split, SPLITS)
    size = check_image_size(28 if image_size is None else image_size)
    file = "test" if split == "test" else "train"
    images_path, labels_path = _locate(name, file, data_dir)
    images = read_idx(images_path, (_NUM_IMAGES[file], 28, 28))
    labels: list[int] = read_idx(labels_path, (_NUM_IMAGES[file],)).tolist()
    _check_labels(name, file, labels, labels_path)
    indices = split_indices(split)
    kind = "characters" if name == "mnist" else "objects"
    return InMemoryImages(
        images[indices, None],
        white=255,
        ids=[f"{name}/{file}/{index}" for index in indices],
        classes=_CLASSES[name],
        image_size=size,
        targets=[labels[index] for index in indices],
        transform=augmentation(kind, size) if augment else None,
    )
