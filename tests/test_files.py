"""What a killed process leaves beside the files that it writes."""

import subprocess
import sys

import pytest

from nonlocalnn._files import read_lines, remove_parts, write_text
from nonlocalnn.data.archives.images import load_archives
from nonlocalnn.data.masks import load_masks
from nonlocalnn.data.objects import load_objects

# The system kills a process that writes beyond this size, unless it has said otherwise, as Python does.
KILLED = """
import resource, signal, sys
import torch
from nonlocalnn.checkpoints import save_checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
save_checkpoint(torch.nn.Linear(100, 100), sys.argv[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to kill a process in mid-write")
def test_parts_of_a_killed_save_are_removed(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "last.safetensors")])
    assert done.returncode < 0
    # Ours, and from safetensors 0.5 on the one that it writes beside it.
    assert list(tmp_path.iterdir())
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_kept(tmp_path):
    for name in ("last.safetensors", ".hidden", ".tmp", ".tmp-notes", "x.part"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path, monkeypatch):
    def refuse(**settings):
        raise PermissionError(13, "Permission denied", "/hidden/.a.txt.123.part")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError) as caught:
        write_text(tmp_path / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "load",
    [
        lambda root: read_lines(root / "classes.txt"),
        lambda root: load_archives(root, "train"),
        lambda root: load_masks("masks", "train", data_dir=root),
        lambda root: load_objects("voc-xml", "train", data_dir=root),
    ],
    ids=["lines", "archives", "masks", "objects"],
)
def test_class_names_in_another_encoding(tmp_path, load):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.xml").write_text("<annotation/>")
    (tmp_path / "classes.txt").write_bytes("grün".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt must be text in UTF-8; byte 2 is not: convert it"):
        load(tmp_path)
