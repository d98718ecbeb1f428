"""A parser of training recipes: each field a flag, files by ``--config``."""

from __future__ import annotations

import dataclasses
import re
from argparse import HelpFormatter
from collections.abc import Sequence
from typing import Any

from nonlocalnn._errors import missing_extra
from nonlocalnn.train import Recipe

try:
    import yaml
    from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
except ImportError:
    raise missing_extra("jsonargparse", "train", "training from the command line") from None


def _load_without_aliases(text: str) -> Any:
    """Read YAML; no field needs an alias, and a few lines of them unpack to more than memory holds."""
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            line = token.start_mark.line + 1
            raise yaml.YAMLError(f"aliases, such as *{token.value} on line {line}, must be written out")
    return get_loader("yaml")(text)


set_loader("recipe", _load_without_aliases, exceptions=(yaml.YAMLError,))


class RecipeParser(ArgumentParser):
    """Takes every field of :class:`nonlocalnn.train.Recipe` as a flag, spelt with dashes.

    ``--config FILE`` reads a YAML or JSON file of fields; flags to its right win. ``--print-config`` prints
    what would be used and stops.

    Args:
        program: What people type before the flags.
        description: What it does.
        example: Shown at the end of the help.
    """

    def __init__(self, *, program: str, description: str, example: str) -> None:
        super().__init__(
            prog=program,
            description=description,
            epilog=f"example: {example}",
            parser_mode="recipe",
        )
        self.add_argument("--config", action="config", help="YAML or JSON file of the fields below")
        self.add_class_arguments(Recipe)

    def format_help(self, *words: HelpFormatter | None) -> str:
        """Return the help with flags as people type them; older versions of the parser take no words."""
        text = super().format_help(*words)
        return re.sub(r"--[a-z]+(?:_[a-z]+)+", lambda flag: flag[0].replace("_", "-"), text)

    def parse_words(self, words: Sequence[str]) -> tuple[Recipe, Namespace]:
        """Return the recipe and all that was parsed; exits with status 2 on a wrong flag.

        Raises:
            ValueError: The fields do not go together, or a file is not UTF-8.
        """
        try:
            parsed = self.parse_args([_with_underscores(word) for word in words])
        except UnicodeDecodeError as error:
            raise ValueError(
                f"--config must be a file of text in UTF-8; byte {error.start} is not"
            ) from error
        names = {field.name for field in dataclasses.fields(Recipe)}
        given: dict[str, Any] = {key: value for key, value in parsed.as_dict().items() if key in names}
        return Recipe.from_dict(given), parsed


def _with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value
