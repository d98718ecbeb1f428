"""Flags of ``nonlocalnn convert``."""

from pathlib import Path

from nonlocalnn._names import INSTANTIATIONS
from nonlocalnn.cli.flags import CommandParser, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "convert",
        "Turn a checkpoint of another code base into ours, with equal outputs, or ours into theirs.\n"
        "Known are the C2D and I3D networks of video-nonlocal-net (the paper's code), SlowFast and\n"
        "mmaction2, with blocks and without, and the digit network of AlexHex7/Non-local_pytorch. A file is\n"
        "recognised by what it holds, and nothing in it is run. A tensor that is missing or not used is an\n"
        "error.",
        "nonlocalnn convert i3d_nonlocal_8x8_IN_pretrain_400k.pkl i3d.safetensors\n"
        "  nonlocalnn convert i3d.safetensors i3d.pyth --to slowfast",
    )
    parser.add_argument("source", type=Path, help="the file that is read")
    parser.add_argument("target", type=Path, help="the file that is written, in safetensors format")
    parser.add_argument(
        "--clip",
        metavar="TxS",
        help="frames of a clip x stride, of video networks: 8x8, 32x2, 32x4 or 128x1; no key tells (default: "
        "what the file's name says, else 8x8 of SlowFast and 32x2 of mmaction2)",
    )
    parser.add_argument("--classes", type=Path, help="a text file with the name of a class on each line")
    parser.add_argument(
        "--entry",
        metavar="NAME",
        help="where the source holds several models: under which name the weights lie, such as ema, or what "
        "stands before the names of those wanted, such as teacher",
    )
    parser.add_argument(
        "--instantiation",
        choices=INSTANTIATIONS,
        help="the kind of the blocks; dot_product and embedded_gaussian have equal keys (default: what the "
        "keys tell; of those two the second, but an error where the file's name or its configuration says "
        "another)",
    )
    parser.add_argument(
        "--dot-product",
        action="store_const",
        dest="instantiation",
        const="dot_product",
        help="the same as --instantiation dot_product",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the network that takes the weights, such as one for those of images, with as many classes as "
        "--classes names; and what builds the network of a file that torch.save wrote",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="missing and unused tensors are listed, and no error; what is missing keeps fresh weights",
    )
    parser.add_argument("--to", choices=("slowfast", "mmaction2"), help="write the keys of this code base")
    return parser
