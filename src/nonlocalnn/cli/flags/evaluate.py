"""Flags of ``nonlocalnn evaluate``."""

from pathlib import Path

from nonlocalnn._names import BACKENDS
from nonlocalnn.cli.flags import CommandParser, add_data, add_model, add_views, add_window, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "evaluate",
        "Accuracy, recall and precision of each class, and the confusion matrix; of videos that may show\n"
        "several classes mean average precision. Of segmentation the mean over the classes of intersection\n"
        "over union, from one confusion matrix over all pixels; of volumes the mean Dice coefficient, and\n"
        "how far surfaces are apart, in millimetres. Of detection average precision of boxes and masks by\n"
        "COCO's rules, and the results in files that other tools score.",
        "nonlocalnn evaluate --model runs/digits --data digits\n"
        "  nonlocalnn evaluate --model runs/kinetics --data kinetics --data-dir data/kinetics --views 30",
    )
    add_model(parser)
    add_data(parser, purpose="what to evaluate on (default: what the model was trained on)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="samples a forward pass (default: 256), or views of videos (default: 8)",
    )
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read (default: 0)")
    add_views(parser, default=30)
    add_window(parser)
    parser.add_argument("--decoder", choices=BACKENDS, help="of videos: what decodes (default: pyav)")
    parser.add_argument(
        "--max-broken",
        type=int,
        help="of videos and images: up to how many that cannot be read are left out (default: 0)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder of the results (default: one beside the model, named after data set and split, such as "
        "runs/digits/evaluation-digits-test)",
    )
    return parser
