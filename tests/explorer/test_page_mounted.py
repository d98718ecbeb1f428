"""The viewer in any page: two of them, unusual documents, old browsers."""

import copy

import documents
import numpy as np
import pytest
from browser import open_page
from viewer_page import DESKTOP, VIEWER, assert_shows, rest, state

from nonlocalnn.explorer.page import build_page, write_page

# What a page of the command does is tried in test_page_browser.py.
pytestmark = pytest.mark.slow


def test_names_and_live_region(opened):
    with opened("video") as page:
        alts = page.locator(".nl-strip img").evaluate_all("(all) => all.map((one) => one.alt)")
        assert alts[3] == "frame 3 (file frame 36, 1.20 s), of 8"
        assert len(set(alts)) == 8
        strip = page.get_by_role("application", name="Frames: choose what to ask about")
        described = strip.get_attribute("aria-describedby")
        assert "click or tap to pin" in page.locator(f"#{described}").inner_text()
        # Many moves one after another are told once, at the last, and nothing of what is as before.
        told = page.evaluate(
            """async () => {
              const status = document.querySelector("[aria-live=polite]");
              const heard = [];
              const listen = (records) => heard.push(...records.map((record) => record.target.textContent));
              new MutationObserver(listen).observe(status, { childList: true, subtree: true });
              const screen = document.querySelectorAll(".nl-strip .nl-screen")[2];
              const { left, top } = screen.getBoundingClientRect();
              for (let step = 0; step < 20; step++) {
                const place = { clientX: left + 5 * step, clientY: top + 5 };
                const options = { ...place, pointerType: "mouse", bubbles: true };
                screen.dispatchEvent(new PointerEvent("pointermove", options));
              }
              await NonlocalViewer.of(document.querySelector(".nl-viewer")).settled();
              return heard;
            }"""
        )
        query, strongest = told
        assert query.startswith("Query: frame 2")
        assert strongest.startswith("Its strongest key: ")


COUNT_INFLATED = """
  window.inflated = 0;
  window.DecompressionStream = class extends DecompressionStream {
    constructor(kind) { super(kind); window.inflated++; }
  };
"""


def test_rows_are_unpacked_when_wanted_and_once(opened):
    with opened("video", script=COUNT_INFLATED) as page:
        counts = [page.evaluate("window.inflated")]
        for change in ("selectMeasure('effect')", "selectBlock('layer2.3')", "selectBlock('layer3.4')"):
            page.evaluate(f"{VIEWER}.{change}")
            rest(page)
            counts.append(page.evaluate("window.inflated"))
    assert counts == [1, 2, 3, 3]


def test_old_browser_gets_a_sentence(opened):
    with opened("video", script="delete window.DecompressionStream") as page:
        assert "This browser is too old" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("rows", "!!!", marks=pytest.mark.slow),
        ("rows", "eJwDAAAAAAE="),
        pytest.param("rows", None, marks=pytest.mark.slow),
        pytest.param("scales", "AACAPw==", marks=pytest.mark.slow),
        pytest.param("even", "AACAPw==", marks=pytest.mark.slow),
    ],
    ids=["no base64", "too few", "cut", "too few scales", "too few levels"],
)
def test_damaged_rows_are_told(browser, tmp_path, name, value):
    made = documents.video()
    broken = copy.deepcopy(made.document)
    measure = broken["blocks"][0]["measures"][0]
    measure[name] = measure[name][:-400] if value is None else value
    write_page(broken, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        says = "The weights of block layer3.4 are damaged: have this page written anew."
        assert page.get_by_role("alert").inner_text() == says
        assert page.get_by_text("Its strongest key").count() == 0
        # The other block is whole.
        page.get_by_role("combobox").select_option("layer2.3")
        rest(page)
        assert not page.locator(".nl-note").is_visible()
        assert_shows(page, made, "layer2.3", "affinity", (7, 28, 42))
        # What is still to be said of a block is not said of the next.
        page.evaluate(
            f"""async () => {{
              {VIEWER}.setQuery([1, 2, 3]);
              await new Promise(requestAnimationFrame);
              {VIEWER}.selectBlock("layer3.4");
            }}"""
        )
        rest(page)
        assert page.locator(".nl-status").inner_text() == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [({"format": 1}, "documents of format 2"), ({"blocks": []}, "holds no non-local block")],
    ids=["format", "no blocks"],
)
def test_what_can_t_be_shown(browser, tmp_path, change, says):
    page_text = build_page(documents.image().document)
    (tmp_path / "page.html").write_text(page_text)
    with open_page(browser, (tmp_path / "page.html").as_uri()) as page:
        told = page.evaluate(
            """(change) => {
              const data = JSON.parse(document.querySelector("script[type='application/json']").textContent);
              const root = document.createElement("div");
              try { new NonlocalViewer(root, { ...data, ...change }, { deepLinks: false }); }
              catch (error) { return [error.message, root.textContent]; }
            }""",
            change,
        )
        assert told[0] == told[1]
        assert says in told[0]


