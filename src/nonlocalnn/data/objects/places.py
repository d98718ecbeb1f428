"""Where the marks of a split lie in a folder, and the images that they are of."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, is_ignored, walk

# What folders and files of a split are called, the first first; COCO publishes no marks of its test, and
# everybody tests on the validation's images.
SPLIT_FOLDERS = {
    "train": ("train",),
    "validation": ("valid", "validation", "val"),
    "test": ("test",),
}
# How the names of COCO's own files begin: of objects, and of points.
_OFFICIAL = ("instances", "person_keypoints")
_COCO_YEARS = ("2017", "2014", "")
_ROBOFLOW = "_annotations.coco.json"
_OWN = ("annotations.json", _ROBOFLOW)
# Other JSON may lie beside COCO's: what it holds tells, and not its name.
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
# What stands after the last dot of a name is an ending if it is one of these, the last of which cameras write
# and people convert; "photo.1" has none.
_ENDINGS = (*IMAGE_SUFFIXES, ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw")


@dataclass(frozen=True)
class Found:
    """A split as it lies on the disk.

    Args:
        source: Its file, or folder of files.
        images: Folders that may hold its images, the first first; the last holds all others.
        own_part: Whether the file is of all splits, and images are divided by their names.
    """

    source: Path
    images: Sequence[Path]
    own_part: bool = False


def find_coco(root: Path, split: str, official: str = "instances") -> Found:
    """Return where the marks of a split are: under a name that COCO or Roboflow uses, or any other JSON.

    CVAT calls it ``annotations/instances_default.json``, Label Studio ``result.json``: of names that nobody
    knows beforehand, the words in them tell the split.

    Args:
        root: The folder.
        split: "train", "validation" or "test".
        official: How the names of COCO's own files begin: "instances", or "person_keypoints".

    Raises:
        FileNotFoundError: There are none.
        ValueError: Two files may be meant.
    """
    found = _by_known_names(root, split, official)
    if found is not None:
        return found
    of_split: dict[str | None, list[Path]] = {}
    for path in _coco_files(root):
        of_split.setdefault(_split_in_name(path, root), []).append(path)
    named = [each for each in SPLIT_FOLDERS if each in of_split]
    sources = of_split.get(split if named else None, [])
    if len(sources) > 1:
        raise ValueError(
            f"{root} must have one file of marks of {split!r}; {sources[0].relative_to(root)} and "
            f"{sources[1].relative_to(root)} both may be it: move one away"
        )
    if sources:
        source, base = sources[0], sources[0].parent
        own = (base,) if base not in (root, root / "annotations") else ()
        # A folder of CVAT's is called as the split is in the file's name: Train.
        called = [root / "images" / word for word in re.split(r"[^\w]|_", source.stem) if word]
        images = (*(folder for each in own for folder in (each / "data", each / "images", each)), *called)
        return Found(source, (*images, root / "images", root / "data", root), own_part=not named)
    there = f"; it has those of {', '.join(named)}" if named else ""
    raise FileNotFoundError(
        f"{root} holds no marks of {split!r}: neither {SPLIT_FOLDERS[split][0]}/{_ROBOFLOW}, nor "
        f"annotations/{official}_{_official(split)}2017.json, nor {split}.json or annotations.json{there}: "
        "add them, or join all splits in one annotations.json, which is divided by the names of the images"
    )


def names_in(source: Path) -> list[str]:
    """Return the names of images in a JSON file of COCO's format, without parsing all of it."""
    return [json.loads(name) for name in _FILE_NAME.findall(source.read_bytes())]


def coco_file(root: Path) -> Path | None:
    """Return a JSON file of COCO's format where :func:`find_coco` looks for it; None where there is none."""
    for official in _OFFICIAL:
        for split in SPLIT_FOLDERS:
            found = _by_known_names(root, split, official)
            if found is not None and _speaks_of_coco(found.source):
                return found.source
    return next(iter(_coco_files(root)), None)


def _speaks_of_coco(source: Path) -> bool:
    """Return whether a file has a part of what COCO's JSON has.

    Names such as train.json are not COCO's alone. A part is enough: that a file is cut is said where it is
    read.
    """
    if source.name == _ROBOFLOW or source.name.startswith(_OFFICIAL):
        return True
    content = source.read_bytes()
    return any(key in content for key in _COCO_KEYS)


def _official(split: str) -> str:
    return "train" if split == "train" else "val"


def _by_known_names(root: Path, split: str, official: str) -> Found | None:
    for name in SPLIT_FOLDERS[split]:
        # Roboflow's: a folder a split, images beside the file.
        if (root / name / _ROBOFLOW).is_file():
            return Found(root / name / _ROBOFLOW, (root / name,))
        # One's own: a file a split, and images together or in a folder of its name.
        for source in (root / f"{name}.json", root / "annotations" / f"{name}.json"):
            if source.is_file():
                return Found(source, (root / "images" / name, root / name, root / "images", root))
    for year in _COCO_YEARS:
        name = f"{_official(split)}{year}"
        source = root / "annotations" / f"{official}_{name}.json"
        if source.is_file():
            return Found(source, (root / name, root / "images" / name, root / "images", root))
    for name in _OWN:
        if (root / name).is_file():
            return Found(root / name, (root / "images", root), own_part=True)
    return None


