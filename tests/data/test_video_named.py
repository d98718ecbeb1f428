import pytest

from nonlocalnn.data.folder_files import split_of
from nonlocalnn.data.video.named import VIDEO_SETS, load_own_splits, load_video_set


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def listed(folder, name, split):
    videos = load_video_set(name, split, data_dir=folder)
    return [str(path.relative_to(folder)) for path in videos.paths], videos.targets, videos.classes


def test_a_folder_a_split(tmp_path):
    for split in ("train", "val", "test"):
        touch(tmp_path, f"{split}/run/1.mp4", f"{split}/walk/{split}.mp4")
    assert listed(tmp_path, "videos", "train") == (
        ["train/run/1.mp4", "train/walk/train.mp4"],
        (0, 1),
        ("run", "walk"),
    )
    assert listed(tmp_path, "videos", "validation")[0] == ["val/run/1.mp4", "val/walk/val.mp4"]
    assert listed(tmp_path, "videos", "test")[0] == ["test/run/1.mp4", "test/walk/test.mp4"]


def test_validation_may_be_called_valid(tmp_path):
    for split in ("train", "valid", "test"):
        touch(tmp_path / "a", f"{split}/run/1.mp4", f"{split}/walk/{split}.mp4")
    assert listed(tmp_path / "a", "videos", "validation")[0] == ["valid/run/1.mp4", "valid/walk/valid.mp4"]
    # Where nothing is called train it is a class.
    touch(tmp_path / "b", *(f"{name}/{number}.mp4" for name in ("valid", "invalid") for number in range(20)))
    assert listed(tmp_path / "b", "videos", "train")[2] == ("invalid", "valid")


def test_without_one_of_two_splits_the_other_serves(tmp_path):
    for split in ("train", "validation"):
        touch(tmp_path / "a", f"{split}/run/{split}.mp4")
    with pytest.warns(UserWarning, match="a has no 'test' split, and the videos of 'validation' stand in"):
        assert listed(tmp_path / "a", "videos", "test")[0] == ["validation/run/validation.mp4"]
    for split in ("train", "test"):
        touch(tmp_path / "b", f"{split}/run/{split}.mp4")
    with pytest.warns(UserWarning, match="b has no 'validation' split, and the videos of 'test' stand in"):
        assert listed(tmp_path / "b", "videos", "validation")[0] == ["test/run/test.mp4"]


def test_class_folders_alone_are_divided_as_those_of_images_are(tmp_path):
    names = sorted(f"{name}/{number}.mp4" for name in ("run", "walk") for number in range(40))
    touch(tmp_path, *names)
    divided = {split: listed(tmp_path, "videos", split) for split in ("train", "validation", "test")}
    for split, (paths, targets, classes) in divided.items():
        assert paths == [name for name in names if split_of(name) == split]
        assert targets == tuple(int(path.startswith("walk")) for path in paths)
        assert classes == ("run", "walk")
    assert sum(len(paths) for paths, _, _ in divided.values()) == 80
    assert {split: len(videos) for split, videos in load_own_splits(tmp_path).items()} == {
        split: len(paths) for split, (paths, _, _) in divided.items()
    }


@pytest.mark.parametrize("form", ["folders", "list"])
def test_classes_that_training_lacks_are_told(tmp_path, form):
    if form == "list":
        write(tmp_path, "train.txt", "1.mp4 0\n2.mp4 2\n")
        write(tmp_path, "test.txt", "3.mp4 1\n")
        touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
        name = "1"
    else:
        names = [f"run/{number}.mp4" for number in range(40)]
        # Too few to move one to training.
        alone = next(f"walk/{number}.mp4" for number in range(40) if split_of(f"walk/{number}.mp4") == "test")
        touch(tmp_path, *names, alone)
        name = "walk"
    with pytest.warns(
        UserWarning, match=f"no videos of '{name}', which cannot be learnt: add some"
    ) as caught:
        load_video_set("videos", "train", data_dir=tmp_path)
    assert len(caught) == 1
    load_video_set("videos", "test", data_dir=tmp_path)


