"""The index of a list of paths: where its parts begin, and what is no list."""

import tracemalloc

import pytest

from nonlocalnn.bulk.path_list import index_list


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "must list a path on each line; it lists none"),
        (b"\n \r\n", "must list a path on each line; it lists none"),
        (b"a.png\n" + bytes(1 << 16), "one has 65536 bytes or more"),
    ],
    ids=["empty", "blank", "no text"],
)
def test_what_is_no_list(tmp_path, text, says):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=says):
        index_list(tmp_path / "list.txt", part_size=10)


@pytest.mark.parametrize("part_size", [1, 3, 7, 8], ids=str)
def test_parts_are_consecutive_lines(tmp_path, part_size):
    (tmp_path / "list.txt").write_text("\n0\n1\n\n2\n3\n4\n\n\n5\n6")
    listed = index_list(tmp_path / "list.txt", part_size=part_size)
    read = [listed.read(part) for part in range(listed.parts)]
    assert [name for names in read for name in names] == list("0123456")
    assert [len(names) for names in read] == [listed.size(part) for part in range(listed.parts)]
    assert {len(names) for names in read[:-1]} <= {part_size}


@pytest.mark.parametrize("text", ["a\nb\nc\nx\n", "a\nb\nc\n", "a\nb\ncd\n"], ids=["other", "cut", "moved"])
def test_a_list_that_changes_meanwhile(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text("a\nb\nc\nd\n")
    listed = index_list(path, part_size=2)
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"list\.txt must stay as it is while it is worked on; it has changed"
    ):
        listed.read(1)
    assert listed.read(0) == ["a", "b"]


def test_a_list_is_not_held(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{number:0200}\n" for number in range(20_000)))
    tracemalloc.start()
    try:
        listed = index_list(tmp_path / "list.txt", part_size=1000)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listed.lines == 20_000
    # The lines are 4 MB.
    assert most < 600_000
    assert kept < 20_000
