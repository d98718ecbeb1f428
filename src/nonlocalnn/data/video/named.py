"""Sets of labelled videos by name: which files in a folder make which split."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from nonlocalnn._errors import check_choice
from nonlocalnn._names import SPLITS, VIDEO_SETS
from nonlocalnn.data.archives.index import ArchivedFile, find_archives, read_index, read_split
from nonlocalnn.data.folder_files import (
    check_same_classes,
    divide,
    is_ignored,
    split_names,
    warn_of_unlearnt,
)
from nonlocalnn.data.split_lists import check_apart
from nonlocalnn.data.video.lists import VideoList, load_video_folder, read_video_list
from nonlocalnn.data.video.public_lists import (
    read_charades_csv,
    read_hmdb51_split,
    read_kinetics_csv,
    read_ucf101_split,
)

# Of one's own videos: which other split serves where one is missing.
_STANDS_IN = {"train": (), "validation": ("test",), "test": ("validation",)}
_LIST_SUFFIXES = (".txt", ".csv")


def load_video_set(name: str, split: str, *, data_dir: str | os.PathLike[str] | None) -> VideoList:
    """List the videos of a split.

    ============  ==========================================================================================
    name          what ``data_dir`` holds
    ============  ==========================================================================================
    ``videos``    your own: a folder per class, divided as :func:`~nonlocalnn.data.folder_files.divide`
                  says; or folders ``train``, ``validation`` and ``test`` of such folders; or lists
                  ``train.txt``, ``validation.txt`` and ``test.txt`` (or ``.csv``) of paths in ``data_dir``,
                  see :func:`~nonlocalnn.data.video.lists.read_video_list`; or ``classes.txt`` and archives
                  ``train-000000.tar`` and so on, see :mod:`nonlocalnn.data.archives.index`
    ``kinetics``  ``train.csv`` and ``val.csv``, and the folders ``train`` and ``val`` of videos, with or
                  without a folder per class
    ``ucf101``    ``ucfTrainTestlist`` and ``UCF-101``; split 1
    ``hmdb51``    ``testTrainMulti_7030_splits`` and ``hmdb51_org``; split 1
    ``charades``  ``Charades_v1_train.csv``, ``Charades_v1_test.csv`` and ``Charades_v1_480``; class names
                  from ``Charades_v1_classes.txt``, if it is there
    ============  ==========================================================================================

    ``val`` and, beside a ``train``, ``valid`` are taken for ``validation``. Sets without a test split are
    tested on their validation split, and sets without a validation split validate on their test split, as is
    usual with them: keep the last weights there and not the best, or the test is no test. Public sets lose
    videos over the years: those that are not there are left out of their lists, with a warning that counts
    them. Videos in archives come in the order in which they lie there; archives beside folders or lists of
    splits are an error.

    Args:
        name: One of ``VIDEO_SETS``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data_dir: The folder.

    Raises:
        ValueError: An argument is unknown or missing, a list cannot be understood, or archives are damaged or
            are not the only form of the videos.
        FileNotFoundError: There is no such folder, or a list or an archive is missing.
    """
    check_choice("name", name, VIDEO_SETS)
    check_choice("split", split, SPLITS)
    if data_dir is None:
        raise ValueError(f"{name!r} needs data_dir: the folder that holds the videos and their lists")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of videos: {folder}")
    if name == "videos":
        own = _own(folder, split)
        if split == "train":
            taught = {own.classes[target] for several in own.target_sets for target in several}
            warn_of_unlearnt(folder, own.classes, taught, what="videos")
        return own
    listed = _PUBLIC[name](folder, split)
    there = listed.existing()
    if len(there) < len(listed):
        warnings.warn(
            f"{len(listed) - len(there)} of the {len(listed)} videos of {name}/{split} are not there",
            UserWarning,
            stacklevel=3,
        )
    return there


def load_own_splits(data_dir: str | os.PathLike[str]) -> dict[str, VideoList]:
    """List the splits that a folder of the set ``videos`` holds; none stands in for another.

    Raises:
        ValueError: As :func:`load_video_set`.
        FileNotFoundError: There is no such folder, or it holds no split.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of videos: {folder}")
    found = {split: _first_of(folder, split_names(folder, split)) for split in SPLITS}
    held = {split: videos for split, videos in found.items() if videos is not None} or _divided(folder)
    if not held:
        raise _no_split(folder, "train")
    return held


def _own(folder: Path, split: str) -> VideoList:
    for each in (split, *_STANDS_IN[split]):
        videos = _first_of(folder, split_names(folder, each))
        if videos is not None:
            if each != split:
                _warn(f"{folder} has no {split!r} split, and the videos of {each!r} stand in")
            return videos
    divided = _divided(folder)
    for each in (split, *_STANDS_IN[split]):
        if each in divided:
            if each != split:
                _warn(
                    f"none of the videos in {folder} falls to {split!r}, and those of {each!r} stand in: add "
                    f"videos, or make the folders {', '.join(SPLITS)} and divide them yourself"
                )
            return divided[each]
    raise _no_split(folder, split)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)


