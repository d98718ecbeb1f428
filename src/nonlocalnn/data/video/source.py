"""Where a video's bytes are: a file, or a part of a larger one; and whether all of them are there."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nonlocalnn._files import kind_of_beginning
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.images import NO_FILE
from nonlocalnn.data.video.animations import unread_animation
from nonlocalnn.data.video.containers import (
    count_dropped,
    is_cut,
    is_mirrored,
    is_still,
    may_leave_frames_out,
)

# How files begin that are no videos, but name others which FFmpeg would open: ffconcat, and playlists of HLS.
_LIST_STARTS = (b"ffconcat", b"#EXTM3U")

# What names a video: a file, a folder of frame images, or a part of an archive.
VideoPath = Path | ArchivedFile


class VideoDecodeError(ValueError):
    """A video that cannot be read, or cannot be read whole.

    Args:
        message: What is wrong, with the path.
        path: The video; ``None`` where the error has come from a worker process of a ``DataLoader``, which
            carries over the message only.
        frame: Index of the first frame that failed; ``None`` when it is the file that fails.

    Example:
        >>> error = unreadable(Path("a.mp4"), "it is damaged there", frame=7)
        >>> print(error)
        cannot read frame 7 of video a.mp4: it is damaged there
        >>> error.path.name, error.frame
        ('a.mp4', 7)
    """

    def __init__(self, message: str, *, path: VideoPath | None = None, frame: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.frame = frame


def unreadable(path: VideoPath, reason: str, *, frame: int | None = None) -> VideoDecodeError:
    """Return the error for a video, or one of its frames, that cannot be read."""
    what = "video" if frame is None else f"frame {frame} of video"
    return VideoDecodeError(f"cannot read {what} {path}: {reason}", path=path, frame=frame)


@dataclass(frozen=True)
class VideoSource:
    """What a decoder is given: a video that is there and not empty, and what its container says of it.

    Args:
        path: The file, or the part of an archive.
        content: The bytes of a part; ``None`` for a file, which is read where it lies.
        known_whole: Whether all bytes that the container declares are known to be there.
        may_leave_frames_out: Whether an edit list may skip frames that the container declares.
    """

    path: VideoPath
    content: bytes | None
    known_whole: bool
    may_leave_frames_out: bool

    def opened(self) -> BinaryIO:
        """Return the file, or its bytes as one, from the start and without a copy of them.

        Raises:
            VideoDecodeError: It cannot be opened.
        """
        try:
            return _opened(self.path, self.content)
        except OSError as error:
            raise unreadable(self.path, error.strerror or str(error)) from error

    def check_count(self, *, found: int, declared: int, stream: int) -> None:
        """Check that there are as many frames as the container declares.

        Cameras that lost a frame leave its place in an avi file empty; those are no frames, and no damage.

        Args:
            found: Frames that it holds.
            declared: Frames that its container declares; 0 where it does not.
            stream: Number of the video's stream in the file.

        Raises:
            VideoDecodeError: It holds fewer.
        """
        if self.known_whole and self.may_leave_frames_out:
            return
        if found < declared and found + self._dropped(stream) < declared:
            raise unreadable(
                self.path,
                f"it is cut or damaged, its container declares {declared} frames and holds {found}: fetch it "
                "again",
            )

    def is_mirrored(self) -> bool:
        """Return whether the container says that the picture is to be mirrored; of mp4 and mov only."""
        with _opened(self.path, self.content) as file:
            return is_mirrored(file)

    def _dropped(self, stream: int) -> int:
        with _opened(self.path, self.content) as file:
            return count_dropped(file, stream)

    def check_seconds(self, *, found: float, declared: float) -> None:
        """Check that it ends when its container says, or less than a second before.

        Containers round what they declare, and not all of them alike.

        Raises:
            VideoDecodeError: It ends earlier, and its bytes are not known to be all there.
        """
        if not self.known_whole and found + 1 < declared:
            raise unreadable(
                self.path,
                f"it is cut, its container declares {declared:.1f} seconds and holds {found:.1f}: fetch it "
                "again",
            )


def find_source(path: VideoPath) -> VideoSource:
    """Look at a video before it is decoded.

    Raises:
        FileNotFoundError: There is no such file.
        VideoDecodeError: It is empty, cut or cannot be read, is no regular file, is a list of others, or is
            by its first bytes no video.
    """
    if isinstance(path, Path) and not path.exists():
        raise FileNotFoundError(f"no such video: {path}")
    if isinstance(path, Path) and not path.is_file():
        raise unreadable(path, NO_FILE)
    try:
        content = path.read() if isinstance(path, ArchivedFile) else None
        with _opened(path, content) as file:
            if file.seek(0, os.SEEK_END) == 0:
                raise unreadable(path, "the file is empty")
            file.seek(0)
            refusal = _refusal(file)
            if refusal is not None:
                raise unreadable(path, refusal)
            cut, leaves_out = is_cut(file), may_leave_frames_out(file)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if cut:
        raise unreadable(path, "it is cut, its container declares more than the file holds: fetch it again")
    return VideoSource(path, content, known_whole=cut is False, may_leave_frames_out=leaves_out)


def _refusal(file: BinaryIO) -> str | None:
    """Return why a file is not given to a decoder, by what it is; ``None`` where it is."""
    beginning = file.read(32)
    if beginning.startswith(_LIST_STARTS):
        return "it is a list of other files, and those are not opened: name them"
    kind = kind_of_beginning(beginning)
    # A photograph in the boxes of a video has none of the lists that tell whether a video is whole.
    if kind is not None and ("AVIF" in kind or "HEIC" in kind) and is_still(file):
        hint = ", converted to JPEG" if "HEIC" in kind else ""
        return f"it is {kind}, and the model takes videos: give it to a model of images{hint}"
    # Another picture decodes as a video of one frame.
    if kind is not None and not any(word in kind for word in ("video", "image", "photograph")):
        return f"it is not a video: it begins like {kind}"
    return unread_animation(beginning)


def _opened(path: VideoPath, content: bytes | None) -> BinaryIO:
    return io.BytesIO(content) if content is not None else open(str(path), "rb")
