"""What is no checkpoint, though it was named as one: folders, names of networks, archives of other kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from nonlocalnn.models import list_models
from nonlocalnn.models.libraries import LIBRARIES, import_library, listed_names

INDEX = ".index.json"
# Of a variant too, as model.safetensors.index.fp16.json.
_INDEX_NAME = re.compile(r".*\.index(\.\w+)?\.json")
# Files of weights that a folder of Hugging Face's has, the whole ones first.
_OF_HUGGING_FACE = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
_BEST = "best.safetensors"
# Names in zip files, and what such a file is; what decides is checked in this order.
_IN_ZIPS = (
    (r".*/constants\.pkl", "a TorchScript program, which is not run: torch.save its state_dict() instead"),
    (
        r"(.*/)?(archive_format|serialized_exported_program\.json)",
        "an exported program (.pt2) and no checkpoint: give the checkpoint that it was made from",
    ),
    (
        r".*\.npy",
        "an archive of NumPy arrays (.npz): make tensors of them by torch.from_numpy, and torch.save them "
        "under the network's names",
    ),
    (r".*\.h5", "a zip archive with the HDF5 file {name} in it, as Keras writes, and no checkpoint"),
    (
        r"(?!(.*/)?data\.pkl).*\.(pth|pt|pyth|ckpt|bin|pkl|safetensors)",
        "a zip archive of files: unpack it, and give {name}",
    ),
)


def check_is_file(path: Path) -> None:
    """Check that there is such a file.

    Raises:
        FileNotFoundError: There is none; the message says what the path is instead, and what to give.
    """
    if path.is_file():
        return
    if path.is_dir():
        raise FileNotFoundError(f"{path} is {folder_in_words(path)}")
    kind = _network_in_words(path)
    raise FileNotFoundError(f"there is no checkpoint {path}{kind}")


def folder_in_words(path: Path) -> str:
    """Return what a folder is, and what to give instead of it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> folder_in_words(folder)
        'a folder, and no file of weights: give the file'
    """
    if (path / _BEST).is_file():
        return f"the folder of a run: give {path / _BEST}"
    if (path.parent / _BEST).is_file():
        return f"a folder in that of a run, without its weights: give {path.parent / _BEST}"
    if is_distributed(path / ".metadata") or any(path.glob("*.distcp")):
        return distributed_in_words(path)
    found = next((path / name for name in _OF_HUGGING_FACE if (path / name).is_file()), None)
    if found is not None:
        return f"a folder as Hugging Face's: give the file of weights in it, {found}"
    return "a folder, and no file of weights: give the file"


def is_index(path: Path) -> bool:
    """Return whether a path is that of an index of shards, by its name.

    Example:
        >>> is_index(Path("model.safetensors.index.fp16.json")), is_index(Path("config.json"))
        (True, False)
    """
    return _INDEX_NAME.fullmatch(path.name) is not None


def is_distributed(path: Path) -> bool:
    """Return whether a path is a file in a folder of ``torch.distributed.checkpoint``, by its name."""
    return (path.suffix == ".distcp" or path.name == ".metadata") and path.is_file()


def distributed_in_words(folder: Path) -> str:
    """Return what a folder of ``torch.distributed.checkpoint`` is, and how to make a file of it."""
    return (
        "a folder of torch.distributed.checkpoint: make one file of it, python -m "
        f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth, and give that"
    )


def kind_of_zip(names: Iterable[str]) -> str | None:
    """Return what a zip file is by the names in it, in words; None for what ``torch.save`` may have written.

    Example:
        >>> kind_of_zip(["a/data.pkl", "a/data/0"]), kind_of_zip(["a/weights.pth"])
        (None, "a zip archive of files: unpack it, and give 'a/weights.pth'")
    """
    names = list(names)
    for pattern, kind in _IN_ZIPS:
        for name in names:
            if re.fullmatch(pattern, name):
                return kind.format(name=repr(name)[:100])
    return None


def _network_in_words(path: Path) -> str:
    """Return what to say where a path is the name of a network; nothing where it is none."""
    # Some callers make paths absolute before they are looked at.
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    library, slash, name = path.as_posix().rpartition("/")
    if not (_is_listed(library, name) if slash else path.name in list_models() or _is_bare(path)):
        return ""
    return (
        ": that is the name of a network, which has no trained weights by itself; give a file of weights, or "
        "the folder of a run of nonlocalnn train"
    )


def _is_bare(path: Path) -> bool:
    """Return whether a path is a name of torchvision's, without the library before it."""
    # timm takes seconds to import, which nobody waits for in order to read that a file is missing.
    return not path.suffix and _is_listed("torchvision", path.name)


def _is_listed(library: str, name: str) -> bool:
    if library not in LIBRARIES:
        return False
    if library == "nonlocalnn":
        return name in list_models()
    try:
        import_library(library, name)
    except ImportError:
        return False
    return name in listed_names(library)
