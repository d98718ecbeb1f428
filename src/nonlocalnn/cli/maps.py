"""``nonlocalnn maps``."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn._files import atomic_path
from nonlocalnn.affinity import AffinityMap, capture_affinity
from nonlocalnn.classifier import Classifier
from nonlocalnn.cli.common import (
    add_model_arguments,
    command_parser,
    load_image_model,
    load_samples,
    progress,
)
from nonlocalnn.data import list_datasets, read_image
from nonlocalnn.evaluate import autocast_for, resolve_device
from nonlocalnn.explorer import draw_affinity
from nonlocalnn.predict import find_images


def run(words: Sequence[str]) -> int:
    """Write, for each input and block, the affinity as .npy (1, N, M) and a picture."""
    parser = command_parser(
        "maps",
        "What positions of an image attend to, in each non-local block: an array and a picture.",
        "nonlocalnn maps digit.png --model runs/digits --output runs/maps\n"
        "  nonlocalnn maps --data digits --samples 0 12 --model runs/digits --blocks nl_1 --queries 3,4 9,9",
    )
    parser.add_argument("inputs", nargs="*", type=Path, help="image files, and folders of them")
    add_model_arguments(parser)
    parser.add_argument("--data", choices=list_datasets(), help="take inputs from a data set instead")
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="default: test"
    )
    parser.add_argument(
        "--samples", nargs="+", type=int, default=[0], help="places in the split (default: 0)"
    )
    parser.add_argument("--blocks", nargs="+", help="names of blocks (default: all)")
    parser.add_argument(
        "--queries",
        nargs="+",
        type=_place,
        help="positions ROW,COLUMN in the block's map (default: four, chosen where the image has detail)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/maps"), help="folder of the results")
    args = parser.parse_args(words)
    if bool(args.inputs) == bool(args.data):
        parser.error("give either image files or --data")
    loaded, device = load_image_model(args.model), resolve_device(args.device)
    model = loaded.model.to(device)
    inputs = list(_from_data(args, loaded) if args.data else _from_files(args, loaded))
    for name, image in progress(inputs, total=len(inputs), label="maps"):
        with (
            capture_affinity(model, args.blocks) as maps,
            torch.no_grad(),
            autocast_for(args.precision, device),
        ):
            scores = model(image.unsqueeze(0).to(device))
        answer = loaded.classes[int(scores[0].argmax())]
        # A query that one block has and another lacks must be refused before anything is written.
        for shown, query in itertools.product(maps.values(), args.queries or ()):
            shown.of_query(*query)
        for block, shown in maps.items():
            _write(args.output / name, block, image, shown, args.queries, f"{block}, predicted {answer!r}.")
    print(f"{len(inputs)} inputs, results in {args.output}")
    return 0


def _place(text: str) -> tuple[int, int]:
    if re.fullmatch(r"-?\d+,-?\d+", text) is None:
        raise argparse.ArgumentTypeError(f"a query is ROW,COLUMN, as in 3,4; got {text!r}")
    row, column = text.split(",")
    return int(row), int(column)


def _from_files(args: argparse.Namespace, loaded: Classifier) -> Iterator[tuple[str, Tensor]]:
    taken: set[str] = set()
    for path in find_images(args.inputs):
        image = read_image(path, image_size=loaded.image_size, channels=loaded.channels)
        # Files of one name from several folders must not overwrite one another.
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        yield name, image


def _from_data(args: argparse.Namespace, loaded: Classifier) -> Iterator[tuple[str, Tensor]]:
    dataset = load_samples(loaded, args.data, args.split, data_dir=args.data_dir)
    for index in args.samples:
        if not 0 <= index < len(dataset):
            raise ValueError(f"--samples must be from 0 to {len(dataset) - 1} for this split; got {index}")
        image, target = dataset[index]
        yield f"{args.split}-{index}-class-{dataset.classes[target]}", image


def _write(
    folder: Path,
    block: str,
    image: Tensor,
    shown: AffinityMap,
    queries: Sequence[tuple[int, int]] | None,
    title: str,
) -> None:
    import numpy as np

    draw_affinity(image, shown, folder / f"{block}.png", queries=queries, title=title)
    with atomic_path(folder / f"{block}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, shown.affinity.numpy())
