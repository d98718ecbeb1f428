import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from archives import pack
from nonlocalnn.data import load_dataset, write_archives
from nonlocalnn.data.archives.images import load_archives
from nonlocalnn.data.archives.index import read_index
from nonlocalnn.train.order import MicroBatches, epoch_order
from tolerances import assert_near, assert_same


def picture(value):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


GOOD = [("a.png", picture(1)), ("a.cls", b"0"), ("b.png", picture(2)), ("b.cls", b"dog\n")]


@pytest.fixture
def root(tmp_path):
    """A folder with the class list of cats and dogs."""
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of images and the same as archives of three."""
    images, shards = (tmp_path_factory.mktemp(name) for name in ("images", "archives"))
    for split, number in (("train", 8), ("validation", 2), ("test", 2)):
        for offset, name in enumerate(("cat", "dog")):
            (images / split / name).mkdir(parents=True)
            for place in range(number):
                content = picture(10 * place + offset)
                (images / split / name / f"{place}.png").write_bytes(content)
    assert write_archives(images, shards, samples_per_archive=3) == {"train": 16, "validation": 4, "test": 4}
    return images, shards


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("channels", [1, 3])
def test_archives_hold_what_the_folder_held(folders, split, channels):
    settings = {"image_size": (4, 7), "channels": channels}
    images, shards = (
        load_dataset(name, split, data_dir=folder, **settings)
        for name, folder in zip(("images", "archives"), folders, strict=True)
    )
    assert (shards.classes, shards.targets) == (images.classes, images.targets)
    for first, second in zip(images, shards, strict=True):
        assert_same(first, second)
    ids = [shards.sample_id(index) for index in range(len(shards))]
    assert len(set(ids)) == len(shards)
    assert ids[3] == f"{folders[1]}/{split}-000001.tar/00000003"


def test_members_are_read_in_any_order_by_any_process(folders):
    data = load_archives(folders[1], "train", image_size=5)
    order = epoch_order(len(data), seed=3, epoch=0)
    expected = torch.stack([data[index][0] for index in order])
    loader = DataLoader(pickle.loads(pickle.dumps(data)), batch_size=8, sampler=order, num_workers=2)
    assert_same(torch.cat([batch for batch, _ in loader]), expected)


def test_an_interrupted_epoch_on_other_ranks_sees_each_sample_once(folders):
    data = load_archives(folders[1], "train")
    order = epoch_order(len(data), seed=5, epoch=2)
    seen = []
    for world_size, steps, start_step in ((2, 2, 0), (4, 2, 2)):
        for rank in range(world_size):
            parts = MicroBatches(order, batch_size=4, rank=rank, world_size=world_size, start_step=start_step)
            seen += [data.sample_id(index) for part in list(parts)[:steps] for index in part]
    assert sorted(seen) == sorted(data.sample_id(index) for index in range(len(data)))


@pytest.mark.parametrize(
    ("label", "target"),
    [
        (("x/a.cls", b"1"), 1),
        (("x/a.cls", b" dog \n"), 1),
        (("x/a.json", b'{"label": 1, "more": []}'), 1),
        (("x/a.json", b'{"label": "dog"}'), 1),
        (("x/a.CLS", b"0"), 0),
        (("x/a.cls", b"dog".ljust(1 << 20)), 1),
    ],
)
def test_labels(root, label, target):
    pack(root / "test-000000.tar", [label, ("x/a.png", picture(9)), ("x/a.txt", b"a caption")])
    data = load_archives(root, "test", image_size=5)
    assert list(data.targets) == [target]
    assert_near(data[0][0][0], torch.full((5, 5), 9 / 255))


@pytest.mark.parametrize("first", [".cls", ".json"])
def test_a_cls_goes_before_a_json(root, first):
    labels = {".cls": ("a.cls", b"1"), ".json": ("a.json", b'{"label": 0}')}
    second = labels.pop(first)
    pack(root / "test-0.tar", [second, *labels.values(), ("a.png", picture(9))])
    assert load_archives(root, "test").targets[0] == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"x")], r"test-0\.tar/a lacks its class, a \.cls or \.json of the same key"),
        ([("a.png", b"x"), ("a.json", b"{}")], "a lacks its class"),
        ([("x/a.png", b"x"), ("y/a.cls", b"0")], "x/a lacks its class"),
        ([("a.cls", b"0")], "a lacks its image"),
        ([*GOOD, ("a.jpg", b"x")], "one image for each key; 'a' has several"),
        ([*GOOD, ("a.png", b"x")], "one image for each key; 'a' has several"),
        (
            [("a.png", b"x"), ("a.cls", b"2")],
            "a has the label 2, which is none of the 2 classes of classes.txt",
        ),
        ([("a.png", b"x"), ("a.cls", b"dgo")], r"the label 'dgo', .* \(did you mean 'dog'\?\)"),
        ([("a.png", b"x"), ("a.cls", b"\xff")], r"a\.cls holds no label: .*utf-8"),
        ([("a.png", b"x"), ("a.json", b"[1]")], r"a\.json holds no label"),
        (
            [("a.png", b"x"), ("a.json", b'{"label": 0.5}')],
            'must have a number or a name as "label"; got 0.5',
        ),
        ([("a.png", b"x"), ("a.json", b'{"label": true}')], "got True"),
        ([("a.png", b"x"), ("a.json", b'{"label": -1}')], "has the label -1"),
        ([("a.png", b"x"), ("a.json", b"[" * 100_000)], r"a\.json holds no label"),
        ([("a.png", b"x"), ("a.cls", bytes(2_000_000))], "must be at most 1048576 bytes; it is 2000000"),
    ],
)
def test_a_wrong_member(root, members, message):
    pack(root / "test-0.tar", members)
    with pytest.raises(ValueError, match=message):
        load_archives(root, "test")


def cut_in_a_member(path):
    os.truncate(path, 512 + 20)


def cut_between_members(path):
    os.truncate(path, 2 * 512 + 512)


def damage_a_header(path):
    content = bytearray(path.read_bytes())
    content[3 * 512 - 400] ^= 0xFF
    path.write_bytes(bytes(content))


def claim(path, **fields):
    header = tarfile.TarInfo("a.png")
    for name, value in fields.items():
        setattr(header, name, value)
    # The last block: before it pax would write large sizes a second time.
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT)[-512:] + path.read_bytes()[512:])


def claim_too_much(path):
    claim(path, size=1 << 40)


def claim_less_than_nothing(path):
    # The second header leads back to itself.
    pack(path, [("x.txt", b"x"), ("y.txt", b"y")])
    header = tarfile.TarInfo("y.txt")
    header.size = -512
    content = path.read_bytes()
    path.write_bytes(content[:1024] + header.tobuf(tarfile.GNU_FORMAT) + content[1536:])


def claim_to_be_sparse(path):
    claim(path, size=len(GOOD[0][1]), type=tarfile.GNUTYPE_SPARSE)


def compress(path):
    path.write_bytes(gzip.compress(path.read_bytes()))


def empty(path):
    path.write_bytes(b"")


DAMAGES = [cut_in_a_member, cut_between_members, damage_a_header, compress, empty]
CLAIMS = [claim_too_much, claim_less_than_nothing, claim_to_be_sparse]


@pytest.mark.parametrize("damage", [*DAMAGES, *CLAIMS])
def test_a_broken_archive(root, damage):
    path = pack(root / "test-0.tar", GOOD)
    damage(path)
    with pytest.raises(ValueError, match=r"test-0\.tar is not a whole, uncompressed tar archive: "):
        load_archives(root, "test")


def test_names_are_names_and_links_are_left_alone(root):
    path = root / "test-0.tar"
    with tarfile.open(
        pack(path, [("../../up.png", picture(3)), ("../../up.cls", b"0"), ("/b.png", picture(4))]), "a"
    ) as tar:
        info = tarfile.TarInfo("/b.cls")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo(".hidden.png"))
    before = {each for each in root.parent.rglob("*") if each.suffix == ".png"}
    data = load_archives(root, "test", image_size=5)
    assert [data.sample_id(index) for index in range(2)] == [f"{path}/../../up", f"{path}//b"]
    assert [int(255 * image[0, 0, 0] + 0.5) for image, _ in data] == [3, 4]
    assert {each for each in root.parent.rglob("*") if each.suffix == ".png"} == before


def test_an_image_that_cannot_be_read_is_named(root):
    pack(root / "test-0.tar", [("a.png", b"no image"), ("a.cls", b"0")])
    data = load_archives(root, "test")
    with pytest.raises(ValueError, match=r"cannot read image .*test-0\.tar/a: it is not an image"):
        data[0]


def test_an_archive_that_was_cut_while_in_use(root):
    path = pack(root / "test-0.tar", GOOD)
    data = load_archives(root, "test", image_size=5)
    end = read_index(path, kind="images")[0].within(path)
    os.truncate(path, end.start + end.size - 1)
    with pytest.raises(ValueError, match=r"cannot read image .*test-0\.tar/a: it should end at byte"):
        data[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"cannot read image .*test-0\.tar/b: its archive is not there"):
        data[1]


def test_the_index_saves_reading_the_archive(root, monkeypatch):
    path = pack(root / "test-0.tar", GOOD)
    first = read_index(path, kind="images")
    assert [(each.key, each.label) for each in first] == [("a", 0), ("b", "dog")]

    def refuse(*arguments, **named):
        raise AssertionError("the archive was read again")

    monkeypatch.setattr(tarfile, "open", refuse)
    assert read_index(path, kind="images") == first


@pytest.mark.parametrize("change", ["size", "time", "index", "format", "kind"])
def test_an_index_that_is_out_of_date_is_made_again(root, change):
    path = pack(root / "test-0.tar", GOOD[:2])
    read_index(path, kind="images")
    index = Path(f"{path}.index.json")
    kept = json.loads(index.read_text())
    if change == "index":
        index.write_text(index.read_text()[:-20])
    elif change == "format":
        index.write_text(json.dumps({**kept, "format": 0, "samples": []}))
    elif change == "kind":
        index.write_text(json.dumps({**kept, "kind": "videos", "samples": []}))
    else:
        stamp = path.stat().st_mtime_ns
        # Archives are filled up to 10,240 bytes: a longer member makes a longer one.
        more = [("note.txt", bytes(20_000))] if change == "size" else []
        pack(path, [*more, ("z.png", picture(3)), ("z.cls", b"1")])
        os.utime(path, ns=(stamp, stamp + (change == "time")))
    expected = "z" if change in ("size", "time") else "a"
    assert [each.key for each in read_index(path, kind="images")] == [expected]
    assert json.loads(index.read_text())["size"] == path.stat().st_size


def test_an_index_that_cannot_be_written_is_done_without(root, monkeypatch):
    path = pack(root / "test-0.tar", GOOD)

    def refuse(*arguments):
        raise PermissionError("read-only")

    monkeypatch.setattr("nonlocalnn.data.archives.index.write_text", refuse)
    assert len(read_index(path, kind="images")) == 2
    assert [each.name for each in root.iterdir() if each.name.endswith(".json")] == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test-0.tar", "test-2.tar"], "lacks archive 1 of 'test': they are numbered from 0 to 2"),
        (["train-0.tar", "test-x.tar"], "holds no archive of 'test', such as test-000000.tar"),
    ],
)
def test_missing_archives(root, names, message):
    for name in names:
        pack(root / name, GOOD)
    with pytest.raises(FileNotFoundError, match=message):
        load_archives(root, "test")


def test_two_archives_of_one_number(root):
    for name in ("test-0.tar", "test-000000.tar"):
        pack(root / name, GOOD)
    with pytest.raises(ValueError, match=r"one archive of each number; it has test-0\S*\.tar and test-0"):
        load_archives(root, "test")


def test_archives_without_samples(root):
    pack(root / "test-0.tar", [("notes.txt", b"nothing")])
    with pytest.raises(ValueError, match="must hold images in its archives of 'test'; they hold none"):
        load_archives(root, "test")


def test_an_archive_of_videos(root):
    pack(root / "test-0.tar", [("a.mp4", b"x"), ("a.cls", b"0")])
    with pytest.raises(ValueError, match=r"must hold images; it holds videos: load it as 'videos'"):
        load_archives(root, "test")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_what_archives_of_validation_may_be_called(folders, tmp_path, name):
    shutil.copytree(folders[1], tmp_path / "shards")
    for path in (tmp_path / "shards").glob("validation-*.tar"):
        path.rename(path.with_name(path.name.replace("validation", name)))
    data = load_dataset("archives", "validation", data_dir=tmp_path / "shards", image_size=4)
    assert len(data) == 4


def test_classes_that_training_lacks_are_told(root):
    pack(root / "train-0.tar", [("a.png", picture(3)), ("a.cls", b"0")])
    with pytest.warns(UserWarning, match="no images of '.+', which cannot be learnt"):
        load_archives(root, "train")


def test_missing_folder_or_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_archives(tmp_path / "nowhere", "test")
    with pytest.raises(FileNotFoundError, match=r"classes\.txt is missing"):
        load_archives(tmp_path, "test")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"classes\.txt must name a class at least, one a line; it is empty"),
        ("a\nb\na\n", r"classes\.txt must name each class once; 'a' is there twice"),
    ],
    ids=["empty", "twice"],
)
def test_wrong_classes(tmp_path, text, says):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=says):
        load_archives(tmp_path, "test")
