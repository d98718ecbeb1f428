"""How the command line fails."""

from nonlocalnn.cli import main


def fails(capsys, *words, status, says):
    """Check the status and that stderr is one line that says what is wrong."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    if status == 1:
        assert captured.err.count("\n") == 1
        assert captured.err.startswith(f"nonlocalnn {words[0]}: ")
