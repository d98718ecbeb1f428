"""What ``evaluate`` and ``predict`` do with a segmentation network."""

from __future__ import annotations

import argparse
import csv
import io
import math
from pathlib import Path
from typing import Any

from nonlocalnn._files import write_text
from nonlocalnn._progress import progress
from nonlocalnn.cli.answers import evaluation_of, say_classes, write_answers, write_report
from nonlocalnn.cli.common import check_own, refuse
from nonlocalnn.cli.outputs import unused
from nonlocalnn.data.masks import MaskedImages
from nonlocalnn.data.sequences.steps import LabelledSteps
from nonlocalnn.data.volumes.files import volume_stem, write_mask
from nonlocalnn.data.volumes.masked import MaskedVolumes
from nonlocalnn.explorer.labels import write_labels, write_overlay
from nonlocalnn.explorer.step_pictures import runs_of, write_steps
from nonlocalnn.explorer.volume_pictures import labelled_planes
from nonlocalnn.inference import Segmented, Segmenter, StepSegmenter, VolumeSegmenter
from nonlocalnn.tasks.figures import ConfusionFigures
from nonlocalnn.tasks.masks import evaluate_masks, shares_of
from nonlocalnn.tasks.step_labels import evaluate_steps
from nonlocalnn.tasks.volume_masks import evaluate_volumes

_REPORT = "metrics.json"


def evaluate(args: argparse.Namespace, loaded: Segmenter) -> int:
    """Evaluate on a data set of images or volumes with masks, or of labelled steps; write metrics.json."""
    refuse(args, "batch_size", "views", "decoder", "max_broken")
    window = loaded.window if args.window is None else args.window
    if isinstance(loaded, VolumeSegmenter):
        window = loaded.window_of(args.window)
        if args.num_workers:
            raise ValueError(
                "--num-workers has no effect on volumes, which are read by windows: leave it out"
            )
    if isinstance(loaded, StepSegmenter):
        refuse(args, "window", what="a network of sequences")
    output, about = evaluation_of(args, loaded.recipe)
    data = about["data"]
    dataset: MaskedImages | MaskedVolumes | LabelledSteps = loaded.load_dataset(
        data, args.split, data_dir=args.data_dir
    )
    check_own(output, {**about, "window": window}, files=(_REPORT,))
    say_classes(loaded.classes, dataset.classes, data)
    found: ConfusionFigures
    if isinstance(dataset, MaskedVolumes):
        assert window is not None, "that of the patches where there is no other"
        found = evaluate_volumes(
            loaded.model,
            dataset,
            window=window,
            device=loaded.device,
            precision=args.precision,
            watch=lambda volumes: progress(volumes, total=len(volumes), label="evaluate"),
        )
    elif isinstance(dataset, LabelledSteps):
        found = evaluate_steps(
            loaded.model,
            dataset,
            device=loaded.device,
            precision=args.precision,
            num_workers=args.num_workers,
            watch=lambda batches: progress(batches, total=len(batches), label="evaluate"),
        )
    else:
        found = evaluate_masks(
            loaded.model,
            dataset,
            window=window,
            device=loaded.device,
            precision=args.precision,
            num_workers=args.num_workers,
            watch=lambda images: progress(images, total=len(images), label="evaluate"),
        )
    return write_report(output, {**about, "window": window}, found)


def predict(args: argparse.Namespace, loaded: Segmenter) -> int:
    """Write the labels and an overlay of each image, and a line of JSON; status 1 when one cannot be read."""
    refuse(args, "views", "top", "batch_size", "min_score")
    if isinstance(loaded, StepSegmenter):
        refuse(args, "window", what="a network of sequences")
    taken = set[str]()
    return write_answers(
        args,
        loaded,
        lambda paths: loaded.predict_many(paths, window=args.window, precision=args.precision),
        lambda found, folder: _answer(found, loaded, folder, taken),
    )


def _answer(found: Segmented, loaded: Segmenter, folder: Path, taken: set[str]) -> dict[str, Any]:
    """Write the pictures of an image and return its line: size, classes, and where the pictures are."""
    if found.volume is not None:
        return _answer_of_volume(found, loaded, folder, taken)
    if found.labels is None or found.image is None:
        return {"path": str(found.path), "error": found.error}
    if isinstance(loaded, StepSegmenter):
        return _answer_of_steps(found, loaded, folder, taken)
    name = unused(found.path.stem, taken)
    labels, overlay = folder / f"{name}-labels.png", folder / f"{name}-overlay.png"
    shares = shares_of(found.labels, loaded.classes)
    write_labels(found.labels, labels, loaded.classes)
    write_overlay(found.image, found.labels, overlay, classes=loaded.classes, shares=shares)
    height, width = found.labels.shape
    return {
        "path": str(found.path),
        "width": width,
        "height": height,
        "classes": shares,
        "labels": str(labels),
        "overlay": str(overlay),
    }


def _answer_of_steps(
    found: Segmented, loaded: StepSegmenter, folder: Path, taken: set[str]
) -> dict[str, Any]:
    """Write the class of each step as CSV and a picture, and return the line: steps, classes, runs, files."""
    sequence, labels = found.image, found.labels
    assert sequence is not None, "asked before"
    assert labels is not None, "found with it"
    # FILE#ID, of a file that holds several.
    file, _, part = found.path.name.partition("#")
    name = unused("-".join(filter(None, (Path(file).stem, part))), taken)
    table, overlay = folder / f"{name}-labels.csv", folder / f"{name}-overlay.png"
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerows([("step", "label"), *enumerate(loaded.classes[each] for each in labels.tolist())])
    write_text(table, rows.getvalue())
    write_steps(
        sequence,
        labels,
        overlay,
        classes=loaded.classes,
        title=found.path.name,
        channel_names=loaded.channel_names,
    )
    return {
        "path": str(found.path),
        "steps": len(labels),
        "classes": shares_of(labels, loaded.classes),
        "runs": runs_of(labels, loaded.classes),
        "labels": str(table),
        "overlay": str(overlay),
    }


def _answer_of_volume(found: Segmented, loaded: Segmenter, folder: Path, taken: set[str]) -> dict[str, Any]:
    """Write the mask of a volume and a picture of it, and return its line: voxels, millilitres, files."""
    volume, labels = found.volume, found.labels
    assert volume is not None, "asked before"
    assert labels is not None, "found with it"
    name = unused(volume_stem(found.path), taken)
    mask, overlay = folder / f"{name}-labels.nii.gz", folder / f"{name}-overlay.png"
    write_mask(labels, mask, volume)
    shares = shares_of(labels, loaded.classes)
    image, shown = labelled_planes(volume, labels)
    write_overlay(image, shown, overlay, classes=loaded.classes, shares=shares)
    # A cubic millimetre is a thousandth of a millilitre.
    millilitres = labels.numel() * math.prod(volume.spacing) / 1000
    for each in shares:
        each["millilitres"] = each["share"] * millilitres if volume.has_spacing else None
    return {
        "path": str(found.path),
        "voxels": list(volume.sides),
        "spacing": list(volume.spacing) if volume.has_spacing else None,
        "classes": shares,
        "labels": str(mask),
        "overlay": str(overlay),
    }
