"""What may come of a case: an answer, or an error of ours with a message."""

import traceback
from pathlib import Path

import nonlocalnn

_LIBRARY = str(Path(nonlocalnn.__file__).parent)


def outcome_of(function, allowed, *, anywhere=False, message=True):
    """Return ("answered", result) or ("refused", error).

    Args:
        function: Called without arguments.
        allowed: Classes of errors that are refusals. Any other error leaves as it is.
        anywhere: Whether such an error may come from another library's code; else ours has to raise it.
        message: Whether the error must say something in one line.
    """
    try:
        return "answered", function()
    except allowed as error:
        refusal = error
    raised_in = traceback.extract_tb(refusal.__traceback__)[-1].filename
    assert anywhere or raised_in.startswith(_LIBRARY), f"{raised_in} refused, and not we: {refusal!r}"
    if message:
        check_message(refusal)
    return "refused", refusal


def check_message(error):
    """Check that an error says something, in one line of a length that can be read."""
    message = str(error)
    assert message.strip(), f"{error!r} says nothing"
    assert len(message) < 4000, f"{type(error).__name__} says {len(message)} letters: {message[:200]}"
    assert "\n" not in message.strip(), f"{error!r} has several lines"
