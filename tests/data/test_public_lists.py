from pathlib import Path

import pytest

from nonlocalnn.data.video.lists import Span
from nonlocalnn.data.video.public_lists import (
    read_charades_csv,
    read_hmdb51_split,
    read_kinetics_csv,
    read_ucf101_split,
)

KINETICS = """\
label,youtube_id,time_start,time_end,split
"dancing, ballroom",-0abc_DEF-1,0,10,train
abseiling,a1b2c3d4e5f,1234,1244,train
"dancing, ballroom",zzzzzzzzzzz,5,15,train
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_kinetics(tmp_path):
    path = write(tmp_path / "train.csv", KINETICS)
    videos = read_kinetics_csv(path, root="k400")
    assert videos.paths == (
        Path("k400/-0abc_DEF-1_000000_000010.mp4"),
        Path("k400/a1b2c3d4e5f_001234_001244.mp4"),
        Path("k400/zzzzzzzzzzz_000005_000015.mp4"),
    )
    assert (videos.targets, videos.classes) == ((1, 0, 1), ("abseiling", "dancing, ballroom"))
    in_folders = read_kinetics_csv(path, root="k400", class_folders=True)
    assert in_folders.paths[0] == Path("k400/dancing, ballroom/-0abc_DEF-1_000000_000010.mp4")
    more = read_kinetics_csv(path, root="k400", classes=("zumba", "dancing, ballroom", "abseiling"))
    assert more.targets == (1, 2, 1)


def test_kinetics_columns_may_stand_in_any_order(tmp_path):
    text = "split,is_cc,time_end,time_start,youtube_id,label\nval,1,13,3,abc,run\n"
    assert read_kinetics_csv(write(tmp_path / "a.csv", text), root="").paths == (
        Path("abc_000003_000013.mp4"),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "youtube_id,time_start,time_end,split\nabc,0,10,test\n",
            "line 1: the header must name .*lacks label",
        ),
        ("", "line 1: the header must name"),
        ("label,youtube_id,time_start,time_end\n", "lists no video"),
        ("label,youtube_id,time_start,time_end\nrun,abc,0\n", "line 2: must have 4 values; it has 3"),
        (
            "label,youtube_id,time_start,time_end\nrun,abc,0,1\n\nrun,abc,0,1.5\n",
            "line 4: times .* got '1.5'",
        ),
        ("label,youtube_id,time_start,time_end\nrun,abc,-1,9\n", "line 2: times must be whole seconds"),
        ("label,youtube_id,time_start,time_end\n,abc,0,1\n", "line 2: must have a label and a youtube_id"),
        ('label,youtube_id,time_start,time_end\n"run,abc,0,1\n', "line 2: is not CSV"),
    ],
)
def test_bad_kinetics_lists(tmp_path, text, says):
    path = write(tmp_path / "train.csv", text)
    with pytest.raises(ValueError, match=says) as caught:
        read_kinetics_csv(path, root=tmp_path)
    assert str(path) in str(caught.value)


def test_kinetics_labels_that_are_not_among_the_classes(tmp_path):
    path = write(tmp_path / "val.csv", KINETICS)
    with pytest.raises(ValueError, match=r"line 3: no class is called 'abseiling' \(did you mean 'abseil'"):
        read_kinetics_csv(path, root="k400", classes=("dancing, ballroom", "abseil"))


@pytest.fixture
def ucf101(tmp_path):
    write(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\r\n2 Archery\r\n3 HandstandPushups\r\n")
    return tmp_path


def test_ucf101(ucf101):
    classes_path = ucf101 / "classInd.txt"
    train = write(
        ucf101 / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2\nApplyEyeMakeup/v_A_g08_c02.avi 1\n"
    )
    videos = read_ucf101_split(train, root="ucf", classes_path=classes_path)
    assert videos.paths == (
        Path("ucf/Archery/v_Archery_g08_c01.avi"),
        Path("ucf/ApplyEyeMakeup/v_A_g08_c02.avi"),
    )
    assert (videos.targets, videos.classes) == ((1, 0), ("ApplyEyeMakeup", "Archery", "HandstandPushups"))
    test = write(ucf101 / "testlist01.txt", "HandstandPushups/v_HandStandPushups_g01_c01.avi\n")
    videos = read_ucf101_split(test, root="ucf", classes_path=classes_path, suffix=".mp4")
    assert videos.paths == (Path("ucf/HandstandPushups/v_HandStandPushups_g01_c01.mp4"),)
    assert (videos.targets, len(videos.classes)) == ((2,), 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "Archery/a.avi 2\nArchery/b.avi 3\n",
            "line 2: class 'Archery' has number 2 in .*classInd.txt; got 3",
        ),
        ("Archrey/a.avi 2\n", r"line 1: no class is called 'Archrey' \(did you mean 'Archery'"),
        ("a.avi 2\n", r"line 1: must be Class/video\.avi"),
        ("Archery/a.avi two\n", r"line 1: must be Class/video\.avi"),
        ("\n", "lists no video"),
    ],
)
def test_bad_ucf101_lists(ucf101, text, says):
    path = write(ucf101 / "trainlist01.txt", text)
    with pytest.raises(ValueError, match=says):
        read_ucf101_split(path, root="ucf", classes_path=ucf101 / "classInd.txt")


@pytest.mark.parametrize("text", ["1 Archery\n3 Bowling\n", "Archery\n", "0 Archery\n"])
def test_bad_ucf101_classes(ucf101, text):
    path = write(ucf101 / "trainlist01.txt", "Archery/a.avi 1\n")
    with pytest.raises(ValueError, match=r"classes\.txt, line [12]: must be [12] and a class; got"):
        read_ucf101_split(path, root="ucf", classes_path=write(ucf101 / "classes.txt", text))


@pytest.fixture
def hmdb51(tmp_path):
    write(tmp_path / "ride_bike_test_split1.txt", "#437_How_To_ride_0.avi 1 \nb.avi 2 \nc.avi 0 \n")
    write(tmp_path / "brush_hair_test_split1.txt", "d e.avi 2 \nf.avi 1 \n")
    write(tmp_path / "ride_bike_test_split2.txt", "b.avi 1 \n")
    return tmp_path


def test_hmdb51(hmdb51):
    train = read_hmdb51_split(hmdb51, split="train", number=1, root="hmdb")
    assert train.classes == ("brush_hair", "ride_bike")
    assert train.paths == (Path("hmdb/brush_hair/f.avi"), Path("hmdb/ride_bike/#437_How_To_ride_0.avi"))
    assert train.targets == (0, 1)
    test = read_hmdb51_split(hmdb51, split="test", number=1, root="hmdb", suffix=".mp4")
    assert test.paths == (Path("hmdb/brush_hair/d e.mp4"), Path("hmdb/ride_bike/b.mp4"))


def test_bad_hmdb51_lists(hmdb51):
    with pytest.raises(ValueError, match="split must be one of 'train', 'test'; got 'validation'"):
        read_hmdb51_split(hmdb51, split="validation", number=1, root="hmdb")
    with pytest.raises(ValueError, match="number must be one of 1, 2, 3; got 4"):
        read_hmdb51_split(hmdb51, split="train", number=4, root="hmdb")
    with pytest.raises(
        FileNotFoundError, match=r"holds no file of that split, such as brush_hair_test_split3\.txt"
    ):
        read_hmdb51_split(hmdb51, split="train", number=3, root="hmdb")
    with pytest.raises(ValueError, match="lists no video"):
        read_hmdb51_split(hmdb51, split="test", number=2, root="hmdb")
    write(hmdb51 / "ride_bike_test_split1.txt", "b.avi 1\nc.avi 3\n")
    with pytest.raises(ValueError, match=r"line 2: must be a video and 0, 1 or 2; got 'c\.avi 3'"):
        read_hmdb51_split(hmdb51, split="train", number=1, root="hmdb")


CHARADES = """\
id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length
46GP8,HR43,Kitchen,6,7,Yes,"A person cooks, sings.",food;stove,A.,c092 11.90 21.20;c147 0.00 12.60,24.83
N11GT,0KZ7,Stairs,6,7,Yes,Nothing happens.,,,,18.33
KRF68,YA10,Kitchen,5,6,No,"A ""person""
sneezes.",,,c147 0 5;c147 7 9.5,30
"""


def test_charades(tmp_path):
    path = write(tmp_path / "Charades_v1_train.csv", CHARADES)
    videos = read_charades_csv(path, root="charades")
    assert videos.paths == tuple(Path(f"charades/{name}.mp4") for name in ("46GP8", "N11GT", "KRF68"))
    assert videos.multi_label is True
    assert videos.targets == ((92, 147), (), (147,))
    assert videos.spans[0] == (Span(92, 11.9, 21.2), Span(147, 0.0, 12.6))
    assert (videos.spans[1], videos.spans[2][1]) == ((), Span(147, 7.0, 9.5))
    assert (len(videos.classes), videos.classes[92]) == (157, "c092")
    names = "".join(f"c{number:03d} Doing thing {number}\n" for number in range(157))
    named = read_charades_csv(path, root="", classes_path=write(tmp_path / "classes.txt", names))
    assert named.classes[156] == "Doing thing 156"


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        ("c157 0 1", "line 2: no class is called 'c157'"),
        ("c001 0 1;c002 3", "line 2: an action must be a class, a start and an end in seconds; got 'c002 3'"),
        ("c001 zero one", "line 2: an action must be"),
        ("c001 0 inf", "line 2: an action must be"),
        ("c001 0 1_0", "line 2: an action must be"),
        ("c001 0 1 2", "line 2: an action must be"),
    ],
)
def test_bad_charades_actions(tmp_path, actions, says):
    path = write(tmp_path / "train.csv", f"id,actions\nABC,{actions}\n")
    with pytest.raises(ValueError, match=says):
        read_charades_csv(path, root="charades")


def test_bad_charades_files(tmp_path):
    with pytest.raises(ValueError, match="lists no video"):
        read_charades_csv(write(tmp_path / "train.csv", "id,actions\n"), root="")
    with pytest.raises(ValueError, match="line 2: must have an id; it is empty"):
        read_charades_csv(write(tmp_path / "train.csv", "id,actions\n,c001 0 1\n"), root="")
    path = write(tmp_path / "train.csv", "id,actions\nABC,\n")
    with pytest.raises(ValueError, match="line 2: must be c000 to c156 in order"):
        read_charades_csv(
            path, root="", classes_path=write(tmp_path / "a.txt", "c000 Holding\nc002 Sitting\n")
        )
    with pytest.raises(ValueError, match="must name 157 classes; it names 1"):
        read_charades_csv(path, root="", classes_path=write(tmp_path / "b.txt", "c000 Holding\n"))
