"""Recipes and lists of labels with anything in them: read as they are written, or refused; nothing runs."""

import contextlib
import functools
import io
from dataclasses import dataclass

from fuzz_mutation import mutated, mutations
from fuzz_outcome import outcome_of
from fuzz_watch import ran_out_of_memory, watched
from hypothesis import strategies as st

from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.data.objects import decoded
from nonlocalnn.data.objects.coco import Annotations, read_coco
from nonlocalnn.data.objects.voc_xml import read_voc
from nonlocalnn.data.video.lists import VideoList, read_video_list
from nonlocalnn.data.video.public_lists import (
    read_charades_csv,
    read_hmdb51_split,
    read_kinetics_csv,
    read_ucf101_split,
)
from nonlocalnn.train import Recipe

READERS = (
    *("recipe.yaml", "recipe.json", "own", "indices", "kinetics", "ucf101", "hmdb51", "charades"),
    *("coco.json", "voc.xml"),
)
WHOLE = {
    "recipe.yaml": "data: digits\nmodel: nl_digits\nepochs: 3\nlr: 0.01\nmilestones: [1, 2]\nschedule: step\n"
    "model_overrides:\n  instantiation: dot_product\noutput: runs/x\n",
    "recipe.json": '{"data": "digits", "epochs": 2, "batch_size": 8, "model_overrides": {"use_scale": true}}',
    "own": "a b.mp4, long jump\nc.mp4, run\nd.mp4, run\n",
    "indices": "a.mp4 0\nb.mp4 2\nc d.mp4 1\n",
    "kinetics": 'label,youtube_id,time_start,time_end,split\nrun,abc,0,10,train\n"a, b",d-f,7,17,train\n',
    "ucf101": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nArchery/v_Archery_g08_c01.avi 2\n",
    "hmdb51": "a.avi 1\nb.avi 2\nc.avi 0\n",
    "coco.json": '{"images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 9}], "categories": '
    '[{"id": 3, "name": "cat"}], "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": '
    '[1, 2, 3, 4], "area": 5, "iscrowd": 0, "segmentation": {"size": [8, 9], "counts": ":35000V1"}}, '
    '{"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 2.5, 4], "segmentation": '
    "[[1, 1, 4, 1, 4, 4]]}]}",
    "voc.xml": "<annotation><filename>a.png</filename><size><width>9</width><height>8</height></size>"
    "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>5</xmax>"
    "<ymax>8</ymax></bndbox></object></annotation>",
    "charades": "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    "46GP8,HR43,Kitchen,6,7,Yes,x,y,z,c092 11.90 21.20;c147 0.00 12.60,24.83\n",
}
# Text that means something to a parser of numbers, of YAML or of CSV.
TOKENS = (
    *(
        "\0",
        "\ufeff",
        '"',
        "'",
        "\n\n",
        ",",
        ",,",
        ";",
        "\r",
        "\t",
        "&a ",
        "*a",
        "!!",
        "{",
        "[",
        "]}",
        ": ",
        "- ",
        "|",
        "#",
    ),
    *(
        "0",
        "-1",
        "999999999999",
        "1" * 5000,
        "1e400",
        ".nan",
        ".inf",
        "0x",
        "1_000",
        "٣",
        "null",
        "~",
        "yes",
        "../..",
        "/",
    ),
    *(
        "!!python/object/apply:os.mkdir [ran]",
        "!!python/name:os.system",
        "!!python/module:antigravity",
        "!!binary x",
    ),
    *(
        "class_path: antigravity.Anti",
        "class_path: os.system",
        "init_args: {}",
        "<<: *a",
        "&a [*a]",
        "[" * 2000,
    ),
    *(
        "lr: {}",
        "epochs: [1]",
        "seed: text",
        "output: null",
        "batch_size: 1.5",
        "model_overrides: {x: {class_path: this}}",
    ),
    *(
        "<!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;'>]>",
        "<!ENTITY b SYSTEM 'file:///etc/passwd'>",
        "&b;",
        "</object>",
        "NaN",
        "-5",
        '"id": 0',
        "null",
    ),
)


@dataclass(frozen=True)
class Text:
    """A text to read; tokens are put in at places, then bytes are changed."""

    reader: str
    tokens: tuple
    changes: tuple


@st.composite
def texts(draw):
    token = st.tuples(st.integers(0, 10**6), st.sampled_from(TOKENS), st.booleans())
    return Text(
        draw(st.sampled_from(READERS)),
        tuple(draw(st.lists(token, max_size=3))),
        draw(st.one_of(st.just(()), mutations(2))),
    )


def check_text(case, folder):
    """Return what came of a text; AssertionError, or whatever else leaves the library, is a finding."""
    text = WHOLE[case.reader]
    for where, token, is_line in case.tokens:
        # As a line of its own, or amid what is there.
        starts = [0, *(place + 1 for place, letter in enumerate(text) if letter == "\n")]
        place = starts[where % len(starts)] if is_line else where % (len(text) + 1)
        text = text[:place] + token + ("\n" if is_line else "") + text[place:]
    (folder / "splits").mkdir(exist_ok=True)
    path = folder / {"hmdb51": "splits/run_test_split1.txt"}.get(case.reader, case.reader)
    path.write_bytes(mutated(text.encode("utf-8", "surrogatepass"), case.changes))
    (folder / "classes").write_text("1 ApplyEyeMakeup\n2 Archery\n")
    _read(case.reader, path)  # what is imported at first use is imported before anybody watches
    with watched():
        outcome, found = _read(case.reader, path)
    assert not (folder / "ran").exists()
    assert outcome != "refused" or not ran_out_of_memory(found), f"it asked for too much memory: {found}"
    if outcome == "answered":
        assert isinstance(found, Recipe | VideoList | Annotations)
        if isinstance(found, Annotations):
            _check_objects(found)
        assert not isinstance(found, Recipe) or Recipe.from_dict(found.to_dict()) == found
    return outcome


def _read(reader, path):
    if reader.startswith("recipe"):
        return _recipe(path)
    read = {
        "own": read_video_list,
        "indices": read_video_list,
        "kinetics": read_kinetics_csv,
        "ucf101": functools.partial(read_ucf101_split, classes_path=path.parent / "classes"),
        "hmdb51": functools.partial(read_hmdb51_split, split="train", number=1),
        "charades": read_charades_csv,
        "coco.json": lambda path, root: read_coco(path, max_broken=2),
        "voc.xml": lambda path, root: read_voc([path], ["cat"], source=root, max_broken=2),
    }[reader]
    place = path.parent if reader == "hmdb51" else path  # of HMDB51, a folder of files
    return outcome_of(lambda: read(place, root=path.parent), (ValueError, FileNotFoundError))


def _check_objects(found):
    """What was not refused has an area on its image, and a mask of as many pixels."""
    for sheet in found.sheets:
        for each in sheet.objects:
            left, top, width, height = each.box
            assert width > 0
            assert height > 0
            assert left < sheet.width
            assert top < sheet.height
            assert 1 <= each.label <= len(found.classes)
            if sheet.width * sheet.height < 10**6 and each.shape is not None:
                assert decoded(each.shape, sheet.height, sheet.width).shape == (sheet.height, sheet.width)


def _recipe(path):
    """Read a recipe as the command line does: a file that is none ends the program, with status 2."""
    parser = RecipeParser(program="train", description="", example="")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return outcome_of(lambda: parser.parse_words(["--config", str(path)])[0], (ValueError, TypeError))
    except SystemExit as error:
        refusal = error
    assert refusal.code == 2
    assert said.getvalue().strip()
    return "refused", refusal
