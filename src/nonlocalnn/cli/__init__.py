"""The command ``nonlocalnn``: one module a sub-command, imported only when it is called.

What is typed after it stands in :mod:`nonlocalnn.cli.flags`, apart from what computes.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence

import nonlocalnn
from nonlocalnn._errors import near_miss
from nonlocalnn.cli.flags import spelled_as_typed

# What the list of commands says of each; the module of the same name holds the rest.
COMMANDS = {
    "train": "train a network by a recipe, or go on with a run",
    "evaluate": "accuracy, a table by class and the confusion matrix of a checkpoint",
    "predict": "class probabilities of image files, as JSON lines",
    "maps": "what each position attends to, as arrays and pictures",
    "explain": "one HTML file that shows what each position of an input attends to",
    "doctor": "whether a trained network uses its blocks, in plain words, and what to try",
    "explore": "the same pages for new inputs, in the browser",
    "convert": "turn another code base's checkpoint into ours",
    "export": "write a network as a file that onnxruntime or PyTorch runs by itself",
    "data": "look after video files: find broken ones, make small copies",
    "models": "list the networks that can be made by name",
    "cost": "parameters, FLOPs and the memory of the blocks",
}
# As argparse and the shells have them; 130 is 128 and the number of SIGINT.
_USAGE_ERROR, _FAILURE, _STOPPED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 failed, 2 wrongly called.

    Args:
        arguments: What follows the command's name; None is ``sys.argv``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Every command takes it, before or after its own flags, so that no parser has to know it.
    debug = "--debug" in words
    words = [_at_home(word) for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):

        def show(words: Sequence[str]) -> int:
            # At once, so that a pipe without a reader is met here.
            print(_overview(), flush=True)
            return 0 if words else _USAGE_ERROR

        return call("nonlocalnn", show, words, debug=debug)
    if words[0] == "--version":
        print(f"nonlocalnn {nonlocalnn.__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        hint = near_miss(name, COMMANDS)
        return _complain(f"nonlocalnn: no command {name!r}{hint}; see nonlocalnn --help", _USAGE_ERROR)

    def parser() -> ArgumentParser:
        return importlib.import_module(f"nonlocalnn.cli.flags.{name}").parser()

    def run(words: Sequence[str]) -> int:
        # Help needs the flags alone. What computes is imported below, and with it torch, which takes seconds.
        if {"-h", "--help"}.intersection(words):
            parser().parse_args(words)
        return importlib.import_module(f"nonlocalnn.cli.{name}").run(words)

    return call(
        f"nonlocalnn {name}",
        run,
        words[1:],
        debug=debug,
        # The library says max_broken; who typed --max-broken looks for that.
        say=lambda text: spelled_as_typed(text, parser()),
    )


def _at_home(word: str) -> str:
    """Return a word with the home folder for the ~ behind ``--flag=``, where shells leave it as it is."""
    flag, equals, value = word.partition("=")
    is_flag = flag.startswith("--") and value.startswith("~")
    return f"{flag}{equals}{os.path.expanduser(value)}" if is_flag else word


def call(
    program: str,
    run: Callable[[Sequence[str]], int],
    words: Sequence[str],
    *,
    debug: bool,
    say: Callable[[str], str] = str,
) -> int:
    """Run a command; say its warnings, and the error that ends it, in a line each on stderr.

    Args:
        program: What people type before ``words``; the lines begin with it.
        run: Takes the words and returns the exit status.
        words: Arguments of the command.
        debug: Whether errors and warnings come as Python prints them, with their traceback and line.
        say: Turns what the library says into what a person who types commands can act on.

    Returns:
        The exit status: that of ``run``, 1 where it failed, 130 where Ctrl-C stopped it.
    """
    in_full = warnings.formatwarning
    # Python's own form names a line of the source, and prints it.
    if not debug:
        warnings.formatwarning = lambda message, *_, **__: f"{program}: {say(_in_one_line(message))}\n"
    try:
        return run(words)
    except SystemExit as stop:  # argparse has said what is wrong
        return stop.code if isinstance(stop.code, int) else _FAILURE
    except KeyboardInterrupt:
        return _complain(f"{program}: stopped", _STOPPED)
    except BrokenPipeError:
        # The reader of a pipe has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILURE
    except ImportError as error:
        if debug:
            raise
        # Without asking for the flags: what they need may be what is not installed.
        return _complain(f"{program}: {_said(error)}", _FAILURE)
    except (ValueError, TypeError, OSError, ArithmeticError) as error:
        if debug:
            raise
        return _complain(f"{program}: {say(_said(error))}", _FAILURE)
    finally:
        warnings.formatwarning = in_full


def _said(error: Exception) -> str:
    """Return an error's message in one line; of one that a reading process raised, not its traceback."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        # Python's own text begins with a number, [Errno 21].
        return f"{error.filename} cannot be used: {str(error.strerror).lower()}"
    if text.startswith("Caught ") and "DataLoader worker" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return _in_one_line(text)


def _in_one_line(said: object) -> str:
    return " ".join(str(said).split())


def _overview() -> str:
    listed = "\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items())
    return (
        "usage: nonlocalnn COMMAND [...]\n\nNon-local neural networks in PyTorch.\n\n"
        f"commands:\n{listed}\n\n"
        "nonlocalnn COMMAND --help shows a command's settings and an example; --debug shows tracebacks,\n"
        "--version the version."
    )


def _complain(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
