"""Which files of a folder are data, by their endings; leftovers of systems are ignored, all else is named."""

import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from nonlocalnn._names import SPLITS

# Of the formats that Pillow reads those of photographs, drawings and scans; none that starts a program.
IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
# Images and videos both.
ANIMATION_SUFFIXES = (".gif", ".apng")
# Of the files that FFmpeg decodes: those that cameras, editors and sites write.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", *ANIMATION_SUFFIXES),
    *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".vob", ".ts", ".mts", ".m2t", ".m2ts"),
    *(".tod", ".mod", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".3gpp", ".ogv", ".ogm"),
    *(".mxf", ".dv", ".rm", ".rmvb", ".mjpg", ".mjpeg", ".h264", ".264", ".hevc", ".265", ".y4m"),
)
# What Windows, macOS and storage boxes leave in folders; hidden files are their leftovers too.
_LEFTOVERS = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
)
_MOST_NAMED = 8
# What people call the folder, list or archives of a split, the first first.
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
ALL_SPLIT_NAMES = ("train", "validation", "val", "valid", "test")


def is_ignored(entry: Path) -> bool:
    """Return whether a file or folder is hidden, or a leftover of a system, such as ``Thumbs.db``.

    Example:
        >>> is_ignored(Path(".DS_Store")), is_ignored(Path("Thumbs.db")), is_ignored(Path("a.heic"))
        (True, True, False)
    """
    return entry.name[:1] == "." or entry.name.lower() in _LEFTOVERS


def walk(folder: Path) -> list[Path]:
    """Return all files and folders in a folder, at any depth, but for those that are ignored, sorted.

    Links to folders are followed, but for those that lead back to where they lie.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        inside = [Path(place, name) for name in (*folders, *files)]
        found += (entry for entry in inside if not is_ignored(entry))
        folders[:] = [entry.name for entry in inside[: len(folders)] if not _is_left_out(entry)]
    return sorted(found)


def _is_left_out(folder: Path) -> bool:
    """Return whether a folder is ignored, or a link to one that it lies in."""
    above = folder.absolute().parents
    return is_ignored(folder) or (folder.is_symlink() and folder.resolve() in {up.resolve() for up in above})


def split_names(root: Path, split: str) -> tuple[str, ...]:
    """Return what a split's folder, list or archives may be called in a folder of one's own files.

    ``val`` is taken for ``validation``; so is ``valid`` where there is a ``train`` beside it.

    Example:
        >>> split_names(Path("no-such-folder"), "validation")
        ('validation', 'val')
    """
    # Without a train beside it valid is a class, as invalid may be.
    trained = ("train", "train.txt", "train.csv")
    has_train = any((root / name).exists() for name in trained) or any(root.glob("train-*.tar"))
    more = ("valid",) if split == "validation" and has_train else ()
    return (*_SPLIT_NAMES[split], *more)


def split_folder(root: Path, split: str) -> Path | None:
    """Return the folder of a split in a folder of one's own files; None where there is none."""
    folders = (root / name for name in split_names(root, split))
    return next((folder for folder in folders if folder.is_dir()), None)


def class_folders(root: Path) -> list[Path]:
    """Return the folders in a folder, one for each class, sorted.

    Raises:
        ValueError: There is none, or the name of one is not UTF-8, which checkpoints and pictures need.
    """
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_ignored(entry))
    if not folders:
        raise ValueError(
            f"{root} must hold one folder per class; it holds no folder: make them, or move away what has no "
            "classes, such as an unlabelled test"
        )
    for name in (folder.name for folder in folders):
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raw = os.fsencode(name)
            raise ValueError(
                f"{root} has a class folder whose name is not UTF-8, {raw!r}: rename it; if it is Latin-1 by "
                f"mv $'{repr(raw)[2:-1]}' {raw.decode('latin-1')!r} in that folder"
            )
    return folders


