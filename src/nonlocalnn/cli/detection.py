"""What ``evaluate`` and ``predict`` do with a detector."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nonlocalnn._files import write_text
from nonlocalnn._progress import progress
from nonlocalnn.cli.answers import evaluation_of, say_classes, write_answers, write_report
from nonlocalnn.cli.common import check_own, refuse
from nonlocalnn.cli.outputs import unused
from nonlocalnn.data.objects import encoded
from nonlocalnn.explorer.objects import above, described_objects, write_objects
from nonlocalnn.inference import Detected, Detector
from nonlocalnn.tasks.objects import evaluate_objects

_REPORT = "metrics.json"
# Files of results that other tools score, one a kind.
_RESULTS = {
    "bbox": "results-boxes.json",
    "segm": "results-masks.json",
    "keypoints": "results-keypoints.json",
}
_LEAST_SCORE = 0.5


def evaluate(args: argparse.Namespace, loaded: Detector) -> int:
    """Evaluate on a data set of images with objects; write metrics.json and the results themselves."""
    refuse(args, "batch_size", "views", "decoder", "max_broken", "window", what="a detector")
    output, about = evaluation_of(args, loaded.recipe)
    data = about["data"]
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir)
    check_own(output, about, files=(_REPORT, *_RESULTS.values()))
    say_classes(loaded.classes, dataset.classes, data)
    found, results = evaluate_objects(
        loaded.model,
        dataset,
        device=loaded.device,
        precision=args.precision,
        num_workers=args.num_workers,
        watch=lambda images: progress(images, total=len(images), label="evaluate"),
    )
    for kind, each in results.items():
        write_text(output / _RESULTS[kind], json.dumps(each) + "\n")
    return write_report(output, about, found)


def predict(args: argparse.Namespace, loaded: Detector) -> int:
    """Write an overlay of each image and a line of JSON; status 1 when one cannot be read."""
    refuse(args, "views", "top", "batch_size", "window", what="a detector")
    least = _LEAST_SCORE if args.min_score is None else args.min_score
    if not 0 <= least <= 1:
        raise ValueError(f"--min-score must be from 0 to 1; got {least}")
    taken = set[str]()
    return write_answers(
        args,
        loaded,
        lambda paths: loaded.predict_many(paths, precision=args.precision),
        lambda found, folder: _answer(found, loaded, folder, taken, least),
    )


def _answer(
    detected: Detected, loaded: Detector, folder: Path, taken: set[str], least: float
) -> dict[str, Any]:
    """Write the picture of an image and return its line: size, objects, and where the picture is."""
    if detected.found is None or detected.image is None:
        return {"path": str(detected.path), "error": detected.error}
    found = above(detected.found, least)
    overlay = folder / f"{unused(detected.path.stem, taken)}-overlay.png"
    write_objects(detected.image, found, overlay, classes=loaded.classes, points=loaded.points)
    objects = described_objects(found, loaded.classes, loaded.points)
    for place, mask in enumerate(found.get("masks", ())):
        objects[place]["mask"] = encoded(mask.byte())
    height, width = detected.image.shape[1:]
    return {
        "path": str(detected.path),
        "width": width,
        "height": height,
        "objects": objects,
        "overlay": str(overlay),
    }
