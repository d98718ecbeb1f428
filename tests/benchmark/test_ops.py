import json

import pytest
import torch
from torch import nn

from benchmarks import cells, ops, rows
from benchmarks.__main__ import main
from benchmarks.about import about, same_conditions
from benchmarks.cells import Cell


class Altered(nn.Module):
    """A block with an altered output."""

    def __init__(self, block, alter):
        super().__init__()
        self.block, self.alter = block, alter

    def forward(self, x):
        return self.alter(x, self.block(x))


ALTERED = {
    "value": lambda x, z: 1.01 * z,
    "gradient": lambda x, z: z + x - x.detach(),
    "nan": lambda x, z: z * float("nan"),
}


@pytest.mark.parametrize("what", ALTERED)
@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_candidate_is_refused(what, backward, monkeypatch):
    monkeypatch.setitem(cells._BUILDERS, "materialised", lambda block: Altered(block, ALTERED[what]))
    row = ops.measure_cell(Cell("dot_product", (2, 4, 6), None, backward), 0.0, memory=False)
    wrong = backward or what != "gradient"
    assert ("materialised" in row["absent"]) == wrong
    assert ("materialised" in row["seconds"]) == (not wrong)
    assert "ours" in row["seconds"]
    if wrong:
        assert "differs from the reference" in row["absent"]["materialised"]


def test_what_does_not_fit_is_listed(monkeypatch):
    monkeypatch.setattr(cells, "free_memory", lambda device: 1000)
    row = ops.measure_cell(Cell("concatenation", (1, 4, 64), None, False), 0.0, memory=False)
    assert set(row["absent"]) == {"materialised", "repeat", "mmcv"}
    assert all("does not fit" in reason for reason in row["absent"].values())
    assert set(row["seconds"]) == {"ours", "floor"}


@pytest.mark.parametrize("form", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cells_are_sensitive_to_the_affinity(form, dtype):
    """The branch is of the input's size and no softmax is one-hot, so that an error would be seen."""
    block, x = cells.make_cell(Cell(form, (2, 16, 9, 8), "after", False, "cpu", dtype))
    branch = (block(x) - x).float()
    assert 0.2 < branch.std() / x.float().std() < 40
    if "gaussian" in form:
        assert block.affinity(x).amax(2).mean() < 0.8
    row = ops.measure_cell(Cell(form, (2, 16, 9, 8), "after", True, "cpu", dtype), 0.0, memory=False)
    assert "ours" in row["seconds"]


@pytest.mark.parametrize("form", ["gaussian", "embedded_gaussian"])
def test_logits_are_as_large_as_a_cell_says(form):
    block, x = cells.make_cell(Cell(form, (2, 16, 9, 8), None, False, logits=30.0))
    theta, phi, _ = block.embed(x)
    logits = (theta @ phi.mT).detach()
    others = logits[:, ~torch.eye(72, dtype=torch.bool)]
    assert 20 < others.std() < 45


@pytest.mark.slow
def test_blocks_are_measured_under_the_compiler():
    cell = Cell("embedded_gaussian", (1, 6, 8), None, True)
    row = ops.measure_cell(cell, 0.0, memory=False, compiled=True)
    assert {"ours", "compiled", "ours compiled", "sdpa"} <= set(row["seconds"])
    assert "flex" not in row["seconds"] | row["absent"]


def test_an_interrupted_run_goes_on(monkeypatch):
    monkeypatch.setattr(rows, "peak_memory", lambda *words, **settings: 1)
    saved = []
    settings = {"quick": True, "forms": ["concatenation"]}
    whole = ops.run(**settings, save=lambda report: saved.append(json.dumps(report)))
    assert len(saved) == len(whole["grid"]) + len(whole["operator"]) + len(whole["sweep"]) == 9

    for name in ("measure_cell", "measure_operator"):
        monkeypatch.setattr(ops, name, lambda *words: pytest.fail("measured again"))
    again = ops.run(**settings, earlier=json.loads(saved[-1]))
    assert {**again, "about": None} == {**json.loads(saved[-1]), "about": None}
    with pytest.raises(ValueError, match="the earlier results are of other"):
        ops.run(quick=True, dtype="bfloat16", earlier=again)


def test_conditions_are_the_same_at_another_time():
    now = about(device="cpu", dtype="float32", quick=True)
    assert same_conditions(now, {**now, "date": "2000-01-01"})
    assert not same_conditions(now, {**now, "threads": 99})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forms": ["gausian"]}, "did you mean 'gaussian'"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"device": "tpu"}, "device must be one of"),
        ({"shapes": [(1, 4)]}, "a shape is"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ops.run(quick=True, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_device_is_told():
    with pytest.raises(ValueError, match="take 'cpu'"):
        ops.run(quick=True, device="cuda")


@pytest.mark.slow
def test_the_command_from_end_to_end(tmp_path, capsys):
    words = ["ops", "--quick", "--form", "dot_product", "--output", str(tmp_path)]
    assert main(words) == 0
    report = json.loads((tmp_path / "ops.json").read_text())
    assert all(row["seconds"]["ours"]["median"] > 0 for row in report["grid"] + report["sweep"])
    assert {"ours", "materialised"} <= set(report["grid"][0]["peak_bytes"])
    assert "| dot_product |" in (tmp_path / "ops.md").read_text()
    assert (tmp_path / "ops.png").read_bytes().startswith(b"\x89PNG")
    assert "results in" in capsys.readouterr().out
    assert main([*words, "--dtype", "bfloat16"]) == 1
    assert "write the new ones elsewhere" in capsys.readouterr().err
