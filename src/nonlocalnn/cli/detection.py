"""What ``evaluate`` and ``predict`` do with a detector."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nonlocalnn._files import json_text, write_text
from nonlocalnn._progress import progress
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.cli.common import beside, check_classes, check_own, refuse
from nonlocalnn.cli.outputs import check_file, check_folder, unused
from nonlocalnn.data.objects import encoded
from nonlocalnn.explorer.objects import above, described_objects, write_objects
from nonlocalnn.inference import Detected, Detector
from nonlocalnn.tasks.objects import evaluate_objects

_REPORT = "metrics.json"
# Files of results that other tools score, one a kind.
_RESULTS = {"bbox": "results-boxes.json", "segm": "results-masks.json"}
_LEAST_SCORE = 0.5


def evaluate(args: argparse.Namespace, loaded: Detector) -> int:
    """Evaluate on a data set of images with objects; write metrics.json and the results themselves."""
    refuse(args, "batch_size", "views", "decoder", "max_broken", "window", what="a detector")
    data = args.data or loaded.recipe.get("data")
    if data is None:
        raise ValueError("--data is needed: the checkpoint does not say what it was trained on")
    output = beside(args.model, f"evaluation-{data}-{args.split}") if args.output is None else args.output
    check_folder(output)
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir)
    about = {
        "model": str(args.model),
        "data": data,
        "data_dir": None if args.data_dir is None else str(args.data_dir),
        "split": args.split,
    }
    check_own(output, about, files=(_REPORT, *_RESULTS.values()))
    assumption = check_classes(loaded.classes, dataset.classes, data)
    if assumption:
        print(f"nonlocalnn evaluate: {assumption}", file=sys.stderr)
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
    write_text(output / _REPORT, json.dumps({**about, **found.to_dict()}, indent=2) + "\n")
    print(found.per_class_table())
    print(found.describe(f"{data}/{args.split}"))
    print(f"results  {output}")
    return 0


def predict(args: argparse.Namespace, loaded: Detector) -> int:
    """Write an overlay of each image and a line of JSON; status 1 when one cannot be read."""
    refuse(args, "views", "top", "batch_size", "window", what="a detector")
    if args.output is not None:
        check_file(args.output)
    folder = beside(args.model, "predictions") if args.output_folder is None else args.output_folder
    check_folder(folder, flag="--output-folder")
    least = _LEAST_SCORE if args.min_score is None else args.min_score
    if not 0 <= least <= 1:
        raise ValueError(f"--min-score must be from 0 to 1; got {least}")
    paths = loaded.find(args.inputs)
    if args.output is not None:
        check_file(args.output, read=(weights_file(args.model), *paths))
    lines, failed, taken = [], 0, set[str]()
    found = loaded.predict_many(paths, precision=args.precision)
    for each in progress(found, total=len(paths), label="predict"):
        if each.error is not None:
            failed += 1
            print(f"nonlocalnn predict: {each.error}", file=sys.stderr)
        answer = _answer(each, loaded, folder, taken, least)
        if args.output is None:
            encoding = "utf-8" if sys.stdout.encoding is None else sys.stdout.encoding
            print(json_text(answer, encoding=encoding), flush=True)
        else:
            lines.append(json_text(answer))
    if args.output is not None:
        write_text(args.output, "".join(f"{line}\n" for line in lines))
    return 1 if failed else 0


def _answer(
    detected: Detected, loaded: Detector, folder: Path, taken: set[str], least: float
) -> dict[str, Any]:
    """Write the picture of an image and return its line: size, objects, and where the picture is."""
    if detected.found is None or detected.image is None:
        return {"path": str(detected.path), "error": detected.error}
    found = above(detected.found, least)
    overlay = folder / f"{unused(detected.path.stem, taken)}-overlay.png"
    write_objects(detected.image, found, overlay, classes=loaded.classes)
    objects = described_objects(found, loaded.classes)
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
