"""Which frames a sampling reads: more than are held at their full size at a time."""

import pytest
import torch

from nonlocalnn.data.video.sampling import CentreClip, RandomClip, Views, WholeFrames


class Numbered:
    """A video each of whose frames is its own number."""

    def __init__(self, num_frames):
        self.num_frames = num_frames
        self.read_at_once = []

    def read(self, indices):
        assert list(indices) == sorted(set(indices))
        self.read_at_once.append(len(indices))
        return torch.stack([torch.full((8, 10, 3), index, dtype=torch.uint8) for index in indices])


def numbers(clip):
    assert torch.equal(clip.amin((1, 2, 3)), clip.amax((1, 2, 3)))
    return clip[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("frames", [15, 16, 17, 40])
@pytest.mark.parametrize("sampling", [CentreClip(8), WholeFrames(8)], ids=["centre", "whole"])
def test_long_clips(sampling, frames):
    video = Numbered(frames * 2)
    first = (frames * 2 - (frames * 2 - 1)) // 2
    assert numbers(sampling.take(video, frames=frames, stride=2)) == list(range(first, 2 * frames, 2))
    assert sum(video.read_at_once) == frames
    assert max(video.read_at_once) <= 16


def test_long_random_clips():
    video = Numbered(50)
    taken = RandomClip((8, 8), 8).take(video, frames=40, stride=1, generator=torch.Generator().manual_seed(0))
    found = numbers(taken)
    assert found == list(range(found[0], found[0] + 40))


def test_short_videos_start_over_beyond_the_first_chunk():
    assert numbers(CentreClip(8).take(Numbered(20), frames=45, stride=1)) == [
        *range(20),
        *range(20),
        *range(5),
    ]


def test_views_of_long_clips():
    taken = Views(num_clips=3, num_crops=1, size=8).take(Numbered(60), frames=20, stride=1)
    assert [numbers(view) for view in taken] == [list(range(start, start + 20)) for start in (0, 20, 40)]
