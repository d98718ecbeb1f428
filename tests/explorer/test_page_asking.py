"""The page in a browser: asking by pointer, touch, keys and links."""

import documents
import pytest
from browser import open_page
from viewer_page import DESKTOP, PHONE, VIEWER, assert_shows, place_of, rest, state, wait_until

from nonlocalnn.explorer.page import write_page

pytestmark = pytest.mark.slow


def test_pinning(opened, shown):
    made = shown["video"]
    first, second, third = (1, 10, 10), (6, 40, 70), (3, 20, 50)
    with opened("video") as page:

        def at(point, act):
            act(*place_of(page, made, point))
            rest(page)
            found = state(page)
            return tuple(found["query"]), found["pinned"]

        assert at(first, page.mouse.click) == (first, True)
        assert "Query, pinned: frame 1" in page.locator(".nl-status").inner_text()
        assert at(second, page.mouse.move) == (first, True)
        assert_shows(page, made, "layer3.4", "affinity", first)
        assert at(second, page.mouse.click) == (second, True)
        page.keyboard.press("Escape")
        assert at(third, page.mouse.move) == (third, False)
        assert at(third, page.mouse.click) == (third, True)
        assert at(third, page.mouse.click) == (third, False)
        assert at(third, page.mouse.click) == (third, True)
        # The same position of the block, but seen on the other frame that it covers.
        other = (2, *third[1:])
        assert at(other, page.mouse.click) == (other, True)
        assert at(other, page.mouse.click) == (other, False)
        assert at(first, page.mouse.move) == (first, False)


def test_keyboard(opened, shown):
    made = shown["video"]
    with opened("video") as page:
        page.locator(".nl-strip").focus()
        start = state(page)
        assert start["position"] == [3, 3, 3]

        def after(key):
            page.keyboard.press(key)
            found = state(page)
            return found["query"][0], *found["position"]

        assert after("ArrowRight") == (7, 3, 3, 4)
        assert after("ArrowUp") == (7, 3, 2, 4)
        assert after("ArrowLeft") == (7, 3, 2, 3)
        assert after("ArrowDown") == (7, 3, 3, 3)
        assert after("PageUp") == (6, 3, 3, 3)
        assert after("ArrowRight") == (6, 3, 3, 4)
        assert after("ArrowLeft") == (6, 3, 3, 3)
        assert after("[") == (5, 2, 3, 3)
        assert after("]") == (6, 3, 3, 3)
        assert after("PageDown") == (7, 3, 3, 3)
        assert after("PageDown") == (7, 3, 3, 3)
        assert state(page)["pinned"]
        for _ in range(8):
            last = after("ArrowLeft")
        assert last == (7, 3, 3, 0)
        rest(page)
        assert_shows(page, made, "layer3.4", "affinity", state(page)["query"])
        # Every stored position of the block with every other row can be reached, and no other.
        page.keyboard.press("b")
        assert state(page)["block"] == "layer2.3"
        assert [after("ArrowRight")[3] for _ in range(7)] == [2, 4, 6, 8, 10, 12, 12]
        page.keyboard.press("b")
        assert state(page)["block"] == "layer3.4"
        page.keyboard.press("Shift+B")
        assert state(page)["block"] == "layer2.3"
        page.keyboard.press("Control+b")
        assert state(page)["block"] == "layer2.3"
        page.keyboard.press("?")
        assert page.get_by_text("next and previous block").is_visible()
        page.keyboard.press("?")
        assert not page.get_by_text("next and previous block").is_visible()


def test_keys_of_controls_stay_theirs(opened):
    with opened("video") as page:
        before = state(page)
        page.get_by_label("Arrows").focus()
        page.keyboard.press("ArrowRight")
        # A slider keeps its arrows, a box its space, and a list all of its keys.
        page.get_by_label("Large frame").focus()
        page.keyboard.press(" ")
        page.keyboard.press(" ")
        page.get_by_role("combobox").focus()
        page.keyboard.press("b")
        assert state(page) == before
        assert page.get_by_label("Arrows").input_value() == "6"
        page.evaluate(f"{VIEWER}.setQuery([1, 2, 3], true)")
        page.get_by_label("Arrows").press("Escape")
        assert not state(page)["pinned"]


