"""What ``evaluate`` and ``predict`` do with a segmentation network."""

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
from nonlocalnn.explorer.labels import write_labels, write_overlay
from nonlocalnn.inference import Segmented, Segmenter
from nonlocalnn.tasks.masks import evaluate_masks, shares_of

_REPORT = "metrics.json"


def evaluate(args: argparse.Namespace, loaded: Segmenter) -> int:
    """Evaluate on a data set of images with masks; write metrics.json."""
    refuse(args, "batch_size", "views", "decoder", "max_broken")
    data = args.data or loaded.recipe.get("data")
    if data is None:
        raise ValueError("--data is needed: the checkpoint does not say what it was trained on")
    window = loaded.window if args.window is None else args.window
    output = beside(args.model, f"evaluation-{data}-{args.split}") if args.output is None else args.output
    check_folder(output)
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir)
    about = {
        "model": str(args.model),
        "data": data,
        "data_dir": None if args.data_dir is None else str(args.data_dir),
        "split": args.split,
    }
    check_own(output, {**about, "window": window}, files=(_REPORT,))
    assumption = check_classes(loaded.classes, dataset.classes, data)
    if assumption:
        print(f"nonlocalnn evaluate: {assumption}", file=sys.stderr)
    found = evaluate_masks(
        loaded.model,
        dataset,
        window=window,
        device=loaded.device,
        precision=args.precision,
        num_workers=args.num_workers,
        watch=lambda images: progress(images, total=len(images), label="evaluate"),
    )
    report = {**about, "window": window, **found.to_dict()}
    write_text(output / _REPORT, json.dumps(report, indent=2) + "\n")
    print(found.per_class_table())
    print(found.describe(f"{data}/{args.split}"))
    print(f"results  {output}")
    return 0


def predict(args: argparse.Namespace, loaded: Segmenter) -> int:
    """Write the labels and an overlay of each image, and a line of JSON; status 1 when one cannot be read."""
    refuse(args, "views", "top", "batch_size", "min_score")
    if args.output is not None:
        check_file(args.output)
    folder = beside(args.model, "predictions") if args.output_folder is None else args.output_folder
    check_folder(folder, flag="--output-folder")
    paths = loaded.find(args.inputs)
    if args.output is not None:
        check_file(args.output, read=(weights_file(args.model), *paths))
    found = loaded.predict_many(paths, window=args.window, precision=args.precision)
    lines, failed, taken = [], 0, set[str]()
    for each in progress(found, total=len(paths), label="predict"):
        if each.error is not None:
            failed += 1
            print(f"nonlocalnn predict: {each.error}", file=sys.stderr)
        answer = _answer(each, loaded, folder, taken)
        if args.output is None:
            encoding = "utf-8" if sys.stdout.encoding is None else sys.stdout.encoding
            print(json_text(answer, encoding=encoding), flush=True)
        else:
            lines.append(json_text(answer))
    if args.output is not None:
        write_text(args.output, "".join(f"{line}\n" for line in lines))
    return 1 if failed else 0


def _answer(found: Segmented, loaded: Segmenter, folder: Path, taken: set[str]) -> dict[str, Any]:
    """Write the pictures of an image and return its line: size, classes, and where the pictures are."""
    if found.labels is None or found.image is None:
        return {"path": str(found.path), "error": found.error}
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
