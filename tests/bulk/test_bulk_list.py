"""A list of paths: what is read of it, and what is no list."""

import hashlib
import os

import pytest

from nonlocalnn.inference.bulk.path_list import read_list


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "must list a path on each line; it lists none"),
        (b"\n \r\n", "must list a path on each line; it lists none"),
        (b"a.png\n" + bytes(1 << 16), "one has 65536 bytes or more"),
        ("a.png\n".encode("utf-16"), "must be text in UTF-8, and is in UTF-16: convert it"),
    ],
    ids=["empty", "blank", "no text", "UTF-16"],
)
def test_what_is_no_list(tmp_path, text, says):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=says):
        read_list(tmp_path / "list.txt")


def test_what_is_read(tmp_path):
    text = b"\xef\xbb\xbf\na.png\r\n\xff .png\n\n\xef\xbb\xbfb.png\na.png"
    (tmp_path / "list.txt").write_bytes(text)
    listed = read_list(tmp_path / "list.txt")
    assert list(map(os.fsencode, listed.names)) == [b"a.png", b"\xff .png", b"\xef\xbb\xbfb.png", b"a.png"]
    assert (listed.blank, listed.repeated) == (2, 1)
    assert listed.sha256 == hashlib.sha256(text).hexdigest()
