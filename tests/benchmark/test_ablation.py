"""The ablation: like with like, every seed once, resumable."""

import dataclasses
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from benchmarks.ablation import runs as ablation
from benchmarks.ablation.intervals import interval
from benchmarks.ablation.runs import AblationRow, ChangedTask, ablate, markdown, plan, start_of
from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.data import cue
from nonlocalnn.data.masks import scenes
from nonlocalnn.models import create_model
from nonlocalnn.models.cost import cost
from nonlocalnn.train import Recipe, train
from tolerances import near

SEGMENTATION, _ = RecipeParser(program="train", description="", example="").parse_words(
    ["--config", "segment-cue"]
)


@pytest.fixture
def few_clips(monkeypatch):
    for split, number in {"train": 32, "validation": 20, "test": 20}.items():
        monkeypatch.setitem(cue.NUM_SAMPLES, split, number)


def cue_recipe(folder, **changes):
    settings = {"data": "cue", "epochs": 1, "batch_size": 16, "device": "cpu", "output": folder}
    return Recipe(**{**settings, **changes})


def test_plan_differs_in_the_variant_and_the_seed_only(tmp_path):
    base = Recipe(model="nl_digits", epochs=3, seed=5, model_overrides={"zero_init": False}, output=tmp_path)
    runs = list(plan(base, num_seeds=2))
    assert [variant.name for variant, _ in runs[:5]] == [
        "no block", "gaussian", "embedded_gaussian", "dot_product", "concatenation"
    ]  # fmt: skip
    assert [recipe.seed for _, recipe in runs] == [5] * 5 + [6] * 5
    assert len({recipe.output for _, recipe in runs}) == 10
    assert runs[0][1].model_overrides == {"zero_init": False, "blocks": False}
    assert runs[3][1].model_overrides == {"zero_init": False, "instantiation": "dot_product"}
    for _, recipe in runs:
        same = dataclasses.replace(recipe, seed=5, output=tmp_path, model_overrides={"zero_init": False})
        assert same == base


def test_plan_of_a_table_with_networks_of_its_own(tmp_path):
    base = cue_recipe(tmp_path, model="nl2_c2d_tiny", lr=0.003, seed=2)
    runs = list(plan(base, table="vs-3d-conv", num_seeds=3))
    assert [recipe.seed for _, recipe in runs] == [2] * 8 + [3] * 8 + [4] * 8
    assert [recipe.model for _, recipe in runs[:8]] == ["c2d_tiny"] * 6 + ["nl2_c2d_tiny"] * 2
    assert runs[1][1].model_overrides == {"inflation": "3x1x1"}
    assert runs[15][1].output == tmp_path / "nl2_c2d_tiny-inflation-3x1x1" / "seed-3"
    for _, recipe in runs:
        same = {"seed": 2, "output": tmp_path, "model_overrides": {}, "model": "nl2_c2d_tiny"}
        assert dataclasses.replace(recipe, **same) == base


def test_widths_are_in_proportion_to_that_of_the_recipe(tmp_path):
    base = cue_recipe(tmp_path, model="nl2_c2d_tiny", model_overrides={"width": 16})
    runs = {variant.name: recipe for variant, recipe in plan(base, table="stage", num_seeds=1)}
    widths = {name: recipe.model_overrides["width"] for name, recipe in runs.items()}
    stages = dict.fromkeys(("layer1", "layer2", "layer3", "layer4"), 16)
    assert widths == {"no block": 16, "no block, wider": 20, **stages}
    assert runs["layer2"].model_overrides == {"width": 16, "blocks": {"layer2": [0]}}
    # Controls have as many parameters and FLOPs as the network with blocks, as at the presets' width.
    control, with_blocks = (
        cost(create_model(model, num_classes=10, width=width), (1, 3, 8, 32, 32))
        for model, width in (("c2d_tiny", 20), ("nl2_c2d_tiny", 16))
    )
    assert control.num_parameters >= with_blocks.num_parameters
    assert control.materialised_flops >= with_blocks.materialised_flops


