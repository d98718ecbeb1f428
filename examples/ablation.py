"""Train and measure again what docs/guides/choosing.md says, page by page of docs/results.

Of the cue task it makes the tables that were never run, too.

    python examples/ablation.py --list
    python examples/ablation.py --only cue maps
    python examples/ablation.py --mnist data --fashion data --photographs runs/pretrained --volumes ICBM152

Runs one command after the other, from the root of a clone, each into a folder of ``--output``. Called again
it goes on: finished trainings and measured cells are not repeated. Whatever needs data that no flag names is
left out, and told at the end. ``--list`` prints the commands and the minutes that each takes on two cores,
or would take.
"""

import argparse
import glob
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ABLATION = "-m benchmarks ablation --output {output}"
_CUE = f"{_ABLATION}/cue --config cue-tiny --seed 41 --table"
_SCENES = f"{_ABLATION}/scenes --config segment-cue --table"
# The first three runs of each form, whose seeds are others for concatenation.
_FORMS = " ".join(
    f"{{output}}/cue/nl2_c2d_tiny{name}-width-16/seed-{seeds}"
    for name, seeds in (("", "4[123]"), ("-instantiation-[gd]*", "4[123]"), ("-instantiation-c*", "6[123]"))
)


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        page: The page of docs/results that has its figures, without ``.md``.
        minutes: What it takes.
        words: What follows ``python``; ``{output}`` and what a flag of this program names are filled in.
    """

    page: str
    minutes: int
    words: str


STEPS = (
    Step("cue", 190, f"{_CUE} forms --seeds 8"),
    Step("cue", 50, f"{_CUE} concatenation --seed 61 --seeds 8"),
    Step("cue", 50, f"{_CUE} on-3d-conv --seeds 8"),
    *(Step("cue", 60, f"{_CUE} {table}") for table in ("controls", "stage", "depth", "extent", "init")),
    Step("maps", 6, f"examples/attended_cue.py --output {{output}}/maps.json {_FORMS}"),
    Step("digits", 10, f"{_ABLATION}/digits --data digits"),
    Step("digits", 57, f"{_ABLATION}/mnist --config mnist --data-dir {{mnist}}"),
    Step("digits", 45, f"{_ABLATION}/fashion --config mnist --data fashion-mnist --data-dir {{fashion}}"),
    Step("digits", 2, "examples/finetune.py"),
    Step("dense", 18, f"{_SCENES} context"),
    Step("dense", 18, f"{_SCENES} controls"),
    Step("dense", 35, f"{_SCENES} embeddings --seeds 6"),
    Step("dense", 60, f"{_ABLATION}/legend --config segment-legend --table controls"),
    Step(
        "photographs",
        50,
        f"{_ABLATION}/photographs --data images --data-dir {{photographs}}/photographs "
        "--model timm/tf_efficientnet_lite0 --start-from {photographs}/weights.pth "
        "--insert blocks.2,blocks.4 --image-size 96 --optimizer adamw --lr 5e-4 --weight-decay 0.01 "
        "--schedule cosine --warmup-epochs 0.5 --epochs 4 --batch-size 32 --table controls",
    ),
    Step("sequences", 53, "-m benchmarks sequences --data-dir {sequences} --output {output}/sequences"),
    Step("volumes", 35, "-m benchmarks volumes --data-dir {volumes} --output {output}/volumes"),
    Step("processor", 75, "-m benchmarks processor --output {output}/processor"),
    Step("ops", 240, "-m benchmarks ops --output {output}/ops"),
)
_DATA = ("mnist", "fashion", "photographs", "sequences", "volumes")


def main(words: list[str] | None = None) -> int:
    """Run the steps; return 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pages = list(dict.fromkeys(step.page for step in STEPS))
    parser.add_argument("--only", nargs="+", choices=pages, default=pages, help="pages (default: all)")
    parser.add_argument("--list", action="store_true", help="print the commands, run none")
    parser.add_argument("--output", type=Path, default=Path("runs/choosing"))
    for name in _DATA:
        parser.add_argument(f"--{name}", type=Path, help="folder of these data, as the page says")
    args = parser.parse_args(words)
    left_out = []
    for step in STEPS:
        if step.page not in args.only:
            continue
        lacking = [name for name in _DATA if f"{{{name}}}" in step.words and getattr(args, name) is None]
        if args.list:
            print(f"{step.minutes:4} min  {step.page:11}  python {step.words}")
        elif lacking:
            left_out.append(f"{step.page}: python {step.words} (--{lacking[0]} names no folder)")
        elif _run([each for word in step.words.split() for each in _filled(word, args)]):
            print(f"{step.page}: failed, and what follows was not run: call this again to go on")
            return 1
    print("\n".join(f"left out, {each}" for each in left_out), end="\n" if left_out else "")
    return 0


def _filled(word: str, args: argparse.Namespace) -> list[str]:
    if glob.has_magic(word):
        return sorted(glob.glob(word.format(output=glob.escape(str(args.output)))))
    return [word.format(**vars(args))]


def _run(words: list[str]) -> int:
    print("python", *words, flush=True)
    return subprocess.run([sys.executable, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
