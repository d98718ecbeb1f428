"""A small U-Net over a real volume, without a block and with one; memory of a block of 50,000 positions."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.about import about
from benchmarks.measure import peak_memory
from nonlocalnn._errors import needs
from nonlocalnn.blocks import NonLocal3d
from nonlocalnn.functional import INSTANTIATIONS, Instantiation
from nonlocalnn.train import Recipe, train

_SEEDS = (0, 1, 2)
_CLASSES = ("background", "grey matter", "white matter")
VARIANTS = {"no block": "unet3d_tiny", "one block": "nl_unet3d_tiny"}
# Where the head is cut, in voxels of 1 mm from its rear end; between parts nothing is used twice.
_PARTS = {"train": (0, 130), "validation": (130, 150), "test": (150, 233)}
# Columns of one half: the template is symmetric, to the last bit, so that the other half is the same again.
_HALF = 99
# With 100 steps of larger patches white matter was not found at all in one run of two.
_PATCH, _PATCHES, _BATCH, _EPOCHS = 32, 100, 4, 12
# Channels of the deepest map of the small U-Net; 37 x 37 x 37 are 50,653 positions.
_CHANNELS, _SIDE, _QUICK_SIDE = 64, 37, 6


def run(
    *,
    data_dir: Path,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Train on the rear of a head and test on its front; then measure the memory of a block of each form.

    Args:
        data_dir: A folder with the T1 template of the package nilearn and its maps of grey and white matter,
            ``mni_icbm152_{t1,gm,wm}_*.nii.gz``.
        quick: One seed, few patches, a small block: shows that everything works.
        progress: Takes a line for each training and measurement.
        save: Takes the report after each.

    Returns:
        The report, as JSON can hold it: "about"; "sides" of each part in voxels; "settings" of the recipe;
        "rows", one a training: variant, seed, "dice" by class, "hausdorff_95_mm", parameters and seconds;
        "grey_values", Dice by class of the likeliest class of each grey value; and "memory", by form:
        "queries", "peak_bytes" of a forward and backward pass, and "weights_bytes", what N x N weights would
        take.

    Raises:
        ValueError: A file is missing.
        ImportError: nibabel is missing.
    """
    settings: dict[str, Any] = {
        "image_size": 16 if quick else _PATCH,
        "patches": 2 if quick else _PATCHES,
        "batch_size": 2 if quick else _BATCH,
        "epochs": 1 if quick else _EPOCHS,
        "lr": 0.005,
        "schedule": "cosine",
        "warmup_epochs": 0 if quick else 1,
        "keep": "last",
    }
    report: dict[str, Any] = {
        "about": about(device="cpu", dtype="float32", quick=quick),
        "settings": settings,
        "rows": [],
        "memory": {},
    }
    with tempfile.TemporaryDirectory() as parent:
        parts = _cut(data_dir, Path(parent))
        report["sides"] = {part: list(image.shape) for part, (image, _) in parts.items()}
        report["grey_values"] = _by_grey_value(parts)
        for row in _rows(Path(parent), settings, _SEEDS[:1] if quick else _SEEDS):
            report["rows"].append(row)
            dice = ", ".join(f"{name} {value:.4f}" for name, value in row["dice"].items())
            progress(f"{row['variant']}, seed {row['seed']}: {dice}, {row['seconds'] / 60:.1f} min")
            save(report)
    side = _QUICK_SIDE if quick else _SIDE
    for form in INSTANTIATIONS:
        peak = peak_memory(f"{__name__}:prepare", {"form": form, "side": side})
        report["memory"][form] = {"queries": side**3, "peak_bytes": peak, "weights_bytes": 4 * side**6}
        progress(f"{form}, N = {side**3:,}: {peak / 2**20:,.0f} MiB")
        save(report)
    return report