def test_a_plan_of_inserted_blocks(tmp_path):
    settings = {"norm": "group", "num_heads": 2}
    base = Recipe(
        data="images",
        data_dir=tmp_path,
        model="torchvision/resnet18",
        insert="layer2,layer3",
        insert_settings=settings,
        start_from=tmp_path / "resnet18.pth",
        output=tmp_path / "out",
    )
    runs = list(plan(base, num_seeds=1))
    assert [variant.name for variant, _ in runs] == [
        "no block", "gaussian", "embedded_gaussian", "dot_product", "concatenation"
    ]  # fmt: skip
    assert (runs[0][1].insert, runs[0][1].insert_settings) == (None, {})
    assert runs[3][1].insert_settings == {**settings, "instantiation": "dot_product"}
    for variant, recipe in runs:
        assert recipe.output == tmp_path / f"out/torchvision-resnet18-inserted-{variant.inserted}/seed-0"
        same = {"insert": base.insert, "insert_settings": settings, "output": base.output}
        assert dataclasses.replace(recipe, **same) == base
    chosen = {**settings, "instantiation": "gaussian"}
    with pytest.raises(ValueError, match="insert_settings must leave instantiation to the ablation"):
        list(plan(dataclasses.replace(base, insert_settings=chosen), num_seeds=1))


def test_blocks_are_inserted_into_weights_that_all_rows_begin_with(tmp_path, few_clips):
    base = cue_recipe(tmp_path, model="c2d_tiny", lr=1e-12, image_size=16, norm_batches=0)
    first = dataclasses.replace(base, output=tmp_path / "first")
    train(first, progress=False)
    base = dataclasses.replace(base, insert="layer2", start_from=first.output, output=tmp_path / "out")
    growing = ablate(base, num_seeds=1, progress=False)
    plain, gaussian = [next(growing) for _ in range(2)][-1]
    assert (plain.variant, gaussian.variant) == ("no block", "gaussian")
    growing = ablate(base, table="controls", num_seeds=1, progress=False)
    mean = [next(growing) for _ in range(2)][-1][1]
    assert mean.variant == "mean over positions"
    # What is inserted starts as the identity, and so small a rate leaves it so.
    assert plain.test_accuracy == gaussian.test_accuracy == mean.test_accuracy
    assert plain.parameters < gaussian.parameters == mean.parameters
    assert plain.flops < mean.flops < gaussian.flops
    folder = "c2d_tiny-inserted-gaussian"
    weights = load_file(tmp_path / "out" / folder / "seed-0/last.safetensors")
    assert [key for key in weights if key.startswith("layer2.nl.g")]


def test_a_plan_of_networks_that_begin_with_a_run_of_another_recipe(tmp_path):
    base = Recipe(data="detect-cue", device="cpu", num_workers=1, seed=4, output=tmp_path)
    runs = list(plan(base, table="context", num_seeds=2))
    assert [recipe.model for _, recipe in runs] == ["maskrcnn_tiny", "nl1_maskrcnn_tiny"] * 2
    assert [str(recipe.start_from.relative_to(tmp_path)) for _, recipe in runs] == [
        "fcn_tiny/seed-4", "nl_fcn_tiny/seed-4", "fcn_tiny/seed-5", "nl_fcn_tiny/seed-5"
    ]  # fmt: skip
    variant, recipe = runs[3]
    start = start_of(variant.start, recipe)
    # The package's recipe, where and on what the ablation says.
    (own,) = [
        each
        for _, each in plan(
            dataclasses.replace(SEGMENTATION, device="cpu", num_workers=1, seed=5, output=tmp_path),
            table="context",
            num_seeds=1,
        )
        if each.model == "nl_fcn_tiny"
    ]
    # A table of that recipe in the same folder has this very run.
    assert own == start
    with pytest.raises(ValueError, match="start_from must be left to the ablation"):
        list(plan(dataclasses.replace(base, start_from=tmp_path), table="context", num_seeds=1))


@pytest.fixture
def few_scenes(monkeypatch):
    for split, number in {"train": 16, "validation": 2, "test": 2}.items():
        monkeypatch.setitem(scenes.NUM_SCENES, split, number)


@pytest.mark.slow
def test_starts_are_trained_once_and_begun_with(tmp_path, few_scenes):
    settings = {"data": "detect-cue", "epochs": 1, "batch_size": 8, "device": "cpu", "output": tmp_path}
    # So small a rate that the weights are still what they started as.
    *_, rows = ablate(Recipe(**settings, lr=1e-12), table="context", num_seeds=1, progress=False)
    assert [(row.variant, row.score, list(row.more)) for row in rows] == [
        ("no block", "box AP", ["mask AP"]), ("embedded_gaussian", "box AP", ["mask AP"])
    ]  # fmt: skip
    for network, body in {"maskrcnn_tiny": "fcn_tiny", "nl1_maskrcnn_tiny": "nl_fcn_tiny"}.items():
        begun = load_file(tmp_path / body / "seed-0/best.safetensors")["layer2.0.conv1.weight"]
        weights = load_file(tmp_path / network / "seed-0/last.safetensors")
        assert weights["backbone.body.layer2.0.conv1.weight"].sub(begun).abs().max() < 1e-6
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last/manifest.json")}
    assert len(stamps) == 4
    again = ablate(Recipe(**settings, lr=1e-12), table="context", num_seeds=1, progress=False)
    assert list(again)[-1] == rows
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


