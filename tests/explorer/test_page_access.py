"""The page for who hears it, works by keyboard alone, or has colours of their own."""

import documents
import pytest
from browser import open_page
from viewer_page import PHONE, VIEWER, rest, state

from nonlocalnn.explorer.page import write_page


def headings(page):
    return page.locator("h1, h2, h3, h4, h5, h6").evaluate_all(
        "(all) => all.map((one) => [Number(one.tagName[1]), one.textContent])"
    )


MOUNT = """(options) => {
  const data = JSON.parse(document.querySelector("script[type='application/json']").textContent);
  const root = document.querySelector(".nl-viewer");
  NonlocalViewer.of(root).destroy();
  new NonlocalViewer(root, data, { deepLinks: false, ...options });
}"""


def test_headings_begin_with_the_title_and_skip_no_level(opened):
    with opened("video") as page:
        assert headings(page) == [[1, "some video <b>"], [2, "Prediction"], [2, "Drawing"]]
        page.evaluate(MOUNT, {"level": 3})
        assert [level for level, _ in headings(page)] == [3, 4, 4]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        pytest.param(False, " key: ", marks=pytest.mark.slow),
        (True, " key in some model: "),
    ],
    ids=str,
)
def test_two_models_are_told_apart_by_ear(browser, tmp_path, named, words):
    made = documents.image()
    made.document["model"] = "some model"
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri()) as page:
        page.evaluate(MOUNT, {"named": named})
        rest(page)
        assert f"Its strongest{words}row" in page.locator(".nl-status").inner_text()


def test_the_large_frame_is_said_unless_frames_play(opened):
    with opened("video") as page:
        caption = page.locator(".nl-stage figcaption")
        for name, live in (("Next", "polite"), ("Play", "off"), ("Pause", "polite")):
            page.get_by_role("button", name=name).click()
            rest(page)
            assert caption.get_attribute("aria-live") == live
        # What is set once more is said once more.
        caption.evaluate(
            """(one) => {
              window.said = 0;
              new MutationObserver(() => window.said++).observe(one, { childList: true });
            }"""
        )
        page.evaluate(f"{VIEWER}.selectMeasure('effect')")
        rest(page)
        assert page.evaluate("window.said") == 0
        page.get_by_role("button", name="Next").click()
        rest(page)
        assert page.evaluate("window.said") == 1


def test_a_slider_says_its_value_by_itself(opened):
    with opened("image") as page:
        page.get_by_label("Arrows").fill("7")
        assert page.locator(".nl-slider output").first.inner_text() == "7"
        # The same once more would be a status.
        assert page.get_by_role("status").count() == 0


def test_each_column_of_the_weights_has_a_name(opened):
    with opened("video") as page:
        page.get_by_text("Largest weights").click()
        heads = page.get_by_role("table", name="Largest weights").get_by_role("columnheader")
        assert heads.all_inner_texts() == ["rank", "frames", "row", "column", "value", "of even"]


def test_a_wide_table_scrolls_by_its_keys(browser, tmp_path):
    made = documents.video()
    for block in made.document["blocks"]:
        block["name"] = f"a_long_name_without_any_place_to_break.{block['name']}"
    write_page(made.document, tmp_path / "page.html")
    with open_page(browser, (tmp_path / "page.html").as_uri(), **PHONE) as page:
        rest(page)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["viewport"]["width"]
        before = state(page)
        page.locator("summary", has_text="Summary").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "nl-wide"
        page.keyboard.press("ArrowRight")
        assert state(page) == before
        page.evaluate(
            """() => new Promise((done) => {
              const { activeElement: table } = document;
              const look = () => (table.scrollLeft > 0 ? done() : requestAnimationFrame(look));
              look();
            })"""
        )


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_where_the_system_has_its_own_colours(opened, scheme):
    with opened("video", forced_colors="active", color_scheme=scheme) as page:
        page.evaluate(f"{VIEWER}.selectMeasure('effect')")
        rest(page)
        probe = (
            "(words) => { document.body.style.color = words; return getComputedStyle(document.body).color; }"
        )
        marked = page.evaluate(probe, "Highlight")

        def colours(selector):
            return page.locator(selector).evaluate_all(
                "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
            )

        free, chosen = colours(".nl-measures span")
        assert free != chosen == marked
        assert colours(".nl-bar span") == 3 * [marked]
        # Else the system lays its own ground under the letters.
        adjusted = page.locator(".nl-measures span").evaluate_all(
            "(all) => all.map((one) => getComputedStyle(one).forcedColorAdjust)"
        )
        assert adjusted == ["auto", "none"]
        scale = page.locator(".nl-scale-bar").evaluate("(one) => getComputedStyle(one).backgroundImage")
        assert scale.startswith("linear-gradient")