def check_same_classes(root: Path, splits: Sequence[str]) -> None:
    """Check that the folders of splits have the same classes; a target would mean different things otherwise.

    Raises:
        ValueError: They differ; the message says where.
    """
    first, *others = splits
    expected = {folder.name for folder in class_folders(root / first)}
    for other in others:
        found = {folder.name for folder in class_folders(root / other)}
        if found != expected:
            differences = [
                f"only in {owner!r}: {', '.join(map(repr, sorted(extra)))}"
                for owner, extra in ((first, expected - found), (other, found - expected))
                if extra
            ]
            alike = sorted(map(spelt_alike, found)) == sorted(map(spelt_alike, expected))
            raise ValueError(
                f"the splits of {root} must have the same class folders; {'; '.join(differences)}"
                + (": names differ by case, spaces or how accents are stored alone" if alike else "")
            )


def spelt_alike(name: str) -> str:
    """Return what names that look nearly alike have in common: macOS stores letters and accents apart.

    Example:
        >>> spelt_alike("Cat ") == spelt_alike("cat")
        True
    """
    return unicodedata.normalize("NFC", name.strip().casefold())


def files_by_class(
    root: Path, is_data: Callable[[Path], bool], *, what: str
) -> tuple[list[tuple[Path, int]], list[Path]]:
    """Return what lies in the class folders of a folder, and what is passed over there.

    Args:
        root: The folder of the class folders.
        is_data: Whether a file or folder in a class folder is one of the class.
        what: What a class folder must hold, for errors.

    Returns:
        Each file and the number of its class, sorted; and all else.

    Raises:
        ValueError: There is no class folder, or one holds nothing.
    """
    found: list[tuple[Path, int]] = []
    # Files beside the class folders have no class.
    passed_over = sorted(entry for entry in root.iterdir() if entry.is_file() and is_data(entry))
    for target, folder in enumerate(class_folders(root)):
        inside: list[Path] = []
        for entry in sorted(folder.iterdir()):
            (inside if is_data(entry) else passed_over).append(entry)
        if not inside:
            deeper = next(filter(is_data, walk(folder)), None)
            if deeper is None:
                raise ValueError(f"the class folder {folder} holds {what}: fill or remove it")
            raise ValueError(
                f"the class folder {folder} holds {what}; folders in it do, such as {deeper}: move files up "
                f"into it; or, if classes are in it, give {folder} as data_dir; or, if it is a split, rename "
                "it: splits are called train, validation (or val) and test"
            )
        found += [(entry, target) for entry in inside]
    return found, passed_over


def find_files(
    inputs: Iterable[str | os.PathLike[str]], is_data: Callable[[Path], bool], *, kind: str
) -> list[Path]:
    """Return the files that are named, and those in the folders that are named, at any depth.

    What is named is taken whatever its ending. All else in folders is passed over with one warning that
    counts it, hidden files and leftovers of systems without. What is not there, and a folder without such a
    file, are taken as they are named: reading them says what is wrong, and the others can be read.

    Args:
        inputs: Files and folders.
        is_data: Whether a file is wanted, or a folder as a whole.
        kind: What is wanted, such as "images".
    """
    found: list[Path] = []
    for path in map(Path, inputs):
        if not path.is_dir() or is_data(path):
            found.append(path)
            continue
        entries = walk(path)
        inside = [entry for entry in entries if is_data(entry)]
        # A folder on the way to data is none itself, and what lies in a folder that is taken belongs to it.
        taken = set(inside)
        left = [entry for entry in entries if not entry.is_dir() and taken.isdisjoint((entry, entry.parent))]
        warn_of_passed_over(path, left, kind=kind)
        found += inside or [path]
    return found


def warn_of_passed_over(folder: Path, entries: Iterable[Path], *, kind: str) -> None:
    """Warn once of everything in a folder that is passed over; of nothing where nothing is.

    Args:
        folder: The folder that was looked through.
        entries: What is not taken; what is to be ignored may be among them.
        kind: What is taken, such as "images".

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_passed_over(Path("pets"), [Path("pets/cat/1.HEIC")], kind="images")
        >>> print(caught[0].message)
        1 entry of pets is passed over, not being images by ending and place: .heic (1); first pets/cat/1.HEIC
    """
    left = [entry for entry in entries if not is_ignored(entry)]
    if not left:
        return
    several = "1 entry" if len(left) == 1 else f"{len(left)} entries"
    warnings.warn(
        f"{several} of {folder} {'is' if len(left) == 1 else 'are'} passed over, not being {kind} by ending "
        f"and place: {counted_endings(left)}; first {left[0]}",
        UserWarning,
        stacklevel=3,
    )