@pytest.mark.slow
def test_points_are_scored_by_what_is_told_apart(tmp_path, few_scenes):
    base = Recipe(
        data="keypoint-cue", model_overrides={}, epochs=1, batch_size=8, device="cpu", output=tmp_path
    )
    *_, rows = ablate(base, table="context", num_seeds=1, progress=False)
    assert [row.variant for row in rows] == [
        "no block", "1 block in the body", "2 blocks in the head", "both"
    ]  # fmt: skip
    assert len({row.parameters for row in rows}) == 4
    for row in rows:
        assert (row.score, list(row.more)) == ("keypoint AP", ["digits told apart"])


def test_what_is_told_apart_leaves_the_cue_out():
    test = {
        "keypoint_ap": 0.4,
        "box_ap": 1.0,
        "keypoint_pck_by_point": {"cue": 1.0, "same": 0.5, "other": 0.25},
    }
    run = {"test": test, "seconds": 1.0, "parameters": 3, "validation_keypoint_ap": 0.3, "best_epoch": 1}
    row = AblationRow.from_metrics("x", [{**run, "threads": 1}])
    assert (row.test_accuracy, row.more) == ([0.4], {"digits told apart": [0.375]})
    title, _, cells = markdown([row]).splitlines()
    # One seed leaves no interval.
    assert title.split(" | ")[2:6] == [
        "test keypoint AP, %", "each seed", "test digits told apart, %", "digits told apart, each seed"
    ]  # fmt: skip
    assert cells.split(" | ")[2:6] == ["40.00", "40.00", "37.50", "37.50"]


def test_wrong_plans():
    with pytest.raises(ValueError, match="seeds must be at least 1; got 0"):
        list(plan(Recipe(), num_seeds=0))
    with pytest.raises(ValueError, match="must leave blocks to the ablation"):
        list(plan(Recipe(model_overrides={"blocks": False}), num_seeds=1))
    overrides = {"width": 16, "use_scale": False}
    with pytest.raises(ValueError, match="must leave use_scale to the ablation"):
        list(plan(Recipe(data="cue", model_overrides=overrides), table="stage", num_seeds=1))
    with pytest.raises(ValueError, match=r"table of 'cue' must be one of .*'stage'.*mean 'stage'"):
        list(plan(Recipe(data="cue"), table="stages", num_seeds=1))
    with pytest.raises(ValueError, match="table of 'digits' must be one of 'instantiations'; got 'stage'"):
        list(plan(Recipe(), table="stage", num_seeds=1))


def test_mean_and_deviation():
    row = AblationRow("x", [0.97, 0.98, 0.99], [1.0, 2.0, 3.0])
    assert row.mean == near(0.98)
    assert row.deviation == near(0.01)
    assert AblationRow("x", [0.97], [1.0]).deviation == 0


def test_the_table_has_the_columns_that_every_row_fills():
    counted = AblationRow("x", [0.5, 0.52], [10.0, 30.0], parameters=1234, flops=5_670_000)
    assert markdown([counted, counted]).splitlines()[2] == (
        "| x | 1,234 | 5.7 | 51.00 ± 1.41 | 38.29 to 63.71 | 50.00, 52.00 | 20 |"
    )
    bare = dataclasses.replace(counted, seconds=[], parameters=None, flops=None)
    assert markdown([counted, bare]).splitlines() == [
        "| variant | test accuracy, % | 95 % interval | each seed |",
        "| --- | --- | --- | --- |",
        *["| x | 51.00 ± 1.41 | 38.29 to 63.71 | 50.00, 52.00 |"] * 2,
    ]


@pytest.mark.parametrize("number", [2, 3, 5, 12])
def test_the_interval_is_students(number):
    percent = [50 + math.sin(7 * place) for place in range(number)]
    found = interval(percent)
    expected = stats.t.interval(
        0.95, number - 1, statistics.fmean(percent), statistics.stdev(percent) / math.sqrt(number)
    )
    assert found == pytest.approx(expected, abs=0.003 * (found[1] - found[0]))
    assert interval([90.0, 100.0]) == (pytest.approx(31.47), 100.0)


