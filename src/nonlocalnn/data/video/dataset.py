"""Clips of labelled videos as a data set that torch's ``DataLoader`` reads."""

import os

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice, check_positive
from nonlocalnn._names import BACKENDS
from nonlocalnn.data.labelled import LabelledSamples
from nonlocalnn.data.left_out import UNREADABLE, LeftOut
from nonlocalnn.data.normalization import ChannelValues
from nonlocalnn.data.video import clips
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.data.video.named import load_video_set
from nonlocalnn.data.video.opening import open_video
from nonlocalnn.data.video.sampling import CentreClip, RandomClip, Views, choose_sampling
from nonlocalnn.data.video.source import VideoDecodeError, VideoPath

__all__ = ["UNREADABLE", "CentreClip", "RandomClip", "VideoClips", "Views"]


class VideoClips(LabelledSamples):
    """Labelled samples that are clips of videos; see :class:`~nonlocalnn.data.labelled.LabelledSamples`.

    ``dataset[i]`` is ``(clip, target)``: float32 (3, T, H, W), or (V, 3, T, H, W) with :class:`Views`; and
    the index of the class, or where videos may show several float32 (K,) of zeros and ones.

    With :class:`RandomClip` each item draws from torch's global CPU generator, one number only, so seeding
    that before an item is read fixes it; the training loop does so for every sample from (seed, epoch,
    index).

    **Videos that cannot be read** are warned of and listed in :attr:`broken`; more than ``max_broken`` are an
    error, and so is a list of which none can be read. Until then, in training another video of the list
    stands in, always the same one for the same random numbers. In validation and test the item is a clip of
    zeros with the target :data:`UNREADABLE`, (K,) of it where videos may show several: leave it out of every
    figure. The processes of a ``DataLoader`` count together, the ranks of a distributed run each for itself.

    Args:
        videos: What there is.
        frames: Frames of a clip, T.
        stride: Frames from one of a clip to the next, at the video's own rate.
        sampling: Which clip and which part of it.
        backend: What decodes; see :func:`~nonlocalnn.data.video.open_video`.
        max_broken: Up to how many videos that cannot be read are left out.
        mean: What becomes 0; see :func:`~nonlocalnn.data.video.clips.normalize_clip`.
        standard_deviation: What becomes a distance of 1.

    Attributes:
        videos, frames, stride, sampling: As given.
        multi_label: Whether a video may show several classes, or none.
        sample_shape: (3, T, H, W), the shape of a clip.

    Raises:
        ValueError: A number is out of range, or the backend unknown; on reading, too many videos are broken
            (:class:`~nonlocalnn.data.video.VideoDecodeError`).

    Memory: a clip is 12 x T x H x W bytes, 4.6 MiB for 8 frames of 224 x 224, and so is each view; until it
        is normalised a quarter of that. The frames that it is made of are held at 8 bits and scaled, 16 at a
        time at their own size.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(9):
        ...     Image.new("L", (40, 30), number).save(folder / f"{number}.png")
        >>> videos = VideoList((folder,), targets=(0,), classes=("dark",))
        >>> VideoClips(videos, frames=4, stride=2, sampling=CentreClip(size=24))[0][0].shape
        torch.Size([3, 4, 24, 24])
        >>> VideoClips(videos, frames=4, stride=2, sampling=Views(num_clips=2, size=24))[0][0].shape
        torch.Size([6, 3, 4, 24, 24])
    """

    # Those of the test are: the paper trains on squares of 224 pixels and tests on such of 256.
    exceeds_training = True
    evaluation_batch = 8
    kind = "videos"

    def __init__(
        self,
        videos: VideoList,
        *,
        frames: int,
        stride: int,
        sampling: RandomClip | CentreClip | Views,
        backend: str = "pyav",
        max_broken: int = 0,
        mean: ChannelValues = clips.MEAN,
        standard_deviation: ChannelValues = clips.STANDARD_DEVIATION,
    ) -> None:
        check_positive(frames=frames, stride=stride)
        check_choice("backend", backend, BACKENDS)
        super().__init__(
            classes=videos.classes,
            sample_shape=(3, frames, sampling.size, sampling.size),
            targets=videos.targets,
        )
        self.normalize(mean, standard_deviation)
        self.videos = videos
        self.frames = frames
        self.stride = stride
        self.sampling = sampling
        self.multi_label = videos.multi_label
        self.num_views = None if isinstance(sampling, RandomClip) else sampling.num_views
        self.views = None if isinstance(sampling, RandomClip) else sampling.name
        self._backend = backend
        self._left_out = LeftOut(len(videos), max_broken=max_broken, kind="videos")

    def read(self, index: int, generator: torch.Generator | None = None) -> Tensor:
        """Return the clip or the views of video ``index``; a generator says which, where they are random."""
        with open_video(self.videos.paths[index], backend=self._backend) as video:
            if isinstance(self.sampling, RandomClip):
                assert generator is not None
                clip = self.sampling.take(video, frames=self.frames, stride=self.stride, generator=generator)
            else:
                clip = self.sampling.take(video, frames=self.frames, stride=self.stride)
        return clips.normalize_clip(clip, mean=self.mean, standard_deviation=self.standard_deviation)

    def sample_id(self, index: int) -> str:
        """Return the path of video ``index``; in an archive, that of the archive and its name there."""
        return str(self.videos.paths[index])

    @property
    def broken(self) -> list[VideoPath]:
        """The videos that could not be read so far."""
        return [self.videos.paths[index] for index in self._left_out.indices]

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        index = range(len(self))[index]  # its IndexError is what ends iteration
        is_random = isinstance(self.sampling, RandomClip)
        seed = int(torch.randint(1 << 62, ())) if is_random else 0
        while True:
            # A generator an attempt: the next one must not depend on how far this one came.
            generator = torch.Generator().manual_seed(seed)
            if not self._left_out.holds(index):
                try:
                    return self.read(index, generator), self._target(index)
                except (VideoDecodeError, FileNotFoundError) as error:
                    self._leave_out(index, error)
            # A figure must be of the videos that it is said of; a training step may take any.
            if not is_random:
                return self._stand_in()
            seed += 1
            index = int(torch.randint(len(self), (), generator=generator.manual_seed(seed)))

    def _target(self, index: int) -> int | Tensor:
        target = self.videos.targets[index]
        if isinstance(target, int):
            return target
        several = torch.zeros(len(self.classes))
        several[list(target)] = 1
        return several

    def _stand_in(self) -> tuple[Tensor, int | Tensor]:
        views = (self.num_views,) if isinstance(self.sampling, Views) else ()
        clip = torch.zeros(*views, *self.sample_shape)
        if self.multi_label:
            return clip, torch.full((len(self.classes),), float(UNREADABLE))
        return clip, UNREADABLE

    def _leave_out(self, index: int, error: Exception) -> None:
        """Count a video that cannot be read.

        Raises:
            VideoDecodeError: There are too many, or no other is left.
        """
        complaint = self._left_out.add(index, error)
        if complaint is not None:
            frame = error.frame if isinstance(error, VideoDecodeError) else None
            raise VideoDecodeError(complaint, path=self.videos.paths[index], frame=frame) from error


def load_videos(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    image_size: int | None = None,
    augment: bool = False,
    frames: int = 8,
    stride: int = 8,
    views: int = 1,
    decoder: str = "pyav",
    max_broken: int = 0,
) -> VideoClips:
    """Load a split of a set of videos as clips.

    Args: See :func:`nonlocalnn.data.load_dataset`; ``image_size`` is 256 by default, of random clips 224.

    Raises:
        ValueError: A setting is out of range, or a list cannot be understood.
        FileNotFoundError: The videos or their lists are not there.
    """
    check_choice("decoder", decoder, BACKENDS)
    if image_size is not None:
        check_positive(image_size=image_size)
    sampling: RandomClip | CentreClip | Views
    if augment:
        size = 224 if image_size is None else image_size
        sampling = RandomClip(clips.training_sides(size), crop_size=size)
    else:
        sampling = choose_sampling(views, size=256 if image_size is None else image_size)
    return VideoClips(
        load_video_set(name, split, data_dir=data_dir),
        frames=frames,
        stride=stride,
        sampling=sampling,
        backend=decoder,
        max_broken=max_broken,
    )
