"""The page in a browser: what it shows is what was computed."""

import re

import documents
import numpy as np
import pytest
from browser import open_page
from viewer_page import DESKTOP, VIEWER, assert_shows, current_row, place_of, rest, state

from nonlocalnn.explorer.page import write_page


@pytest.mark.parametrize(
    ("kind", "block", "point"),
    [
        pytest.param("video", "layer3.4", (0, 0, 0), marks=pytest.mark.slow),
        pytest.param("video", "layer3.4", (5, 20, 40), marks=pytest.mark.slow),
        pytest.param("video", "layer3.4", (6, 55, 83), marks=pytest.mark.slow),
        pytest.param("video", "layer2.3", (3, 30, 61), marks=pytest.mark.slow),
        ("video", "layer2.3", (7, 55, 83)),
        ("image", "nl_1", (3, 22)),
        ("sequence", "nl_1", (101,)),
    ],
    ids=str,
)
def test_hovering_shows_the_row(opened, shown, kind, block, point):
    made = shown[kind]
    with opened(kind) as page:
        page.evaluate(f"{VIEWER}.selectBlock({block!r})")
        page.mouse.move(*place_of(page, made, point))
        rest(page)
        assert_shows(page, made, block, "affinity", point)
        assert not state(page)["pinned"]


@pytest.mark.parametrize(("kind", "point"), [("video", [7, 28, 42]), ("image", [14, 14]), ("sequence", [60])])
def test_first_query(opened, shown, kind, point):
    with opened(kind) as page:
        block = shown[kind].document["blocks"][0]["name"]
        assert_shows(page, shown[kind], block, "affinity", point)
        assert page.title() == page.locator("h1").inner_text() == f"some {kind} <b>"
        assert "Predicted: 3, 87.4 %. True class: 3, as predicted." in page.locator("header").inner_text()
        assert page.locator(".nl-classes li").count() == 3
        assert page.locator(".nl-measures").evaluate("(one) => one.hidden") == (kind != "video")
        row, even = current_row(page), shown[kind].even(block, "affinity", point)
        *zero, one, most = page.locator(".nl-scale-ends span").all_inner_texts()
        top = max(row.max() / even, 3)
        assert zero == (["0"] if top < 10 else [])
        assert (one, float(most[:-1])) == ("1\u00d7", pytest.approx(top, rel=0.006))
        unit = re.search(r"1\u00d7 = ([\d.]+): all keys alike", page.locator(".nl-scale").inner_text())
        assert float(unit[1]) == pytest.approx(even, rel=0.006)
        assert page.get_by_role("button", name="Play").count() == (kind == "video")


