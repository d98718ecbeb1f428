"""``nonlocalnn explain``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nonlocalnn._files import json_text, write_text
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.cli.common import (
    at_rate,
    check_rate,
    kind_in_words,
    load_model,
    read_input,
    refuse,
    stem_of,
    taker,
)
from nonlocalnn.cli.flags.explain import parser
from nonlocalnn.cli.outputs import check_file, check_folder, unused
from nonlocalnn.explorer.deletion import Deletion, deletion_test
from nonlocalnn.explorer.explain import explain
from nonlocalnn.explorer.map_files import answer_in_words
from nonlocalnn.explorer.page import write_page
from nonlocalnn.inference import Classifier
from nonlocalnn.inference.loading import Loaded
from nonlocalnn.tasks.inputs import ShownInput


def run(words: Sequence[str]) -> int:
    """Write a page for each input, and with ``--deletion`` what the answer loses without what is attended.

    The status is 1 when an input could not be read, which is said on stderr; the others have their pages.
    """
    args = parser().parse_args(words)
    if bool(args.inputs) == (args.data is not None):
        parser().error("give either a file or --data")
    if args.whole and args.data is not None:
        parser().error("--whole is about files; samples of a data set have their own size")
    if len(args.inputs) > 1:
        check_folder(args.output or Path())
    elif args.output is not None and not args.output.is_dir():
        if args.output.suffix.lower() not in (".html", ".htm"):
            parser().error(f"--output must end with .html or be a folder that is there; got {args.output}")
        check_file(args.output)
    loaded = load_model("explain", args.model, device=args.device)
    if not isinstance(loaded, Classifier):
        refuse(args, "whole", "no_effects", "deletion", what=kind_in_words(loaded))
    check_rate(args.rate, loaded.kind)
    if len(args.inputs) < 2:
        if args.data is None:
            shown = read_input(loaded, args.inputs[0], whole=args.whole)
        else:
            shown = taker(loaded, args)(args.sample)
        _explain(args, loaded, shown, args.output)
        return 0
    failed, taken = 0, set[str]()
    for path in args.inputs:
        try:
            shown = read_input(loaded, path, whole=args.whole)
            page = (args.output or Path()) / f"{unused(stem_of(shown), taken)}.html"
            _explain(args, loaded, shown, page)
        except (ValueError, FileNotFoundError) as error:
            # One input that cannot be read must not keep the others from their pages.
            failed += 1
            print(f"nonlocalnn explain: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if failed else 0


def _explain(args: argparse.Namespace, loaded: Loaded, shown: ShownInput, output: Path | None) -> None:
    """Write the page of one input and say what is in it."""
    page = Path(f"{stem_of(shown)}.html")
    output = page if output is None else output / page if output.is_dir() else output
    check_file(output, read=(weights_file(args.model), *args.inputs))
    document = explain(
        loaded,
        at_rate(shown, args.rate),
        title=shown.name,
        model=args.model.stem,
        blocks=args.blocks,
        effects=not args.no_effects,
    )
    write_page(document, output)
    for block in document["blocks"]:
        if reason := block.get("no_effects"):
            print(f"nonlocalnn explain: {block['name']} has no effects: {reason}", file=sys.stderr)
    size = output.stat().st_size / 1e6
    what = "steps" if shown.sample.dim() == 2 else "pixels" if shown.planes is None else "voxels"
    print(f"{shown.name}: {_in_words(document['prediction'], what)}; page {output}, {size:.1f} MB")
    if args.deletion and isinstance(loaded, Classifier):
        best = document["prediction"][0]
        found = deletion_test(loaded, shown.sample, blocks=args.blocks)
        _report(found, best["class"])
        numbers = [each.as_numbers() for each in found]
        write_text(output.with_suffix(".deletion.json"), json_text(numbers, indent=1) + "\n")


def _in_words(prediction: Sequence[Mapping[str, Any]], what: str) -> str:
    if not prediction or "box" in prediction[0]:
        return answer_in_words({"prediction": prediction, "truth": None})
    best = prediction[0]
    if "share" in best:
        return f"most {what} {best['class']!r}, {best['share']:.1%}"
    return f"{best['class']!r}, probability {best['probability']:.3f}"


def _report(found: Sequence[Deletion], predicted: str) -> None:
    print(f"change of the probability of {predicted!r} without some of the positions")
    print(f"{'block':20} {'without':>13} {'most':>8} {'least':>8} {'gradient':>8} {'random':>8}")
    for each in found:
        numbers = each.as_numbers()
        spread = "" if numbers["random_sd"] is None else f" +- {numbers['random_sd']:.3f}"
        without = f"{each.number} of {each.num_keys}"
        gradient = "-" if each.gradient is None else f"{each.gradient:+.3f}"
        print(
            f"{each.block:20} {without:>13} {each.most:>+8.3f} {each.least:>+8.3f} "
            f"{gradient:>8} {numbers['random_mean']:>+8.3f}{spread}"
        )
