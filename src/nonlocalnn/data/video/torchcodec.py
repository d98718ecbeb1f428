"""Videos through torchcodec, which uses the FFmpeg that is installed on the system."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nonlocalnn._errors import first_line
from nonlocalnn.data.video.reader import VideoReader, check_frame_size
from nonlocalnn.data.video.source import VideoSource, unreadable

# What its C++ raises, for anything that is wrong.
_ERRORS = (RuntimeError, ValueError, IndexError)
# How torchcodec begins what it says when its own libraries do not load.
_NOT_LOADED = "Could not load libtorchcodec"


def _open(source: VideoSource) -> Any:
    """Return torchcodec's decoder of a file, or of its bytes.

    Raises:
        VideoDecodeError: torchcodec cannot read the file.
        ImportError: torchcodec is not installed, or does not find FFmpeg.
    """
    try:
        from torchcodec.decoders import VideoDecoder

        video = str(source.path) if source.content is None else source.content
        return VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    except ImportError as error:
        raise ImportError(
            "the decoder 'torchcodec' needs the library 'torchcodec', which is not installed: "
            "run pip install torchcodec, or use the decoder 'pyav'"
        ) from error
    except _ERRORS as error:
        if str(error).startswith(_NOT_LOADED):
            raise ImportError(
                "the decoder 'torchcodec' finds no FFmpeg, or was built for another torch: install FFmpeg "
                "and the torchcodec that fits torch, or use the decoder 'pyav'"
            ) from error
        raise unreadable(source.path, f"torchcodec says: {first_line(error)}") from error


class TorchCodecReader(VideoReader):
    """A video file, decoded by torchcodec on one thread: reading processes share the cores already.

    torchcodec takes every packet for a frame: where that is not so (some of avi and VP8) reading may end with
    an error, and the decoder ``pyav`` reads such files. It turns pictures and does not mirror them: an mp4 or
    mov file that asks for that is an error, and other containers come out unmirrored. Nor does it tell of
    damage that its decoder noticed and patched over, which ``pyav`` does.

    Args:
        source: The file, or its bytes.

    Raises:
        VideoDecodeError: It cannot be read, holds no frame, or is to be mirrored.
        ImportError: torchcodec is missing, or does not find FFmpeg.
    """

    def __init__(self, source: VideoSource) -> None:
        path = source.path
        if source.is_mirrored():
            raise unreadable(
                path, "torchcodec turns pictures and does not mirror them: use the decoder 'pyav'"
            )
        self._decoder = _open(source)
        try:
            height, width, _ = self._decoder.get_frame_at(0).data.shape
        except _ERRORS as error:
            raise unreadable(path, f"no frame of it decodes, torchcodec says: {first_line(error)}") from error
        about = self._decoder.metadata
        # It would report a file that was cut as a shorter one.
        declared, seconds = about.num_frames_from_header or 0, about.duration_seconds_from_header or 0.0
        if not source.known_whole and not declared and not seconds:
            raise unreadable(path, "torchcodec cannot tell whether it is whole: use the decoder 'pyav'")
        source.check_count(found=len(self._decoder), declared=declared, stream=self._decoder.stream_index)
        ends = (about.begin_stream_seconds_from_header or 0.0) + seconds
        source.check_seconds(found=about.end_stream_seconds, declared=ends)
        super().__init__(
            path,
            num_frames=len(self._decoder),
            frames_per_second=about.average_fps,
            size=(height, width),
        )

    def decode(self, indices: Sequence[int]) -> list[Tensor]:
        """See :meth:`VideoReader.decode`."""
        try:
            frames = list(self._decoder.get_frames_at(indices=list(indices)).data)
        except _ERRORS as error:
            reason = f"torchcodec says: {first_line(error)}"
            raise unreadable(self.path, reason, frame=self._first_failing(indices)) from error
        return [check_frame_size(self, frame, index) for frame, index in zip(frames, indices, strict=True)]

    def _first_failing(self, indices: Sequence[int]) -> int:
        """Return which frame fails; torchcodec does not tell."""
        for index in indices:
            try:
                self._decoder.get_frame_at(index)
            except _ERRORS:
                return index
        return indices[0]
