"""Videos through PyAV, which brings FFmpeg's libraries with it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nonlocalnn._errors import first_line, needs
from nonlocalnn.data.video.reader import VideoReader, check_frame_size
from nonlocalnn.data.video.source import VideoDecodeError, VideoPath, VideoSource, unreadable
from nonlocalnn.data.video.upright import display_matrix, oriented

# A packet of these holds one frame, so that the packets' times tell the frames' without decoding. Others hide
# frames in packets of their own (VP8), or put two into one and none into the next (MPEG-4 in avi).
_ONE_FRAME_A_PACKET = frozenset(
    (
        *("h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1"),
        *("mjpeg", "png", "ffv1", "rawvideo", "prores", "dnxhd"),
    )
)


def import_av() -> Any:
    """Return the module ``av``.

    Raises:
        ImportError: PyAV is not installed.
    """
    with needs("av", "video", "reading videos"):
        import av
    return av


def open_container(file: BinaryIO, formats: str | None = None) -> Any:
    """Return an open video file as PyAV's container, which opens no other file.

    Playlists and lists of files would make FFmpeg open others, here and in the network. It is given an open
    file and no protocol that it could open another by.

    Args:
        file: At its first byte; the caller closes it, after the container.
        formats: The demuxers that may read it, with commas between; None is all.
    """
    av = import_av()
    # No list of demuxers unless one is given: every kind of video that FFmpeg decodes stays readable.
    options = {"protocol_whitelist": "none"}
    if formats is not None:
        options["format_whitelist"] = formats
    try:
        return av.open(file, options=options)
    except UnicodeDecodeError:
        # Up to version 18 a title that is not UTF-8 stops PyAV; later ones do not know the argument.
        file.seek(0)
        return av.open(file, options=options, metadata_errors="ignore")


@contextmanager
def _clear_errors(path: VideoPath, frame: int | None = None) -> Iterator[None]:
    """Turn what FFmpeg and PyAV say of a file into a :class:`VideoDecodeError`."""
    av = import_av()
    try:
        yield
    except VideoDecodeError:
        raise
    except av.error.InvalidDataError as error:
        reason = "it is damaged there"
        if frame is None:
            reason = "it is not a video, is damaged, or is of a kind that FFmpeg does not know"
        raise unreadable(path, reason, frame=frame) from error
    except av.error.FFmpegError as error:
        raise unreadable(path, error.strerror or str(error), frame=frame) from error
    except MemoryError:
        raise
    # PyAV raises nearly anything where FFmpeg knows more kinds of something than it does.
    except Exception as error:
        raise unreadable(path, f"PyAV says: {first_line(error)}", frame=frame) from error


class PyAVReader(VideoReader):
    """A video file, decoded by PyAV on one thread: reading processes share the cores already.

    Opening reads the file's packets once, without decoding, and decodes the first frame. Where each packet is
    a frame with a time of its own, a frame is then reached from the last keyframe before it; in other files
    (avi, VP8) opening decodes everything once to count the frames, and a frame is reached from the start.
    Reading on from where the last reading ended needs neither.

    Args:
        source: The file, or its bytes.

    Attributes:
        times: When each frame is shown, in units of ``time_base``, ascending; ``None`` in files of the second
            kind.
        time_base: Seconds a unit, a fraction; ``None`` with ``times``.

    Raises:
        VideoDecodeError: It cannot be read, or holds no frame.
        ImportError: PyAV is missing.
    """

    times: list[int] | None = None
    time_base: Any = None

    def __init__(self, source: VideoSource) -> None:
        self.path = source.path
        self._source = source
        self._av = import_av()
        self._container: Any = None
        self._file: BinaryIO | None = None
        try:
            with _clear_errors(self.path):
                num_frames, first = self._survey()
                height, width, _ = _upright(first).shape
        except BaseException:
            self.close()
            raise
        super().__init__(
            self.path,
            num_frames=num_frames,
            frames_per_second=self._rate(),
            size=(height, width),
        )

    def close(self) -> None:
        """See :meth:`VideoReader.close`."""
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def decode(self, indices: Sequence[int]) -> list[Tensor]:
        """See :meth:`VideoReader.decode`."""
        return [check_frame_size(self, self._frame(index), index) for index in indices]

    def _restart(self) -> None:
        """Open the file at its first frame."""
        self.close()
        self._file = self._source.opened()
        self._container = container = open_container(self._file)
        # Music carries its cover as a stream of one picture.
        cover = self._av.stream.Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & cover]
        if not streams:
            raise unreadable(self.path, "it holds no video stream")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise unreadable(self.path, "FFmpeg has no decoder for its video stream")
        self._stream.codec_context.thread_count = 1
        self._decoded = container.decode(self._stream)
        self._next = 0
        self._is_damaged = False

    def _survey(self) -> tuple[int, Any]:
        """Count the frames, note their times if they can be told from packets, and return the first frame."""
        # Packets are counted: the number in a header is often missing, and rate times length is wrong for
        # frames that come unevenly.
        times: list[int | None] = []
        keyframes, num_packets, end = [], 0, 0.0
        self._restart()
        for packet in self._container.demux():
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * float(packet.time_base))
            # The empty packets without a time, at the end, tell decoders to finish.
            if packet.stream.index != self._stream.index or (packet.size == 0 and packet.dts is None):
                continue
            num_packets += 1
            if packet.is_keyframe:
                keyframes.append(packet.pts)
            # An edit list discards what it leaves out.
            if not packet.is_discard:
                times.append(packet.pts)
        self._source.check_count(found=num_packets, declared=self._stream.frames, stream=self._stream.index)
        ends = (self._container.start_time or 0) + (self._container.duration or 0)
        self._source.check_seconds(found=end, declared=ends / self._av.time_base)
        self._restart()
        first = next(self._decoded, None)
        if first is None:
            raise unreadable(self.path, "no frame of it decodes")
        self._next, self._is_damaged = 1, first.is_corrupt
        one_each = self._stream.codec_context.name in _ONE_FRAME_A_PACKET
        # avi writes down in which order frames are decoded, not when they are shown.
        timed = self._container.format.name != "avi" and None not in times and first.pts in times
        if one_each and timed and len(set(times)) == len(times):
            self._take_times([time for time in times if time is not None], keyframes, first.pts)
            return len(self._place_of), first
        num_frames = 1 + sum(1 for _ in self._decoded)
        self._restart()
        return num_frames, first

    def _rate(self) -> float | None:
        """Return the frames in a second, ``None`` where nothing says."""
        rate = self._stream.average_rate
        # A frame at each tick of the clock: where that is true the guess is the same. Of the raw files of DV
        # camcorders, whose clock ticks 60,000 times a second, it is not.
        if not rate or rate * self._stream.time_base == 1:
            rate = self._stream.guessed_rate or rate
        return float(rate) if rate else None

    def _take_times(self, times: list[int], keyframes: list[int | None], first_time: int) -> None:
        """Note when the frames are shown, and where decoding can start."""
        # A file that was cut out of another may start with frames whose keyframe was left behind.
        self.times = sorted(time for time in times if time >= first_time)
        self.time_base = self._stream.time_base
        self._place_of = {time: place for place, time in enumerate(self.times)}
        self._keyframes = sorted(self._place_of[time] for time in keyframes if time in self._place_of)

    def _frame(self, index: int) -> Tensor:
        """Return a frame, decoded from where the last reading ended or from a keyframe."""
        if self._container is None:
            raise ValueError(f"{self.path} is closed: open it again")
        with _clear_errors(self.path, index):
            sought = self._go_before(index)
            frame = self._decode_to(index)
            if frame is None and sought:
                # The container's idea of a keyframe was wrong; from the start there is no doubt.
                self._restart()
                frame = self._decode_to(index)
            if frame is None:
                raise unreadable(self.path, "it does not decode", frame=index)
            if self._is_damaged:
                raise unreadable(self.path, "it, or a frame that it builds on, is damaged", frame=index)
            return _upright(frame)

    def _go_before(self, index: int) -> bool:
        """Go to the last keyframe at or before ``index`` unless reading on is nearer; whether it went."""
        if self.times is None:
            if index < self._next:
                self._restart()
            return False
        place = max((each for each in self._keyframes if each <= index), default=0)
        if place <= self._next <= index:
            return False
        if place == 0:
            self._restart()
            return False
        try:
            self._container.seek(self.times[place], stream=self._stream)
        except self._av.error.FFmpegError:
            # Not every container can be sought in.
            self._restart()
            return False
        self._decoded = self._container.decode(self._stream)
        self._is_damaged = False
        return True

    def _decode_to(self, index: int) -> Any:
        """Decode on to frame ``index`` and return it, or ``None`` if it does not come."""
        for frame in self._decoded:
            place = self._next if self.times is None else self._place_of.get(frame.pts)
            if place is None:
                continue
            self._next = place + 1
            # Decoders mark the frame where they notice damage; what is built on it looks fine to them.
            self._is_damaged = frame.is_corrupt or (self._is_damaged and not frame.key_frame)
            if place >= index:
                return frame if place == index else None
        return None


def _upright(frame: Any) -> Tensor:
    """Return a decoded frame as it is meant to be seen, uint8 (H, W, 3)."""
    # On one thread: threads of FFmpeg that a frame still holds when a process is forked would be waited for
    # for ever where the child collects the frame.
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24", threads=1))
    matrix = display_matrix(frame)
    return pixels if matrix is None else oriented(pixels, matrix)