def _coco_files(root: Path) -> Iterable[Path]:
    """Yield the JSON files of COCO's format in a folder, in its ``annotations`` and in those of splits.

    COCO's own are not among them: that of objects must not stand in for that of points, or the other way.
    """
    own = {f"{kind}_{part}{year}" for kind in _OFFICIAL for part in ("train", "val") for year in _COCO_YEARS}
    names = {"annotations", *(name for names in SPLIT_FOLDERS.values() for name in names)}
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in names]
    for folder in (root, *folders):
        for path in sorted(folder.glob("*.json")):
            is_own = path.stem in own and folder.name == "annotations"
            if path.is_file() and not is_ignored(path) and not is_own:
                content = path.read_bytes()
                if all(key in content for key in _COCO_KEYS):
                    yield path


def _split_in_name(path: Path, root: Path) -> str | None:
    """Return the split that a file is of, by its folder or words in its name; None where none is named."""
    first = path.relative_to(root).parts[0].lower()
    words = {first, *re.split(r"[^a-z]+", path.stem.lower())}
    return next((split for split, names in SPLIT_FOLDERS.items() if words & set(names)), None)


def located(
    names: Sequence[Sequence[str]], found: Found, *, beside: Sequence[Sequence[Path]] | None = None
) -> list[Path]:
    """Return the file of each image.

    Files name images by paths of the machine where they were written, with its folders: the last parts count.
    What lies deeper than the file says is found by its name, where only one image is called so.

    Args:
        names: What each may be called, the likeliest first.
        found: Where to look.
        beside: Folders of each image, where they differ.

    Raises:
        FileNotFoundError: One is missing, or two images have its name.
        ValueError: One file would be the image of two.
    """
    paths, missing = [], []
    by_stem: dict[str, list[Path]] | None = None
    for place, called in enumerate(names):
        folders = found.images if beside is None else beside[place]
        tries = (
            _image_in(folder, spelt) for name in called for folder in folders for spelt in _spellings(name)
        )
        path = next((each for each in tries if each is not None), None)
        if path is None:
            by_stem = _images_by_stem(folders[-1]) if by_stem is None else by_stem
            deeper = by_stem.get(key_of(_parts(called[-1])[-1]), [])
            if len({each.resolve() for each in deeper}) > 1:
                raise FileNotFoundError(
                    f"{folders[0] / called[-1]} is missing, of which {found.source} speaks, and "
                    f"{len(deeper)} images have its name, such as {deeper[0]} and {deeper[1]}: write its "
                    "folder too"
                )
            path = deeper[0] if deeper else None
        if path is None:
            missing.append(folders[0] / called[-1])
        else:
            paths.append(path)
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]} is missing, of which {found.source} speaks{more}")
    named: dict[Path, str] = {}
    for path, (name, *_) in zip(paths, names, strict=True):
        if path in named:
            raise ValueError(
                f"{found.source} speaks of {named[path]} and of {name}, and {path} alone is there for both: "
                "each must have an image of its own; fetch the other, or take its marks out"
            )
        named[path] = name
    return paths


def _images_by_stem(folder: Path) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = {}
    for path in walk(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            by_stem.setdefault(key_of(path.name), []).append(path)
    return by_stem


def key_of(name: str) -> str:
    """Return by what the images of a folder are told apart: their names without case and ending."""
    return unicodedata.normalize("NFC", _without_ending(name).lower())


def _without_ending(name: str) -> str:
    return Path(name).stem if Path(name).suffix.lower() in _ENDINGS else name


def _spellings(name: str) -> list[str]:
    """Return a name and its other forms: macOS writes letters and their accents apart, others as one."""
    return list(dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]))


def _parts(name: str) -> list[str]:
    """Return the folders and the name in a path of any system, without what leads outside of a folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    # A file must not name what lies outside of the data set.
    return [part for part in parts if part not in ("/", "//", "..")] or [" "]


def _image_in(folder: Path, name: str) -> Path | None:
    """Return an image of a folder by its name, or by its stem where tools changed or dropped the ending."""
    parts = _parts(name)
    for first in range(len(parts)):
        path = folder.joinpath(*parts[first:])
        if path.is_file():
            return path
        # Tools drop the ending of a name, or change it: what is longer is likelier.
        for stem in dict.fromkeys((path.name, _without_ending(path.name))):
            for other in (path.with_name(stem + suffix) for suffix in IMAGE_SUFFIXES):
                if other.is_file() and not is_ignored(other):
                    return other
    return None
