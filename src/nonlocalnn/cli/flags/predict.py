"""Flags of ``nonlocalnn predict``."""

from pathlib import Path

from nonlocalnn.cli.flags import CommandParser, add_model, add_views, add_window, command_parser


def parser() -> CommandParser:
    """Return the parser."""
    parser = command_parser(
        "predict",
        "The most probable classes of images, or of videos, sequences or volumes by a model of them, one\n"
        "JSON object a line.\n"
        "Of a segmentation network the classes of an image's pixels: a picture of the labels, one with\n"
        "colours over the image, and in the line each class's share. Of a volume's voxels: a NIfTI file\n"
        "with the volume's affine, a picture of three planes, and in the line each class's millilitres.\n"
        "Of a detector the objects: a picture of them over the image, and in the line boxes, classes,\n"
        "scores and masks.",
        "nonlocalnn predict digit.png more/ --model runs/digits\n"
        "  nonlocalnn predict photos/ --model runs/masks --output-folder labelled\n"
        "  nonlocalnn predict photos/ --model runs/boxes --min-score 0.8\n"
        "  nonlocalnn predict clip.mp4 --model runs/kinetics --views 30 --top 5\n"
        "  nonlocalnn predict scan.nii.gz dicom-folder/ --model runs/organs --output-folder labelled\n"
        "  nonlocalnn predict ecg.csv Vowels_TEST.ts --model runs/sequences\n"
        "  nonlocalnn predict --list files.txt --output-folder answers --model runs/kinetics\n"
        "  nonlocalnn predict --list files.txt --output-folder answers --model runs/kinetics --engine ray",
    )
    parser.add_argument("inputs", nargs="*", type=Path, help="files, and folders of them")
    add_model(parser)
    add_views(parser, default=1)
    parser.add_argument("--top", type=int, help="classes to report (default: 3)")
    add_window(parser)
    parser.add_argument(
        "--min-score", type=float, help="of detection: objects with a lower score are left out (default: 0.5)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="images, sequences or views a forward pass (default: 64, of views 8)",
    )
    parser.add_argument("-o", "--output", type=Path, help="file for the lines (default: standard output)")
    lists = parser.add_argument_group(
        "lists of files",
        "for any number of files; the same command goes on with a run that was stopped",
    )
    lists.add_argument("--list", type=Path, help="text file with a path a line, in place of inputs")
    lists.add_argument(
        "--output-folder",
        type=Path,
        help="folder of the results, part by part; without a list, of segmentation and detection, folder of "
        "the labels and pictures "
        "(default: predictions in the run's folder)",
    )
    lists.add_argument("--root", type=Path, help="what paths are relative to (default: the list's folder)")
    lists.add_argument("--part-size", type=int, help="files of a part (default: 1000)")
    lists.add_argument("--num-workers", type=int, help="processes that read ahead (default: 2)")
    lists.add_argument(
        "--engine", choices=("loop", "ray"), help="this process, or workers of Ray (default: loop)"
    )
    lists.add_argument("--workers", type=int, help="workers of Ray (default: one a GPU, else one a CPU)")
    return parser