def test_keys_work_wherever_the_focus_is(opened):
    with opened("video") as page:
        page.keyboard.press("ArrowUp")
        assert state(page)["position"] == [3, 2, 3]
        page.get_by_role("button", name="Next").click()
        page.keyboard.press("ArrowDown")
        assert state(page)["position"] == [3, 3, 3]
        page.get_by_text("effect", exact=True).click()
        page.keyboard.press("b")
        assert state(page)["block"] == "layer2.3"
        # Who types by accident keeps the keys to the pictures.
        box = page.get_by_label("Keys work anywhere")
        box.uncheck()
        before = state(page)
        page.keyboard.press("b")
        assert state(page) == before
        page.locator(".nl-strip").focus()
        page.keyboard.press("b")
        assert state(page)["block"] == "layer3.4"


def test_arrow_keys_of_a_sequence(opened):
    with opened("sequence") as page:
        page.evaluate(
            """() => {
              window.taken = [];
              window.addEventListener("keydown", (event) => window.taken.push(event.defaultPrevented));
            }"""
        )
        page.locator(".nl-strip").focus()
        assert state(page)["position"] == [30]
        page.keyboard.press("ArrowRight")
        assert state(page)["position"] == [31]
        page.keyboard.press("ArrowDown")
        page.keyboard.press("PageDown")
        page.keyboard.press(" ")
        assert state(page)["position"] == [31]
        # What means nothing here scrolls the page, as everywhere.
        assert page.evaluate("window.taken") == [True, False, False, False]


def test_deep_link_in(opened, shown):
    with opened("video", link="#block=layer3.4&at=3,10,57&measure=effect") as page:
        assert_shows(page, shown["video"], "layer3.4", "effect", (3, 10, 57))
        assert state(page)["pinned"]
        page.evaluate("location.hash = '#block=layer2.3&at=1,2,3'")
        rest(page)
        assert_shows(page, shown["video"], "layer2.3", "affinity", (1, 2, 3))
        assert not page.locator(".nl-note").is_visible()


def test_deep_link_out(opened, shown):
    made = shown["video"]
    with opened("video") as page:

        def link():
            rest(page)
            return page.evaluate("location.hash")

        page.mouse.move(*place_of(page, made, (2, 9, 60)))
        assert link() == ""
        page.mouse.click(*place_of(page, made, (2, 9, 60)))
        assert link() == "#block=layer3.4&at=2,9,60&measure=affinity"
        page.keyboard.press("]")
        assert link() == "#block=layer3.4&at=3,9,60&measure=affinity"
        page.get_by_text("effect", exact=True).click()
        assert link() == "#block=layer3.4&at=3,9,60&measure=effect"
        page.get_by_role("combobox").select_option("layer2.3")
        assert link() == "#block=layer2.3&at=3,9,60&measure=affinity"
        length = page.evaluate("history.length")
        page.reload()
        rest(page)
        assert_shows(page, made, "layer2.3", "affinity", (3, 9, 60))
        assert page.evaluate("history.length") == length


def test_links_hold_any_name(browser, tmp_path):
    made = documents.video()
    made.document["blocks"][1]["name"] = name = "a&b=c, d+é#%41"
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **DESKTOP) as page:
        rest(page)
        page.evaluate(f"(name) => {VIEWER}.selectBlock(name)", name)
        rest(page)
        page.reload()
        rest(page)
        assert state(page)["block"] == name


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("#block=layer9.9&at=1,2,3", "there is no block layer9.9"),
        ("#at=8,0,0", "at=8,0,0 is no place in an input of 8 \u00d7 56 \u00d7 84"),
        ("#at=1,2", "at=1,2 is no place"),
        ("#at=1,-2,3", "at=1,-2,3 is no place"),
        ("#at=1,2.5,3", "at=1,2.5,3 is no place"),
        ("#at=", "at= is no place"),
        ("#block=layer2.3&measure=effect", "block layer2.3 has no measure effect"),
        ("#summary", "summary is none of block, at and measure"),
    ],
)
def test_wrong_link_is_ignored_with_a_note(opened, shown, link, says):
    with opened("video", link=link) as page:
        assert f"The link was ignored: {says}" in page.get_by_role("alert").inner_text()
        assert_shows(page, shown["video"], "layer3.4", "affinity", (7, 28, 42))
        assert not state(page)["pinned"]
        page.mouse.click(*place_of(page, shown["video"], (2, 9, 60)))
        rest(page)
        assert not page.locator(".nl-note").is_visible()
        for again, visible in ((link, True), ("", False)):
            page.evaluate("(hash) => { location.hash = hash; }", again)
            rest(page)
            assert page.locator(".nl-note").is_visible() == visible


