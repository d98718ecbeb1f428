"""Sequences with a class for each step: files, splits, and what is refused by name."""

import numpy as np
import pytest
import torch

from nonlocalnn.data.masks.masked import IGNORED
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.data.sequences.dataset import load_sequences
from nonlocalnn.data.sequences.step_files import is_step_file, read_steps
from nonlocalnn.data.sequences.steps import load_steps
from step_files import CLASSES, draw, write_csv, write_npz
from tolerances import assert_near, assert_same

SPLITS = ("train", "validation", "test")


def test_a_file_of_arrays(tmp_path):
    found = read_steps(write_npz(tmp_path / "a.npz", [3, 8]))
    for number, (one, index) in enumerate(zip(found, [3, 8], strict=True)):
        sequence, labels = draw(index)
        assert one.name == f"{tmp_path}/a.npz#{number}"
        assert_same(one.sequence, torch.tensor(sequence))
        # -1 is a step without a class.
        assert one.labels == ["", *(str(CLASSES.index(label)) for label in labels[1:])]


@pytest.mark.parametrize("divider", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["id,time,a,b,label", "label,b,a,id", "id,a,b,label"])
def test_rows_in_long_form(tmp_path, header, divider):
    path = write_csv(tmp_path / "a.csv", [3, 8], header=header, divider=divider)
    for one, index in zip(read_steps(path), [3, 8], strict=True):
        sequence, labels = draw(index)
        order = [0, 1] if header.index("a,") < header.index("b,") else [1, 0]
        assert (one.name, one.labels) == (f"{path}#s{index}", labels)
        assert_near(one.sequence, torch.tensor(sequence[order]))
    assert is_step_file(path)


def test_a_file_of_one_sequence(tmp_path):
    path = write_csv(tmp_path / "a.csv", [3], header="time,a,b,label")
    assert [each.name for each in read_steps(path)] == [str(path)]


def layouts(root, kind):
    if kind == "one file":
        write_npz(root / "all.npz", range(20))
    elif kind == "a file each":
        for index in range(12):
            write_csv(root / f"{index}.csv", [index], header="time,a,b,label")
    elif kind == "folders":
        for split, indices in (("train", range(8)), ("val", [8, 9]), ("test", [10])):
            write_csv(root / split / "a.csv", indices)
    elif kind == "names":
        write_npz(root / "gait_TRAIN.npz", range(16))
        write_npz(root / "gait_TEST.npz", [16, 17])
    else:
        write_npz(root / "gait_TRAIN.npz", range(3))
        write_npz(root / "gait_TEST.npz", [16, 17])
    return root


@pytest.mark.parametrize("kind", ["one file", "a file each", "folders", "names", "few"])
def test_splits(tmp_path, kind):
    layouts(tmp_path, kind)
    assert recognised_data(tmp_path) == "sequence-labels"
    splits = [load_steps(tmp_path, split) for split in SPLITS]
    names = [data.sample_id(index) for data in splits for index in range(len(data))]
    wanted = {"one file": 20, "a file each": 12, "folders": 11, "names": 18, "few": 5}[kind]
    assert len(set(names)) == len(names) == wanted
    assert len({data.classes for data in splits}) == 1
    sizes = {"folders": [8, 2, 1], "names": [14, 2, 2], "few": [2, 1, 2]}
    if kind in sizes:
        assert list(map(len, splits)) == sizes[kind]
    if kind == "few":
        assert splits[1].sample_id(0).endswith("gait_TRAIN.npz#2")
    if kind == "names":
        # The fifth of every ten.
        assert [splits[1].sample_id(index).rpartition("#")[2] for index in (0, 1)] == ["4", "14"]
    assert [load_steps(tmp_path, "train").sample_id(index) for index in range(len(splits[0]))] == [
        splits[0].sample_id(index) for index in range(len(splits[0]))
    ]


