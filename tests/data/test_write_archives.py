"""Writing archives: what is refused, and going on after a stop."""

import os
import shutil

import pytest
from PIL import Image

from nonlocalnn.data import write_archives
from nonlocalnn.data.archives.images import load_archives


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images of two classes, eight for training and two for each other split."""
    folder = tmp_path_factory.mktemp("images")
    for split, number in (("train", 4), ("validation", 1), ("test", 1)):
        for offset, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for place in range(number):
                Image.new("L", (6, 5), 10 * place + offset).save(folder / split / name / f"{place}.png")
    return folder


def test_writing_refuses_what_would_mix(images, tmp_path):
    write_archives(images, tmp_path / "full")
    with pytest.raises(ValueError, match="must hold no archives yet"):
        write_archives(images, tmp_path / "full", samples_per_archive=3)
    with pytest.raises(ValueError, match="samples_per_archive must be at least 1; got 0"):
        write_archives(images, tmp_path, samples_per_archive=0)
    with pytest.raises(ValueError, match="output must be another folder than data_dir"):
        write_archives(images, images / "train" / "..")
    with pytest.raises(ValueError, match=r"kind must be one of 'images', 'videos'; got 'video'"):
        write_archives(images, tmp_path, kind="video")


class Stopped(Exception):
    pass


def stop_after(number):
    def watch(paths):
        yield from paths[:number]
        raise Stopped

    return watch


def archives(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar"}


def test_writing_goes_on_where_it_was_stopped(images, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    stopped.mkdir()
    write_archives(images, whole, samples_per_archive=3)
    # What a set of before says must not make the first archives of this one a set.
    (stopped / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(Stopped):
        write_archives(images, stopped, samples_per_archive=3, watch=stop_after(2))
    assert sorted(archives(stopped)) == ["train-000000.tar", "train-000001.tar"]
    with pytest.raises(FileNotFoundError, match=r"classes\.txt is missing"):
        load_archives(stopped, "train")
    (stopped / ".train-000002.tar.x.part").write_bytes(b"left by a kill")
    before = (stopped / "train-000001.tar").stat().st_mtime_ns
    write_archives(os.path.relpath(images), stopped, samples_per_archive=3)
    assert (stopped / "train-000001.tar").stat().st_mtime_ns == before
    assert archives(stopped) == archives(whole)
    left = [path.name for path in stopped.iterdir() if path.suffix != ".tar"]
    assert left == ["classes.txt"]


def test_a_finished_set_is_left_as_it_is(images, tmp_path):
    counts = write_archives(images, tmp_path, samples_per_archive=3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    asked = []
    assert write_archives(images, tmp_path, samples_per_archive=3, watch=asked.append) == counts
    assert asked == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")} == before


@pytest.mark.parametrize(
    "change", ["a size", "a class", "one more", "another's archive", "none of one number"]
)
def test_a_finished_set_of_something_else_is_not_taken_for_it(images, tmp_path, change):
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(images, source)
    write_archives(source, output, samples_per_archive=3)
    first = source / "train" / "cat" / "0.png"
    if change == "a size":
        first.write_bytes(first.read_bytes() + b"more")
    elif change == "a class":
        for split in ("train", "validation", "test"):
            (source / split / "cat").rename(source / split / "cow")
    elif change == "one more":
        shutil.copy(first, first.with_name("9.png"))
    elif change == "another's archive":
        shutil.copy(output / "test-000000.tar", output / "test-000001.tar")
    else:
        (output / "train-000002.tar").unlink()
    with pytest.raises(ValueError, match="must hold no archives yet"):
        write_archives(source, output, samples_per_archive=3)


@pytest.mark.parametrize("change", ["size", "source"])
def test_writing_does_not_go_on_with_something_else(images, tmp_path, change):
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(images, source)
    with pytest.raises(Stopped):
        write_archives(source, output, samples_per_archive=3, watch=stop_after(1))
    if change == "source":
        (source / "train" / "cat" / "0.png").rename(source / "train" / "cat" / "00.png")
    with pytest.raises(ValueError, match="must hold no archives yet, or some that the same call began"):
        write_archives(source, output, samples_per_archive=4 if change == "size" else 3)


def test_writing_removes_what_a_kill_left(images, tmp_path):
    (tmp_path / ".test-000000.tar.abc.part").touch()
    write_archives(images, tmp_path)
    assert not list(tmp_path.glob(".*"))
