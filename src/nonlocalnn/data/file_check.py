"""Which files there are to check, and what is wrong with one: videos, images, and archives of either."""

import re
from collections.abc import Sequence
from pathlib import Path

from nonlocalnn.data.archives.index import KINDS, ArchivedFile
from nonlocalnn.data.folder_files import ANIMATION_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, walk
from nonlocalnn.data.image_folders import find_images
from nonlocalnn.data.images import decode_image
from nonlocalnn.data.video.files import check_video, find_videos
from nonlocalnn.data.video.frame_names import frame_paths, is_frame
from nonlocalnn.data.video.lists import is_video_file
from nonlocalnn.data.video.named import archived_files

# Pictures of a folder whose sizes are looked at to tell frames from photographs.
_SIZES_READ = 8


def files_to_check(path: Path, *, kind: str | None = None) -> list[tuple[str, Path | ArchivedFile]]:
    """Return the videos and images at a path, each after its kind, "videos" or "images".

    Folders of pictures are videos where the folder holds video files too, or where most of them look like
    frames: a series of numbers without a gap, of pictures of one size. Otherwise each picture is an image.

    Args:
        path: A video, an image, an archive (.tar) of either, or a folder of these.
        kind: What it holds; ``None`` looks.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: A folder holds neither, or an archive is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.suffix == ".tar" and path.is_file():
        return _archived(path, list(KINDS) if kind is None else [kind])
    if archives := _archives_alone(path):
        return [item for archive in archives for item in files_to_check(archive, kind=kind)]
    kind = _kind_of(path) if kind is None else kind
    found = (find_images if kind == "images" else find_videos)([path])
    if found == [path] and path.is_dir() and not any(map(is_frame, path.iterdir())):
        raise ValueError(f"the folder {path} holds no video, no folder of frames and no image")
    return [(kind, each) for each in found]


def check_file(item: tuple[str, Path | ArchivedFile], *, backend: str = "pyav") -> str | None:
    """Decode a file whole and return why that fails; ``None`` when it does not.

    Args:
        item: Its kind and where it is, as :func:`files_to_check` gives them.
        backend: What decodes videos; see :func:`~nonlocalnn.data.video.open_video`.

    Raises:
        ValueError: ``backend`` is unknown.
        ImportError: A library is missing.
    """
    kind, path = item
    if kind == "videos":
        return check_video(path, backend=backend)
    try:
        decode_image(path, name=str(path), image_size=None, channels=3)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _archives_alone(path: Path) -> list[Path]:
    """Return the archives in a folder that holds no other data, perhaps none."""
    archives = sorted(path.glob("*.tar")) if path.is_dir() else []
    suffixes = {entry.suffix.lower() for entry in walk(path)} if archives else set()
    return archives if suffixes.isdisjoint((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) else []


def _archived(path: Path, kinds: Sequence[str]) -> list[tuple[str, Path | ArchivedFile]]:
    """Return what an archive holds, of the first kind that fits; none fits where it is damaged."""
    first: ValueError | None = None
    for kind in kinds:
        try:
            return [(kind, each) for each in archived_files(path, kind=kind)]
        except ValueError as error:
            first = error if first is None else first
    assert first is not None
    raise first


def _kind_of(path: Path) -> str:
    if not path.is_dir():
        suffix = path.suffix.lower()
        return "images" if suffix in IMAGE_SUFFIXES and suffix not in ANIMATION_SUFFIXES else "videos"
    files = [entry for entry in walk(path) if not entry.is_dir()]
    folders = {file.parent for file in files if is_frame(file)}
    videos = [file for file in files if is_video_file(file)]
    if not folders or any(file.suffix.lower() not in ANIMATION_SUFFIXES for file in videos):
        return "videos"
    return "videos" if 2 * sum(map(_looks_like_frames, folders)) > len(folders) else "images"


def _looks_like_frames(folder: Path) -> bool:
    try:
        paths = frame_paths(folder)
    except ValueError:
        return False
    if len(paths) < 2 or re.search(r"\d", paths[0].stem) is None:
        return False
    some = paths[:: max(1, len(paths) // _SIZES_READ)]
    return len({size for size in map(_size, some) if size is not None}) <= 1


def _size(path: Path) -> tuple[int, int] | None:
    """Return the size that an image's header names; ``None`` where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    # On damaged bytes Pillow raises nearly anything; the check itself says what is wrong.
    except Exception:
        return None
