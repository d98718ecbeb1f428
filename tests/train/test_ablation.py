"""The ablation: like with like, every seed once, resumable."""

import dataclasses

import pytest

from nonlocalnn.train import Recipe
from nonlocalnn.train.ablation import AblationRow, ablate, plan


def test_plan_differs_in_the_variant_and_the_seed_only(tmp_path):
    base = Recipe(epochs=3, seed=5, model_overrides={"zero_init": False}, output=tmp_path)
    runs = list(plan(base, num_seeds=2))
    assert [name for name, _ in runs[:5]] == [
        "no block", "gaussian", "embedded_gaussian", "dot_product", "concatenation"
    ]  # fmt: skip
    assert [recipe.seed for _, recipe in runs] == [5] * 5 + [6] * 5
    assert len({recipe.output for _, recipe in runs}) == 10
    assert runs[0][1].model_overrides == {"zero_init": False, "blocks": False}
    assert runs[3][1].model_overrides == {"zero_init": False, "instantiation": "dot_product"}
    for _, recipe in runs:
        same = dataclasses.replace(recipe, seed=5, output=tmp_path, model_overrides={"zero_init": False})
        assert same == base


def test_wrong_plans(tmp_path):
    with pytest.raises(ValueError, match="seeds must be at least 1; got 0"):
        list(plan(Recipe(), num_seeds=0))
    with pytest.raises(ValueError, match="must leave blocks to the ablation"):
        list(plan(Recipe(model_overrides={"blocks": False}), num_seeds=1))


def test_mean_and_deviation():
    row = AblationRow("x", [0.97, 0.98, 0.99], [1.0, 2.0, 3.0])
    assert row.mean == pytest.approx(0.98)
    assert row.deviation == pytest.approx(0.01)
    assert AblationRow("x", [0.97], [1.0]).deviation == 0


def test_finished_runs_are_read_and_not_repeated(tmp_path, monkeypatch):
    base = Recipe(epochs=1, batch_size=633, output=tmp_path)
    *_, rows = ablate(base, num_seeds=1, progress=False)
    assert [len(row.test_accuracy) for row in rows] == [1] * 5
    stamp = (tmp_path / "dot_product/seed-0/last.pt").stat().st_mtime_ns
    *_, again = ablate(base, num_seeds=1, progress=False)
    assert again == rows
    assert (tmp_path / "dot_product/seed-0/last.pt").stat().st_mtime_ns == stamp
