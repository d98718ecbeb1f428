"""What ``evaluate`` and ``predict`` do alike, whatever the task."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from nonlocalnn._files import json_text, write_text
from nonlocalnn._progress import progress
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.cli.common import beside, check_classes
from nonlocalnn.cli.outputs import check_file, check_folder
from nonlocalnn.inference import Detector, Segmenter

A = TypeVar("A")


def evaluation_of(args: argparse.Namespace, recipe: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the results, and what the evaluation is of: "model", "data", "data_dir", "split".

    Args:
        args: What was typed.
        recipe: Of the training, whose data set is taken where none was typed.

    Raises:
        ValueError: There is no data set, or the folder cannot be one.
    """
    data = args.data or recipe.get("data")
    if data is None:
        raise ValueError("--data is needed: the checkpoint does not say what it was trained on")
    output = beside(args.model, f"evaluation-{data}-{args.split}") if args.output is None else args.output
    check_folder(output)
    data_dir = None if args.data_dir is None else str(args.data_dir)
    return output, {"model": str(args.model), "data": data, "data_dir": data_dir, "split": args.split}


def write_report(
    output: Path, about: dict[str, Any], found: Any, *, table: bool = True, report: str = "metrics.json"
) -> int:
    """Write the figures of an evaluation, print them with where they are, and return the status, 0.

    Args:
        output: The folder.
        about: What the evaluation is of.
        found: The figures.
        table: Whether the table by class is printed too.
        report: The file's name.
    """
    write_text(output / report, json.dumps({**about, **found.to_dict()}, indent=2) + "\n")
    if table:
        print(found.per_class_table())
    print(found.describe(f"{about['data']}/{about['split']}"))
    print(f"results  {output}")
    return 0


def say_classes(known: Iterable[str], classes: Iterable[str], data: str) -> None:
    """Compare a model's classes with a data set's, and say what is taken for granted of them."""
    assumption = check_classes(tuple(known), tuple(classes), data)
    if assumption:
        print(f"nonlocalnn evaluate: {assumption}", file=sys.stderr)


def write_answers(
    args: argparse.Namespace,
    loaded: Segmenter | Detector,
    ask: Callable[[list[Path]], Iterable[A]],
    describe: Callable[[A, Path], dict[str, Any]],
) -> int:
    """Write the pictures of each input and a line of JSON; return status 1 where one cannot be read.

    Args:
        args: What was typed.
        loaded: It finds the inputs.
        ask: Gives the answer to each file.
        describe: Writes the pictures of an answer into a folder, and returns its line.
    """
    if args.output is not None:
        check_file(args.output)
    folder = beside(args.model, "predictions") if args.output_folder is None else args.output_folder
    check_folder(folder, flag="--output-folder")
    paths = loaded.find(args.inputs)
    if args.output is not None:
        check_file(args.output, read=(weights_file(args.model), *paths))
    return write_lines(args, (describe(each, folder) for each in ask(paths)), total=len(paths))


def write_lines(args: argparse.Namespace, answers: Iterable[dict[str, Any]], *, total: int) -> int:
    """Write a line of JSON for each answer; return status 1 where one has an "error", said on stderr."""
    lines, failed = [], 0
    for answer in progress(answers, total=total, label="predict"):
        if "error" in answer:
            failed += 1
            # Of many files each line says which; what a network says of a sample knows no file.
            named = "" if str(answer["path"]) in answer["error"] else f"{answer['path']}: "
            print(f"nonlocalnn predict: {named}{answer['error']}", file=sys.stderr)
        # Lines on standard output come at once, for whoever reads a pipe; a file comes whole or not at all.
        if args.output is None:
            # A terminal or a pipe may hold less than UTF-8, and a stream of text alone has no encoding.
            # Where it is closed there is no stream.
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            print(json_text(answer, encoding=encoding), flush=True)
        else:
            lines.append(json_text(answer))
    if args.output is not None:
        write_text(args.output, "".join(f"{line}\n" for line in lines))
    return 1 if failed else 0
