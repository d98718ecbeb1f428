"""Flags of ``nonlocalnn train``."""

from nonlocalnn.cli.recipe_parser import RecipeParser


def parser() -> RecipeParser:
    """Return the parser: a recipe's fields, and whether a run is gone on with."""
    parser = RecipeParser(
        program="nonlocalnn train",
        description="Train a network to classify images, videos, sequences or volumes, or to label their "
        "pixels or voxels, keep the best of its epochs and test it once. FOLDER has your own files, in a "
        "folder for each class or with masks: it stands for --data-dir, and for --data by what lies in it. "
        "Under torchrun the batch is shared among the processes.",
        example="nonlocalnn train photos --epochs 20 --output runs/photos",
    )
    parser.usage = f"{parser.prog} [FOLDER] [--config FILE] [--FLAG VALUE ...]"
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output; its recipe counts where no --data is given",
    )
    parser.add_argument(
        "--resume_if_any",
        action="store_true",
        help="as --resume, but begin where --output holds no run: for commands that are repeated",
    )
    return parser
