"""A parser of training recipes: each field a flag, files by ``--config``."""

from __future__ import annotations

import dataclasses
import os
import re
from argparse import SUPPRESS, Action, HelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import nonlocalnn
from nonlocalnn._errors import check_choice, needs
from nonlocalnn._names import DATASETS, MASK_SETS, STEP_SETS, VOLUME_MASK_SETS
from nonlocalnn.cli.flags import Formatter, check_flags, complaint
from nonlocalnn.tasks.recipe import Recipe

with needs("jsonargparse", "train", "training from the command line"):
    import yaml
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader


def _load_without_aliases(text: str) -> Any:
    """Read YAML; no field needs an alias, and a few lines of them unpack to more than memory holds."""
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            line = token.start_mark.line + 1
            raise yaml.YAMLError(f"aliases, such as *{token.value} on line {line}, must be written out")
    return get_loader("yaml")(text)


set_loader("recipe", _load_without_aliases, exceptions=(yaml.YAMLError,))

# In the wheel, since who installs the package has no clone to find them in.
_RECIPES = {path.stem: path for path in sorted((Path(nonlocalnn.__file__).parent / "recipes").glob("*.yaml"))}


_PATHS = ("data_dir", "start_from", "output")

# What the flags' help says beyond the meaning of their field, which is the same in a file.
_MORE_HELP = {
    "data": ", ".join((*DATASETS, *MASK_SETS, *VOLUME_MASK_SETS, *STEP_SETS)),
    "model_overrides": "one by one as --model-overrides.instantiation dot_product",
    "insert_settings": "one by one as --insert-settings.num-heads 4",
}
# What stands for a flag's value, by a word in its type.
_VALUES = {"tuple": "[N,...]", "dict": "JSON", "Path": "PATH", "float": "X", "int": "N"}

# What a value must be, by the type of its field.
_WANTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "numbers in brackets, such as [1,2]",
    dict: "a JSON object, such as {}, or be set one by one after a dot",
}


class RecipeParser(ArgumentParser):
    """Takes every field of :class:`nonlocalnn.train.Recipe` as a flag, spelt with dashes.

    ``--config`` reads a YAML or JSON file of fields, or a recipe of the package by its name; flags to its
    right win. ``--print-config`` prints what would be used and stops.

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
            usage=f"{program} [--config FILE] [--FLAG VALUE ...]",
            formatter_class=Formatter,
            parser_mode="recipe",
        )
        # What was typed, for errors.
        self._words: Sequence[str] = ()
        self.add_argument(
            "--config",
            action="config",
            metavar="FILE",
            help=f"YAML or JSON file of the fields below, or a recipe's name: {', '.join(_RECIPES)}",
        )
        self.add_class_arguments(Recipe)
        meanings = _meanings()
        for action in self._actions:
            action.help = meanings.get(action.dest, action.help)
            _say_plainly(action)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in one line and exit with status 2."""
        self.exit(2, complaint(self.prog, _refusal(message, self._words) or _with_dashes(message)))

    def format_help(self, *words: HelpFormatter | None) -> str:
        """Return the help with flags as people type them; older versions of the parser take no words."""
        text = super().format_help(*words)
        return _with_dashes(text)

    def parse_words(self, words: Sequence[str]) -> tuple[Recipe, Namespace]:
        """Return the recipe and all that was parsed; exits with status 2 on a wrong flag.

        Raises:
            ValueError: The fields do not go together, a file is not UTF-8, or there is neither a file nor a
                recipe of that name.
        """
        self._words = words
        check_flags(self, words, map(_with_dashes, self._option_string_actions))
        try:
            parsed = self.parse_args(_with_recipes([_with_underscores(word) for word in words]))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"--config must be a file of text in UTF-8; byte {error.start} is not"
            ) from error
        names = {field.name for field in dataclasses.fields(Recipe)}
        given: dict[str, Any] = {key: value for key, value in parsed.as_dict().items() if key in names}
        for name in _PATHS:
            # In a file no shell has done so.
            given[name] = given[name] and Path(os.path.expanduser(given[name]))
        return Recipe.from_dict(given), parsed


