"""What is taken of a video."""

from nonlocalnn.data.video import open_video
from nonlocalnn.data.video_sampling import CentreClip, Views
from videos import NUM_FRAMES, numbers


def test_a_clip_longer_than_what_is_scaled_at_a_time(videos):
    with open_video(videos / "plain.mp4") as video:
        clip = CentreClip(32).take(video, frames=NUM_FRAMES, stride=1)
        views = Views(num_clips=2, num_crops=1, size=32).take(video, frames=20, stride=2)
    assert numbers(clip) == list(range(NUM_FRAMES))
    even = list(range(0, NUM_FRAMES, 2))
    assert [numbers(view) for view in views] == [even, even[10:] + even[:10]]