@pytest.mark.slow
def test_finished_runs_are_read_and_not_repeated(tmp_path):
    base = Recipe(epochs=1, batch_size=633, output=tmp_path)
    *_, rows = ablate(base, num_seeds=1, progress=False)
    assert [len(row.test_accuracy) for row in rows] == [1] * 5
    state = tmp_path / "nl_digits-instantiation-dot_product/seed-0/last/manifest.json"
    stamp = state.stat().st_mtime_ns
    *_, again = ablate(base, num_seeds=1, progress=False)
    assert again == rows
    assert state.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_tables_share_runs_and_processes_share_a_folder(tmp_path, few_clips):
    """Two calls with a seed each, one that gathers both, and a table that trains only what is new to it."""
    base = cue_recipe(tmp_path)
    for seed in (0, 1):
        *_, rows = ablate(dataclasses.replace(base, seed=seed), table="extent", num_seeds=1, progress=False)
        assert [len(row.test_accuracy) for row in rows] == [1] * 6
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last/manifest.json")}
    assert len(stamps) == 12
    *_, gathered = ablate(base, table="extent", num_seeds=2, progress=False)
    assert gathered[-1].test_accuracy[1:] == rows[-1].test_accuracy
    *_, init = ablate(base, table="init", num_seeds=2, progress=False)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(list(tmp_path.rglob("last/manifest.json"))) == 16
    plain, gamma_one = init[0], init[-1]
    assert plain == gathered[0]
    assert dataclasses.replace(gamma_one, variant="spacetime") == gathered[-1]
    assert (gamma_one.parameters, len(gamma_one.validation_accuracy), gamma_one.best_epoch) == (
        171826,
        2,
        [1, 1],
    )


@pytest.mark.slow
def test_an_ablation_that_was_stopped_goes_on(tmp_path, few_clips):
    base = cue_recipe(tmp_path)
    stopped = ablate(base, table="extent", num_seeds=1, progress=False)
    next(stopped)
    stopped.close()
    (done,) = tmp_path.rglob("last/manifest.json")
    stamp = done.stat().st_mtime_ns
    *_, rows = ablate(base, table="extent", num_seeds=1, progress=False)
    assert len(rows) == 6
    assert done.stat().st_mtime_ns == stamp


def test_a_signal_stops_the_ablation_too(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "train", lambda *_, **__: SimpleNamespace(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        next(ablate(cue_recipe(tmp_path), num_seeds=1))


def test_another_recipe_in_the_same_folder_is_an_error(tmp_path, few_clips):
    next(ablate(cue_recipe(tmp_path), table="extent", num_seeds=1, progress=False))
    with pytest.raises(ValueError, match="cannot be resumed with another recipe: lr was"):
        next(ablate(cue_recipe(tmp_path, lr=0.5), table="extent", num_seeds=1, progress=False))


def test_a_gamma_changes_the_blocks_start_and_nothing_else(few_clips):
    recipe = cue_recipe("unused", model="nl2_c2d_tiny")
    task = ChangedTask(recipe, gamma=0.1)
    model = task.model(task.data("train"))
    blocks = [module for module in model.modules() if isinstance(module, NonLocalNd)]
    assert len(blocks) == 2
    assert all((block.norm.weight == 0.1).all() and (block.norm.bias == 0).all() for block in blocks)
    assert (model.layer2[0].bn3.weight == 1).all()


@pytest.mark.parametrize(("alike", "expected"), [(None, True), (True, True), (False, False)])
def test_phi_starts_as_theta_or_apart(few_clips, alike, expected):
    task = ChangedTask(cue_recipe("unused", model="nl2_c2d_tiny"), alike=alike)
    blocks = list(nonlocal_blocks(task.model(task.data("train"))).values())
    assert [torch.equal(block.theta.weight, block.phi.weight) for block in blocks] == [expected] * 2
    assert [torch.equal(block.theta.bias, block.phi.bias) for block in blocks] == [expected] * 2


@pytest.mark.slow
def test_each_gamma_is_where_its_run_starts(tmp_path, few_clips):
    # So small a rate that the weights are still what they started as.
    *_, rows = ablate(cue_recipe(tmp_path, lr=1e-12), table="init", num_seeds=1, progress=False)
    assert len(rows) == 4
    starts = {"nl2_c2d_tiny-zero_init-true": 0.0, "nl2_c2d_tiny-gamma-0.1": 0.1, "nl2_c2d_tiny": 1.0}
    for folder, gamma in starts.items():
        weights = load_file(tmp_path / folder / "seed-0/last.safetensors")
        for stage in ("layer2", "layer3"):
            gammas = weights[f"{stage}.0.nl.norm.weight"]
            assert gammas.sub(gamma).abs().max() < 1e-6
