"""The numbers of the plan, on small packages and on ours."""

import json

import pytest

from benchmarks import plan
from benchmarks.__main__ import main


def package(folder, **files):
    for name, source in files.items():
        path = folder / "pack" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    for path in {each.parent for each in folder.rglob("*.py")}:
        (path / "__init__.py").touch()
    return folder / "pack"


def test_rooms_floors_and_circles(tmp_path):
    found = plan.plan_of(
        package(
            tmp_path,
            low="",
            mid__a="from pack.low import x\nfrom pack.mid import b",
            mid__b="def f():\n    from pack.mid.a import f",
            high="if TYPE_CHECKING:\n    import pack.top\nimport pack.mid.b",
            top="import pack.high",
        )
    )
    assert (found["rooms"], found["floors"], found["root files"]) == (4, 4, 4)
    assert found["circles"] == [["pack.mid.a", "pack.mid.b"]]
    assert found["circles of rooms"] == []
    assert found["rooms by floor, the lowest first"] == [["low"], ["mid"], ["high"], ["top"]]
    assert found["lines by room"] == {"high": 3, "mid": 4, "top": 1, "__init__": 0, "low": 0}


def test_the_house_has_no_circle_and_few_rooms(capsys):
    assert main(["plan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["circles"] == found["circles of rooms"] == []
    assert found["rooms"] <= 24
    assert found["floors"] <= 9


@pytest.mark.slow
def test_a_journey_counts_the_files_in_which_a_function_runs():
    files = plan.visited(plan._PACKAGE, "a tensor through a block")
    assert {"blocks.py", "functional/geometry.py"} <= set(files)
    assert not any(each.startswith(("train", "data", "explorer")) for each in files)


def test_what_an_import_runs_is_no_step_of_a_journey(tmp_path, monkeypatch):
    (tmp_path / "torch.py").touch()
    (tmp_path / "nonlocalnn.py").touch()
    folder = package(
        tmp_path,
        start="def go():\n    from pack.late import later\n    later()",
        late="from pack.never import Never\ndef later():\n    pass",
        never="class Never:\n    pass\nNever()\n(lambda: None)()",
    )
    monkeypatch.setitem(plan.JOURNEYS, "a start", ("from pack.start import go", "go()"))
    assert plan.visited(folder, "a start") == ["late.py", "start.py"]