def test_nothing_known_but_the_weights(browser, tmp_path):
    made = documents.video(prediction=[], truth=None)
    made.document["input"].update(frame_numbers=None, seconds=None)
    for block in made.document["blocks"]:
        block["summary"] = dict.fromkeys(block["summary"])
        for measure in block["measures"]:
            zeros = np.zeros_like(made.rows[block["name"], measure["name"]])
            measure.update(documents.pack(measure["name"], zeros))
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        assert page.locator(".nl-classes").count() == 0
        assert page.get_by_text("Predicted").count() == 0
        assert page.get_by_text("No key counts at all.").is_visible()
        assert page.locator(".nl-strip figcaption").first.inner_text() == "frame 0"
        assert page.locator(".nl-arrow").count() == 0
        cells = page.get_by_role("table", name="Summary").locator("tbody tr").first.locator("td")
        assert cells.all_inner_texts() == ["layer3.4", "\u2013", "\u2013", "\u2013"]


def test_without_script(browser, addresses):
    with open_page(browser, addresses["image"], java_script_enabled=False) as page:
        assert "needs JavaScript" in page.locator("noscript").inner_text()


MOUNT_TWO = """
  const data = JSON.parse(document.querySelector("script[type='application/json']").textContent);
  const old = document.querySelector(".nl-viewer");
  NonlocalViewer.of(old).destroy();
  old.remove();
  const viewers = [];
  window.calls = 0;
  for (const side of [0, 1]) {
    const root = document.createElement("div");
    document.querySelector("main").append(root);
    const follow = (point, pinned) => { window.calls++; viewers[1 - side].setQuery(point, pinned); };
    viewers.push(new NonlocalViewer(root, data, { deepLinks: side === 0, onQuery: follow }));
  }
  document.querySelector("main").style = "display: grid; grid-template-columns: 1fr 1fr; gap: 1rem";
  window.viewers = viewers;
"""


def test_two_viewers_follow_each_other(opened, shown):
    made, point = shown["video"], (3, 30, 60)
    with opened("video", link="#at=1,2,3") as page:
        page.evaluate(f"() => {{ {MOUNT_TWO} }}")
        rest(page)
        # The link is for the first one, and at that time nobody can listen yet.
        states = page.evaluate("window.viewers.map((viewer) => viewer.state)")
        assert [found["query"] for found in states] == [[1, 2, 3], [7, 28, 42]]
        assert page.evaluate("window.calls") == 0
        assert page.get_by_role("alert").count() == 0
        second = page.locator(".nl-viewer").nth(1)
        box = second.locator(".nl-strip .nl-screen").nth(point[0]).bounding_box()
        x, y = (point[2] + 0.5) / 84 * box["width"], (point[1] + 0.5) / 56 * box["height"]
        page.mouse.click(box["x"] + x, box["y"] + y)
        second.get_by_text("effect", exact=True).click()
        assert page.evaluate("window.viewers.map((viewer) => viewer.state.measure)") == ["affinity", "effect"]
        # Of each viewer's radio buttons one is chosen.
        assert page.locator("input[type=radio]:checked").evaluate_all(
            "(all) => all.map((one) => one.value)"
        ) == [
            "affinity",
            "effect",
        ]
        second.get_by_role("combobox").select_option("layer2.3")
        rest(page)
        states = page.evaluate("window.viewers.map((viewer) => viewer.state)")
        assert [found["query"] for found in states] == [list(point)] * 2
        assert [found["pinned"] for found in states] == [True, True]
        assert [found["block"] for found in states] == ["layer3.4", "layer2.3"]
        # One for the move of the pointer, one for the click.
        assert page.evaluate("window.calls") == 2
        # Neither the second viewer nor what it says to the first is in the address.
        assert page.evaluate("location.hash") == "#at=1,2,3"
        row = page.evaluate("window.viewers[0].currentRow().then((row) => Array.from(row))")
        true, step = (get("layer3.4", "affinity", point) for get in (made.row, made.steps))
        np.testing.assert_allclose(row, true, rtol=1e-5, atol=0.501 * step)
        duplicates = page.evaluate(
            "() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);"
            " return ids.length - new Set(ids).size; }"
        )
        assert duplicates == 0
        page.evaluate("() => { window.viewers[1].togglePlay(); window.viewers[1].destroy(); }")
        assert not page.evaluate("window.viewers[1].state.playing")
        assert page.locator(".nl-viewer").count() == 1
        page.evaluate("location.hash = '#at=0,1,2'")
        rest(page)
        assert page.evaluate("window.viewers[0].state.query") == [0, 1, 2]


def test_measure_stays_when_the_block_changes(browser, tmp_path):
    made = documents.video()
    made.document["blocks"].append({**made.document["blocks"][0], "name": "twin"})
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        page.get_by_text("effect", exact=True).click()
        for block, measure in (("twin", "effect"), ("layer2.3", "affinity"), ("twin", "affinity")):
            page.get_by_role("combobox").select_option(block)
            assert [state(page)[name] for name in ("block", "measure")] == [block, measure]
            rest(page)
            checked = page.locator(".nl-measures input:checked")
            assert checked.count() == (block == "twin")


def test_wrong_calls(opened):
    calls = {
        "setQuery([1, 2])": "a point has 3 coordinates; got 1,2",
        "setQuery([1, 2, NaN])": "a point has 3 coordinates",
        "selectBlock('x')": "there is no block x",
        "selectMeasure('x')": "block layer3.4 has no measure x",
    }
    with opened("video") as page:
        for call, says in calls.items():
            told = page.evaluate(
                f"() => {{ try {{ {VIEWER}.{call}; }} catch (error) {{ return error.message; }} }}"
            )
            assert says in told


def test_points_outside_are_moved_to_the_edge(opened):
    with opened("video") as page:
        page.evaluate(f"{VIEWER}.setQuery([99, -5, 83.9])")
        assert state(page)["query"] == [7, 0, 83]
