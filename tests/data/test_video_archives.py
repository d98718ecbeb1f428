"""Videos in tar archives give what the same files give by themselves."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import nonlocalnn as nl
from archives import pack
from nonlocalnn.data import write_archives
from nonlocalnn.data.archives.index import read_index
from nonlocalnn.data.video import VideoDecodeError
from nonlocalnn.data.video.dataset import UNREADABLE, CentreClip, RandomClip, VideoClips, Views
from nonlocalnn.data.video.named import load_video_set
from nonlocalnn.inference import Classifier
from nonlocalnn.tasks.answers import answer_files
from nonlocalnn.train import Recipe, train
from nonlocalnn.train.order import epoch_order
from tolerances import assert_same
from videos import noise, write_video

# Few of these folders have all splits.
pytestmark = pytest.mark.filterwarnings("ignore:.*split, and the videos of .* stand in")


@pytest.fixture(scope="module")
def loose(tmp_path_factory):
    """A folder of videos, five for training."""
    folder = tmp_path_factory.mktemp("loose")
    for split, name, seeds in (
        *(("train", "run", (1, 2, 3)), ("train", "walk", (4, 5))),
        *(("val", "run", (6,)), ("val", "walk", (7,))),
    ):
        for seed in seeds:
            write_video(folder / split / name / f"{seed}.mp4", noise(seed))
    (folder / "train" / "walk" / "5.mp4").rename(folder / "train" / "walk" / "5.MP4")
    return folder


@pytest.fixture(scope="module")
def packed(loose, tmp_path_factory):
    """The same as archives of two."""
    folder = tmp_path_factory.mktemp("packed")
    counts = write_archives(loose, folder, kind="videos", samples_per_archive=2)
    assert counts == {"train": 5, "validation": 2}
    return folder


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.txt").write_text("run\nwalk\n")
    return tmp_path


def test_archives_hold_the_files_in_their_order(loose, packed):
    names = sorted(path.name for path in packed.glob("*.tar"))
    assert names == [*(f"train-00000{number}.tar" for number in range(3)), "validation-000000.tar"]
    for split in ("train", "validation", "test"):
        files, parts = (load_video_set("videos", split, data_dir=folder) for folder in (loose, packed))
        assert (parts.targets, parts.classes) == (files.targets, files.classes)
        assert [part.read() for part in parts.paths] == [path.read_bytes() for path in files.paths]
    videos = load_video_set("videos", "train", data_dir=packed)
    assert str(videos.paths[4]) == f"{packed}/train-000002.tar/00000004.mp4"
    assert videos.existing() == videos


@pytest.mark.parametrize(
    "sampling",
    [RandomClip((24, 30), crop_size=20), CentreClip(20), Views(2, 3, 20)],
    ids=["random", "centre", "views"],
)
def test_clips_are_those_of_the_files(loose, packed, sampling):
    files, parts = (
        VideoClips(load_video_set("videos", "train", data_dir=folder), frames=4, stride=2, sampling=sampling)
        for folder in (loose, packed)
    )
    assert parts.sample_id(2) == f"{packed}/train-000001.tar/00000002.mp4"
    for index in (3, 0, 4, 1, 2):
        torch.manual_seed(index)
        clip, target = files[index]
        torch.manual_seed(index)
        found, label = parts[index]
        assert torch.equal(found, clip)
        assert label == target
    assert clip.std() > 0.1


@pytest.mark.slow
def test_any_process_reads_them_in_any_order(packed):
    data = VideoClips(
        load_video_set("videos", "train", data_dir=packed), frames=4, stride=1, sampling=CentreClip(20)
    )
    order = epoch_order(len(data), seed=3, epoch=0)
    expected = torch.stack([data[index][0] for index in order])
    loader = DataLoader(data, batch_size=2, sampler=order, num_workers=2, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([clips for clips, _ in loader]), expected)


@pytest.mark.filterwarnings("ignore:the training split")
def test_a_changed_archive_is_indexed_anew(videos, root):
    good = (videos / "one.mp4").read_bytes()
    archive = pack(root / "train-0.tar", [("a.mp4", good), ("a.cls", b"0")])
    assert [str(path) for path in load_video_set("videos", "train", data_dir=root).paths] == [
        f"{archive}/a.mp4"
    ]
    pack(archive, [("z.MKV", bytes(20_000)), ("z.cls", b"1"), ("a.mp4", good), ("a.cls", b"0")])
    found = load_video_set("videos", "train", data_dir=root)
    assert ([path.name for path in found.paths], found.targets) == (["z.MKV", "a.mp4"], (1, 0))
    assert found.paths[1].read() == good


def test_archives_come_in_the_order_of_their_numbers(root):
    for number in range(11):
        pack(root / f"train-{number}.tar", [(f"{number}.mp4", b"x"), (f"{number}.cls", b"0")])
    with pytest.warns(UserWarning, match="no videos of 'walk', which cannot be learnt"):
        paths = load_video_set("videos", "train", data_dir=root).paths
    assert [part.name for part in paths] == [f"{number}.mp4" for number in range(11)]


def test_an_index_of_one_kind_does_not_serve_for_the_other(videos, root):
    members = [("a.mp4", b"a video"), ("a.jpg", b"its thumbnail"), ("a.cls", b"0")]
    archive = pack(root / "train-0.tar", members)
    for kind, size in (("images", 13), ("videos", 7), ("images", 13)):
        assert [member.size for member in read_index(archive, kind=kind)] == [size]


def test_broken_members_are_left_out_and_listed(videos, root):
    good = (videos / "plain.mp4").read_bytes()
    for number in range(2):
        pack(
            root / f"test-{number}.tar",
            [("a.mp4", good), ("a.cls", b"run"), ("b.mp4", good[:-9]), ("b.cls", b"walk")],
        )
    listed = load_video_set("videos", "validation", data_dir=root)
    data = VideoClips(listed, frames=4, stride=1, sampling=CentreClip(20), max_broken=2)
    with pytest.warns(UserWarning, match=r"left out: cannot read video .*test-\d\.tar/b\.mp4: it is cut"):
        targets = [target for _, target in data]
    assert targets == [0, UNREADABLE, 0, UNREADABLE]
    assert data.broken == [listed.paths[1], listed.paths[3]]
    strict = VideoClips(listed, frames=4, stride=1, sampling=CentreClip(20))
    with pytest.raises(
        VideoDecodeError, match=r"test-0\.tar/b\.mp4: it is cut, .* max_broken is 0"
    ) as caught:
        strict[1]
    assert caught.value.path == listed.paths[1]
    with pytest.raises(VideoDecodeError, match="max_broken is 0") as caught:
        strict._leave_out(1, VideoDecodeError("lost", path=listed.paths[1], frame=3))
    assert caught.value.frame == 3


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.mp4", b"x")], r"train-0\.tar/a lacks its class, a \.cls or \.json"),
        ([("a.mp4", b"x"), ("a.cls", b"0"), ("b.cls", b"1")], r"train-0\.tar/b lacks its video of the same"),
        ([("a.mp4", b"x"), ("a.webm", b"x"), ("a.cls", b"0")], "one video for each key; 'a' has several"),
        ([("a.mp4", b"x"), ("a.cls", b"2")], "a has the label 2, which is none of the 2 classes"),
        ([("a.png", b"x"), ("a.cls", b"0")], "must hold videos; it holds images: load it as 'archives'"),
        ([("a.txt", b"x")], "must hold videos in its archives of 'train'; they hold none"),
    ],
    ids=["no label", "no video", "two videos", "unknown label", "images", "nothing"],
)
def test_a_wrong_archive(root, members, message):
    pack(root / "train-0.tar", members)
    with pytest.raises(ValueError, match=message):
        load_video_set("videos", "train", data_dir=root)


def test_a_wrong_folder(tmp_path):
    members = [("a.mp4", b"x"), ("a.cls", b"0")]
    pack(tmp_path / "train-0.tar", members)
    with pytest.raises(FileNotFoundError, match=r"classes\.txt is missing"):
        load_video_set("videos", "train", data_dir=tmp_path)
    (tmp_path / "classes.txt").write_text("run\n")
    with pytest.raises(FileNotFoundError, match=r"has no validation split: .* or archives validation-000000"):
        load_video_set("videos", "validation", data_dir=tmp_path)
    pack(tmp_path / "train-2.tar", members)
    with pytest.raises(FileNotFoundError, match="lacks archive 1 of 'train': they are numbered from 0 to 2"):
        load_video_set("videos", "train", data_dir=tmp_path)


@pytest.mark.parametrize("other", ["train", "val", "test.txt", "validation.csv"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_archives_beside_another_form(root, other, split):
    pack(root / "train-0.tar", [("a.mp4", b"x"), ("a.cls", b"0")])
    if "." in other:
        (root / other).write_text("a.mp4 0\n")
    else:
        (root / other / "run").mkdir(parents=True)
        (root / other / "run" / "1.mp4").touch()
    with pytest.raises(ValueError, match=rf"in one form; it has the archive train-0\.tar and {other}: move"):
        load_video_set("videos", split, data_dir=root)


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_one_of_two_splits_serves_for_both(root, name):
    for split, key in (("train", "a"), (name, "b")):
        pack(root / f"{split}-0.tar", [(f"{key}.mp4", b"x"), (f"{key}.cls", b"0")])
    for split in ("validation", "test"):
        (part,) = load_video_set("videos", split, data_dir=root).paths
        assert str(part) == f"{root}/{name}-0.tar/b.mp4"


def test_lists_are_written_too(loose, tmp_path):
    (tmp_path / "train.txt").write_text(
        "".join(
            f"{loose}/train/{name}.mp4,{label}\n"
            for name, label in (("walk/4", "walk"), ("run/1", "run"), ("run/3", "run"))
        )
    )
    (tmp_path / "test.csv").write_text(f"{loose}/val/run/6.mp4,run\n")
    output = tmp_path / "packed"
    assert write_archives(tmp_path, output, kind="videos") == {"train": 3, "test": 1}
    found = load_video_set("videos", "train", data_dir=output)
    assert (found.targets, found.classes) == ((1, 0, 0), ("run", "walk"))
    assert found.paths[0].read() == (loose / "train/walk/4.mp4").read_bytes()


def frames_of(folder):
    folder.mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "1.png")


def test_what_is_not_written(loose, packed, tmp_path):
    def refused(error, message, source=tmp_path):
        with pytest.raises(error, match=message):
            write_archives(source, tmp_path / "out", kind="videos")
        assert not (tmp_path / "out").exists()

    refused(FileNotFoundError, "no such folder of videos", source=tmp_path / "nowhere")
    refused(FileNotFoundError, "has no train split: it must hold a folder per class")
    refused(
        ValueError, rf"files of their own; {packed}/train-000000\.tar/00000000\.mp4 lies in", source=packed
    )
    (tmp_path / "train.txt").write_text("a.mp4 run\n")
    with pytest.warns(UserWarning, match=r"1 of the 1 videos of .*train\.txt are not there"):
        refused(FileNotFoundError, rf"no such video: {tmp_path}/a\.mp4; take it off its list")
    (tmp_path / "train.txt").write_text("a.clip run\n")
    (tmp_path / "a.clip").touch()
    refused(ValueError, r"videos must end in \.mp4, .*; got .*a\.clip: rename it")
    (tmp_path / "train.txt").unlink()
    frames_of(tmp_path / "train" / "run" / "1")
    refused(ValueError, r"videos must be files; .*train/run/1 is a folder of frames: encode it")
    frames_of(tmp_path / "other" / "val" / "run" / "1")
    (tmp_path / "other" / "test" / "walk").mkdir(parents=True)
    (tmp_path / "other" / "test" / "walk" / "1.mp4").touch()
    refused(ValueError, "must have the same classes; validation, test differ", source=tmp_path / "other")


def test_what_a_network_says_of_them(loose, packed):
    classifier = Classifier(
        nl.create_model("c2d_tiny", num_classes=2).eval(),
        classes=("run", "walk"),
        sample_shape=(3, 4, 32, 32),
        recipe={},
    )
    paths = [load_video_set("videos", "test", data_dir=folder).paths for folder in (loose, packed)]
    answers = [list(answer_files(classifier.model, [each], classifier)) for each in paths]
    assert answers[1][0]["path"] == f"{packed}/validation-000000.tar/00000000.mp4"
    assert [{**each, "path": ""} for each in answers[0]] == [{**each, "path": ""} for each in answers[1]]


@pytest.mark.slow
def test_training_ends_with_the_weights_of_the_files(loose, packed, tmp_path):
    weights, tests = [], []
    for name, folder, workers in (("files", loose, 0), ("archives", packed, 2)):
        recipe = Recipe(
            data="videos",
            data_dir=folder,
            model="c2d_tiny",
            frames=4,
            image_size=16,
            batch_size=2,
            epochs=2,
            lr=0.1,
            test_views=1,
            num_workers=workers,
            device="cpu",
            output=tmp_path / name,
        )
        tests.append(train(recipe).test)
        weights.append(load_file(tmp_path / name / "last.safetensors"))
    assert_same(weights[1], weights[0])
    assert tests[1] == tests[0]
    assert tests[1]["num_samples"] == 2