def test_samples_are_normalised_and_batches_padded(tmp_path):
    data = load_steps(layouts(tmp_path, "one file"), "train")
    data.mean, data.standard_deviation = data.statistics()
    everything = torch.cat([data.read(index) for index in range(len(data))], 1).double()
    assert_near(torch.tensor(data.mean, dtype=torch.float64), everything.mean(1))
    assert_near(torch.tensor(data.standard_deviation, dtype=torch.float64), everything.std(1, correction=0))
    (first, ids), (second, others) = data[0], data[1]
    assert len(ids) == first.shape[1] != second.shape[1]
    assert ids[0] == IGNORED
    batch, padded, lengths = data.collate([(first, ids), (second, others)])
    longest = max(len(ids), len(others))
    assert batch.shape[2] == padded.shape[1] == -(-longest // 32) * 32
    assert lengths.flatten().tolist() == [len(ids), len(others)]
    assert_same(padded[1, : len(others)], others)
    assert (padded[1, len(others) :] == IGNORED).all()
    assert len(data.collate([(first, ids), (first, ids)])) == 2


def test_augmented_samples_keep_their_labels(tmp_path):
    plain, varied = (load_steps(layouts(tmp_path, "few"), "train", augment=each) for each in (False, True))
    torch.manual_seed(0)
    assert_same(plain[0][1], varied[0][1])
    assert not plain[0][0].equal(varied[0][0])


def test_numbers_are_classes_in_their_own_order(tmp_path):
    (tmp_path / "a_TRAIN.csv").write_text("a,label\n" + "".join(f"{each},{each}\n" for each in (10, 9, -2)))
    (tmp_path / "a_TEST.csv").write_text("a,label\n1,9\n")
    (tmp_path / "a_VALIDATION.csv").write_text("a,label\n1,\n2,11\n")
    data = load_steps(tmp_path, "validation")
    assert data.classes == ("-2", "9", "10", "11")
    assert data[0][1].tolist() == [IGNORED, 3]


def broken_npz(**change):
    arrays = {"X": np.ones((2, 1, 3)), "y": np.zeros((2, 3), dtype=int), **change}
    return lambda path: np.savez(path.with_suffix(".npz"), **arrays)


def text(content):
    return lambda path: path.with_suffix(".csv").write_text(content)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (broken_npz(y=np.zeros((2, 4), dtype=int)), r"a class for each step, \(2, 3\) as X has them"),
        (broken_npz(y=np.zeros((2, 3))), "must hold whole numbers or names; got float64"),
        (broken_npz(X=np.full((2, 1, 3), np.nan)), "no finite numbers"),
        (broken_npz(y=np.full((2, 3), -1)), "no step of the sequences in .* has a class"),
        (text("id,a,label\n1,2,x\n1,3\n"), "line 3 must have 3 columns, as the first row; got 2"),
        (text("id,a,label\n1,b,x\n"), "line 2: a must be a number; got 'b'"),
        (text("id,a,label\n1,inf,x\n"), "no finite numbers"),
        (
            text("id,time,a,label\n1,2,3,x\n1,2,3,x\n"),
            "line 3: time must rise within a sequence; got 2 after 2",
        ),
        (text("id,label\n1,x\n"), "has no column of a channel beside id, label"),
        (text("id,a,a,label\n1,2,3,x\n"), "must name each column once"),
        (text("id,a,label\n"), "holds no row of numbers"),
        (text(""), "a.csv is empty"),
        (text("id,a\n1,2\n"), "a.csv#1 has no class for each step"),
    ],
)
def test_what_is_refused(tmp_path, write, says):
    write(tmp_path / "a")
    with pytest.raises(ValueError, match=says) as error:
        load_steps(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_files_with_other_channels(tmp_path):
    for name, header in (("a", "a,label"), ("b", "a,b,label"), ("c", "a,label"), ("d", "a,label")):
        write_csv(tmp_path / "train" / f"{name}.csv", [1], header=header)
    with pytest.raises(ValueError, match=r"b\.csv must have the channels a; got a, b"):
        load_steps(tmp_path, "train")


def test_columns_of_another_order_are_brought_into_one(tmp_path):
    for root, header in ((tmp_path / "same", "id,time,a,b,label"), (tmp_path / "other", "label,b,time,A,id")):
        write_csv(root / "gait_TRAIN.csv", range(6))
        if header.startswith("id"):
            write_csv(root / "gait_TEST.csv", [6, 7], header=header)
        else:
            lines = (tmp_path / "same" / "gait_TEST.csv").read_text().splitlines()
            rows = [
                dict(zip(("id", "time", "A", "b", "label"), line.split(","), strict=True))
                for line in lines[1:]
            ]
            cells = [",".join(row[name] for name in header.split(",")) for row in rows]
            (root / "gait_TEST.csv").write_text("\n".join([header, *cells]))
    same, other = (load_steps(tmp_path / name, "test") for name in ("same", "other"))
    assert same.channel_names == other.channel_names == ("a", "b")
    assert_same(same[0][0], other[0][0])
    turned = load_steps(tmp_path / "other", "test", channels=("b", "a"))
    assert_same(turned[0][0], same[0][0][[1, 0]])
    assert load_steps(layouts(tmp_path / "npz", "few"), "train").channel_names == ()
    with pytest.raises(ValueError, match=r"gait_TRAIN.csv#s0 must have the channels hip, b; got a, b"):
        load_steps(tmp_path / "other", "train", channels=("hip", "b"))


def test_a_clock_among_the_channels_is_told(tmp_path):
    def write(name, second):
        rows = [f"{each / 25},{second(each)},x" for each in range(12)]
        (tmp_path / name).write_text("\n".join(["seconds,a,label", *rows]))
        return tmp_path / name

    with pytest.warns(UserWarning, match="column 'seconds' of .* rises evenly, as time does") as caught:
        read_steps(write("a.csv", lambda step: step**2))
    assert len(caught) == 1


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_a_label_is_told_before_the_training(tmp_path, split):
    for each in ("train", "validation", "test"):
        label = "" if each == split else "x"
        write_csv(tmp_path / each / "a.csv", [1], header="a,b")
        lines = (tmp_path / each / "a.csv").read_text().splitlines()
        (tmp_path / each / "a.csv").write_text(
            "\n".join(["a,b,label", *(f"{line},{label}" for line in lines[1:])])
        )
    with pytest.raises(ValueError, match=f"no step of the sequences for '{split}' in .* has a class"):
        load_steps(tmp_path, "train")


def test_a_class_that_training_lacks_is_told(tmp_path):
    for split, label in (("train", "walk"), ("val", "walk"), ("test", "stand still")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.csv").write_text(f"a,label\n1,{label}\n3,\n2,{label}\n")
    with pytest.warns(UserWarning, match="has no steps of 'stand still', which cannot be learnt: add some"):
        assert load_steps(tmp_path, "train").classes == ("stand still", "walk")
    # Once a training.
    assert len(load_steps(tmp_path, "test")) == 1


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_steps(tmp_path / "none", "train")
    with pytest.raises(ValueError, match="needs data_dir"):
        load_steps(None, "train")
    with pytest.raises(ValueError, match=r"none of its files ends in \.npz or \.csv"):
        load_steps(tmp_path, "train")
    write_npz(tmp_path / "a_TRAIN.npz", range(3))
    with pytest.raises(ValueError, match="falls to 'test'"):
        load_steps(tmp_path, "test")
    # Classes of whole sequences are other data.
    write_npz(tmp_path / "a_TEST.npz", range(3))
    with pytest.raises(ValueError, match="train by --data sequence-labels"):
        load_sequences(tmp_path, "train")


def test_files_beside_folders_of_splits_are_told(tmp_path):
    for split in SPLITS:
        (tmp_path / split).mkdir()
        write_npz(tmp_path / split / "a.npz", [3, 8])
    write_npz(tmp_path / "b.npz", [3])
    with pytest.warns(UserWarning, match=r"1 entry of .* is passed over, .*: \.npz \(1\); first .*b\.npz"):
        assert len(load_steps(tmp_path, "train")) == 2