def _divided(folder: Path) -> dict[str, VideoList]:
    """Return the splits of a folder that holds only a folder per class, divided as those of images are."""
    names = {name for split in SPLITS for name in split_names(folder, split)}
    folders = [entry for entry in folder.iterdir() if entry.is_dir() and not is_ignored(entry)]
    # One split without the others is no folder of classes.
    if not folders or any(entry.name in names for entry in folders):
        return {}
    every = load_video_folder(folder)
    divided: dict[str, VideoList] = {}
    # Folders of classes hold files of one class each.
    files = [
        (path, target)
        for path, target in zip(every.paths, every.targets, strict=True)
        if isinstance(path, Path) and isinstance(target, int)
    ]
    for split, chosen in divide(files, folder).items():
        if chosen:
            paths, targets = zip(*chosen, strict=True)
            divided[split] = VideoList(paths, targets, every.classes)
    return divided


def _no_split(folder: Path, split: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{folder} has no {split} split: it must hold a folder per class, a folder {split} of such, "
        f"a list {split}.txt of paths and labels, or archives {split}-000000.tar"
    )


def _first_of(folder: Path, names: tuple[str, ...]) -> VideoList | None:
    """Return the videos of the first split that is there."""
    _check_one_form(folder, names)
    for name in names:
        if (folder / name).is_dir():
            if (folder / "train").is_dir():
                check_same_classes(folder, ("train", name))
            return load_video_folder(folder / name)
        for suffix in _LIST_SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return _listed(folder / f"{name}{suffix}", None if name == "train" else _own(folder, "train"))
        if find_archives(folder, name):
            return _archived(folder, name)
    return None


def _listed(path: Path, train: VideoList | None) -> VideoList:
    """Return the videos of a list, and warn of those that are not there.

    Args:
        path: The list; the videos are in its folder.
        train: Those of training; None where the list is that of training.

    Raises:
        ValueError: The list cannot be understood, or has a video of training.
    """
    found = read_video_list(path, root=path.parent, classes=None if train is None else train.classes)
    check_apart(() if train is None else train.paths, found.paths, path)
    lost = [video for video in found.paths if not video.exists()]
    if lost:
        _warn(f"{len(lost)} of the {len(found)} videos of {path} are not there, such as {lost[0]}")
    return found


def _check_one_form(folder: Path, own_names: tuple[str, ...]) -> None:
    """Check that videos come in one form: folders, lists or archives.

    Archives beside another form are refused, whichever split is asked for: which of the two was read would be
    a guess, and moving one is quick. A list beside the folder of its split, or a second list, is warned of:
    sets are often handed out with both.

    Args:
        folder: What holds the splits.
        own_names: What the split that is read may be called; lists of the others are warned of when those
            are read.

    Raises:
        ValueError: There are archives and another form.
    """
    forms = [folder / f"{name}{suffix}" for name in own_names for suffix in ("", *_LIST_SUFFIXES)]
    first, *more = [each for each in forms if each.exists()] or [folder]
    for other in more:
        _warn(f"{other} is passed over: the videos of its split are those of {first}; move one of the two")
    names = [name for split in SPLITS for name in split_names(folder, split)]
    archives = [path for name in names for path in find_archives(folder, name).values()]
    others = [folder / f"{name}{suffix}" for name in names for suffix in ("", *_LIST_SUFFIXES)]
    for other in others if archives else ():
        if other.exists():
            raise ValueError(
                f"{folder} must hold its videos in one form; it has the archive {archives[0].name} and "
                f"{other.name}: move one of them"
            )


def archived_files(archive: Path, *, kind: str) -> list[ArchivedFile]:
    """Return the files of an archive in the order in which they lie there.

    Raises:
        ValueError: The archive is damaged, or holds something else; see
            :func:`~nonlocalnn.data.archives.index.read_index`.
    """
    return [member.within(archive) for member in read_index(archive, kind=kind)]


def _archived(folder: Path, split: str) -> VideoList:
    classes, samples = read_split(folder, split, kind="videos")
    return VideoList(
        tuple(member.within(archive) for archive, member, _ in samples),
        tuple(target for _, _, target in samples),
        classes,
    )


def _kinetics(folder: Path, split: str) -> VideoList:
    name = "train" if split == "train" else "val"
    root = folder / name
    # Downloads come in both layouts.
    class_folders = root.is_dir() and any(entry.is_dir() for entry in root.iterdir())
    classes = None if name == "train" else read_kinetics_csv(folder / "train.csv", root=root).classes
    return read_kinetics_csv(folder / f"{name}.csv", root=root, classes=classes, class_folders=class_folders)


def _ucf101(folder: Path, split: str) -> VideoList:
    lists = folder / "ucfTrainTestlist"
    name = "trainlist01.txt" if split == "train" else "testlist01.txt"
    return read_ucf101_split(lists / name, root=folder / "UCF-101", classes_path=lists / "classInd.txt")


def _hmdb51(folder: Path, split: str) -> VideoList:
    return read_hmdb51_split(
        folder / "testTrainMulti_7030_splits",
        split="train" if split == "train" else "test",
        number=1,
        root=folder / "hmdb51_org",
    )


def _charades(folder: Path, split: str) -> VideoList:
    name = "Charades_v1_train.csv" if split == "train" else "Charades_v1_test.csv"
    classes = folder / "Charades_v1_classes.txt"
    return read_charades_csv(
        folder / name,
        root=folder / "Charades_v1_480",
        classes_path=classes if classes.is_file() else None,
    )


_PUBLIC: dict[str, Callable[[Path, str], VideoList]] = {
    "kinetics": _kinetics,
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "charades": _charades,
}