def counted_endings(entries: Iterable[Path]) -> str:
    """Return how many files have which ending, the most frequent first.

    Example:
        >>> counted_endings([Path("a.TXT"), Path("b.txt"), Path("README")])
        '.txt (2), no ending (1)'
    """
    counts = Counter(
        "folders" if entry.is_dir() else entry.suffix.lower() or "no ending" for entry in entries
    ).most_common()
    named = ", ".join(f"{ending} ({number})" for ending, number in counts[:_MOST_NAMED])
    return named + (f" and {len(counts) - _MOST_NAMED} other endings" if len(counts) > _MOST_NAMED else "")


def warn_of_unlearnt(root: Path, classes: Iterable[str], taught: Container[str], *, what: str) -> None:
    """Warn of classes that the training split has nothing of, and no network can learn.

    Args:
        root: The folder of the data set.
        classes: Names of all classes.
        taught: Those that training has something of.
        what: What it lacks, such as "images".
    """
    missing = [name for name in classes if name not in taught]
    if missing:
        listed = ", ".join(map(repr, missing[:_MOST_NAMED])) + (", ..." if len(missing) > _MOST_NAMED else "")
        warnings.warn(
            f"the training split of {root} has no {what} of {listed}, which cannot be learnt: add some",
            UserWarning,
            stacklevel=3,
        )


def split_of(relative_path: str) -> str:
    """Return the split of a file, by its path in a folder without split folders, with forward slashes.

    Example:
        >>> split_of("cat/1.png")
        'train'
    """
    return (("train",) * 8 + ("validation", "test"))[_number_of(relative_path) % 10]


def _number_of(relative_path: str) -> int:
    # A file name need not be valid UTF-8; its bytes are taken as they are then.
    name = unicodedata.normalize("NFC", relative_path)
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest, "big")


def divide(files: Sequence[tuple[Path, int]], root: Path) -> dict[str, list[tuple[Path, int]]]:
    """Divide the files of a folder without split folders.

    Each falls to its :func:`split_of`. Where that leaves a class of at least three files none in one of the
    splits, the file with the smallest SHA-256 of the split that has most of the class goes there.

    Args:
        files: Paths below ``root``, and the number of the class of each.
        root: The folder.

    Returns:
        The files of "train", "validation" and "test", in the order in which they came.

    Example:
        >>> files = [(Path("pets/cat") / name, 0) for name in ("1.png", "2.png", "3.png")]
        >>> {split: len(some) for split, some in divide(files, Path("pets")).items()}
        {'train': 1, 'validation': 1, 'test': 1}
    """
    names = [path.relative_to(root).as_posix() for path, _ in files]
    splits = divided(names, [target for _, target in files])
    return {
        split: [file for file, own in zip(files, splits, strict=True) if own == split] for split in SPLITS
    }


def divided(names: Sequence[str], targets: Sequence[int]) -> list[str]:
    """Return the split of each name, as :func:`divide` divides files.

    Args:
        names: Paths, with forward slashes.
        targets: The number of the class of each.

    Example:
        >>> divided(["1.png", "2.png", "3.png"], [0, 0, 0])
        ['validation', 'test', 'train']
    """
    splits = list(map(split_of, names))
    classes: dict[int, list[int]] = {}
    for place, target in enumerate(targets):
        classes.setdefault(target, []).append(place)
    for places in classes.values():
        for split in SPLITS:
            counts = Counter(splits[place] for place in places)
            if counts[split] or len(places) < len(SPLITS):
                continue
            # Of three files and more, one split has two at least: it keeps one.
            ((most, _),) = counts.most_common(1)
            candidates = (place for place in places if splits[place] == most)
            moved = min(candidates, key=lambda place: _number_of(names[place]))
            splits[moved] = split
    return splits
