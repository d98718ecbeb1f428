"""The benchmark of short epochs."""

import pytest

from benchmarks import short_epochs


# Eight images a class are too few for every split to have one.
@pytest.mark.filterwarnings("ignore:no validation sample is of class")
def test_a_quick_run_makes_a_table():
    saved = []
    report = short_epochs.run(quick=True, save=lambda found: saved.append(len(found["rows"])))
    assert saved == [1, 2]
    running, anew = report["rows"]
    assert (running["way"], anew["way"]) == ("running", "averaged anew")
    assert running["train_loss"] == anew["train_loss"]
    assert running["validation_loss"] != anew["validation_loss"]
    lines = short_epochs.markdown(report).splitlines()
    assert lines[-2].startswith(f"| 80 | {running['steps']} | running | {running['accuracy'][0]:.2f} | ")
