import pickle
from pathlib import Path

import pytest
from PIL import Image

from nonlocalnn.data.video.lists import Span, VideoList, load_video_folder, read_video_list


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_per_class(tmp_path):
    touch(
        tmp_path, "walk/b.MP4", "walk/a.webm", "run/1.avi", "walk/.hidden.mp4", "run/notes.txt", "loose.mp4"
    )
    touch(tmp_path, ".cache/1.mp4")
    (tmp_path / "run" / "frames").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "run" / "frames" / "1.jpg")
    (tmp_path / "run" / "nothing").mkdir()
    with pytest.warns(UserWarning, match=r"3 entries of .* are passed over") as caught:
        videos = load_video_folder(tmp_path)
    assert len(caught) == 1
    assert videos.classes == ("run", "walk")
    assert [str(path.relative_to(tmp_path)) for path in videos.paths] == [
        "run/1.avi",
        "run/frames",
        "walk/a.webm",
        "walk/b.MP4",
    ]
    assert videos.targets == (0, 0, 1, 1)
    assert (videos.multi_label, videos.spans) == (False, None)


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of videos"):
        load_video_folder(tmp_path / "none")
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match="must hold one folder per class; it holds no folder"):
        load_video_folder(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*run holds no video \(\.mp4"):
        load_video_folder(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a/1.mp4 0\nb 2.mp4\t2\n",
        "a/1.mp4,0\n\nb 2.mp4 , 2",
        "\ufeffa/1.mp4 0\r\nb 2.mp4 2\r\n",
    ],
    ids=["spaces", "commas", "windows"],
)
def test_a_list_with_indices(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    videos = read_video_list(path, root="videos")
    assert videos.paths == (Path("videos/a/1.mp4"), Path("videos/b 2.mp4"))
    assert (videos.targets, videos.classes) == ((0, 2), ("0", "1", "2"))
    named = read_video_list(path, root="videos", classes=["run", "jump", "walk", "swim"])
    assert (named.targets, named.classes) == ((0, 2), ("run", "jump", "walk", "swim"))


def test_a_list_with_names(tmp_path):
    path = write(tmp_path / "list.txt", "1.mp4, playing guitar\n2.mp4, running\n3.mp4, playing guitar\n")
    videos = read_video_list(path, root=tmp_path)
    assert (videos.targets, videos.classes) == ((0, 1, 0), ("playing guitar", "running"))
    assert read_video_list(path, root=tmp_path, classes=("running", "playing guitar")).targets == (1, 0, 1)
    with pytest.raises(
        ValueError, match=r"list\.txt, line 2: no class is called 'running' \(did you mean 'runing'"
    ):
        read_video_list(path, root=tmp_path, classes=("playing guitar", "runing"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.mp4 0\nb.mp4\n", r"line 2: must be a path and a label; got 'b\.mp4'"),
        ("a.mp4,\n", r"line 1: must be a path and a label; got 'a\.mp4,'"),
        (",0\n", "line 1: must be a path and a label"),
        ("a.mp4 0\n\nb.mp4 run\n", "line 3: labels must be indices on every line, or names"),
        ("a.mp4 run\nb.mp4 1\n", "line 2: labels must be indices on every line, or names"),
        ("a.mp4 0\nb.mp4 -1\n", "line 2: labels must be from 0 up; got -1"),
        ("a.mp4 0\nb.mp4 1\n./a.mp4 1\n", r"line 3: .*a\.mp4 has the label '1', and another in line 1"),
        ("a.mp4 run\na.mp4 walk\n", r"line 2: .*a\.mp4 has the label 'walk', and another in line 1"),
        ("\n \n", r"list\.txt lists no video"),
    ],
)
def test_bad_lists_name_the_line(tmp_path, text, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_video_list(write(tmp_path / "list.txt", text), root=tmp_path)
    assert str(tmp_path / "list.txt") in str(caught.value)


def test_a_video_that_is_listed_twice_alike(tmp_path):
    path = write(tmp_path / "list.txt", "a.mp4 1\nb.mp4 0\na.mp4 1.0\n")
    assert read_video_list(path, root=tmp_path).targets == (1, 0, 1)


def test_labels_beyond_the_classes(tmp_path):
    path = write(tmp_path / "list.txt", "a.mp4 0\nb.mp4 2\n")
    with pytest.raises(
        ValueError, match="line 2: labels must be from 0 to 1, the indices of the classes; got 2"
    ):
        read_video_list(path, root=tmp_path, classes=("run", "walk"))


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such list of videos"):
        read_video_list(tmp_path / "none.txt", root=tmp_path)
    path = write(tmp_path / "list.txt", "caf\xe9.mp4 0\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"must be text in UTF-8; byte 3 is not"):
        read_video_list(path, root=tmp_path)


def test_what_is_there(tmp_path):
    touch(tmp_path, "b.mp4", "d.mp4")
    paths = tuple(tmp_path / f"{name}.mp4" for name in "abcd")
    spans = tuple((Span(target, 0.0, 1.5),) for target in (0, 1, 1, 0))
    videos = VideoList(paths, ((0,), (1,), (1,), (0,)), ("run", "walk"), multi_label=True, spans=spans)
    kept = videos.existing()
    assert (len(videos), len(kept)) == (4, 2)
    assert (kept.paths, kept.targets) == ((paths[1], paths[3]), ((1,), (0,)))
    assert (kept.spans, kept.multi_label) == ((spans[1], spans[3]), True)
    assert pickle.loads(pickle.dumps(kept)) == kept
    with pytest.raises(ValueError, match=r"none of the 1 videos is there; the first would be none\.mp4"):
        VideoList((Path("none.mp4"),), (0,), ("run",)).existing()


@pytest.mark.parametrize(
    ("paths", "targets", "says"),
    [
        ((), (), "must have at least one; it is empty"),
        (("a", "b"), (0,), "there must be 2 targets, one a video; got 1"),
        (("a", "b"), (0, 2), "targets must be from 0 to 1, .* got 2 for b"),
        (("a", "b"), ((0, 1), (1, -1)), "got -1 for b"),
    ],
)
def test_lists_that_contradict_themselves(paths, targets, says):
    with pytest.raises(ValueError, match=says):
        VideoList(tuple(map(Path, paths)), targets, ("run", "walk"))
