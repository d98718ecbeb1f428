"""``nonlocalnn maps``."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from nonlocalnn._names import ANIMATIONS
from nonlocalnn._progress import progress
from nonlocalnn.affinity import AffinityMap
from nonlocalnn.affinity.capture import find_blocks
from nonlocalnn.affinity.grids import Sides, check_position
from nonlocalnn.affinity.pictures import queries_to_draw
from nonlocalnn.cli.common import at_rate, check_rate, kind_in_words, load_model, read_input, stem_of, taker
from nonlocalnn.cli.flags.maps import parser
from nonlocalnn.cli.outputs import check_folder, unused
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.explorer.labels import write_overlay
from nonlocalnn.explorer.map_files import answer_in_words, write_maps
from nonlocalnn.explorer.objects import write_objects
from nonlocalnn.explorer.step_pictures import write_steps
from nonlocalnn.explorer.volume_pictures import as_volume, labelled_planes
from nonlocalnn.inference import Classifier, Detector
from nonlocalnn.inference.loading import Loaded
from nonlocalnn.tasks.inputs import ShownInput
from nonlocalnn.tasks.masks import shares_of

_MOST_OBJECTS = 100
# Of a whole map in a file: 1 GiB in float32.
_MOST_NUMBERS = 2**28


def run(words: Sequence[str]) -> int:
    """Write pictures, rows and a summary of each block; status 1 when an input could not be read."""
    args = parser().parse_args(words)
    if bool(args.inputs) == bool(args.data):
        parser().error("give either files or --data")
    if args.whole and args.data:
        parser().error("--whole is about files; samples of a data set have their own size")
    check_folder(args.output)
    loaded = load_model("maps", args.model, device=args.device)
    if args.whole and not isinstance(loaded, Classifier):
        raise ValueError(
            f"--whole has no effect on {kind_in_words(loaded)}, which sees whole images: leave it out"
        )
    if args.format in ANIMATIONS and loaded.kind.name != "video":
        raise ValueError(f"--format {args.format} is for videos; this model takes none: png or svg")
    check_rate(args.rate, loaded.kind)
    # Before any input is read: a mistyped name would fail for each of them.
    find_blocks(loaded.model, args.blocks)
    readers = _readers(args, loaded)
    failed, taken = 0, set[str]()
    for read in progress(readers, total=len(readers), label="maps"):
        try:
            shown = at_rate(read(), args.rate)
            answer = answer_with_maps(
                loaded, shown.sample, name=shown.name, blocks=args.blocks, precision=args.precision
            )
        except (ValueError, FileNotFoundError) as error:
            failed += 1
            print(f"nonlocalnn maps: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        # What one block has and another lacks is refused before anything is written.
        places = {
            block: _places(f"{shown.name}, {block}", each, shown.pixels, args)
            for block, each in answer.maps.items()
        }
        try:
            maps = _shown(shown.name, answer.maps, places)
        except ValueError as error:
            failed += 1
            print(f"nonlocalnn maps: {error}", file=sys.stderr)
            continue
        folder = args.output / unused(stem_of(shown), taken)
        facts = write_maps(
            folder,
            shown,
            maps,
            queries=places,
            prediction=answer.prediction(loaded.classes, top=3 if answer.objects is None else _MOST_OBJECTS),
            suffix=args.format,
            all_rows=args.all_rows,
        )
        if answer.labels is not None:
            path = folder / "labels.png"
            if answer.labels.dim() == 1:
                write_steps(
                    shown.pixels,
                    answer.labels,
                    path,
                    classes=loaded.classes,
                    title=shown.name,
                    rate=shown.rate,
                    channel_names=shown.channel_names,
                )
            else:
                picture, labels = shown.pixels, answer.labels
                shares = shares_of(labels, loaded.classes)
                if shown.planes is not None:
                    picture, labels = labelled_planes(as_volume(shown), labels)
                write_overlay(picture, labels, path, classes=loaded.classes, shares=shares)
        if answer.objects is not None:
            points = loaded.points if isinstance(loaded, Detector) else None
            path = folder / "objects.png"
            write_objects(shown.pixels, answer.objects, path, classes=loaded.classes, points=points)
        print("\n".join(_table(folder.name, facts)))
    if done := len(readers) - failed:
        print(f"{done} input{'' if done == 1 else 's'}, results in {args.output}")
    return 1 if failed else 0


def _readers(args: argparse.Namespace, loaded: Loaded) -> list[Callable[[], ShownInput]]:
    """Return what reads each input, in turn."""
    if args.data is None:
        return [partial(read_input, loaded, path, whole=args.whole) for path in loaded.find(args.inputs)]
    take = taker(loaded, args)
    return [partial(take, index) for index in args.samples]


def _places(name: str, shown: AffinityMap, pixels: Tensor, args: argparse.Namespace) -> list[Sides]:
    """Return the queries to draw of a block."""
    num_numbers = math.prod(shown.grid.sides) * math.prod(shown.key_shape)
    if args.all_rows and num_numbers > _MOST_NUMBERS:
        raise ValueError(
            f"{name}: a file holds at most {_MOST_NUMBERS:,} numbers and all rows are {num_numbers:,}: leave "
            "out --all-rows, or name smaller blocks with --blocks"
        )
    try:
        if args.queries:
            return [check_position(query, shown.grid.sides) for query in args.queries]
        if args.pixels:
            # All, so that one outside the input is told.
            found = [shown.grid.position(*pixel) for pixel in args.pixels]
            # A map of an object knows the pixels of its region alone; see _shown.
            reached = [shown.grid.reaches(*pixel) for pixel in args.pixels]
            return list(itertools.compress(found, reached))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return queries_to_draw(shown, pixels)


def _shown(
    name: str, maps: Mapping[str, AffinityMap], places: Mapping[str, Sequence[Sides]]
) -> dict[str, AffinityMap]:
    """Return the maps that have a query to draw.

    Raises:
        ValueError: None has: the pixels that were asked for lie in the region of no object.
    """
    found = {block: each for block, each in maps.items() if places[block]}
    if not found:
        raise ValueError(f"{name}: no region of an object holds these pixels: give others, or leave them out")
    return found


def _table(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of one input: how widely and how far each block attends."""
    width = max(map(len, ("block", *facts["blocks"]))) + 2
    # Of images and sequences a column of frames would be empty.
    is_video = len(facts["sides"]) == 3
    what = "slices" if "millimetres" in facts else "frames"
    frames_title = f"{f'{what} (uniform)':>20}" if is_video else ""
    lines = [
        f"{name}: {answer_in_words(facts)}",
        f"  {'block':{width}}{'form':20}{'entropy':>8}{'distance (uniform)':>22}{frames_title}",
    ]
    for block, about in facts["blocks"].items():
        numbers = {key: "-" if value is None else f"{value:.2f}" for key, value in about["summary"].items()}
        distance = f"{numbers['distance_pixels']} ({numbers['uniform_distance_pixels']})"
        frames = f"{numbers['distance_frames']} ({numbers['uniform_distance_frames']})" if is_video else ""
        lines.append(
            f"  {block:{width}}{about['instantiation']:20}{numbers['entropy']:>8}{distance:>22}"
            f"{frames:>{len(frames_title)}}"
            f"{'  attends nearly evenly' if about['attends_evenly'] else ''}"
        )
    return lines
