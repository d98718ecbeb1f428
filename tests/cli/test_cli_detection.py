"""Detection from the command line: from a folder of Roboflow's to pictures of objects and results."""

import json
import re

import pytest
import torch
from one_line import fails
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import nonlocalnn as nl
from keypoint_pictures import write_keypoints
from nonlocalnn.cli import main
from nonlocalnn.data.objects import PointNames, decoded
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.explorer.objects import colour_of, drawn_objects
from nonlocalnn.inference import Detector, load_detector
from object_pictures import write_roboflow
from tolerances import near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
SMALL = ["--resize", "64", "--batch-size", "2", "--device", "cpu"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_roboflow(tmp_path_factory.mktemp("objects") / "data", train=4, others=2)


@pytest.fixture(scope="session")
def run_folder(folder, tmp_path_factory):
    """A run of two steps: what it finds is whatever it finds."""
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(folder), *SMALL, "--epochs", "1", "--output", str(output)]) == 0
    return output


def test_train_and_evaluate(run_folder, folder, capsys):
    recorded = json.loads((run_folder / "metrics.json").read_text())
    recipe = json.loads((run_folder / "recipe.json").read_text())
    assert (recipe["data"], recipe["model"], recipe["resize"]) == ("coco", "nl1_maskrcnn_tiny", 64)
    assert main(["evaluate", "--model", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert f"box AP {recorded['test']['box_ap']:.4f}, mask AP" in said
    assert re.search(r"^blue +\d", said, re.M)
    output = run_folder / "evaluation-coco-test"
    report = json.loads((output / "metrics.json").read_text())
    assert report["box_ap"] == recorded["test"]["box_ap"]
    # Another tool, given the data set's own file and ours, comes to the same figures.
    truth = COCO(str(folder / "test/_annotations.coco.json"))
    for kind, name in (("bbox", "boxes"), ("segm", "masks")):
        results = output / f"results-{name}.json"
        if not json.loads(results.read_text()):
            continue
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.params.catIds = [3, 90]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == near(report[f"{(kind == 'bbox' and 'box') or 'mask'}_ap"])


def test_predict_writes_overlays_and_lines(run_folder, folder, tmp_path, capsys):
    image = folder / "test/test-1.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    words = ["predict", str(image), str(broken), "--model", str(run_folder), "--min-score", "0"]
    assert main([*words, "--output-folder", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("nonlocalnn predict: cannot read image")
    first, second = map(json.loads, captured.out.splitlines())
    assert second.keys() == {"path", "error"}
    assert (first["width"], first["height"]) == (48, 32)
    for each in first["objects"]:
        assert each["class"] in ("red", "blue")
        left, top, right, bottom = each["box"]
        assert 0 <= left < right <= 48
        assert 0 <= top < bottom <= 32
        assert decoded(each["mask"], 32, 48).shape == (32, 48)
    with Image.open(first["overlay"]) as picture:
        assert picture.width >= 640
    lines = tmp_path / "lines.jsonl"
    images = [str(path) for path in sorted((folder / "test").glob("*.png"))]
    words = ["predict", *images, "--model", str(run_folder), "--min-score", "1"]
    assert main([*words, "--output", str(lines)]) == 0
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [each["objects"] for each in answers] == [[], []]
    assert answers[0]["overlay"] == str(run_folder / "predictions/test-0-overlay.png")


def test_objects_are_drawn_where_they_are():
    image = torch.zeros(3, 100, 700)
    found = {
        "boxes": torch.tensor([[300.0, 20.0, 400.0, 80.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.875]),
        "masks": torch.zeros(1, 100, 700, dtype=torch.bool),
    }
    found["masks"][0, 40:60, 340:360] = True
    drawn = drawn_objects(image, found, ("a", "b"))
    assert drawn.shape == (3, 100, 700)
    green = torch.tensor(colour_of(2)) / 255
    assert drawn[:, 50, 300].tolist() == near(green.tolist())
    assert drawn[:, 50, 399].tolist() == near(green.tolist())
    assert 0 < float(drawn[1, 50, 350]) < float(green[1])
    assert float(drawn[:, 90].sum()) == 0
    # Small images are enlarged until names can be read, and large ones made smaller.
    assert drawn_objects(
        image[:, :50, :50], {**found, "masks": found["masks"][:, :50, :50]}, ("a", "b")
    ).shape == (3, 640, 640)
    nothing = {name: value[:0] for name, value in found.items()}
    assert float(drawn_objects(image, nothing, ("a", "b")).sum()) == 0


def test_pages_and_maps_show_the_objects(run_folder, folder, tmp_path, capsys):
    image = str(folder / "test/test-0.png")
    page = tmp_path / "page.html"
    assert main(["explain", image, "--model", str(run_folder), "--output", str(page)]) == 0
    assert re.search(r"test-0\.png: (no object|\d+ objects?, best)", capsys.readouterr().out)
    text = page.read_text()
    document = json.loads(
        re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]
    )
    assert document["input"]["marked"]
    assert document["input"]["sides"] == [32, 48]
    (block,) = document["blocks"]
    assert block["name"] == "backbone.body.head.nl"
    # 64 x 96 pixels, a position in 8 of them, or in 4 of the photograph's own.
    assert block["sides"] == [8, 12]
    assert block["grid"]["steps"] == near([4.0, 4.0])
    words = ["maps", image, "--model", str(run_folder), "--pixels", "9,21"]
    assert main([*words, "--output", str(tmp_path / "maps")]) == 0
    written = tmp_path / "maps/test-0"
    assert {path.name for path in written.iterdir()} >= {"objects.png", "backbone.body.head.nl.png"}
    summary = json.loads((written / "summary.json").read_text())
    assert summary["blocks"]["backbone.body.head.nl"]["queries"][0]["place"] == [2, 5]
    words = ["--data", "coco", "--data-dir", str(folder), "--model", str(run_folder)]
    assert main(["explain", *words, "--sample", "1", "-o", str(tmp_path / "p.html")]) == 0
    fails(capsys, "explain", *words, "--sample", "2", status=1, says="samples are from 0 to 1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "--data", "digits"], "'digits' has no objects"),
        (["evaluate", "--views", "30"], "--views has no effect on a detector"),
        (["evaluate", "--window", "30"], "--window has no effect on a detector"),
        (["predict", "x.png", "--top", "2"], "--top has no effect on a detector"),
        (["predict", "x.png", "--min-score", "2"], "--min-score must be from 0 to 1"),
        (["predict", "--list", "x.txt", "--output-folder", "o"], "--list is for classifiers"),
        (["maps", "x.png", "--whole"], "--whole has no effect on a detector"),
        (["explain", "x.png", "--deletion"], "--deletion has no effect on a detector"),
        (["export", "--format", "onnx"], "a detector is exported from Python, for images of one size"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_has_no_effect(run_folder, words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = [run_folder] if words[0] == "export" else ["--model", run_folder]
    fails(capsys, words[0], *model, *words[1:], status=1, says=says)


@pytest.fixture(scope="module")
def points_run(tmp_path_factory):
    """A folder of images with points, and a run of two steps on it."""
    place = tmp_path_factory.mktemp("points")
    write_keypoints(place / "data", train=4, others=2)
    words = [*SMALL, "--epochs", "1", "--output", str(place / "run")]
    assert main(["train", str(place / "data"), *words]) == 0
    return place


def test_points_from_a_folder_to_their_figures(points_run, capsys):
    run = points_run / "run"
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["data"], recipe["model"]) == ("coco-keypoints", "nl2head1_keypointrcnn_tiny")
    assert main(["evaluate", "--model", str(run)]) == 0
    said = capsys.readouterr().out
    output = run / "evaluation-coco-keypoints-test"
    report = json.loads((output / "metrics.json").read_text())
    assert f"box AP {report['box_ap']:.4f}, keypoint AP {report['keypoint_ap']:.4f}" in said
    assert {"keypoint_ap50", "keypoint_ap_large", "keypoint_ar", "keypoint_ap_by_class"} <= report.keys()
    assert report["keypoint_ap"] == json.loads((run / "metrics.json").read_text())["test"]["keypoint_ap"]
    for each in json.loads((output / "results-keypoints.json").read_text()):
        assert each.keys() == {"image_id", "category_id", "keypoints", "score"}
        assert (len(each["keypoints"]), each["category_id"]) == (9, 4)


def test_points_are_told_and_drawn(points_run, tmp_path, capsys):
    image, run = str(points_run / "data/test/test-1.png"), str(points_run / "run")
    words = ["--model", run, "--min-score", "0", "--output-folder", str(tmp_path / "out")]
    assert main(["predict", image, *words]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    for each in line["objects"]:
        assert list(each["keypoints"]) == ["middle", "left_edge", "right_edge"]
        left, top, right, bottom = each["box"]
        for x, y in each["keypoints"].values():
            assert left - 1 <= x <= right + 1
            assert top - 1 <= y <= bottom + 1
    page = tmp_path / "page.html"
    assert main(["explain", image, "--model", run, "-o", str(page)]) == 0
    assert '"name":"backbone.body.head.nl"' in page.read_text()
    # Blocks of the head look at the objects that are shown.
    words = ["--blocks", "roi_heads.keypoint_head.3.nl", "-o", tmp_path / "other.html"]
    says = "roi_heads.keypoint_head.3.nl look at objects, and none has a score of 0.5"
    fails(capsys, "explain", image, "--model", run, *words, status=1, says=says)
    head = Detector(
        model=nl.create_model("nl2head_keypointrcnn_tiny").eval(),
        classes=("card",),
        class_ids=(1,),
        sample_shape=(3, 32, 48),
    )
    with pytest.raises(ValueError, match=r"there is no map: .*none has a score of 0.5"):
        answer_with_maps(head, torch.rand(3, 32, 48))


def test_points_are_drawn_where_they_are():
    found = {
        "boxes": torch.tensor([[100.0, 20.0, 500.0, 80.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
        "keypoints": torch.tensor([[[200.0, 50.0], [400.0, 50.0]]]),
    }
    points = PointNames(("a", "b"), ((0, 1),))
    drawn = drawn_objects(torch.zeros(3, 100, 700), found, ("x",), points)
    for number, x in ((1, 200), (2, 400)):
        assert drawn[:, 50, x].tolist() == near([each / 255 for each in colour_of(number)])
    # The line between them, and nothing beside it.
    assert drawn[:, 50, 300].tolist() == near([each / 255 for each in colour_of(1)])
    assert float(drawn[:, 40, 300].sum()) == 0
    assert float(drawn_objects(torch.zeros(3, 100, 700), found, ("x",))[:, 50, 300].sum()) == 0


def test_scores_of_a_classifier(checkpoint, photo, capsys):
    words = ["predict", photo, "--model", checkpoint, "--min-score", 0.5]
    fails(capsys, *words, status=1, says="--min-score is a setting of detectors")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content["annotations"][0].update(bbox=[1, 1, 0, 4]), "has no area"),
        (lambda content: content["annotations"][0].update(category_id=12), "none of the categories"),
        (lambda content: content["images"][0].update(file_name="x.png"), "x.png is missing"),
    ],
    ids=["no area", "category", "missing"],
)
def test_bad_folders_are_one_line(tmp_path, spoil, says, capsys):
    write_roboflow(tmp_path / "data", train=2, others=1, change=spoil)
    words = ["train", tmp_path / "data", *SMALL, "--epochs", "1", "--output", tmp_path / "run"]
    fails(capsys, *words, status=1, says=says)


def test_detectors_are_no_classifiers(run_folder, checkpoint):
    with pytest.raises(nl.CheckpointError, match=r"nonlocalnn\.inference\.load_detector"):
        nl.load_classifier(run_folder)
    with pytest.raises(nl.CheckpointError, match="was trained for classification: load_classifier loads it"):
        load_detector(checkpoint)
    detector = load_detector(run_folder)
    assert (detector.classes, detector.class_ids, detector.assumed) == (("red", "blue"), (3, 90), ())
    assert detector.objects(torch.rand(3, 31, 57))["masks"].shape[1:] == (31, 57)


def test_a_photograph_that_is_shown_smaller_keeps_its_size(run_folder, tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (1600, 40)).save(path)
    shown = load_detector(run_folder).show(path)
    assert (shown.file_sides, shown.sample.shape) == ((40, 1600), (3, 40, 1600))