def test_too_few_videos_for_a_test_of_their_own(tmp_path):
    names = sorted(f"run/{number}.mp4" for number in range(40))
    two = [next(name for name in names if split_of(name) == split) for split in ("train", "validation")]
    touch(tmp_path, *two)
    with pytest.warns(
        UserWarning, match="none of the videos in .* falls to 'test', and those of 'validation'"
    ):
        paths, _, _ = listed(tmp_path, "videos", "test")
    assert paths == two[1:]


def test_a_folder_of_one_split_is_no_class(tmp_path):
    touch(tmp_path, "val/run/1.mp4", "more/run/2.mp4")
    with pytest.raises(
        FileNotFoundError, match="has no train split: it must hold a folder per class, a folder"
    ):
        load_video_set("videos", "train", data_dir=tmp_path)


def test_lists_share_the_classes_of_training(tmp_path):
    write(tmp_path, "train.txt", "clips/1.mp4 run\nclips/2.mp4 walk\n")
    write(tmp_path, "validation.csv", "clips/3.mp4,walk\n")
    touch(tmp_path, *(f"clips/{number}.mp4" for number in (1, 2, 3)))
    assert listed(tmp_path, "videos", "validation") == (["clips/3.mp4"], (1,), ("run", "walk"))


def test_other_class_folders_than_in_training(tmp_path):
    touch(tmp_path, "train/run/1.mp4", "train/walk/1.mp4", "validation/run/1.mp4")
    with pytest.raises(ValueError, match=r"must have the same class folders; only in '\w+': 'walk'"):
        load_video_set("videos", "validation", data_dir=tmp_path)


@pytest.mark.parametrize("class_folders", [False, True])
def test_kinetics_in_both_layouts(tmp_path, class_folders):
    header = "label,youtube_id,time_start,time_end,split\n"
    write(tmp_path, "train.csv", f"{header}run,aaa,1,11,train\nwalk,bbb,2,12,train\n")
    write(tmp_path, "val.csv", f"{header}walk,ccc,3,13,val\nrun,ddd,4,14,val\n")
    walk = "walk/" if class_folders else ""
    run = "run/" if class_folders else ""
    touch(tmp_path, f"train/{run}aaa_000001_000011.mp4", f"train/{walk}bbb_000002_000012.mp4")
    touch(tmp_path, f"val/{walk}ccc_000003_000013.mp4")
    assert listed(tmp_path, "kinetics", "train")[1:] == ((0, 1), ("run", "walk"))
    for split in ("validation", "test"):
        with pytest.warns(UserWarning, match=rf"1 of the 2 videos of kinetics/{split} are not there"):
            found = listed(tmp_path, "kinetics", split)
        assert found == ([f"val/{walk}ccc_000003_000013.mp4"], (1,), ("run", "walk"))


