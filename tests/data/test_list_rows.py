"""Lists of videos as other programs write them."""

import pytest

from nonlocalnn.data.video.lists import read_video_list

READ = {
    "three columns": ("run/a 250 0\nrun/b 300 1\n", ["run/a", "run/b"], (0, 1)),
    "three columns, comma": ("Smith, J/c,250,0\n", ["Smith, J/c"], (0,)),
    "three columns, tab": ("a b\t250\t0\nc\t9\t1\n", ["a b", "c"], (0, 1)),
    "header of three": ("frame_dir total_frames label\na/b 20 0\n", ["a/b"], (0,)),
    "quoted": ('"a, b.mp4",0\nc.mp4,1\n"5"" x.mp4",1\n', ["a, b.mp4", "c.mp4", '5" x.mp4'], (0, 1, 1)),
    "quoted, semicolon": ('"a;b.mp4";0\n"c.mp4";1\n', ["a;b.mp4", "c.mp4"], (0, 1)),
    "quoted, space": ('"a b.mp4" 0\n', ["a b.mp4"], (0,)),
    "semicolon": ("a.mp4;0\nb, c.mp4;1\n", ["a.mp4", "b, c.mp4"], (0, 1)),
    "tab": ("a b.mp4\t0\nc.mp4\t1\n", ["a b.mp4", "c.mp4"], (0, 1)),
    "spaces, comma in the path": ("a,  b.mp4 1\nSmith, J/c 0\n", ["a,  b.mp4", "Smith, J/c"], (1, 0)),
    "header": ("path,label\nb c.mp4,1\nSmith, J.mp4,0\n", ["b c.mp4", "Smith, J.mp4"], (1, 0)),
    "header, label first": ("label,path\n0,a.mp4\n1,x/b.mp4\n", ["a.mp4", "x/b.mp4"], (0, 1)),
    "pandas": (",path,label\n0,a.mp4,1.0\n1,b.mp4,0.0\n", ["a.mp4", "b.mp4"], (1, 0)),
    "Windows": ("\ufeffwalk\\1.mp4 0\r\nb.mp4 1\r\n\r\n\r\n", ["walk/1.mp4", "b.mp4"], (0, 1)),
}
READ |= {
    "names with commas in quotes": ('a.mp4,"run, then walk"\nb.mp4,sit\n', ["a.mp4", "b.mp4"], (0, 1)),
    "a path that holds an ending": ("a.mp4 cut.mp4 0\nb.mp4 1\n", ["a.mp4 cut.mp4", "b.mp4"], (0, 1)),
    "names with numbers": ("a.mp4\tlevel 1\nb.mp4\tlevel 2\n", ["a.mp4", "b.mp4"], (0, 1)),
}
REFUSED = {
    "more columns": ("a.mp4 walk 0\n", "line 1: must be a path and a label; got more after 'a.mp4'"),
    "more columns, comma": ("a.mp4,walk,0\n", "got more after 'a.mp4'"),
    "several labels": ("b/c 9 0\na.mp4 3 5\n", "line 2: .*several numbers after 'a.mp4': leave one label"),
    "several indices": ("a.mp4 0,1\nb.mp4 1\n", "line 1: .*got more after 'a.mp4': '0,1'; leave one label"),
    "several indices, quoted": ('a.mp4,"0,1"\n', "got more after 'a.mp4': '0,1'"),
    "several indices, tab": ("a.mp4\t0 1\n", "got more after 'a.mp4': '0 1'"),
    "several indices, bar": ("a.mp4 0|1\n", "got more after 'a.mp4': '0.1'"),
    "several names": ("a b.mp4 run,walk\n", "got more after 'a b.mp4': 'run,walk'"),
    "several names, semicolon": ("a.mp4;run;walk\n", "must be a path and a label"),
    "offset and frames": ("run/a 0 250 0\n", "several numbers after 'run/a 0'"),
    "label first": ("0 walk/1.mp4\n", "the label must come last; got the file 'walk/1.mp4'"),
    "other columns": ("path,label,split\na.mp4,0,train\n", "got path, label, split"),
    "Kinetics": (
        "label,youtube_id,time_start,time_end,split\nx,y,1,2,t\n",
        "read it with read_kinetics_csv",
    ),
    "an open quote": ('b.mp4,1\n"a.mp4,0\n', "line 2: is not CSV"),
    "too few values": (
        "path\tframes\tlabel\na.mp4\t0\n",
        "line 2: must have 3 values, as the header",
    ),
    "nothing but a header": ("path,label\n", "lists no video"),
}


@pytest.mark.parametrize("name", READ)
def test_lists_that_are_read(tmp_path, name):
    text, paths, targets = READ[name]
    (tmp_path / "list.txt").write_bytes(text.encode())
    videos = read_video_list(tmp_path / "list.txt", root=tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in videos.paths] == paths
    assert videos.targets == targets


@pytest.mark.parametrize("name", REFUSED)
def test_lists_that_are_refused(tmp_path, name):
    text, message = REFUSED[name]
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_video_list(tmp_path / "list.txt", root=tmp_path)


def test_folders_whose_names_end_in_numbers(tmp_path):
    (tmp_path / "clip 1").mkdir()
    (tmp_path / "list.txt").write_text("clip 1 0\nclip 2 1\n")
    videos = read_video_list(tmp_path / "list.txt", root=tmp_path)
    assert [path.name for path in videos.paths] == ["clip 1", "clip 2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("video_name,tag\na.mp4,run\nb.mp4,walk\n", "line 1: 'video_name,tag' has no video's ending"),
        ("datei;klasse\na.mp4;run\n", "line 1: 'datei;klasse' has no video's ending"),
        ("a.mp4 run\n# the rest\nb.mp4 walk\n", "line 2: '# the rest' has no video's ending"),
        ("0,a.mp4,0\n1,b.mp4,1\n", "line 1: '0,a.mp4,0' begins with its number"),
        ("1\ta.mp4\trun\n2\tb.mp4\twalk\n", "line 1: .*must be a path and a label"),
        ("1 ApplyEyeMakeup\n2 Archery\n", "line 1: '1 ApplyEyeMakeup' begins with its number"),
        ("'a b.mp4',0\n'c.mp4',1\n", "line 1: a path is quoted by"),
    ],
)
def test_lines_that_are_no_rows_become_no_videos(tmp_path, text, says):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_video_list(path, root=tmp_path)


def test_such_lines_are_rows_where_their_videos_are(tmp_path):
    path = tmp_path / "list.txt"
    for name in ("1", "2", "clip_of_frames"):
        (tmp_path / name).mkdir()
    for name in ("0,a.mp4", "1,b.mp4"):
        (tmp_path / name).touch()
    for text in ("1 run\n2 walk\n", "0,a.mp4,0\n1,b.mp4,1\n", "clip_of_frames 0\n0,a.mp4 1\n"):
        path.write_text(text)
        assert len(read_video_list(path, root=tmp_path).existing()) == 2
    # Folders of frames that are called by numbers, before they are there.
    for text in ("1 run\n2 walk\n3 run\n", "0 5\n1 2\n2 1\n"):
        path.write_text(text)
        assert len(read_video_list(path, root=tmp_path / "later")) == 3