def _cut(data_dir: Path, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the parts as a folder of volumes with masks, and return the image and the ids of each."""
    with needs("nibabel", "volumes", "reading NIfTI"):
        import nibabel
    loaded: dict[str, Any] = {}
    for name in ("t1", "gm", "wm"):
        there = sorted(data_dir.glob(f"mni_icbm152_{name}_*.nii.gz"))
        if not there:
            raise ValueError(
                f"{data_dir} must hold mni_icbm152_{name}_*.nii.gz, as the package nilearn has it"
            )
        loaded[name] = nibabel.load(there[0])
    values, grey, white = (np.asarray(each.dataobj)[:_HALF] for each in loaded.values())
    # The maps are probabilities from 0 to 255: the likeliest of the three classes.
    other = 255 - grey.astype(int) - white
    ids = np.stack([other, grey, white]).argmax(0).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(_CLASSES))
    parts = {}
    for part, (start, stop) in _PARTS.items():
        affine = loaded["t1"].affine.copy()
        affine[:3, 3] += affine[:3, 1] * start
        parts[part] = values[:, start:stop], ids[:, start:stop]
        for kind, array in zip(("images", "masks"), parts[part], strict=True):
            (folder / part / kind).mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / part / kind / "head.nii.gz")
    return parts


def _by_grey_value(parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return Dice of each class in the test part for the likeliest class of each grey value in training."""
    image, ids = parts["train"]
    counts = np.stack([np.bincount(image[ids == each], minlength=256) for each in range(len(_CLASSES))])
    image, ids = parts["test"]
    found = counts.argmax(0)[image]
    return {
        name: float(
            2 * ((found == each) & (ids == each)).sum() / ((found == each).sum() + (ids == each).sum())
        )
        for each, name in enumerate(_CLASSES)
    }


def _rows(folder: Path, settings: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the figures of each training."""
    for seed in seeds:
        for variant, model in VARIANTS.items():
            with tempfile.TemporaryDirectory() as output:
                recipe = Recipe(
                    data="volume-masks",
                    data_dir=folder,
                    model=model,
                    seed=seed,
                    device="cpu",
                    output=Path(output),
                    **settings,
                )
                begin = time.perf_counter()
                found = train(recipe, progress=False).test
                seconds = time.perf_counter() - begin
            assert found is not None
            yield {
                "variant": variant,
                "seed": seed,
                "dice": found["dice"],
                "hausdorff_95_mm": found["hausdorff_95_mm"],
                "seconds": seconds,
            }


def prepare(form: Instantiation, side: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the work at a tiny size and in full, for :func:`benchmarks.measure.peak_memory`."""
    return _passes(form, 3), _passes(form, side)


def _passes(form: Instantiation, side: int) -> Callable[[], object]:
    """Return a forward and a backward pass over one map, which return its gradient; all is made here."""
    torch.manual_seed(0)
    block = NonLocal3d(_CHANNELS, instantiation=form, sub_sample=None, zero_init=False)
    x = torch.randn(1, _CHANNELS, side, side, side, requires_grad=True)

    def passes() -> Tensor | None:
        block(x).square().sum().backward()
        return x.grad

    return passes


def markdown(report: Mapping[str, Any]) -> str:
    """Return the page's text below its title.

    Args:
        report: What :func:`run` returned.
    """
    settings, threads = report["settings"], report["about"]["threads"]
    sides = {part: " x ".join(map(str, sides)) for part, sides in report["sides"].items()}
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in report["rows"]}))
    steps = settings["epochs"] * (settings["patches"] // settings["batch_size"])
    names = _CLASSES[1:]
    lines = [
        "    python -m benchmarks volumes --data-dir DIR",
        "",
        "One head, cut in two: the T1 template ICBM 152 with its maps of grey and white matter, 1 mm a "
        "voxel. Trained on the rear and tested on the front, so that no voxel is in both; another head was "
        "never seen. Only one half is used: the template is symmetric to the last bit, and trained on the "
        "left and tested on the right a network would be tested on what it was trained on. Voxels along the "
        f"axes right, front and up: training {sides['train']}, test {sides['test']}.",
        "",
        f"`unet3d_tiny` and `nl_unet3d_tiny`, whose block is at the deepest level, by {steps} step"
        f"{'' if steps == 1 else 's'} of {settings['batch_size']} patches of {settings['image_size']} voxels "
        f"a side, a learning rate of {settings['lr']:g} on the cosine schedule, all else left open; seeds "
        f"{seeds}. Minutes are of one training and its test, the mean over seeds: {threads} "
        f"thread{'' if threads == 1 else 's'} of a machine that did other work beside it.",
        "",
        "| network | " + " | ".join(f"Dice, {name} | mean" for name in names) + " | HD 95, mm | minutes |",
        "| --- |" + " ---: |" * (2 * len(names) + 2),
    ]
    for variant in VARIANTS:
        own = [row for row in report["rows"] if row["variant"] == variant]
        if not own:
            continue
        cells = [variant]
        for name in names:
            values = [row["dice"][name] for row in own]
            cells += [", ".join(f"{value:.3f}" for value in values), f"{statistics.mean(values):.3f}"]
        cells.append(" / ".join(_distance(own, name) for name in names))
        cells.append(f"{statistics.mean(row['seconds'] for row in own) / 60:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    alone = "".join(f" | | {report['grey_values'][name]:.3f}" for name in names)
    lines += [
        f"| the grey value alone{alone} | | |",
        "",
        "HD 95 is the 95th percentile of the distances between surfaces, grey / white matter. The last row "
        "needs no network: each grey value has the class that it has most often in the training part.",
    ]
    if report["memory"]:
        lines += ["", *_memory(report["memory"])]
    return "\n".join(lines)


def _distance(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [row["hausdorff_95_mm"][name] for row in rows]
    return "-" if None in values else f"{statistics.mean(values):.1f}"


def _memory(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    first = next(iter(found.values()))
    side = round(first["queries"] ** (1 / 3))
    return [
        f"## A block of {first['queries']:,} positions",
        "",
        f"`NonLocal3d` over one map of {side} x {side} x {side} positions and {_CHANNELS} channels, keys not "
        "sub-sampled: peak memory of a forward and a backward pass above the block and its input. Beside it "
        "what N x N weights in float32 alone would take, computed and not run.",
        "",
        "| form | peak memory | N x N weights |",
        "| --- | ---: | ---: |",
        *(
            f"| {form} | {row['peak_bytes'] / 2**20:,.0f} MiB | {row['weights_bytes'] / 2**20:,.0f} MiB |"
            for form, row in found.items()
        ),
    ]
