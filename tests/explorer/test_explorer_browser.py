"""The explorer's page in a real browser, with a real server behind it."""

import fake_explain
import numpy as np
import pytest
from browser import open_page
from PIL import Image
from serving import CLASSES, serve

import nonlocalnn as nl
from nonlocalnn.explorer.job import Limits
from videos import write_video

pytestmark = pytest.mark.slow
# Viewers are made inside the page's own scope: this lets a test see what they are told.
RECORD = """() => {
  window.seen = { viewers: [], told: 0 };
  for (const name of ["refresh", "setQuery"]) {
    const original = NonlocalViewer.prototype[name];
    NonlocalViewer.prototype[name] = function (...words) {
      if (!window.seen.viewers.includes(this)) window.seen.viewers.push(this);
      if (name === "setQuery") window.seen.told += 1;
      return original.apply(this, words);
    };
  }
}"""
LIVING = "() => window.seen.viewers.filter((viewer) => viewer.root.classList.contains('nl-viewer'))"
QUERIES = f"() => ({LIVING})().map((viewer) => viewer.state.query)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    inputs = tmp_path_factory.mktemp("inputs")
    rows, columns = np.mgrid[:280, :280]
    Image.fromarray(((rows // 40 + columns // 40) % 2 * 160 + columns // 4).astype(np.uint8)).save(
        inputs / "real-squares.png"
    )
    frames = [
        np.stack([np.roll(rows // 2, 12 * number, 1), columns // 2, rows // 3], -1).astype(np.uint8)
        for number in range(20)
    ]
    write_video(inputs / "real-clip.mp4", frames)
    (inputs / "text.png").write_text("text")
    (inputs / "wave.csv").write_text("a,b\n1,2\n3,5\n")
    return inputs


@pytest.fixture(scope="module")
def address(models, tmp_path_factory, folder):
    wide = tmp_path_factory.mktemp("models") / "wide.safetensors"
    facts = {"classes": CLASSES, "sample_shape": [3, 4, 48, 48], "stride": 1}
    nl.save_checkpoint(nl.load_checkpoint(models["clips"]), wide, metadata=facts)
    limits = Limits(upload_bytes=1 << 20)
    with serve({**models, "wide": wide}, fake_explain.explain, inputs=folder, limits=limits) as (port, _):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def explorer(browser, address):
    """Opens the page in a window; what it shows is checked for errors when the window closes."""

    def open_explorer(**context):
        return open_page(browser, address, only=address, **context)

    return open_explorer


def ready(page):
    page.get_by_label("first").wait_for()
    page.evaluate(RECORD)
    return page


def state(page, words):
    page.get_by_role("status").get_by_text(words, exact=True).first.wait_for()


def explain(page, words="Done."):
    page.get_by_role("button", name="Explain").click()
    state(page, words)


def is_as_wide_as_the_window(page):
    return page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_file_is_uploaded_explained_and_saved(explorer, folder):
    with explorer(viewport={"width": 1280, "height": 800}) as page:
        ready(page)
        button = page.get_by_role("button", name="Explain")
        assert button.is_disabled()
        upload = page.get_by_label("Upload a file")
        assert "up to 1.0 MiB" in page.locator(f"#{upload.get_attribute('aria-describedby')}").inner_text()
        upload.set_input_files(folder / "real-squares.png")
        assert page.get_by_text("real-squares.png (1 KiB)").is_visible()
        explain(page)
        page.locator(".nl-viewer .nl-screen").first.wait_for()
        assert page.get_by_role("heading", name="first").is_visible()
        assert page.evaluate(f"() => ({LIVING})()[0].blocks.map((block) => block.name)") == ["nl_1", "nl_2"]
        page.evaluate(f"() => ({LIVING})()[0].currentRow()")
        assert is_as_wide_as_the_window(page)
        # The result is scrolled to, with the whole picture and its instruction in view.
        page.wait_for_function("() => document.querySelector('.result').getBoundingClientRect().top < 30")
        for part in (page.locator(".nl-hint").first, page.locator(".nl-screen")):
            box = part.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 800
        # Keys work from where the job was sent.
        page.keyboard.press("ArrowUp")
        assert page.evaluate(f"() => ({LIVING})()[0].state.pinned")
        with page.expect_download() as download:
            page.get_by_role("link", name="Save as page").click()
        assert download.value.suggested_filename == "real-squares.png first.html"
        assert download.value.path().read_text().startswith("<!DOCTYPE html>")


def test_two_models_show_the_same_place(explorer):
    with explorer(viewport={"width": 1400, "height": 1000}) as page:
        ready(page)
        page.get_by_label("second").check()
        assert page.get_by_label("clips").is_disabled()
        page.get_by_label("real-squares.png").check()
        explain(page)
        screens = page.locator(".nl-screen")
        screens.nth(1).wait_for()
        for name in ("first", "second"):
            assert page.get_by_role("link", name=f"Save as page: {name}").is_visible()
            page.get_by_role("region", name=name).get_by_text(f" in {name}").first.wait_for()
        levels = page.locator("h1, h2, h3, h4").evaluate_all(
            "(all) => all.map((one) => one.tagName).join('')"
        )
        assert levels == "H1" + 2 * "H2H3H4H4"
        left, right = (section.bounding_box() for section in page.locator(".result").all())
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        for number, changes in ((0, 2), (1, 1)):
            before = page.evaluate("() => window.seen.told")
            box = screens.nth(number).bounding_box()
            page.mouse.click(box["x"] + 3 + 40 * number, box["y"] + 5)
            first, second = page.evaluate(QUERIES)
            assert first == second
            # It told the other and no more: of the move, where nothing was pinned yet, and of the click.
            assert page.evaluate("() => window.seen.told") - before == changes
        assert first[1] > 0
        # Another job takes their place.
        page.get_by_role("checkbox", name="second").uncheck()
        explain(page)
        # "Done." may still be the first job's.
        page.wait_for_function("() => document.querySelectorAll('.nl-viewer').length === 1")
        assert len(page.evaluate(QUERIES)) == 1
        assert "#" not in page.url


def test_models_of_unlike_inputs_show_the_same_part_of_them(explorer):
    with explorer(viewport={"width": 1400, "height": 1000}) as page:
        ready(page)
        page.get_by_label("first").uncheck()
        page.get_by_label("clips").check()
        page.get_by_label("wide").check()
        page.get_by_label("real-clip.mp4").check()
        explain(page)
        screens = page.locator(".nl-strip .nl-screen")
        # Eight frames of 32 x 32 of the one, then four of 48 x 48 of the other.
        screens.nth(11).wait_for()
        for number, of, to in ((5, (8, 32, 32), (4, 48, 48)), (9, (4, 48, 48), (8, 32, 32))):
            box = screens.nth(number).bounding_box()
            screens.nth(number).click(position={"x": 0.71 * box["width"], "y": 0.3 * box["height"]})
            asked, told = page.evaluate(QUERIES)[:: 1 if number == 5 else -1]
            assert asked == [number % 8, int(0.3 * of[1]), int(0.71 * of[2])]
            assert told == [(2 * part + 1) * b // (2 * a) for part, a, b in zip(asked, of, to, strict=True)]


def test_a_job_is_cancelled_and_another_takes_its_turn(explorer, folder):
    image = (folder / "real-squares.png").read_bytes()
    with explorer() as page:
        ready(page)
        upload = page.get_by_label("Upload a file")
        upload.set_input_files({"name": "sleep-30000.png", "mimeType": "image/png", "buffer": image})
        explain(page, "Explaining with first (1 of 1).")
        assert page.get_by_role("button", name="Explain").is_disabled()
        assert page.get_by_role("progressbar").is_visible()
        # The place of the keyboard goes from button to button.
        assert page.evaluate("() => document.activeElement.id") == "cancel"
        page.keyboard.press("Enter")
        state(page, "Cancelled.")
        page.get_by_role("button", name="Cancel").wait_for(state="hidden")
        assert page.evaluate("() => document.activeElement.id") == "explain"
        assert page.get_by_role("progressbar").count() == 0
        # The button has the focus again if the job was sent from elsewhere in the form, too.
        page.get_by_label("first").press("Enter")
        page.get_by_role("button", name="Cancel").wait_for()
        assert page.evaluate("() => document.activeElement.id") == "cancel"
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Cancel").wait_for(state="hidden")
        upload.set_input_files(folder / "real-squares.png")
        explain(page)


def test_the_place_in_the_queue(explorer, folder):
    image = (folder / "real-squares.png").read_bytes()
    slow = {"name": "sleep-30000.png", "mimeType": "image/png", "buffer": image}
    with explorer() as one, explorer() as two, explorer() as three:
        for page, words in (
            (one, "Explaining with first (1 of 1)."),
            (two, "Next in the queue."),
            (three, "Number 2 in the queue."),
        ):
            ready(page)
            page.get_by_label("Upload a file").set_input_files(slow)
            explain(page, words)
        two.get_by_role("button", name="Cancel").click()
        state(two, "Cancelled.")
        state(three, "Next in the queue.")
        three.get_by_role("button", name="Cancel").click()
        one.get_by_role("button", name="Cancel").click()
        state(one, "Cancelled.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.png", "text.png is none of the files that are read here, whatever its name (images: PNG, "),
        ("real-clip.mp4", "real-clip.mp4 is a video, and the model first takes images."),
    ],
    ids=["text", "video"],
)
def test_what_is_refused_is_said(browser, address, name, words):
    # Browsers themselves write such answers to the console, where no other test wants anything.
    with browser.new_page() as page:
        page.goto(address)
        ready(page)
        page.get_by_label(name).check()
        page.get_by_role("button", name="Explain").click()
        page.get_by_role("status").get_by_text(words).wait_for()
        assert page.get_by_role("status").inner_text().startswith(words)
        assert page.locator("#state.problem").count() == 1
        assert page.get_by_role("button", name="Explain").is_enabled()


def test_a_failed_job_has_its_reason(explorer, folder):
    image = (folder / "real-squares.png").read_bytes()
    with explorer() as page:
        ready(page)
        upload = page.get_by_label("Upload a file")
        upload.set_input_files({"name": "refused-.png", "mimeType": "image/png", "buffer": image})
        explain(page, "Cannot read image refused-.png: it is no good.")
        # Large files are not even sent.
        upload.set_input_files({"name": "large.png", "mimeType": "image/png", "buffer": bytes((1 << 20) + 1)})
        state(page, "large.png has 1.0 MiB; up to 1.0 MiB are taken.")
        assert page.get_by_text("refused-.png (").is_visible()


def test_a_file_is_dropped_anywhere(explorer):
    with explorer() as page:
        ready(page)
        transfer = page.evaluate_handle(
            "() => { const t = new DataTransfer(); t.items.add(new File(['x'], 'dropped.png')); return t; }"
        )
        page.dispatch_event("h1", "dragover", {"dataTransfer": transfer})
        assert page.locator("#drop.over").count() == 1
        page.dispatch_event("h1", "drop", {"dataTransfer": transfer})
        assert page.locator("#drop.over").count() == 0
        assert page.get_by_text("dropped.png (1 KiB)").is_visible()
        # What was chosen last counts.
        page.get_by_label("text.png").check()
        assert page.get_by_text("dropped.png").count() == 0


def test_a_video_on_a_dark_phone_without_a_mouse(explorer):
    context = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True}
    with explorer(**context) as page:
        ready(page)
        assert is_as_wide_as_the_window(page)
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "file"
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert page.get_by_label("real-clip.mp4").is_checked()
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "explain"
        page.keyboard.press("Enter")
        state(page, "Done.")
        page.locator(".nl-viewer .nl-screen").nth(7).wait_for()
        page.evaluate(f"() => ({LIVING})()[0].currentRow()")
        assert is_as_wide_as_the_window(page)
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert max(map(int, background[4:-1].split(","))) < 60


def test_files_of_the_server_have_thumbnails(explorer):
    with explorer() as page:
        ready(page)
        page.wait_for_function(
            """() => {
              const [image] = document.querySelectorAll(".input img[src*=squares]");
              const [video] = document.querySelectorAll(".input video[src*=clip]");
              return image?.naturalWidth === 280 && video?.videoWidth > 0;
            }"""
        )
        # What is neither keeps its name and an empty place.
        places = [
            page.locator(".input", has_text=name).locator("span.thumbnail")
            for name in ("text.png", "wave.csv")
        ]
        assert [place.inner_text() for place in places] == ["", "sequence"]
