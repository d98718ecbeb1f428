"""A damaged state in whose place an older one was read."""

from types import SimpleNamespace

from nonlocalnn.train.state.resuming import remove_damaged


def test_the_damaged_state_alone_is_removed(tmp_path):
    (tmp_path / "shards").mkdir()
    for name in ("shards/0.distcp", "last.pt", "other.pt"):
        (tmp_path / name).touch()
    for name in ("shards", "last.pt"):
        remove_damaged(SimpleNamespace(instead_of=tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


def test_nothing_happens_where_nothing_is_damaged_or_it_is_gone(tmp_path):
    (tmp_path / "other.pt").touch()
    remove_damaged(SimpleNamespace(instead_of=None))
    remove_damaged(SimpleNamespace(instead_of=tmp_path / "last.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]
