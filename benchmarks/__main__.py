"""``python -m benchmarks``: measure a subject (JSON, a page and, of blocks, a plot), or train an ablation."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    gpu,
    large_map,
    maps,
    models,
    models_report,
    ops,
    plan,
    plots,
    processor,
    ranks,
    reckoning,
    report,
    scale,
    sequences,
    settings,
    short_epochs,
    training,
    volumes,
)
from nonlocalnn._files import write_text
from nonlocalnn.cli import call
from nonlocalnn.cli.flags import CommandParser
from nonlocalnn.functional import INSTANTIATIONS

_PROGRAM = "python -m benchmarks"
# By subject: the title of its page, what measures it, and what makes a table of the report.
_SUBJECTS: dict[str, tuple[str, Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "ops": ("Speed and memory of the blocks", ops.run, report.markdown),
    "processor": ("The blocks on one processor", processor.run, processor.markdown),
    "models": ("Speed and memory of the networks", models.run, models_report.markdown),
    "maps": ("Looking at large maps", maps.run, maps.markdown),
    "gpu": ("The blocks on a GPU", gpu.run, gpu.markdown),
    "settings": ("What masks, heads and a second input cost", settings.run, settings.markdown),
    "large-map": ("A block over a whole Cityscapes image", large_map.run, large_map.markdown),
    "ranks": ("Positions split over processes", ranks.run, ranks.markdown),
    "training": ("Training on one process and on two", training.run, training.markdown),
    "scale": ("An epoch on many GPUs, reckoned", scale.run, scale.markdown),
    "sequences": ("Sequences", sequences.run, sequences.markdown),
    "volumes": ("Volumes", volumes.run, volumes.markdown),
    "short-epochs": ("Short epochs and batch normalisation", short_epochs.run, short_epochs.markdown),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status: 0 done, 1 failed, 2 wrongly called.

    Args:
        arguments: What follows the command's name; None is ``sys.argv``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["ablation"]:
        return call(f"{_PROGRAM} ablation", _ablate, words[1:], debug=debug)
    if words[:1] == ["plan"]:
        return call(f"{_PROGRAM} plan", plan.main, words[1:], debug=debug)
    if words[:1] == ["plots"]:
        return call(f"{_PROGRAM} plots", plots.main, words[1:], debug=debug)
    return call(_PROGRAM, _measure, words, debug=debug)


def _ablate(words: Sequence[str]) -> int:
    # Its flags are those of a recipe, which need the extra train; no measurement does.
    from benchmarks.ablation.command import run

    return run(words)


def _measure(words: Sequence[str]) -> int:
    args = _parse(words)
    title, run, table_of = _SUBJECTS[args.subject]
    results = args.output / f"{args.subject}.json"
    if args.subject == "ops":
        report.check_can_draw()
        run = functools.partial(
            run,
            core=args.core,
            forms=args.form,
            device=args.device or "cpu",
            dtype=args.dtype or "float32",
            earlier=json.loads(results.read_text(encoding="utf-8")) if results.is_file() else None,
        )
    if args.subject == "processor":
        run = functools.partial(run, output=args.output)
    if args.subject == "models":
        run = functools.partial(run, sections=args.section or models.SECTIONS)
    if args.subject == "gpu":
        run = functools.partial(run, device=args.device or "cuda")
    if args.subject == "scale":
        run = functools.partial(run, assumed=reckoning.Assumed(**dict(args.assume or ())))
    if args.subject == "volumes":
        run = functools.partial(run, data_dir=args.data_dir)
    if args.subject == "sequences":
        run = functools.partial(run, data_dir=args.data_dir, names=args.name or tuple(sequences.SETTINGS))
    found = run(
        quick=args.quick,
        progress=functools.partial(print, file=sys.stderr, flush=True),
        save=lambda found: write_text(results, json.dumps(found, indent=1) + "\n"),
    )
    table = table_of(found)
    write_text(results.with_suffix(".md"), f"# {title}\n\n{table}\n")
    if args.subject == "ops" and found["sweep"]:
        report.draw_sweep(found, results.with_suffix(".png"))
    print(table)
    print(f"results in {args.output}")
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog=_PROGRAM,
        description="Time and peak memory of the blocks beside other ways to compute them, each checked "
        "against the reference first (ops); the same on a few shapes, as the processor is and with narrower "
        "instructions, with one thread and with all (processor); of whole video networks and of reading "
        "clips (models); of every engine on a GPU, checked, and of the blocks there (gpu, at most eight "
        "minutes); of looking at a map too large to hold (maps); of masks, heads and a second input "
        "(settings); of a block over the whole map of a Cityscapes image (large-map); of a block whose "
        "positions are split over processes (ranks); of trainings on one process and on two (training); "
        "what an epoch on 8 to 1,024 GPUs would take, reckoned from parts (scale); "
        "sequences of equal and unequal lengths, and what masks change for them (sequences); a U-Net over a "
        "volume, and the memory of a block of 50,000 positions (volumes); and what averaging the statistics "
        "of norms anew gives and costs (short-epochs). "
        "'ops' and 'processor', called again with the same output, go on where they were stopped. With "
        "compiled rivals the full grid of 'ops' takes hours on a CPU, 'processor' an hour and a half.",
        epilog=f"example: {_PROGRAM} ops --output runs/bench. Whether blocks help is a question for another "
        f"command, which trains networks without blocks and with them: {_PROGRAM} ablation --help. Plots "
        f"of the results pages are drawn by {_PROGRAM} plots",
    )
    parser.add_argument("subject", choices=tuple(_SUBJECTS), help="what to measure")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes: shows that it works, not how fast it is"
    )
    parser.add_argument(
        "--form", nargs="+", choices=INSTANTIATIONS, help="ops: instantiations to measure (default: all)"
    )
    parser.add_argument(
        "--core", action="store_true", help="ops: six shapes only, neither memory nor growth with N"
    )
    parser.add_argument("--device", help="ops: cpu, cuda or cuda:N (default: cpu); gpu: cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="ops: default float32")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="sequences: the folder of the .ts files, or of a folder a data set with them; volumes: that of "
        "nilearn's template; required there",
    )
    parser.add_argument(
        "--name", nargs="+", choices=tuple(sequences.SETTINGS), help="sequences: data sets (default: all)"
    )
    parser.add_argument(
        "--section", nargs="+", choices=models.SECTIONS, help="models: what is measured (default: all)"
    )
    parser.add_argument(
        "--assume",
        nargs="+",
        type=_assumption,
        metavar="NAME=NUMBER",
        help="scale: what is not measured, such as clips_per_gpu=4 net_gbytes=20 (default: "
        + " ".join(f"{each.name}={each.default:g}" for each in dataclasses.fields(reckoning.Assumed))
        + "; docs/results/scale.md says what each is)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of the results")
    args = parser.parse_args(words)
    for name in ("form", "core", "device", "dtype"):
        is_of_gpu = args.subject == "gpu" and name == "device"
        if args.subject != "ops" and not is_of_gpu and getattr(args, name) not in (None, False):
            parser.error(f"--{name} is a setting of 'ops'")
    # "cpu" shows that the command works where it has nothing to measure.
    if args.subject == "gpu" and args.device != "cpu" and not torch.cuda.is_available():
        parser.error("'gpu' needs a GPU that PyTorch can use with CUDA, and this machine has none")
    if (args.subject in ("sequences", "volumes")) is (args.data_dir is None):
        parser.error("--data-dir is needed for 'sequences' and 'volumes', and is a setting of nothing else")
    for name, subject in (("name", "sequences"), ("section", "models"), ("assume", "scale")):
        if getattr(args, name) is not None and args.subject != subject:
            parser.error(f"--{name} is a setting of {subject!r}")
    return args


def _assumption(word: str) -> tuple[str, float]:
    name, _, number = word.partition("=")
    names = [each.name for each in dataclasses.fields(reckoning.Assumed)]
    try:
        value = float(number)
    except ValueError:
        value = None
    if name not in names or value is None:
        raise argparse.ArgumentTypeError(f"{word!r} is no NAME=NUMBER; the names are {', '.join(names)}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