@pytest.mark.parametrize(("kind", "point"), [("video", (5, 20, 40)), ("image", (3, 22)), ("sequence", (11,))])
def test_phone(opened, shown, kind, point):
    with opened(kind, **PHONE) as page:
        for text in ("Largest weights", "Keys"):
            page.locator("summary", has_text=text).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.locator(".nl-strip .nl-screen").nth(
            point[0] if kind == "video" else 0
        ).scroll_into_view_if_needed()
        page.touchscreen.tap(*place_of(page, shown[kind], point))
        rest(page)
        assert_shows(page, shown[kind], shown[kind].document["blocks"][0]["name"], "affinity", point)
        assert state(page)["pinned"]
        styles = page.locator(".nl-strip .nl-screen").evaluate_all(
            "(all) => all.map((one) => getComputedStyle(one).touchAction)"
        )
        assert set(styles) == {"pan-y"}
        # A finger that moves is scrolling, even where nothing is pinned.
        page.evaluate(f"{VIEWER}.setQuery({list(point)}, false)")
        page.locator(".nl-strip .nl-screen").first.dispatch_event("pointermove", {"pointerType": "touch"})
        assert state(page)["query"] == list(point)
        box = page.locator(".nl-strip .nl-screen").first.bounding_box()
        width = page.locator(".nl-strip canvas").first.evaluate("(canvas) => canvas.width")
        assert width == pytest.approx(2 * box["width"], abs=1)


def test_play_and_large_frame(opened, shown):
    made = shown["video"]
    with opened("video", reduced_motion="reduce") as page:
        assert not state(page)["playing"]
        assert not page.locator(".nl-stage").is_visible()
        assert page.locator(".nl-staged").count() == 0
        page.get_by_role("button", name="Next").click()
        assert state(page)["frame"] == 0
        rest(page)
        assert not page.locator(".nl-stage .nl-point").is_visible()
        page.get_by_role("button", name="Previous").click()
        assert state(page)["frame"] == 7
        rest(page)
        assert page.locator(".nl-stage").is_visible()
        assert page.locator(".nl-stage figcaption").inner_text() == "frame 7 (file frame 68, 2.27 s)"
        assert page.locator(".nl-strip .nl-frame").nth(7).get_attribute("class") == "nl-frame nl-staged"
        assert page.locator(".nl-stage .nl-point").is_visible()
        page.mouse.move(*place_of(page, made, (0, 13, 70), container=".nl-stage"))
        rest(page)
        assert_shows(page, made, "layer3.4", "affinity", (7, 13, 70))
        page.mouse.click(*place_of(page, made, (0, 13, 70), container=".nl-stage"))
        # The focus goes to where the keys are heard.
        page.keyboard.press(" ")
        assert state(page)["playing"]
        # From frame 7 on, around the end.
        wait_until(page, f"{VIEWER}.state.frame === 2")
        page.get_by_role("button", name="Pause").click()
        assert not state(page)["playing"]
        assert state(page)["query"] == [7, 13, 70]

        page.get_by_role("button", name="Play").click()
        # Asking does not disturb what is played.
        frames = page.evaluate(
            f"() => {{ const shown = {VIEWER}; const before = shown.frame;"
            " shown.setQuery([(before + 4) % 8, 1, 1]); return [before, shown.frame]; }"
        )
        assert frames[0] == frames[1]
        page.get_by_label("Large frame").uncheck()
        assert not state(page)["playing"]
        rest(page)
        assert not page.locator(".nl-stage").is_visible()
