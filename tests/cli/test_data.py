"""``nonlocalnn data``, called by its function."""

import pytest

from nonlocalnn.cli.data import run
from nonlocalnn.data import load_dataset, write_archives
from nonlocalnn.data.cue import load_cue
from nonlocalnn.data.video import open_video
from nonlocalnn.data.video.named import load_video_set
from videos import cut, grey_frames, write_video


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a folder of three whole videos, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("whole")
    write_video(folder / "a.mp4", grey_frames(6))
    write_video(folder / "deep" / "b.mkv", grey_frames(8))
    write_video(folder / "c.mp4", grey_frames(3), movflags="faststart")
    return folder


@pytest.fixture
def damaged(whole, tmp_path):
    """Return a folder with a whole video and two that are not."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    cut(whole / "a.mp4", folder / "a.mp4", 1.0)
    cut(whole / "c.mp4", folder / "cut.mp4", 0.8)
    (folder / "text.mp4").write_text("not a video")
    return folder


def test_checking_whole_videos(whole, capsys):
    assert run(["check", str(whole), "--workers", "1"]) == 0
    assert capsys.readouterr().out == "3 videos, 0 broken\n"


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_checking_lists_what_is_broken(damaged, capsys, workers):
    assert run(["check", str(damaged), "--workers", workers]) == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"cannot read video {damaged / 'cut.mp4'}: it is cut")
    assert second.startswith(f"cannot read video {damaged / 'text.mp4'}: it is not a video")
    assert last == "3 videos, 2 broken"


def test_shrinking_a_folder_and_going_on(whole, tmp_path, capsys):
    target = tmp_path / "small"
    words = ["shrink", str(whole), str(target), "--short-side", "24", "--workers", "1"]
    assert run(words) == 0
    assert capsys.readouterr().out == f"3 videos: 3 made, 0 kept, 0 broken; results in {target}\n"
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*.*"))
    assert found == ["a.mp4", "c.mp4", "deep/b.mp4"]
    with open_video(target / "deep" / "b.mp4") as video:
        assert (video.num_frames, video.size) == (8, (24, 32))
    (target / "a.mp4").unlink()
    before = (target / "c.mp4").stat().st_mtime_ns
    assert run(words) == 0
    assert "1 made, 2 kept, 0 broken" in capsys.readouterr().out
    assert (target / "c.mp4").stat().st_mtime_ns == before


def test_shrinking_lists_what_is_broken(damaged, tmp_path, capsys):
    target = tmp_path / "small"
    assert run(["shrink", str(damaged), str(target), "--workers", "1"]) == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert "it is cut" in first
    assert "it is not a video" in second
    assert last.startswith("3 videos: 1 made, 0 kept, 2 broken")
    assert [path.name for path in target.iterdir()] == ["a.mp4"]


def test_folders_that_do_not_go_together(whole, tmp_path):
    with pytest.raises(ValueError, match="TARGET must lie outside of SOURCE"):
        run(["shrink", str(whole), str(whole / "small")])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run(["shrink", str(tmp_path / "none"), str(tmp_path / "small")])
    twins = tmp_path / "twins"
    write_video(twins / "a.mp4", grey_frames(1))
    write_video(twins / "a.mkv", grey_frames(1))
    with pytest.raises(ValueError, match=r"several videos of .* would become .*a\.mp4: rename all but one"):
        run(["shrink", str(twins), str(tmp_path / "small")])
    from PIL import Image

    (tmp_path / "only" / "frames").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "only" / "frames" / "1.png")
    with pytest.raises(ValueError, match="holds no video file; folders of frames are not shrunk"):
        run(["shrink", str(tmp_path / "only"), str(tmp_path / "small")])
    with pytest.raises(ValueError, match="--workers must be at least 1; got 0"):
        run(["check", str(whole), "--workers", "0"])


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        run(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("nonlocalnn data", "--short-side", "--workers", "--decoder", "--videos", "--per-archive"):
        assert word in text


@pytest.mark.parametrize("words", [[], ["chekc"], ["check"], ["shrink", "a"], ["archives", "a"]])
def test_wrong_calls(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nonlocalnn data")
    assert line.endswith("--help")


def test_a_process_that_is_ended_is_an_error(whole, monkeypatch, capsys):
    from concurrent.futures.process import BrokenProcessPool

    from nonlocalnn.cli import data

    class Pool:
        def __init__(self, *arguments, **settings):
            pass

        def map(self, function, items):
            raise BrokenProcessPool("gone")

        def shutdown(self, *, cancel_futures):
            pass

    monkeypatch.setattr(data, "ProcessPoolExecutor", Pool)
    with pytest.raises(OSError, match="a process was ended from outside"):
        run(["check", str(whole), "--workers", "2"])


def test_writing_generated_videos_and_going_on(tmp_path, capsys):
    words = ["cue", str(tmp_path), "--samples", "3"]
    assert run(words) == 0
    assert f"test: 3 generated videos in {tmp_path / 'test'}" in capsys.readouterr().out
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.mp4"))
    assert found[:3] == ["test/0/0000.mp4", "test/1/0001.mp4", "test/2/0002.mp4"]
    assert len(found) == 9
    clip, _ = load_cue("cue", "test")[2]
    with open_video(tmp_path / "test" / "2" / "0002.mp4") as video:
        assert (video.num_frames, video.size) == (8, (128, 128))
        frames = video.read(range(8)).float() / 255
    shrunk = frames.permute(3, 0, 1, 2).unflatten(2, (32, 4)).unflatten(4, (32, 4)).mean((3, 5))
    # Compressed, but every colour and digit is where it was.
    assert (shrunk - clip).abs().mean() < 0.03
    first = tmp_path / "test" / "0" / "0000.mp4"
    first.unlink()
    before = (tmp_path / "test" / "1" / "0001.mp4").stat().st_mtime_ns
    assert run(words) == 0
    assert first.exists()
    assert (tmp_path / "test" / "1" / "0001.mp4").stat().st_mtime_ns == before


def test_a_wrong_number_of_generated_videos(tmp_path):
    with pytest.raises(ValueError, match="--samples must be at least 1; got 0"):
        run(["cue", str(tmp_path), "--samples", "0"])


@pytest.fixture
def classes(whole, tmp_path):
    """Return a folder of five videos for training, of which one is cut, and one for the test."""
    folder = tmp_path / "classes"
    for number in range(5):
        write_video(folder / "train" / f"{number % 2}" / f"{number}.mp4", grey_frames(2))
    cut(whole / "c.mp4", folder / "train" / "1" / "3.mp4", 0.8)
    for name in "01":
        write_video(folder / "test" / name / "a.mkv", grey_frames(1))
    return folder


def test_videos_are_put_into_archives(classes, tmp_path, capsys):
    output = tmp_path / "archives"
    words = ["archives", str(classes), str(output), "--videos", "--per-archive", "3"]
    assert run(words) == 0
    assert capsys.readouterr().out == (
        f"train: 5 videos in archives in {output}\ntest: 2 videos in archives in {output}\n"
    )
    assert len(list(output.glob("train-*.tar"))) == 2
    found = load_video_set("videos", "train", data_dir=output)
    files = load_video_set("videos", "train", data_dir=classes)
    assert [part.read() for part in found.paths] == [path.read_bytes() for path in files.paths]
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert run(words) == 0
    said = f"{output} was whole already, by sizes and classes: nothing was left to write\n"
    assert capsys.readouterr().out.endswith(said)
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.tar")} == before
    write_video(classes / "train" / "1" / "9.mp4", grey_frames(2))
    with pytest.raises(ValueError, match="must hold no archives yet"):
        run(words)


@pytest.mark.slow
def test_archives_are_checked(classes, tmp_path, capsys):
    write_archives(classes, tmp_path / "archives", kind="videos")
    archives = [str(tmp_path / "archives" / f"{split}-000000.tar") for split in ("train", "test")]
    assert run(["check", *archives, str(classes / "test"), "--workers", "2"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"cannot read video {archives[0]}/00000004.mp4: it is cut")
    assert last == "9 videos, 1 broken"
    assert run(["check", archives[1], "--workers", "1"]) == 0
    capsys.readouterr()
    # One that is missing does not keep the others from being checked.
    assert run(["check", str(tmp_path / "none.tar"), archives[1], "--workers", "1"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"there is no file or folder {tmp_path / 'none.tar'}"
    assert last.endswith("videos, 0 broken, 1 not found")
    assert run(["check", str(tmp_path / "none.tar"), "--workers", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["nothing to check, 0 broken, 1 not found"]


def test_images_are_put_into_archives(tmp_path, capsys):
    from PIL import Image

    for split in ("train", "validation", "test"):
        (tmp_path / "images" / split / "cat").mkdir(parents=True)
        Image.new("L", (8, 8), 50).save(tmp_path / "images" / split / "cat" / "1.png")
    output = tmp_path / "archives"
    assert run(["archives", str(tmp_path / "images"), str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[2] == f"test: 1 images in archives in {output}"
    assert len(load_dataset("archives", "test", data_dir=output)) == 1


def test_a_wrong_number_of_samples_an_archive(tmp_path):
    with pytest.raises(ValueError, match="--per-archive must be at least 1; got 0"):
        run(["archives", str(tmp_path), str(tmp_path / "archives"), "--per-archive", "0"])
