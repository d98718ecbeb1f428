import pytest

from benchmarks.ops import fit_exponents
from benchmarks.report import draw_sweep, markdown


def row(queries, ours, other, **changes):
    return {
        "form": "dot_product",
        "shape": [1, 4, queries],
        "queries": queries,
        "keys": queries,
        "direction": "forward",
        "seconds": {
            name: {"median": median, "q1": median, "q3": median, "runs": 3}
            for name, median in (("ours", ours), ("materialised", other))
        },
        "ratio": {"materialised": other / ours, "floor": 0.5},
        "peak_bytes": {"ours": 2**20, "materialised": 3 * 2**20},
        "absent": {},
        **changes,
    }


@pytest.fixture
def report():
    sweep = [row(100, 0.1, 0.1), row(200, 0.2, 0.4), row(400, 0.4, 1.6)]
    absent = {"mmcv": "does not fit (99 GiB)", "timm": "not installed", "repeat": "fails: by itself"}
    return {
        "about": {
            "date": "2000-01-01",
            "commit": None,
            "versions": {"torch": "2"},
            "processor": "abacus",
            "threads": 1,
            "device": "cpu",
            "dtype": "float32",
            "quick": False,
        },
        "grid": [row(10, 0.002, 0.001, absent=absent), row(20, 0.001, 0.0025)],
        "operator": [],
        "sweep": sweep,
        "exponents": fit_exponents(sweep, 100),
    }


def test_losses_stand_beside_wins(report):
    text = markdown(report)
    assert "| 2.00 (2.00 to 2.00) | 2.00 | 1.0 | **0.50**, 3.00 | fails | does not fit (99 GiB) |" in text
    assert "| 1.00 (1.00 to 1.00) | 2.00 | 1.0 | 2.50, 3.00 |  |  |" in text
    assert "- not installed: timm" in text
    assert "- repeat, dot_product, forward: fails: by itself" in text
    assert "concatenation operator" not in text


def test_every_loss_is_listed(report):
    text = markdown(report)
    loss = "- dot_product, 1 x 4 x 10, 10 x 10, forward, logits 1: materialised takes 0.50 of our time"
    assert f"Ours loses in 1 of 5 rows:\n\n{loss}\n\n" in text
    assert "Under `torch.compile`" not in text
    ratio = {"materialised": 1.5, "compiled": 0.9, "floor": 0.5, "ours compiled": 1.2}
    timed = row(10, 1, 1, ratio=ratio, logits=30.0)
    timed["seconds"] |= dict.fromkeys(("compiled", "ours compiled"), timed["seconds"]["ours"])
    changed = {**report, "grid": [timed]}
    text = markdown(changed)
    cell = "- dot_product, 1 x 4 x 10, 10 x 10, forward, logits 30: "
    assert f"Ours loses in 1 of 4 rows:\n\n{cell}compiled takes 0.90 of our time\n\n" in text
    assert f"ours is slower in 1 rows:\n\n{cell}1.20 of its time" in text
    # Ours when compiled is no rival.
    assert "| 1.50, 3.00 | **0.90** | 1.20 |" in text
    assert "| logits |" in text
    won = markdown({**report, "grid": [], "sweep": [row(10, 1, 2)]})
    assert "Ours loses in 0 of 1 rows." in won


def test_exponents(report):
    assert "| dot_product | ours | 1.00 | 0.00 | 100, 200, 400 |" in markdown(report)
    assert "| dot_product | materialised | 2.00 | 0.00 | 100, 200, 400 |" in markdown(report)


def test_a_report_without_our_time(report):
    refused = row(10, 1, 1, seconds={}, ratio={}, peak_bytes={}, absent={"ours": "refused: differs by 1"})
    assert "| refused: differs by 1 |" in markdown({**report, "grid": [refused]})


@pytest.mark.parametrize("empty", [False, True])
def test_the_plot(report, tmp_path, empty):
    draw_sweep({**report, "sweep": [] if empty else report["sweep"]}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
