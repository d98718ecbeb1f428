"""Flags of ``nonlocalnn models``."""

from nonlocalnn.cli.flags import CommandParser, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "models",
        "The networks that can be made by name, by what they are for.",
        "nonlocalnn models\n  nonlocalnn models i3d nl5\n  nonlocalnn models --of images\n"
        "  nonlocalnn models --cost",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="list those only whose names hold every word, such as i3d"
    )
    parser.add_argument(
        "--of", choices=("images", "videos", "sequences"), help="list those only that take it"
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="a table of the paper's video networks at 32 x 224 x 224 instead: millions of parameters and "
        "10^9 multiply-adds, of convolutions and matrix products, those of normalisation left out",
    )
    return parser
