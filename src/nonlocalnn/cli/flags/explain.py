"""Flags of ``nonlocalnn explain``."""

from pathlib import Path

from nonlocalnn.cli.flags import CommandParser, add_data, add_model, add_rate, add_whole, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "explain",
        "One HTML file that shows what each position of an image, video, sequence or volume attends to. It\n"
        "opens in any browser, without a server or a network.",
        "nonlocalnn explain clip.mp4 --model runs/kinetics -o clip.html\n"
        "  nonlocalnn explain --data cue --sample 3 --model runs/cue -o cue.html --deletion",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="input",
        help="images, or for a model of them videos, sequences or volumes; one of a file of many "
        "is FILE#NUMBER",
    )
    add_model(parser, precision=False)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="the page, or a folder for it, as of several inputs (default: the input's name with .html)",
    )
    add_data(parser, purpose="take the input from a data set instead")
    parser.add_argument("--sample", type=int, default=0, help="place in the split (default: 0)")
    parser.add_argument("--blocks", nargs="+", help="names of blocks (default: all)")
    add_whole(parser)
    add_rate(parser)
    parser.add_argument(
        "--no-effects",
        action="store_true",
        help="leave out what attended positions do to the predicted class: half the rows, half the time",
    )
    parser.add_argument(
        "--deletion",
        action="store_true",
        help="take the most and the least attended positions, and random ones, out of the input, and print "
        "what the predicted class loses; written beside the page as .deletion.json too",
    )
    return parser
