"""Tables in long form: many sequences in one file, each with its class, as CSV and as Parquet."""

import warnings

import numpy as np
import pytest
import torch

from nonlocalnn.data import load_dataset
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.data.sequences.dataset import load_sequences
from nonlocalnn.data.sequences.files import find_sequences, holds_many, read_sequence, read_table
from nonlocalnn.data.sequences.step_files import read_steps
from nonlocalnn.data.sequences.steps import load_steps
from nonlocalnn.tasks.inputs import Facts
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.tasks.sequences import Sequences
from tolerances import assert_same


def rows(numbers, *, label=lambda number, step: ("up", "down")[number % 2]):
    """Rows of sequences of different lengths, each by its number."""
    return [
        (f"s{number}", 0.1 * step, number + step, -step, label(number, step))
        for number in numbers
        for step in range(3 + number % 4)
    ]


COLUMNS = ("id", "time", "a", "b", "label")


def csv(path, table, header=COLUMNS):
    path.write_text("\n".join([",".join(map(str, row)) for row in [header, *table]]))
    return path


def parquet(path, table, header=COLUMNS):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    pytest.importorskip("pyarrow.parquet")

    columns = dict(zip(header, map(list, zip(*table, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


each = pytest.mark.parametrize(("write", "ending"), [(csv, ".csv"), (parquet, ".parquet")])


@each
def test_many_sequences_of_one_file(tmp_path, write, ending):
    # Rows of different sequences may lie in any order among one another.
    table = sorted(rows([10, 3]), key=lambda row: row[1])
    path = write(tmp_path / f"a{ending}", table)
    found = read_table(path)
    assert holds_many(path)
    assert (found.labels, found.classes) == (["up", "down"], ("down", "up"))
    assert_same(found.sequences[1], torch.tensor([[3.0, 4, 5, 6, 7, 8], [0.0, -1, -2, -3, -4, -5]]))
    assert find_sequences([path]) == [tmp_path / f"a{ending}#0", tmp_path / f"a{ending}#1"]
    assert_same(read_sequence(tmp_path / f"a{ending}#1"), found.sequences[1])
    with pytest.raises(ValueError, match="holds 2 sequences: name one, as"):
        read_sequence(path)


@each
def test_files_of_splits(tmp_path, write, ending):
    write(tmp_path / f"walks_TRAIN{ending}", rows(range(20)))
    write(tmp_path / f"walks_TEST{ending}", rows(range(20, 23)))
    assert recognised_data(tmp_path) == "sequences"
    parts = {
        split: load_dataset("sequences", split, data_dir=tmp_path)
        for split in ("train", "validation", "test")
    }
    # The fifth of every ten training sequences of a class is for validation.
    assert [len(data) for data in parts.values()] == [18, 2, 3]
    assert [data.sample_id(0).rpartition("#")[2] for data in parts.values()] == ["0", "8", "0"]
    assert parts["test"].classes == ("down", "up")
    assert parts["test"].num_steps == [3, 4, 5]


def test_one_table_is_divided(tmp_path):
    csv(tmp_path / "walks.csv", rows(range(40)))
    counts = [
        len(load_dataset("sequences", split, data_dir=tmp_path)) for split in ("train", "validation", "test")
    ]
    assert counts == [32, 4, 4]


def test_a_table_whose_classes_change_is_one_of_labelled_steps(tmp_path):
    csv(tmp_path / "walks.csv", rows(range(4), label=lambda number, step: f"c{step > 1}"))
    assert recognised_data(tmp_path) == "sequence-labels"
    with pytest.raises(
        ValueError, match=r"#s0 must have one class, .* got 'cFalse', 'cTrue': train by --data seq"
    ):
        load_dataset("sequences", "train", data_dir=tmp_path)
    # A network that was trained asks for no labels.
    assert len(find_sequences([tmp_path])) == 4
    assert_same(read_sequence(tmp_path / "walks.csv#2"), read_steps(tmp_path / "walks.csv")[2].sequence)
    np.savez(tmp_path / "walks.npz", X=np.ones((2, 1, 3)), y=np.zeros((2, 3), dtype=int))
    assert read_sequence(tmp_path / "walks.npz#1").shape == (1, 3)
    with pytest.raises(ValueError, match=r"y of .*walks.npz has a class for each step: train by --data seq"):
        read_table(tmp_path / "walks.npz")


def test_numbers_are_classes_in_their_own_order(tmp_path):
    table = read_table(csv(tmp_path / "a.csv", rows([1, 2, 3], label=lambda number, step: 9 + number % 3)))
    assert table.classes == ("9", "10", "11")


def test_targets_that_are_numbers_are_refused_and_1_0_is_1(tmp_path):
    path = csv(tmp_path / "a.csv", rows(range(20), label=lambda number, step: 0.1 + 0.37 * number))
    with pytest.raises(
        ValueError, match=r"a\.csv#s0 has the label '0.1': only classes are learnt, whole num"
    ):
        load_sequences(tmp_path, "train")
    # A network that was trained asks for no labels.
    assert read_sequence(tmp_path / "a.csv#0").shape == (2, 3)
    with pytest.raises(ValueError, match=r"a\.csv#s0 has the label '0.1': only classes are learnt"):
        load_steps(tmp_path, "train")
    csv(path, rows([0, 1, 2, 3], label=lambda number, step: ("0", "1", "1.0", "-0.0")[number]))
    assert read_table(path).labels == ["0", "1", "1", "0"]
    assert read_table(path).classes == ("0", "1")
    csv(path, rows([0], label=lambda number, step: ("1.0", "NaN", "1e3")[step]))
    assert read_steps(path)[0].labels == ["1", "", "1e3"]


def test_the_numbers_of_rows_that_pandas_writes(tmp_path):
    path = parquet(tmp_path / "a.parquet", [(1.0, 0), (2.0, 2)], header=("a", "__index_level_0__"))
    with pytest.raises(ValueError, match=r"column 2 is '__index_level_0__', as pandas .* with index=False"):
        read_sequence(path)


def test_a_row_without_a_label_and_a_table_without_labels(tmp_path):
    csv(tmp_path / "a.csv", rows([1, 2], label=lambda number, step: "up" if step else ""))
    with pytest.raises(ValueError, match="must have one class, the same in each of its rows; got '', 'up'"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("id,a\nx,1\nx,2\ny,3\n")
    table = read_table(tmp_path / "b.csv")
    assert (len(table.sequences), table.labels) == (2, None)


def test_parquet_of_labelled_steps(tmp_path):
    path = parquet(tmp_path / "a.parquet", rows([1, 2], label=lambda number, step: f"c{step}"))
    assert [each.labels for each in read_steps(path)] == [
        ["c0", "c1", "c2", "c3"],
        ["c0", "c1", "c2", "c3", "c4"],
    ]


def test_what_is_wrong_with_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as Parquet: "):
        read_table(path)
    parquet(path, [("x", 0.0, 1.0, 2.0, "up"), ("x", 1.0, None, 2.0, "up")])
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: a must be a number; got ''"):
        read_table(path)
    parquet(path, [("x", 0.0, 1.0, np.nan, "up")])
    with pytest.raises(
        ValueError, match="values that are no finite numbers, 1 of 2, the first in channel 1 at step 0"
    ):
        read_table(path)


def test_text_of_parquet_that_is_stored_as_bytes(tmp_path):
    path = parquet(tmp_path / "a.parquet", [(b"s1", 0.0, 1.0, 2.0, "schön".encode())])
    (found,) = read_steps(path)
    assert (found.name, found.labels) == (f"{path}#s1", ["schön"])
    parquet(path, [(b"s1", 0.0, 1.0, 2.0, "schön".encode("latin-1"))])
    with pytest.raises(ValueError, match=r"a\.parquet, row 0 has bytes that are no text in UTF-8"):
        read_table(path)


def test_parquet_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(
        ImportError, match=r"reading Parquet needs the library 'pyarrow'.*nonlocalnn\[parquet\]"
    ):
        read_table(tmp_path / "a.parquet")


def write_classes(root, header, *, ending=".csv", splits=("train", "validation", "test")):
    """A file a sequence in class folders, with its columns in the order of a header."""
    for split in splits:
        for level, name in enumerate(("high", "low")):
            columns = {
                "time": [0.5 * step for step in range(9)],
                "A": [level + step**2 % 7 for step in range(9)],
                "b": [100.0 * (step % 3) for step in range(9)],
                "label": ["walk"] * 9,
            }
            own = {each: columns[each] for each in header.split(",")}
            path = root / split / name / f"0{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if ending == ".parquet":
                pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
                pytest.importorskip("pyarrow.parquet")
                pyarrow.parquet.write_table(pyarrow.table(own), path)
            else:
                lines = [",".join(map(str, row)) for row in zip(*own.values(), strict=True)]
                path.write_text("\n".join([header, *lines]))
    return root


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_columns_of_a_file_a_sequence_go_by_their_names(tmp_path, ending):
    root = write_classes(tmp_path, "time,A,b", ending=ending)
    write_classes(tmp_path, "label,b,A", ending=ending, splits=["test"])
    assert recognised_data(root) == "sequences"
    recipe = Recipe(data="sequences", data_dir=str(root), augment=False)
    train, test = (Sequences().dataset(recipe, split) for split in ("train", "test"))
    assert train.channel_names == test.channel_names == ("a", "b")
    for index in range(2):
        assert_same(test[index][0], train[index][0])
        assert test.read(index)[1].max() == 200
    assert Sequences().metadata(recipe, train)["channel_names"] == ["a", "b"]
    # Within one split, too.
    write_classes(tmp_path, "b,A", ending=ending, splits=["train"])
    write_csv_without_names(root / "train/low/1.csv")
    assert [load_sequences(root, "train").read(index)[0].max() for index in range(3)] == [200, 200, 5]
    write_classes(tmp_path, "time,A,label", ending=ending, splits=["test"])
    with pytest.raises(ValueError, match=rf"0\{ending} must have the channels b, a; got a$"):
        Sequences().dataset(recipe, "test")


def write_csv_without_names(path):
    path.write_text("5,0\n5,1\n")


@each
def test_columns_of_long_form_go_by_their_names(tmp_path, write, ending):
    write(tmp_path / f"walks_TRAIN{ending}", rows(range(20)))
    write(tmp_path / f"walks_TEST{ending}", rows([20, 21]))
    recipe = Recipe(data="sequences", data_dir=str(tmp_path), augment=False)
    before = Sequences().dataset(recipe, "test")
    header = ("label", "b", "id", "a")
    table = [(label, b, number, a) for number, _, a, b, label in rows([20, 21])]
    (tmp_path / f"walks_TEST{ending}").unlink()
    write(tmp_path / f"walks_TEST{ending}", table, header=header)
    after = Sequences().dataset(recipe, "test")
    assert after.channel_names == ("a", "b")
    for index in range(2):
        assert_same(after[index][0], before[index][0])
    facts = Facts(classes=("up", "down"), sample_shape=(2, 9), channel_names=("b", "a"))
    (found,) = Sequences().read(tmp_path / f"walks_TEST{ending}#1", facts)
    assert_same(found, before.read(1)[[1, 0]])


def test_a_clock_in_files_of_one_sequence_is_told_once(tmp_path):
    for number in range(3):
        lines = [f"{step / 25},{step**2 % 7}" for step in range(12)]
        (tmp_path / f"{number}.csv").write_text("\n".join(["seconds,a", *lines]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for number in range(3):
            read_sequence(tmp_path / f"{number}.csv")
    assert len(caught) == 1
    assert f"column 'seconds' of files in {tmp_path} rises evenly" in str(caught[0].message)


def test_rows_without_an_id(tmp_path):
    path = csv(tmp_path / "a.csv", [*rows([0]), (" ", 9, 1, 2, "up")])
    with pytest.raises(ValueError, match=r"a\.csv, line 5 must have an id, by which rows are one sequence"):
        read_steps(path)
