"""axe, the checker of accessibility, on a page that "explain" writes: it finds nothing."""

import pytest
from browser import open_page
from serving import save_image
from viewer_page import DESKTOP, PHONE, VIEWER, rest

import nonlocalnn as nl
from nonlocalnn.cli import main

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="axe-playwright-python is not installed: pip install -e '.[dev]'",
)


def broken_rules(page):
    """What axe complains of: each rule and the elements."""
    violations = axe.Axe().run(page).response["violations"]
    return {each["id"]: [node["html"][:120] for node in each["nodes"]] for each in violations}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The address of a page that the command wrote."""
    folder = tmp_path_factory.mktemp("axe")
    model = nl.create_model("nl_digits", image_size=28)
    nl.save_checkpoint(model, folder / "model.safetensors", metadata={"classes": list("0123456789")})
    save_image(folder / "cat.png")
    model, page = folder / "model.safetensors", folder / "cat.html"
    assert main(["explain", str(folder / "cat.png"), "--model", str(model), "-o", str(page)]) == 0
    return page.as_uri()


@pytest.mark.parametrize(
    ("window", "scheme"),
    [
        pytest.param(DESKTOP, "light", id="desktop-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(DESKTOP, "dark", id="desktop-dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.slow),
    ],
)
def test_a_page_of_the_command(browser, written, window, scheme):
    with open_page(browser, written, color_scheme=scheme, **window) as page:
        rest(page)
        assert broken_rules(page) == {}


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("video", "light"),
        ("image", "dark"),
        *(
            pytest.param(kind, scheme, marks=pytest.mark.slow)
            for kind, scheme in (
                ("video", "dark"),
                ("image", "light"),
                ("sequence", "light"),
                ("sequence", "dark"),
            )
        ),
    ],
)
def test_each_kind_of_page(opened, kind, scheme):
    with opened(kind, color_scheme=scheme) as page:
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        rest(page)
        assert broken_rules(page) == {}


def test_a_fault_is_found(opened):
    with opened("image") as page:
        page.evaluate(f"{VIEWER}; document.querySelector('h1').style.color = 'rgb(250, 250, 250)'")
        assert "color-contrast" in broken_rules(page)