@pytest.mark.parametrize("measure", [pytest.param("affinity", marks=pytest.mark.slow), "effect"])
def test_text_says_the_largest_weights(opened, shown, measure):
    made, point = shown["video"], (2, 40, 10)
    with opened("video") as page:
        page.evaluate(f"{VIEWER}.selectMeasure({measure!r})")
        page.mouse.move(*place_of(page, made, point))
        rest(page)
        page.get_by_text("Largest weights").click()
        rows = page.locator("details").first.locator("tbody tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        sentence = page.locator(".nl-status").inner_text()
    true = made.row("layer3.4", measure, point).reshape(4, 4, 3)
    step = made.steps("layer3.4", measure, point)
    tenth = np.sort(np.abs(true), axis=None)[-10]
    assert [rank for rank, *_ in cells] == [str(rank) for rank in range(1, 11)]
    even = made.even("layer3.4", measure, point)
    for _, frames, row, column, value, times in cells:
        # Keys of this block cover two frames, 14 rows and 28 columns.
        first, last = map(int, frames.split("\u2013"))
        assert last == first + 1
        weight = true[first // 2, int(row) // 14, int(column) // 28]
        assert float(value.replace("\u2212", "-")) == pytest.approx(weight, abs=step, rel=0.006)
        assert abs(weight) >= tenth - 2 * step
        assert float(times[:-1].replace("\u2212", "-")) == pytest.approx(
            weight / even, abs=step / even, rel=0.006
        )
    _, frames, row, column, value, times = cells[0]
    word = "weight" if measure == "affinity" else "effect"
    assert (
        sentence
        == "Block layer3.4 (embedded Gaussian, over space and time). Query: frame 2 (file frame 28, 0.93 s), "
        f"row 40, column 10. Its strongest key: frames {frames}, row {row}, column {column}, "
        f"with {word} {value}, {times} the even level."
    )


def test_signed_measure(opened, shown):
    made, point = shown["video"], (1, 10, 70)
    with opened("video") as page:
        page.get_by_text("effect", exact=True).click()
        page.mouse.move(*place_of(page, made, point))
        rest(page)
        assert_shows(page, made, "layer3.4", "effect", point)
        assert current_row(page).min() < 0 < current_row(page).max()
        low, one, high = page.locator(".nl-scale-ends span").all_inner_texts()
        assert page.get_by_text("change of the score of class 3").is_visible()
        signs = page.locator(".nl-arrow").evaluate_all(
            "(all) => all.map((one) => one.classList.contains('nl-against'))"
        )
    assert (low[0], one) == ("\u2212", "1\u00d7")
    true, even = made.row("layer3.4", "effect", point), made.even("layer3.4", "effect", point)
    assert float(high[:-1]) == pytest.approx(np.abs(true).max() / even, rel=0.006)
    assert high == low.replace("\u2212", "")
    strongest = np.argsort(-np.abs(true))[:5]
    strongest = strongest[np.abs(true[strongest]) >= 3 * even]
    assert len(strongest) > 1
    assert signs[::-1] == (true[strongest] < 0).tolist()


def tips(page):
    """Ends of the arrows in the window, the strongest first."""
    return page.evaluate(
        """() => {
          const drawing = document.querySelector(".nl-strip > .nl-arrows");
          const { left, top } = drawing.getBoundingClientRect();
          return [...drawing.querySelectorAll(".nl-arrow")].reverse().map((path) => {
            const [x, y] = path.getAttribute("d").match(/L([\\d.-]+ [\\d.-]+)L/)[1].split(" ").map(Number);
            return [left + x, top + y];
          });
        }"""
    )


def key_places(page, block, row, count):
    """Where the middles of the strongest keys are in the window."""
    grid, found = block["key_grid"], []
    for key in np.argsort(-row)[:count]:
        index = np.unravel_index(key, block["key_sides"])
        time, y, x = (c + i * s for c, i, s in zip(grid["centres"], index, grid["steps"], strict=True))
        # The earlier of the two frames that a key covers.
        box = page.locator(".nl-strip .nl-screen").nth(int(time) - 1).bounding_box()
        found.append([box["x"] + x / 84 * box["width"], box["y"] + y / 56 * box["height"]])
    return found


def test_arrows_end_at_the_strongest_keys_in_any_layout(opened, shown):
    made, point = shown["video"], (4, 30, 30)
    row, even = made.row("layer3.4", "affinity", point), made.even("layer3.4", "affinity", point)
    count = min(5, int((row >= 3 * even).sum()))
    assert count > 1
    with opened("video") as page:
        page.mouse.click(*place_of(page, made, point))
        for width in (1280, 700, 360):
            page.set_viewport_size({"width": width, "height": 900})
            rest(page)
            expected = key_places(page, made.block("layer3.4"), row, count)
            np.testing.assert_allclose(tips(page), expected, atol=1)
        page.set_viewport_size({"width": 1440, "height": 900})
        rest(page)
        tops = [box.bounding_box()["y"] for box in page.locator(".nl-strip .nl-screen").all()]
        # There is room for five in a row, but two rows of four are even.
        assert [tops.count(top) for top in sorted(set(tops))] == [4, 4]
        centre = page.locator(".nl-strip .nl-point").bounding_box()
        box = page.locator(".nl-strip .nl-screen").nth(4).bounding_box()
        # The query's position is 8 x 12 pixels, and (30, 30) lies in the one whose middle is (28, 30).
        assert centre["x"] + centre["width"] / 2 == pytest.approx(box["x"] + 30 / 84 * box["width"], abs=1)
        assert centre["y"] + centre["height"] / 2 == pytest.approx(box["y"] + 28 / 56 * box["height"], abs=1)


def test_mark_stays_in_the_frame(opened, shown):
    made, point = shown["video"], (0, 0, 83)
    with opened("video") as page:
        page.evaluate(f"{VIEWER}.selectBlock('layer2.3')")
        page.mouse.move(*place_of(page, made, point))
        rest(page)
        mark = page.locator(".nl-strip .nl-query").evaluate(
            "(one) => ['x', 'y', 'width', 'height'].map((name) => Number(one.getAttribute(name)))"
        )
        box = page.locator(".nl-strip .nl-screen").first.bounding_box()
    # The position's box is 4 rows around 0.5, and 6 columns around 72.5, the last that is stored.
    rows, columns = box["height"] / 56, box["width"] / 84
    np.testing.assert_allclose(mark, [69.5 * columns, 0, 6 * columns, 2.5 * rows], atol=1)


def test_boxes_and_times_at_the_edges(opened):
    with opened("image") as page:
        boxes, times = page.evaluate(
            """() => {
              const { boxOf, keyTime } = NonlocalViewer.geometry;
              const grid = { steps: [1, 4, 4], centres: [0.5, 1, 3] };
              const keys = { steps: [2, 1, 1], centres: [3, 0.5, 0.5] };
              const block = NonlocalViewer.geometry.prepared({
                sides: [1, 1, 3], grid, key_sides: [2, 1, 1], key_grid: keys,
                query_places: [[0], [0], [0, 1, 2]],
              }, [7, 4, 14]);
              const times = [0, 1, 2, 3, 4, 5, 6].map((frame) => keyTime(block, frame));
              return [[0, 1, 2].map((column) => boxOf(block.grid, [0, 0, column])), times];
            }"""
        )
    # The last position is nearest to the end of the input, up to half a step; frames that a pool left out,
    # half a step and more, are nobody's.
    assert [box[2] for box in boxes] == [[0, 5], [5, 9], [9, 14]]
    assert [box[1] for box in boxes] == [[0, 4]] * 3
    assert times == [None, None, 0, 0, 1, 1, None]


def test_frames_without_keys_stay_clear(browser, tmp_path):
    made = documents.video()
    # Four keys in time, a frame each: the last four frames have none.
    made.block("layer3.4")["key_grid"]["steps"][0] = 1.0
    made.block("layer3.4")["key_grid"]["centres"][0] = 0.5
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        assert_shows(page, made, "layer3.4", "affinity", (7, 28, 42))


@pytest.mark.parametrize("count", [0, 1, 20])
def test_arrows_are_so_many_at_most_and_only_to_what_stands_out(opened, shown, count):
    row, even = (
        part("layer3.4", "affinity", (7, 28, 42)) for part in (shown["video"].row, shown["video"].even)
    )
    standing_out = int((row >= 3 * even).sum())
    assert 1 < standing_out < 20
    with opened("video") as page:
        page.get_by_label("Arrows").fill(str(count))
        rest(page)
        assert page.locator(".nl-strip .nl-arrow").count() == min(count, standing_out)
        assert "3\u00d7 the even level and more" in page.locator(".nl-looks").inner_text()


def even_document():
    """An image whose block weighs its 49 keys nearly alike: all but one within a hundredth."""
    made = documents.image()
    rows = made.rows["nl_1", "affinity"]
    rows[:] = (1 + 0.01 * np.random.default_rng(0).random(rows.shape)) / 49.3
    (block,) = made.document["blocks"]
    block.update(evenly=True, measures=[documents.pack("affinity", rows)])
    block["summary"]["entropy"] = 0.9987
    return made


def test_even_attention_is_said_and_not_painted_as_a_finding(browser, tmp_path):
    made = even_document()
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        assert_shows(page, made, "nl_1", "affinity", (14, 14))
        # A third up the scale, far from the yellow of its end.
        painted = page.locator("canvas").evaluate(
            "(one) => [...one.getContext('2d').getImageData(one.width / 2, one.height / 2, 1, 1).data]"
        )
        assert painted[0] < 160
        assert painted[1] < 80
        assert page.locator(".nl-arrow").count() == 0
        words = page.locator(".nl-status").inner_text()
        assert words.startswith("Block nl_1 (embedded Gaussian) attends nearly evenly (entropy 1.00 of 1).")
        assert re.search(r"No key stands out; the strongest: row \d+, column \d+, with weight 0\.02", words)
        assert page.locator(".nl-scale-ends span").all_inner_texts() == ["0", "1\u00d7", "3\u00d7"]
        assert "nearly even" in page.get_by_role("combobox").inner_text()
        cells = page.get_by_role("table", name="Summary").locator("tbody td").all_inner_texts()
        assert cells[1] == "0.999, nearly even"


def test_a_page_opens_on_the_block_that_says_most(browser, tmp_path):
    made = documents.video(opens_on="layer2.3")
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        assert state(page)["block"] == page.get_by_role("combobox").input_value() == "layer2.3"


def test_the_input_is_shown_in_its_own_resolution_and_shape(browser, tmp_path):
    made = documents.image()
    picture = documents.smooth_frames(1, 300, 450)[0]
    made.document["input"].update(frames=[documents.data_url(picture)], picture_sides=[300, 450])
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        size = page.locator(".nl-strip img").evaluate("(one) => [one.naturalHeight, one.naturalWidth]")
        assert size == [300, 450]
        assert page.locator(".nl-coarse").count() == 0
        box = page.locator(".nl-screen").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(1.5, rel=0.01)
        # Rows and columns are still those of the network's 28 x 28.
        page.mouse.move(*place_of(page, made, (3, 22)))
        rest(page)
        assert_shows(page, made, "nl_1", "affinity", (3, 22))
        says = "image of 300 \u00d7 450 pixels, which the network sees as 28 \u00d7 28: rows and columns"
        assert says in page.locator(".nl-facts").inner_text()


@pytest.mark.parametrize(
    ("file", "shown", "says"),
    [
        (
            [64, 80],
            [64, 64],
            "64 \u00d7 80 pixels, which the network sees as 28 \u00d7 28, its sides cut off:",
        ),
        # Shrunk for the page, to whole pixels.
        ([3001, 4000], [2449, 3264], "3001 \u00d7 4000 pixels, which the network sees as 28 \u00d7 28:"),
        (
            [28, 40],
            [28, 28],
            "28 \u00d7 40 pixels, which the network sees as 28 \u00d7 28, its sides cut off:",
        ),
        ([28, 28], [28, 28], "image of 28 \u00d7 28\n"),
    ],
)
def test_sides_that_were_cut_off_are_named(browser, tmp_path, file, shown, says):
    made = documents.image()
    made.document["input"].update(file_sides=file, picture_sides=shown)
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        assert says in page.locator(".nl-facts").inner_text() + "\n"


@pytest.mark.parametrize("kind", ["video", "image", "sequence"])
def test_the_whole_picture_and_its_instruction_are_in_view(opened, kind):
    with opened(kind, viewport={"width": 1280, "height": 800}) as page:
        for part in (page.locator(".nl-strip .nl-frame").last, page.locator(".nl-hint").first):
            box = part.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 800
        if kind == "video":
            # What plays the frames is beside them.
            player = page.get_by_role("group", name="Frames").bounding_box()
            gap = page.locator(".nl-strip").bounding_box()["y"] - player["y"] - player["height"]
            assert 0 <= gap < 24


def test_lines_have_their_names_and_colours(opened):
    with opened("sequence") as page:
        assert page.locator("figcaption").inner_text() == "3 channels of 120 steps hip knee <b>toe</b>"
        found = page.evaluate(
            """() => ["polyline.nl-curve", ".nl-swatch"].map((which) => [...document.querySelectorAll(which)]
              .map((one) => getComputedStyle(one)[which === ".nl-swatch" ? "borderTopColor" : "stroke"]))"""
        )
        assert found[0] == found[1]
        assert len(set(found[0])) == 3


def test_a_long_sequence_is_drawn_by_its_extremes(browser, tmp_path):
    document = documents.sequence().document
    values = [0.0] * 100_000
    values[54_321], values[54_322] = 7.0, -5.0
    document["input"] |= {"sides": [100_000], "channels": [values, values[::-1], values]}
    write_page(document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        points = page.locator("polyline.nl-curve").first.get_attribute("points").split()
        assert len(points) <= 4000
        assert {"54321.5,0", "54322.5,1"} <= set(points)


def test_heat_can_be_taken_away(opened):
    with opened("image") as page:
        page.get_by_label("Heat").fill("0")
        rest(page)
        assert page.locator("canvas").evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0"


def luminance(colour):
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (int(number) / 255 for number in re.findall(r"\d+", colour)[:3])
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_light_and_dark_can_be_read(opened):
    grounds = []
    for scheme in ("light", "dark"):
        with opened("video", color_scheme=scheme) as page:
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            viewer = page.evaluate("getComputedStyle(document.querySelector('.nl-viewer')).backgroundColor")
            chosen = page.locator(".nl-measures input:checked + span").evaluate(
                "(one) => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]"
            )
            texts = page.locator("p, h1, h2, th, td, button, figcaption, summary, label").evaluate_all(
                "(all) => all.map((one) => getComputedStyle(one).color)"
            )
        grounds.append(luminance(ground))
        assert ground == viewer
        for text, behind in [chosen, *((text, ground) for text in set(texts))]:
            low, high = sorted((luminance(text), luminance(behind)))
            assert (high + 0.05) / (low + 0.05) >= 7
    assert grounds[0] > 0.9
    assert grounds[1] < 0.05


def test_colours_get_lighter_in_even_steps(opened):
    with opened("image") as page:
        table = page.evaluate("Array.from(NonlocalViewer.colours.table(false))")
        signed = page.evaluate("Array.from(NonlocalViewer.colours.table(true))")
    colours = np.array(table).reshape(256, 4)[::15]
    lightness = np.array([116 * luminance(str(colour[:3].tolist())) ** (1 / 3) - 16 for colour in colours])
    steps = np.diff(lightness[1:])
    assert (steps > 0.6 * steps.mean()).all()
    assert (steps < 1.4 * steps.mean()).all()
    low, zero, high = np.array(signed).reshape(256, 4)[[1, 128, 255]]
    assert zero[3] == 0
    assert low[3] == high[3] == 255
    assert low[2] > low[0] + 50
    assert high[0] > high[2] + 50


def test_summary(opened):
    with opened("video") as page:
        rows = page.get_by_role("table", name="Summary").locator("tr").all()
        cells = [row.locator("th, td").all_inner_texts() for row in rows]
        assert cells[0] == ["block", "entropy", "distance in pixels", "distance in frames"]
        assert cells[1:] == [[name, "0.83", "61.3 (88)", "1.2 (1.25)"] for name in ("layer3.4", "layer2.3")]
        current = "tr[aria-current] td:first-child"
        assert page.locator(current).all_inner_texts() == ["layer3.4"]
        page.get_by_role("combobox").select_option("layer2.3")
        rest(page)
        assert page.locator(current).all_inner_texts() == ["layer2.3"]
