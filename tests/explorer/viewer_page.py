"""The viewer on an open page: what it says of itself, and whether that is what it draws."""

from itertools import product

import numpy as np
from documents import STANDS_OUT, stored_position

VIEWER = "NonlocalViewer.of(document.querySelector('.nl-viewer'))"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}


# Only the pause before a screen reader is told: a test has no need to wait for it.
HURRY = """
  const { setTimeout: start } = window;
  window.setTimeout = (act, delay) => start(act, Math.min(delay, 10));
"""


def rest(page):
    """Wait until the picture, the sentence, the table and the link have caught up."""
    page.evaluate(
        f"""async () => {{
          // What follows a change of size or address comes between two frames of the screen.
          for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
          await {VIEWER}.settled();
        }}"""
    )


def wait_until(page, condition):
    """Wait for a JavaScript expression; the page's own rules forbid playwright's way to do that."""
    page.evaluate(
        f"""() => new Promise((done) => {{
          const timer = setInterval(() => {{ if ({condition}) {{ clearInterval(timer); done(); }} }}, 20);
        }})"""
    )


def state(page):
    return page.evaluate(f"{VIEWER}.state")


def current_row(page):
    return np.array(page.evaluate(f"{VIEWER}.currentRow().then((row) => Array.from(row))"))


def place_of(page, made, point, *, container=".nl-strip"):
    """Where the centre of the input's pixel at ``point`` is in the window."""
    *frame, y, x = [0, 0, *point][-3:]
    sides = [1, 1, *made.document["input"]["sides"]][-2:]
    screens = page.locator(f"{container} .nl-screen")
    box = screens.nth(frame[0] if container == ".nl-strip" else 0).bounding_box()
    return box["x"] + (x + 0.5) / sides[1] * box["width"], box["y"] + (y + 0.5) / sides[0] * box["height"]


def assert_shows(page, made, block, measure, point):
    """The state, the row and the heat are those of the point."""
    found = state(page)
    assert (found["block"], found["measure"], found["query"]) == (block, measure, list(point))
    assert found["position"] == stored_position(made.block(block), point)
    true, step = made.row(block, measure, point), made.steps(block, measure, point)
    np.testing.assert_allclose(current_row(page), true, rtol=1e-5, atol=0.501 * step)
    assert_heat(page, made.block(block), true, step, signed=measure == "effect")


def assert_heat(page, block, true, step, *, signed):
    """On every frame, the colour in the middle of each key's box is that of its weight."""
    table, frames = page.evaluate(
        """([signed, sides, centres]) => [
          Array.from(NonlocalViewer.colours.table(signed)),
          [...document.querySelectorAll(".nl-strip canvas")].map((canvas) => {
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return centres.map(([y, x]) => {
              const column = Math.floor((x / sides[1]) * canvas.width);
              const row = Math.floor((y / sides[0]) * canvas.height);
              const at = 4 * (row * canvas.width + column);
              return Array.from(pixels.data.slice(at, at + 4));
            });
          }),
        ]""",
        [signed, *input_geometry(block)],
    )
    # The last colour is that of the largest weight, but never of less than what stands out.
    largest = np.abs(true).max()
    share = largest / (max(largest, STANDS_OUT * np.abs(true).mean()) or 1)
    levels = np.rint(np.rint(true.reshape([1, 1, *block["key_sides"]][-3], -1) / step) * share).astype(int)
    expected = faded(np.array(table).reshape(256, 4)[levels + (128 if signed else 0)])
    steps, centres = ([1.0, 1.0, *block["key_grid"][name]][-3] for name in ("steps", "centres"))
    for frame, found in enumerate(frames):
        times = [time for time in range(len(levels)) if abs(frame + 0.5 - centres - time * steps) < steps / 2]
        if len(block["key_sides"]) < 3:
            times = [0]
        wanted = expected[times[0]] if times else np.zeros(np.shape(found))
        np.testing.assert_allclose(faded(np.array(found)), wanted, atol=3)
    assert len(frames) >= len(levels)


def faded(colours):
    """Colours as they count: times their alpha."""
    return np.concatenate([colours[..., :3] * (colours[..., 3:] / 255), colours[..., 3:]], -1)


def input_geometry(block):
    """Sides of the input in rows and columns, and the centres of a frame's keys."""
    grid = block["key_grid"]
    sides = [round(step * side) for step, side in zip(grid["steps"], block["key_sides"], strict=True)]
    axes = [
        [centre + index * step for index in range(side)]
        for centre, step, side in zip(grid["centres"], grid["steps"], block["key_sides"], strict=True)
    ]
    return [[1, 1, *sides][-2:], list(product(*[[0.5], *axes][-2:]))]
