"""Flags of ``nonlocalnn doctor``."""

from pathlib import Path

from nonlocalnn.cli.flags import CommandParser, add_data, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "doctor",
        "Are a trained network's non-local blocks used? Runs a few samples through it as it is, without\n"
        "each block, and with each block weighing all positions alike, and says in plain words what it\n"
        "found and what to try.",
        "nonlocalnn doctor runs/cue\n"
        "  nonlocalnn doctor vowels.safetensors --data sequences --data-dir vowels --json",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a run (its best weights), or a checkpoint"
    )
    add_data(parser, purpose="what to look at (default: what the model was trained on)", split="validation")
    parser.add_argument(
        "--samples", type=int, default=128, help="how many, all over the split (default: 128)"
    )
    parser.add_argument(
        "--no-masks",
        action="store_true",
        help="of samples that are padded: do not tell the network what is real, as a training of one's own "
        "may not have done",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    return parser