def test_kinetics_numbers_classes_as_in_training(tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    write(tmp_path, "train.csv", f"{header}run,aaa,1,11,train\nwalk,bbb,2,12,train\n")
    write(tmp_path, "val.csv", f"{header}walk,ccc,3,13,val\n")
    touch(tmp_path, "val/ccc_000003_000013.mp4")
    assert listed(tmp_path, "kinetics", "test")[1:] == ((1,), ("run", "walk"))


def test_ucf101_and_hmdb51(tmp_path):
    write(tmp_path, "ucfTrainTestlist/classInd.txt", "1 Run\n2 Walk\n")
    write(tmp_path, "ucfTrainTestlist/trainlist01.txt", "Run/a.avi 1\nWalk/b.avi 2\n")
    write(tmp_path, "ucfTrainTestlist/testlist01.txt", "Walk/c.avi\n")
    touch(tmp_path, *(f"UCF-101/{name}.avi" for name in ("Run/a", "Walk/b", "Walk/c")))
    assert listed(tmp_path, "ucf101", "train")[:2] == (["UCF-101/Run/a.avi", "UCF-101/Walk/b.avi"], (0, 1))
    assert listed(tmp_path, "ucf101", "test") == (["UCF-101/Walk/c.avi"], (1,), ("Run", "Walk"))
    write(tmp_path, "testTrainMulti_7030_splits/run_test_split1.txt", "a.avi 1\nb.avi 2\nc.avi 0\n")
    touch(tmp_path, *(f"hmdb51_org/run/{name}.avi" for name in "abc"))
    assert listed(tmp_path, "hmdb51", "train")[0] == ["hmdb51_org/run/a.avi"]
    assert listed(tmp_path, "hmdb51", "validation")[0] == ["hmdb51_org/run/b.avi"]


def test_charades_with_and_without_class_names(tmp_path):
    write(tmp_path, "Charades_v1_train.csv", "id,actions\nAAA,c001 0.0 2.0\n")
    write(tmp_path, "Charades_v1_test.csv", "id,actions\nBBB,c002 0.0 2.0;c001 1.0 3.0\n")
    touch(tmp_path, "Charades_v1_480/AAA.mp4", "Charades_v1_480/BBB.mp4")
    paths, targets, classes = listed(tmp_path, "charades", "test")
    assert (paths, targets, classes[2]) == (["Charades_v1_480/BBB.mp4"], ((1, 2),), "c002")
    write(
        tmp_path, "Charades_v1_classes.txt", "".join(f"c{number:03d} Act {number}\n" for number in range(157))
    )
    assert listed(tmp_path, "charades", "train")[2][2] == "Act 2"


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"name must be one of .*did you mean 'kinetics'"):
        load_video_set("kinetic", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="split must be one of"):
        load_video_set("videos", "val", data_dir=tmp_path)
    for name in VIDEO_SETS:
        with pytest.raises(ValueError, match=f"'{name}' needs data_dir"):
            load_video_set(name, "train", data_dir=None)
        with pytest.raises(FileNotFoundError, match="no such folder of videos"):
            load_video_set(name, "train", data_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no train split: it must hold a folder per class"):
        load_video_set("videos", "train", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such list"):
        load_video_set("kinetics", "train", data_dir=tmp_path)
    touch(tmp_path, "ucfTrainTestlist/nothing")
    with pytest.raises(FileNotFoundError, match=r"classInd.txt"):
        load_video_set("ucf101", "train", data_dir=tmp_path)


@pytest.mark.parametrize("called", ["./2.mp4", "{root}/2.mp4", "../{name}/2.mp4", "linked/2.mp4"])
def test_a_video_of_two_lists(tmp_path, called):
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "linked").symlink_to(tmp_path)
    write(tmp_path, "train.txt", "1.mp4 run\n2.mp4 walk\n")
    write(tmp_path, "val.txt", f"{called.format(root=tmp_path, name=tmp_path.name)} walk\n")
    with pytest.raises(
        ValueError, match=r"val\.txt must list nothing that training has; .*2\.mp4 is of both"
    ):
        load_video_set("videos", "validation", data_dir=tmp_path)


def test_videos_of_a_list_that_are_not_there_are_told(tmp_path):
    touch(tmp_path, "1.mp4")
    write(tmp_path, "train.txt", "1.mp4 run\n2.mp4 walk\n3.mp4 walk\n")
    with pytest.warns(
        UserWarning, match=r"2 of the 3 videos of .*train\.txt are not there, such as .*2\.mp4"
    ):
        assert len(load_video_set("videos", "train", data_dir=tmp_path)) == 3


@pytest.mark.parametrize("second", ["train.csv", "train.txt"])
def test_a_second_place_of_a_split_is_named(tmp_path, second):
    touch(tmp_path, "1.mp4", "2.mp4")
    write(tmp_path, "train.txt", "1.mp4 run\n2.mp4 walk\n")
    if second == "train.csv":
        write(tmp_path, "train.csv", "2.mp4,run\n")
    else:
        touch(tmp_path, "train/run/1.mp4", "train/walk/2.mp4")
    with pytest.warns(UserWarning, match=rf"{second} is passed over: the videos of its split are those of"):
        assert load_video_set("videos", "train", data_dir=tmp_path).targets == (0, 1)
