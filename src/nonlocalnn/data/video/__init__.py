"""Reading frames of videos: files, by themselves or in archives, and folders of frame images.

:func:`open_video` gives a :class:`VideoReader`, whatever decodes. Frames are named by their place in order of
presentation, from 0. A video is read whole or not at all: a file that is cut, or a frame that does not
decode, is an error, never a shorter video or a repeated frame.
"""

from nonlocalnn._names import BACKENDS
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.folder_files import VIDEO_SUFFIXES
from nonlocalnn.data.video.frame_names import FRAME_SUFFIXES, frame_paths
from nonlocalnn.data.video.opening import FrameFolder, check_no_image, open_video
from nonlocalnn.data.video.reader import VideoReader, check_frame_size
from nonlocalnn.data.video.source import VideoDecodeError, VideoPath

# What it was called when only videos lay in archives.
ArchivedVideo = ArchivedFile

__all__ = [
    "BACKENDS",
    "FRAME_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ArchivedFile",
    "ArchivedVideo",
    "FrameFolder",
    "VideoDecodeError",
    "VideoPath",
    "VideoReader",
    "check_frame_size",
    "check_no_image",
    "frame_paths",
    "open_video",
]