def _meanings() -> dict[str, str]:
    """Return what the docstrings of a recipe's parts say of each field; older parsers read no parent's."""
    return {
        field.arg_name: field.description or ""
        for part in Recipe.__mro__
        for field in parse_docstring(part.__doc__ or "").params
    }


def _say_plainly(action: Action) -> None:
    """Turn a field's docstring and type, which the parser took for help, into what people type."""
    hint = getattr(action, "_typehint", action.type)
    if action.dest == "print_config":
        action.help = "print the recipe that would be used, and stop"
    if hint is None:
        return
    names = {field.name for field in dataclasses.fields(Recipe)}
    # Marks of docstrings: ``lr`` is the flag --lr, and a link to a function is its name.
    text = re.sub(r":\w+:`[~.]*(.+?)`", r"\1", action.help or "")
    text = re.sub(r"``(.+?)``", lambda found: f"--{found[1]}" if found[1] in names else found[1], text)
    more = _MORE_HELP.get(action.dest)
    text = text if more is None else f"{text.rstrip('.')}: {more}."
    if action.default not in (None, SUPPRESS, (), {}):
        value = str(action.default).lower() if isinstance(action.default, bool) else action.default
        text += f" (default: {value})"
    action.help = text.replace("%", "%%")
    if action.metavar is None or "ITEM" in action.metavar:
        action.metavar = next((value for word, value in _VALUES.items() if word in str(hint)), "NAME")


def _refusal(message: str, words: Sequence[str]) -> str | None:
    """Return what a field must be, where the parser says that a value is of another type; None elsewhere.

    The parser's own text names classes of Python, and each part of a union by itself. A folder behind flags
    may be the value of the last one, so that it stands before them.

    Args:
        message: What the parser says.
        words: What was typed; a field that is not among them came from a file, where it has no dashes.
    """
    no_fields = re.search(r"Unexpected config: ?(.*)", message, re.DOTALL)
    if no_fields is not None:
        got = repr(no_fields[1].strip()[:60]) if no_fields[1].strip() else "nothing"
        return f"--config must be a file of fields and their values, such as epochs: 3; got {got}"
    left = message.partition("nrecognized arguments: ")[2]
    if left and any(left == word and os.path.isdir(word) for word in words):
        return f"the folder of the files must stand before all flags: nonlocalnn train {left} ..."
    found = re.match(r'Parser key "(\w+)":.*(?:Got value|Given value): (.*)$', message, re.DOTALL)
    hints = get_type_hints(Recipe)
    if found is None or found[1] not in hints:
        return None
    name, value = found[1], found[2].strip()
    flag = f"--{name.replace('_', '-')}"
    called = flag if any(re.split(r"[=.]", word)[0] == flag for word in words) else name
    hint = hints[name]
    kinds = (
        [each for each in get_args(hint) if each is not type(None)]
        if type(None) in get_args(hint)
        else [hint]
    )
    if get_origin(kinds[0]) is Literal:
        try:
            check_choice(called, value, get_args(kinds[0]))
        except ValueError as error:
            return str(error)
    wanted = _WANTED.get(get_origin(kinds[0]) or kinds[0])
    return None if wanted is None else f"{called} must be {wanted}; got {value!r}"


def _with_dashes(text: str) -> str:
    """Return a text with flags as people type them."""
    return re.sub(r"--[a-z]+(?:_[a-z]+)+", lambda flag: flag[0].replace("_", "-"), text)


def _with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def _with_recipes(words: list[str]) -> list[str]:
    """Return the words, with the path of a file where ``--config`` has the name of a recipe."""
    found = list(words)
    for place, word in enumerate(words):
        if word.startswith("--config="):
            found[place] = "--config=" + _find_recipe(word.partition("=")[2])
        elif place > 0 and words[place - 1] == "--config":
            found[place] = _find_recipe(word)
    return found


def _find_recipe(given: str) -> str:
    """Return the file to read; fields in place of a file, which have a colon, stay as they are."""
    # A folder of data may well have a recipe's name.
    if given in _RECIPES and not os.path.isfile(given):
        return str(_RECIPES[given])
    if ":" not in given and not os.path.exists(given):
        check_choice("--config, where it is no file,", given, list(_RECIPES))
    return given
