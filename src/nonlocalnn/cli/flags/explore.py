"""Flags of ``nonlocalnn explore``."""

from pathlib import Path

from nonlocalnn.cli.flags import CommandParser, add_rate, command_parser


def parser() -> CommandParser:
    """Return the parser; its defaults are those of :class:`nonlocalnn.explorer.job.Limits`."""
    parser = command_parser(
        "explore",
        "A page in your browser that shows what each position of an image, a video, a sequence (.npy, .csv)\n"
        "or a volume (.nii, .nii.gz, .npy) attends to. Files that are uploaded are deleted when they are\n"
        "explained; results go when the server ends.",
        "nonlocalnn explore --model runs/kinetics --inputs clips/\n"
        "  nonlocalnn explore --model before=runs/a --model after=runs/b",
    )
    parser.add_argument(
        "--model",
        dest="models",
        metavar="[NAME=]MODEL",
        action="append",
        required=True,
        help="a checkpoint, or the folder of a run (its best weights), and what to call it (default: the "
        "file's or the folder's name); repeat it to choose among several, up to two at a time",
    )
    parser.add_argument("--inputs", type=Path, help="a folder of files to choose from")
    add_rate(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any that is free (default: 8080)")
    parser.add_argument("--max-upload-mib", type=float, default=64, help="default: %(default)s")
    parser.add_argument("--time-limit", type=float, default=60, help="seconds a job (default: %(default)s)")
    parser.add_argument(
        "--memory-limit-mib",
        type=float,
        default=4096,
        help="memory of the process that explains, models included (default: %(default)s)",
    )
    parser.add_argument("--max-queued", type=int, default=16, help="jobs that wait (default: %(default)s)")
    return parser
