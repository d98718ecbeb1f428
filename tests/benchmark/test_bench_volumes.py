"""The benchmark of volumes."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import volumes

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")


@pytest.fixture
def head(tmp_path):
    """A small head of two matters, whose grey values tell them apart but for noise."""
    generator = np.random.default_rng(0)
    sides = (12, 233, 14)
    matter = generator.integers(0, 3, (3, 59, 4)).repeat(4, 0).repeat(4, 1).repeat(4, 2)[:, :233, :14]
    values = (60 * matter + generator.integers(0, 70, sides)).astype(np.uint8)
    for name, array in (("t1", values), ("gm", (matter == 1) * 200), ("wm", (matter == 2) * 200)):
        path = tmp_path / f"mni_icbm152_{name}_made.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array.astype(np.uint8), np.eye(4)), path)
    return tmp_path, matter


@pytest.mark.parametrize("trains", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_quick_run_makes_a_table(head, monkeypatch, trains):
    # Fresh processes take seconds each; what they measure has tests of its own.
    monkeypatch.setattr(volumes, "peak_memory", lambda _, work: 2**20 * work["side"])
    if not trains:
        figures = dict.fromkeys(("background", "grey matter", "white matter"), 0.5)
        found = SimpleNamespace(test={"dice": figures, "hausdorff_95_mm": {**figures, "grey matter": None}})
        monkeypatch.setattr(volumes, "train", lambda recipe, progress: found)
    saved = []
    report = volumes.run(data_dir=head[0], quick=True, save=lambda found: saved.append(len(found["memory"])))
    assert saved == [0, 0, 1, 2, 3, 4]
    assert report["sides"] == {"train": [12, 130, 14], "validation": [12, 20, 14], "test": [12, 83, 14]}
    assert [row["variant"] for row in report["rows"]] == ["no block", "one block"]
    page = volumes.markdown(report)
    grey = report["grey_values"]
    assert 0.7 < grey["white matter"] < 1
    assert (
        f"| the grey value alone | | {grey['grey matter']:.3f} | | {grey['white matter']:.3f} | | |" in page
    )
    assert "| dot_product | 6 MiB | 0 MiB |" in page
    assert "by 1 step of 2 patches of 16 voxels" in page
    if not trains:
        assert "| one block | 0.500 | 0.500 | 0.500 | 0.500 | - / 0.5 | 0.0 |" in page


def test_parts_have_no_voxel_in_common_and_lie_where_they_did(head, tmp_path):
    parts = volumes._cut(head[0], tmp_path / "cut")
    whole = np.concatenate([ids for _, ids in parts.values()], axis=1)
    assert np.array_equal(whole, head[1])
    test = nibabel.load(tmp_path / "cut/test/images/head.nii.gz")
    assert test.affine[:3, 3].tolist() == [0, 150, 0]
    assert np.array_equal(np.asarray(test.dataobj), parts["test"][0])


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"must hold mni_icbm152_t1_\*"):
        volumes.run(data_dir=tmp_path, quick=True, save=pytest.fail)
