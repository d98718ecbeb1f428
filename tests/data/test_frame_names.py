"""Which pictures of a folder are the frames of a video."""

import pytest
from PIL import Image

from nonlocalnn.data.video import VideoDecodeError, open_video
from nonlocalnn.data.video.frame_names import frame_paths
from nonlocalnn.data.video.lists import is_video


def fill(folder, names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def found(folder):
    return [path.name for path in frame_paths(folder)]


@pytest.mark.parametrize(
    ("rgb", "flow"),
    [
        ("img_{:05d}.jpg", ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg")),
        ("image_{:04d}.jpg", ("x_{:04d}.jpg", "y_{:04d}.jpg")),
        ("{:06d}.png", ("flow_{:06d}.png",)),
        ("frame{:03d}.jpg", ("flowx{:03d}.jpg", "flowy{:03d}.jpg")),
        ("v_Run_g01_c01_{:04d}.jpg", ("u{:04d}.jpg", "v{:04d}.jpg")),
    ],
)
def test_flow_pictures_are_no_frames(tmp_path, rgb, flow):
    names = [rgb.format(number) for number in range(1, 13)]
    others = [each.format(number) for each in flow for number in range(12)]
    assert found(fill(tmp_path / "a", [*names, *others])) == names


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.jpg", "10.jpg"][:2],
        ["img_00001.jpg", "img_00006.jpg", "img_00011.jpg", "img_00016.jpg"],
        ["f_000000.png", "f_000033.png", "f_000067.png", "f_000100.png"],
        ["IMG_0007.JPG", "img_0008.jpg", "img_0009.png"],
        ["b7.jpg", "b8.jpg", "b9.jpg", "b10.jpg"],
        ["2024-05-01_10-30-12.jpg", "2024-05-01_10-31-02.jpg", "2024-05-01_11-00-00.jpg"],
        ["frame0_t0.000.jpg", "frame1_t0.040.jpg", "frame2_t0.080.jpg"],
        ["first.jpg", "second.jpg", "third.jpg"],
    ],
)
def test_series_of_any_start_and_step(tmp_path, names):
    leftovers = ["Thumbs.db", ".DS_Store", "notes.txt", "sound.wav"]
    assert found(fill(tmp_path / "a", [*reversed(names), *leftovers])) == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["1.jpg", "2.jpg", "4.jpg", "5.jpg"],
            r"missing between 2\.jpg and 4\.jpg, where numbers rise by 2 and mostly by 1",
        ),
        (["f_1.jpg", "f_6.jpg", "f_11.jpg", "f_21.jpg"], r"missing between f_11\.jpg and f_21\.jpg"),
        (["img_1.jpg", "img_2.jpg", "depth_1.png", "depth_2.png"], "it holds 2 kinds of names"),
        (["img_1.jpg", "img_2.jpg", "cover.jpg"], r"cover\.jpg \(1\)"),
        (["sea.jpg", "IMG_2.jpg", "p7.jpg"], "where these are photographs and no frames, give videos"),
        (["flow_x_1.jpg", "flow_y_1.jpg"], r"flow_x_1\.jpg \(1\), flow_y_1\.jpg \(1\)"),
        (["1.jpg", "1.png", "2.jpg"], r"1\.jpg and 1\.png have the same"),
        (["01.jpg", "1.jpg"], "have the same"),
        (["f1.jpg", "f1 (1).jpg", "f2.jpg"], "2 kinds of names"),
    ],
)
def test_folders_that_are_not_one_whole_video(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        frame_paths(fill(tmp_path / "a", names))
    with pytest.raises(VideoDecodeError, match=message):
        open_video(tmp_path / "a")


def test_a_preview_beside_frames_is_no_video_of_its_own(tmp_path):
    assert is_video(fill(tmp_path / "a", ["1.jpg", "2.jpg", "preview.gif"]))
    assert not is_video(fill(tmp_path / "b", ["1.gif", "2.gif", "cover.jpg"]))
    assert not is_video(fill(tmp_path / "c", ["1.mp4", "1.jpg", "2.jpg"]))


def test_frames_in_other_formats(tmp_path):
    for suffix in ("webp", "bmp", "tif"):
        (tmp_path / suffix).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 6), (50 * number,) * 3).save(tmp_path / suffix / f"{number}.{suffix}")
        with open_video(tmp_path / suffix) as video:
            assert len(video) == 3
            assert abs(int(video.read([2])[0, 0, 0, 0]) - 100) < 3
