"""The benchmark of a block's settings."""

from benchmarks import settings


def test_a_quick_run_makes_a_table(monkeypatch):
    # Fresh processes take seconds each; what they measure has tests of its own.
    weighed = []
    monkeypatch.setattr(
        settings, "peak_memory", lambda _, work: weighed.append(work) or 2**20 * work["side"] ** 4
    )
    saved = []
    report = settings.run(quick=True, save=lambda found: saved.append(len(found["rows"])))
    assert saved == [1, 2]
    assert [work["setting"] for work in weighed[:4]] == ["plain", "key mask", "4 heads", "context"]
    assert report["exponents"]["gaussian"]["context"]["peak_bytes"]["exponent"] == 2
    lines = settings.markdown(report).splitlines()
    plain = 1000 * report["rows"][0]["seconds"]["plain"]["median"]
    assert lines[0].startswith("Memory grows with N to the power of 2.00 to 2.00, ")
    seconds = report["rows"][1]["seconds"]
    mask = seconds["key mask"]["median"] / seconds["plain"]["median"]
    assert f"N = 36, the time is of the plain block's, over the forms: key mask {mask:.1f} to" in lines[0]
    assert lines[8].startswith(f"| gaussian | 16 | {plain:,.1f} ms, 256.0 MiB | ")


def test_every_setting_changes_what_is_computed():
    """Else a column would be a second one of the plain block."""
    plain, *others = (settings.prepare("dot_product", 8, name)[1]() for name in settings._SETTINGS)
    assert all((plain - other).abs().max() > 1e-4 for other in others)
