"""Sequences from files: what is read, how it is divided, and what is refused."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from nonlocalnn.data import load_dataset
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.data.sequences.dataset import load_sequences
from nonlocalnn.data.sequences.files import find_sequences, read_named, read_sequence, read_table
from nonlocalnn.data.sequences.padding import pad_batch
from nonlocalnn.data.sequences.steps import load_steps
from tolerances import assert_near, assert_same

HEADER = """# A comment
@problemName Two
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true up Down
@data
"""
LINES = ["1,2,3:4,5,6:up", "7,8:9,1e1:Down"]


def ts(path, lines=LINES, header=HEADER):
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def test_a_ts_file_of_unequal_lengths(tmp_path):
    table = read_table(ts(tmp_path / "a.ts"))
    assert_same(table.sequences[0], torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert_same(table.sequences[1], torch.tensor([[7.0, 8], [9, 10]]))
    assert (table.labels, table.classes) == (["up", "Down"], ("up", "Down"))
    assert_same(read_sequence(tmp_path / "a.ts#1"), table.sequences[1])


def test_a_ts_file_of_one_channel_with_a_mark_and_other_line_ends(tmp_path):
    header = "@EQUALLENGTH TRUE\r\n@classLabel TRUE 1 2\r\n@DATA\r\n"
    (tmp_path / "a.ts").write_bytes(("\ufeff" + header + "0.5,-1:2\r\n\r\n3,4:1\r\n").encode())
    table = read_table(tmp_path / "a.ts")
    assert_same(torch.stack(table.sequences), torch.tensor([[[0.5, -1]], [[3, 4]]]))
    assert (table.labels, table.classes) == (["2", "1"], ("1", "2"))


@pytest.mark.parametrize(
    ("lines", "change", "says"),
    [
        (["1,?,3:4,5,6:up"], {}, r"a.ts, line 10 misses a value \('\?'\): fill it first"),
        (
            ["1,NaN,3:4,5,6:up"],
            {},
            "a.ts#0 has values that are no finite numbers, 1 of 6, the first in channel 0 at step 1",
        ),
        (
            ["1,2,3:4,5:up"],
            {},
            "channels of a sequence must be equally long; channel 1 has 2 values, channel 0 3",
        ),
        (["1,2:4,5:up", "1,2:up"], {}, "line 11 must have 2 channels, as the line before it; got 1"),
        (["1,2:4,5:up", "1,2:4,"], {}, "line 11 must end in a class of the header, up, Down; got '4,'"),
        (["1,x:4,5:up"], {}, "line 10, channel 0: 'x' is no number"),
        (["1,,2:4,5,6:up"], {}, "line 10, channel 0: '' is no number"),
        (["1_0,2:4,5:up"], {}, "line 10, channel 0: '1_0' is no number"),
        (["up"], {}, "line 10 holds no channel"),
        ([], {}, "holds no sequence after @data"),
        (LINES, {"@equalLength false": "@equalLength true"}, "has 2 steps, the first sequence 3"),
        (LINES, {"@timeStamps false": "@timeStamps true"}, "gives a time for each value"),
        (
            LINES,
            {"@classLabel true up Down": "@targetLabel true"},
            "has a number for each sequence, and no class",
        ),
        (LINES, {"@classLabel true up Down": "@classLabel"}, "@classLabel must be followed by true or false"),
        (LINES, {"@data\n": ""}, "has no line @data before its sequences"),
    ],
)
def test_what_is_wrong_with_a_ts_file(tmp_path, lines, change, says):
    header = HEADER
    for old, new in change.items():
        header = header.replace(old, new)
    with pytest.raises(ValueError, match=says):
        read_table(ts(tmp_path / "a.ts", lines, header))


def test_a_ts_file_without_classes_is_read_and_not_trained_on(tmp_path):
    header = HEADER.replace("@classLabel true up Down", "@classLabel false")
    ts(tmp_path / "a.ts", ["1,2:4,5", "1:2"], header)
    assert_same(read_sequence(tmp_path / "a.ts#1"), torch.tensor([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="does not say the class of a sequence"):
        load_sequences(tmp_path, "train")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, bool, ">f8", ">i2", np.longdouble])
def test_arrays(tmp_path, dtype):
    array = np.array([[0, 1, 2], [3, 0, 1]]).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", ecg=array)
    np.save(tmp_path / "one.npy", array[0])
    expected = torch.from_numpy(array.astype(np.float32))
    for name in ("a.npy", "b.npz"):
        assert_same(read_sequence(tmp_path / name), expected)
    assert_same(read_sequence(tmp_path / "one.npy"), expected[:1])


def test_arrays_of_many(tmp_path):
    X = np.arange(24.0).reshape(3, 2, 4)
    X[1, :, 3:] = np.nan  # beyond its length
    np.savez(tmp_path / "a.npz", X=X, y=np.array([10, 9, 10]), lengths=np.array([4, 3, 1]))
    table = read_table(tmp_path / "a.npz")
    assert [tuple(each.shape) for each in table.sequences] == [(2, 4), (2, 3), (2, 1)]
    assert (table.labels, table.classes) == (["10", "9", "10"], ("9", "10"))
    assert_same(read_sequence(tmp_path / "a.npz#2"), torch.tensor([[16.0], [20.0]]))


def test_names_of_classes_in_arrays_are_stripped(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((3, 1, 4)), y=np.array(["up ", "up", " down"]))
    table = read_table(tmp_path / "a.npz")
    assert (table.labels, table.classes) == (["up", "up", "down"], ("down", "up"))


def test_names_of_classes_in_arrays_may_be_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((2, 1, 4)), y=np.array(["über", "ab"]))
    np.savez(tmp_path / "b.npz", X=np.zeros((2, 1, 4)), y=np.char.encode(["über", "ab"], "utf-8"))
    assert read_table(tmp_path / "b.npz").labels == read_table(tmp_path / "a.npz").labels == ["über", "ab"]
    np.savez(tmp_path / "c.npz", X=np.zeros((2, 1, 4)), y=np.char.encode(["über", "ab"], "latin-1"))
    with pytest.raises(ValueError, match=r"y of .* has names in another encoding than UTF-8"):
        read_table(tmp_path / "c.npz")


class _Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        (
            "a.npy",
            np.zeros((2, 3, 4, 5)),
            r"must hold one sequence, \(channels, steps\); got .* \(2, 3, 4, 5\)",
        ),
        ("a.npy", np.zeros((2, 0)), r"must hold one sequence, .* \(2, 0\)"),
        (
            "a.npy",
            np.array([[1.0, np.inf]]),
            "values that are no finite numbers, 1 of 2, .* channel 0 at step 1",
        ),
        ("a.npy", np.array([["a", "b"]]), "must hold real numbers; got <U1"),
        ("a.npy", np.zeros((2, 3), complex), "must hold real numbers; got complex128"),
        ("a.npz", {"a": np.zeros((2, 3)), "b": np.zeros(3)}, "must hold the sequences as X .* it has a, b"),
        ("a.npz", {"X": np.zeros((2, 3))}, r"X of .* must be \(N, channels, steps\)"),
        (
            "a.npz",
            {"X": np.zeros((2, 3, 4)), "y": np.zeros(3, int)},
            r"y of .* must be \(2,\), one a sequence",
        ),
        (
            "a.npz",
            {"X": np.zeros((2, 3, 4)), "y": np.zeros(2)},
            "must hold whole numbers or names; got float64",
        ),
        (
            "a.npz",
            {"X": np.zeros((2, 3, 4)), "y": np.zeros(2, int), "lengths": np.array([4, 5])},
            "lengths of .* must be whole numbers from 1 to 4",
        ),
    ],
)
def test_what_is_wrong_with_arrays(tmp_path, name, array, says):
    if isinstance(array, dict):
        np.savez(tmp_path / name, **array)
    else:
        np.save(tmp_path / name, array)
    with pytest.raises(ValueError, match=says):
        read_sequence(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("what", ["pickled", "cut", "empty", "text"])
def test_damaged_arrays_are_one_line_and_nothing_is_unpickled(tmp_path, monkeypatch, name, what):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    objects = np.empty(1, object)
    objects[0] = _Trap()
    if what == "pickled":
        (np.save if name == "a.npy" else np.savez)(path, objects)
    elif what == "cut":
        (np.save if name == "a.npy" else np.savez)(path, np.zeros((2, 300)))
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_bytes(b"" if what == "empty" else b"1,2,3\n")
    with pytest.raises(ValueError, match=f"{name} (cannot be read as arrays|holds no arrays)") as caught:
        read_sequence(path)
    assert "\n" not in str(caught.value)
    assert not Path("trapped").exists()
    assert pickle.dumps  # the trap is a pickle's
    with pytest.raises(FileNotFoundError):
        read_sequence(tmp_path / f"missing-{name}")


def test_objects_are_told_without_the_advice_to_unpickle_them(tmp_path):
    """As a column of names in pandas is one."""
    np.savez(tmp_path / "a.npz", X=np.ones((2, 1, 4)), y=np.array(["up", "down"], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz holds no arrays .* Python's objects: save names by astype"):
        read_table(tmp_path / "a.npz")


def test_a_header_that_claims_more_than_there_is(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(2, 3), }      ", b"(2, 3000000), }"))
    with pytest.raises(ValueError, match="holds no arrays that can be read"):
        read_sequence(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n5,6\n",
        "1;2\n3;4\n5;6",
        "\ufeffx\ty\r\n1\t2\r\n3\t4\r\n\r\n5\t6\r\n",
        "1,2\n3,4\n5,6\n",
        "x1,x2\n1,2\n3,4\n5,6\n",
        # Rows of empty cells that a spreadsheet left at the end.
        "2theta,3d\n1,2\n3,4\n5,6\n,\n,\n",
        # pandas numbers columns without names.
        "time,0,1\n1,1,2\n2,3,4\n3,5,6\n",
    ],
)
def test_csv(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert_same(read_sequence(tmp_path / "a.csv"), torch.tensor([[1.0, 3, 5], [2, 4, 6]]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no row of numbers"),
        ("a,b\n", "holds no row of numbers"),
        ("1,2\n3\n", "line 2 must have 2 columns, as the lines before it; got 1"),
        ("1,2\n3,\n", "line 2: each cell must be a number; got '3,'"),
        ("1,2\nnan,4\n", "values that are no finite numbers, 1 of 4, the first in channel 0 at step 1"),
        ("a,b\n1,inf\n", r"a\.csv has values that are no finite numbers"),
        ("1,2\n,\n3,4\n", "line 2: each cell must be a number; got ','"),
        *(
            (
                text,
                "a.csv, line 1: the first row must hold numbers alone, or the names .*fill in what is miss",
            )
            for text in (
                "?,2\n3,4\n5,6\n",
                ",2\n3,4\n",
                "NA,2\n3,4\n",
                "0x10,2\n3,4\n",
                "1,x\n3,4\n",
                "1,2,\n3,4,\n",
                "NA\n3\n5\n",
                "?,N/A\n3,4\n",
                ",\n3,4\n",
            )
        ),
        ("\n1;?\n3;4\n", "a.csv, line 2: the first row must hold numbers alone"),
        ("1,5;2,5\n3,5;4,5\n", "a.csv, line 1: the first row .*: write decimal points in place of commas"),
        ("1,2\n3,1_000\n", "a.csv, line 2: each cell must be a number; got '3,1_000'"),
        ("a,b\n3,1_000\n", "a.csv, line 2: b must be a number; got '1_000'"),
        ('1,2\n3,"4\n5,6\n', r"a.csv, line 2 is not CSV: .*; is a quote \(\"\) not closed there"),
        ('1,2\n3,"4\n' + "5,6\n" * 60_000, "a.csv, line 2 is not CSV: field larger than field limit"),
        ('"1,2\n3,4\n', "a.csv, line 1 is not CSV"),
        ('"a,b\n' + "5,6\n" * 60_000, "a.csv, line 1 is not CSV: field larger than field limit"),
        ("1;2\n3,5;4\n", "a.csv, line 2: each cell .*: write decimal points in place of commas"),
        ("a;b\n3;-4,5e-3\n", "line 2: b must be a number; got '-4,5e-3': write decimal points in place of"),
        (",x,y\n0,1,2\n1,3,4\n", "name each column; column 1 is '', as pandas .*: write it with index=False"),
        ("1 2\n3 4\n", r"a\.csv, line 1: columns must be divided by commas, .*NumPy .*delimiter"),
        ("time,x\n2024-01-01,1\n", "time must be a number; got '2024-01-01': write seconds"),
        ("x,Unnamed: 0\n0,1\n1,3\n", "name each column; column 2 is 'unnamed: 0', as pandas"),
    ],
)
def test_what_is_wrong_with_csv(tmp_path, text, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_sequence(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(ValueError, match="is no CSV file in UTF-8: save it as that"):
        read_sequence(tmp_path / "a.csv")


def test_a_quote_that_is_not_closed_takes_no_rows_in_silence(tmp_path):
    """The class of the last row would be all lines that follow."""
    path = tmp_path / "a.csv"
    path.write_text('id,a,label\n1,2,up\n1,3,"up\n2,4,down\n2,5,down\n')
    with pytest.raises(ValueError, match=r"a\.csv, line 3 is not CSV"):
        read_table(path)


def test_months_are_names_of_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("2024_01,2024_02\n1,2\n3,4\n5,7\n")
    assert read_sequence(path).tolist() == [[1, 3, 5], [2, 4, 7]]
    assert read_named(path).channels == ("2024_01", "2024_02")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_told_as_that(tmp_path, encoding):
    text = "id,a,label\n" + "".join(f"s{each},{each}.5,Stra\u00dfe\n" for each in range(4))
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    data = recognised_data(tmp_path)
    with pytest.raises(ValueError, match=r"a\.csv is no CSV file in UTF-8: save it as that"):
        load_steps(tmp_path, "train") if data == "sequence-labels" else load_sequences(tmp_path, "train")


def test_a_file_of_many_is_named_by_its_numbers(tmp_path):
    ts(tmp_path / "a.ts")
    np.save(tmp_path / "b.npy", np.zeros((1, 4)))
    (tmp_path / "notes.txt").touch()
    with pytest.warns(UserWarning, match="not being sequences"):
        found = find_sequences([tmp_path])
    assert [path.name for path in found] == ["a.ts#0", "a.ts#1", "b.npy"]
    assert find_sequences([tmp_path / "a.ts#1"]) == [tmp_path / "a.ts#1"]
    for name, says in (
        ("a.ts", "holds 2 sequences: name one, as"),
        ("a.ts#2", "holds sequences 0 to 1"),
        ("cat.png", "a sequence is read from .ts, .npy, .npz, .csv, .parquet; got"),
    ):
        with pytest.raises(ValueError, match=says):
            read_sequence(tmp_path / name)
    # What cannot be read is named as it is, so that reading says why.
    (tmp_path / "a.ts").write_text("nothing")
    assert find_sequences([tmp_path / "a.ts"]) == [tmp_path / "a.ts"]
    with pytest.raises(ValueError, match="no line @data"):
        read_sequence(tmp_path / "a.ts")


def folder_of_classes(root, *, splits=("train", "validation", "test"), lengths=(5, 8, 6)):
    generator = np.random.default_rng(0)
    for split in splits:
        for name in ("high", "low"):
            (root / split / name).mkdir(parents=True)
            for number, length in enumerate(lengths):
                array = generator.normal(size=(2, length)) * [[1.0], [100.0]] + [[0.0], [5000.0]]
                np.save(root / split / name / f"{number}.npy", array)
    return root


def test_a_folder_of_classes(tmp_path):
    data = load_dataset("sequences", "train", data_dir=folder_of_classes(tmp_path))
    assert (data.classes, data.targets) == (("high", "low"), [0, 0, 0, 1, 1, 1])
    assert (data.sample_shape, data.lengths, data.channels) == ((2, 8), (5, 8), 2)
    assert data.sample_id(3) == str(tmp_path / "train" / "low" / "0.npy")
    sample, target = data[4]
    assert_same(sample, read_sequence(tmp_path / "train" / "low" / "1.npy"))
    assert target == 1
    batch, targets, lengths = data.collate([data[0], data[1]])
    assert (batch.shape, targets.tolist(), lengths.tolist()) == ((2, 2, 32), [0, 0], [[5], [8]])
    assert len(data.collate([data[0], data[3]])) == 2


def test_statistics_are_of_all_steps(tmp_path):
    data = load_dataset("sequences", "train", data_dir=folder_of_classes(tmp_path))
    steps = torch.cat([data.read(index) for index in range(6)], 1).double()
    mean, deviation = data.statistics()
    assert_near(torch.tensor(mean).double(), steps.mean(1), dtype=torch.float32)
    assert_near(torch.tensor(deviation).double(), steps.std(1, unbiased=False), dtype=torch.float32)
    data.normalize(mean, deviation)
    seen = torch.cat([data[index][0] for index in range(6)], 1)
    assert_near(seen.mean(1), torch.zeros(2), largest=50.0)
    assert_near(seen.std(1, unbiased=False), torch.ones(2), largest=50.0)


def test_a_channel_that_never_changes_is_only_shifted(tmp_path):
    for name in ("high", "low"):
        (tmp_path / "train" / name).mkdir(parents=True)
        np.save(tmp_path / "train" / name / "a.npy", np.full((1, 7), 0.1))
    mean, deviation = load_dataset("sequences", "train", data_dir=tmp_path).statistics()
    assert deviation == [1.0]
    assert_near(mean, [0.1])


def test_augmentation_follows_from_the_seed(tmp_path):
    folder_of_classes(tmp_path)
    data = load_dataset("sequences", "train", data_dir=tmp_path, augment=True)
    data.normalize(*data.statistics())
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(data[0][0])
    assert_same(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    plain = load_dataset("sequences", "train", data_dir=tmp_path).normalize(
        data.mean, data.standard_deviation
    )
    assert float((found[0] - plain[0][0]).abs().max()) < 1.0


def many(root, counts=(12, 3), name="Two_TRAIN.ts"):
    lines = [
        f"{number},1:2,3:{label}"
        for label, count in zip(("up", "Down"), counts, strict=True)
        for number in range(count)
    ]
    return ts(root / name, lines)


def test_files_of_the_archive(tmp_path):
    many(tmp_path)
    ts(tmp_path / "Two_TEST.ts")
    (tmp_path / "Two.txt").write_text("about the data")
    splits = {split: load_sequences(tmp_path, split) for split in ("train", "validation", "test")}
    assert [len(each) for each in splits.values()] == [14, 1, 2]
    assert splits["validation"].sample_id(0) == f"{tmp_path / 'Two_TRAIN.ts'}#4"
    ids = [splits["train"].sample_id(index) for index in range(14)]
    assert splits["validation"].sample_id(0) not in ids
    assert splits["test"].targets == [0, 1]
    many(tmp_path, (1, 2), "Two_VAL.ts")
    assert [len(load_sequences(tmp_path, split)) for split in splits] == [15, 3, 2]


def test_classes_that_training_lacks_are_told(tmp_path):
    (tmp_path / "header").mkdir()
    many(tmp_path / "header", (12, 0))
    ts(tmp_path / "header" / "Two_TEST.ts")
    with pytest.warns(UserWarning, match=r"training split of .*header has no sequences of 'Down', which"):
        load_sequences(tmp_path / "header", "train")
    # By the hashes of their paths the two of few are for validation and for the test.
    for name, numbers in (("few", (1, 2)), ("many", range(9))):
        (tmp_path / "folders" / name).mkdir(parents=True)
        for each in numbers:
            np.save(tmp_path / "folders" / name / f"{each}.npy", np.arange(8.0))
    with pytest.warns(UserWarning, match=r"has no sequences of 'few', which cannot be learnt"):
        load_sequences(tmp_path / "folders", "train")


def test_one_file_is_divided(tmp_path):
    many(tmp_path, (20, 10), "Two.ts")
    found = [load_sequences(tmp_path, split) for split in ("train", "validation", "test")]
    assert [len(each) for each in found] == [24, 3, 3]
    assert len({each.sample_id(index) for each in found for index in range(len(each))}) == 30


def test_refusals_of_a_folder(tmp_path):
    def refuses(says, split="train"):
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            load_sequences(tmp_path, split)

    with pytest.raises(FileNotFoundError, match="data_dir must be a folder of sequences"):
        load_sequences(tmp_path / "none", "train")
    refuses("must hold one folder per class")
    many(tmp_path, (3, 3))
    refuses("lacks the file Two_TEST.ts beside Two_TRAIN.ts")
    ts(tmp_path / "Two_TEST.ts", ["1:2:Down"])
    refuses("too few sequences of a class to divide them.* as .*Two_VALIDATION.ts", "validation")
    ts(tmp_path / "Two_TEST.ts", ["1:2:left"], HEADER.replace("Down", "left"))
    refuses("Two_TEST.ts#0 is of the class 'left', and the training file knows up, Down", "test")
    many(tmp_path, name="Other_TRAIN.ts")
    refuses("must hold the files of one data set")


def test_channels_must_be_alike(tmp_path):
    folder_of_classes(tmp_path)
    np.save(tmp_path / "train" / "low" / "9.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"as many channels; .*0.npy has 2, and .*9.npy has 3"):
        load_sequences(tmp_path, "train")


def test_settings_without_an_effect(tmp_path):
    folder_of_classes(tmp_path)
    for setting, says in (
        ({"image_size": 8}, "image_size"),
        ({"channels": 1}, "channels"),
        ({"frames": 2}, "frames"),
    ):
        with pytest.raises(ValueError, match=f"{says} applies to"):
            load_dataset("sequences", "train", data_dir=tmp_path, **setting)
    with pytest.raises(ValueError, match="'sequences' needs data_dir"):
        load_dataset("sequences", "train")


def test_views_are_padded_too():
    batch, lengths = pad_batch([torch.ones(1, 2, 33), torch.ones(1, 2, 3)])
    assert (batch.shape, lengths.tolist()) == ((2, 1, 2, 64), [[33], [3]])
    assert float(batch.sum()) == 72.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pad_batch([torch.ones(2, 5)])[1] is None


@pytest.mark.parametrize("rows", ["0,1\n0.5,2.25\n", "0\n1e-1\n", " 0, 1, 2\n1.0,2.0,3.0\n"])
def test_a_row_of_the_numbers_of_columns_is_no_step(tmp_path, rows):
    (tmp_path / "a.csv").write_text(rows)
    with pytest.raises(ValueError, match=r"a\.csv begins with the row .*0.*, as pandas numbers columns"):
        read_sequence(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "rows", ["0,1\n2,0.5\n", "0,1\n.5,.5\n0.25,1\n", "0.0,1.0\n0.5,0.5\n", "1,2\n0.5,0.5\n", "0,1\n"]
)
def test_a_first_row_of_values_is_a_step(tmp_path, rows):
    (tmp_path / "a.csv").write_text(rows)
    assert read_sequence(tmp_path / "a.csv").shape == (2, rows.count("\n"))


def test_a_class_without_a_name(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones((2, 1, 4)), y=np.array(["up", " "]))
    with pytest.raises(ValueError, match=r"a\.npz#1 has no class: y is empty there"):
        read_table(tmp_path / "a.npz")


def test_a_table_of_one_sequence_is_no_data_set(tmp_path):
    (tmp_path / "a.csv").write_text("subject,x\n1,2\n")
    with pytest.raises(ValueError, match=r"one folder per class, or files of many .* columns id and label"):
        load_sequences(tmp_path, "train")


def test_what_lies_beside_files_of_splits_is_told(tmp_path):
    for name in ("A_TRAIN.ts", "A_TEST.ts", "more.ts"):
        ts(tmp_path / name)
    with pytest.warns(UserWarning, match=r"1 entry of .* is passed over, .*: \.ts \(1\); first .*more\.ts"):
        load_sequences(tmp_path, "test")
