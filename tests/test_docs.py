"""The README and the documentation do what they say: code runs, links lead somewhere, flags exist."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import large_map, maps, models_report, processor, ranks, scale, sequences, training, volumes
from benchmarks import report as benchmark_report
from benchmarks.__main__ import main as benchmarks_main
from benchmarks.ablation.runs import AblationRow, markdown
from nonlocalnn.cli import COMMANDS, main
from nonlocalnn.functional import INSTANTIATIONS

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {"nonlocalnn": main, "benchmarks": benchmarks_main}
PAGES = [*ROOT.glob("README.md"), *sorted((ROOT / "docs").rglob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)
_NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page, *languages):
    """Yield the place and the code of each block that is to be run."""
    text = page.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        if fence["language"] in languages and not _NOT_RUN.search(text[: fence.start()]):
            yield text[: fence.start("code")].count("\n"), fence["code"]


@pytest.fixture
def _one_thread():
    """Take one thread: the pages' arrays are small, and threads that wait for a busy core cost far more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "page",
    [
        # It exports, and runs what was exported, ten times.
        pytest.param(page, marks=pytest.mark.slow) if page.name == "deploy.md" else page
        for page in PAGES
        # Pages of notebooks: tests/test_notebooks.py runs these, in a kernel as they need it.
        if page.parent.name != "gallery"
    ],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
@pytest.mark.usefixtures("_one_thread")
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__docs__"}
    for lines_above, code in blocks(page, "python"):
        # The empty lines give a failure the line number that it has in the page.
        exec(compile("\n" * lines_above + code, str(page), "exec"), namespace)


def commands(page):
    """Yield the program and the words of each line that calls one."""
    for _, code in blocks(page, "bash", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            if called := re.search(r"(?:^|-m )(nonlocalnn|benchmarks) ([^#]+)", line):
                yield PROGRAMS[called[1]], called[2].split()


@every_page
def test_commands_and_their_flags_exist(page, capsys):
    for program, (name, *words) in commands(page):
        assert program([name, "--help"]) == 0, f"there is no command {name}"
        known = re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)
        for word in words:
            assert not word.startswith("--") or word in known, f"{name} has no flag {word}"


def test_every_command_is_in_the_reference():
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8"), re.M)
    assert listed == list(COMMANDS)


def anchors(page):
    """Return the anchors of a page's headings, as the site and GitHub make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        assert destination.exists(), f"{target}: there is no {destination}"
        if anchor and destination.suffix == ".md":
            assert anchor in anchors(destination), f"{target}: no such heading"


def test_the_table_of_the_readme_is_that_of_its_json():
    report = json.loads((ROOT / "docs/results/ops.json").read_text())
    rows = [row for row in report["grid"] if row["queries"] == row["keys"] == 12_544 and row["backward"]]
    lines = []
    for row in rows:
        ours, usual = (row["seconds"][name]["median"] for name in ("ours", "materialised"))
        memory = [f"{row['peak_bytes'][name] / 2**20:.0f} MiB" for name in ("ours", "materialised")]
        lines.append(f"| {row['form']} | {ours:.2f} s | {usual:.2f} s | {' | '.join(memory)} |")
    assert len(lines) == 4
    assert "\n".join(lines) in (ROOT / "README.md").read_text()


def test_the_benchmark_tables_are_those_of_their_json():
    report = json.loads((ROOT / "docs/results/ops.json").read_text())
    assert benchmark_report.markdown(report) in (ROOT / "docs/results/ops.md").read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/results/cue").glob("*.json")), ids=lambda path: path.stem
)
def test_the_tables_of_the_cue_task_are_those_of_their_json(path):
    report = json.loads(path.read_text())
    rows = [
        AblationRow(row["variant"], row["test_accuracy"], seconds=[], parameters=row["parameters"])
        for row in report["rows"]
    ]
    assert len(rows) == len(report["variants"])
    assert report["seeds"] >= 3
    assert all(len(row.test_accuracy) == report["seeds"] for row in rows)
    assert markdown(rows) in (ROOT / "docs/results/cue.md").read_text()


def choice_table(report):
    """Return the accuracies by which the recipe was chosen, a row a recipe, with their seeds."""
    names = ("channels", "epochs", "lr", "embeddings_lr")
    lines = [
        f"| channels | epochs | rate | of theta and phi | {' | '.join(INSTANTIATIONS)} |",
        f"| ---: | ---: | ---: | ---: |{' --- |' * len(INSTANTIATIONS)}",
    ]
    for channels, epochs, lr, share in dict.fromkeys(
        tuple(row[name] for name in names) for row in report["rows"]
    ):
        cells = [str(channels), str(epochs), f"{lr:g}", f"{lr * share:.2g}"]
        for form in INSTANTIATIONS:
            rows = [
                row
                for row in report["rows"]
                if (*(row[name] for name in names), row["form"]) == (channels, epochs, lr, share, form)
            ]
            marks = ["**" if row["accuracy"] < 0.9 else "" for row in rows]
            cells.append(
                ", ".join(
                    f"{mark}{100 * row['accuracy']:.1f}{mark} ({row['seed']}{raised})"
                    for mark, row in zip(marks, rows, strict=True)
                    for raised in (", raised" if row.get("raised") else "",)
                )
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def starts_table(report):
    """Return the accuracies of each start of the concatenation form that was tried, with their seeds."""
    by_start = {}
    for row in report["starts"]:
        mark = "**" if row["accuracy"] < 0.9 else ""
        key = (row["start"], f"{report['lr'] * row['embeddings_lr']:.2g}")
        by_start.setdefault(key, []).append(f"{mark}{100 * row['accuracy']:.1f}{mark} ({row['seed']})")
    lines = [f"| {start} | {rate} | {', '.join(cells)} |" for (start, rate), cells in by_start.items()]
    return "\n".join(
        ["| the sums begin | rate of theta and phi | test accuracy, % |", "| --- | ---: | --- |", *lines]
    )


def convolutions_table(report):
    """Return the accuracies of each start of 3D convolutions that was tried, with their seeds."""
    by_start = {}
    for row in report["convolutions"]:
        mark = "**" if row["accuracy"] < 0.9 else ""
        key = tuple(str(row[name]) for name in ("network", "blocks", "kernels", "epochs"))
        by_start.setdefault(key, []).append(f"{mark}{100 * row['accuracy']:.1f}{mark} ({row['seed']})")
    head = "| network | blocks | kernels begin with | epochs | test accuracy, % |"
    lines = [f"| {' | '.join(key)} | {', '.join(cells)} |" for key, cells in by_start.items()]
    return "\n".join([head, "| --- | ---: | --- | ---: | --- |", *lines])


def test_the_tables_of_how_the_recipe_was_chosen_are_those_of_their_json(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import cue_colours

    page = (ROOT / "docs/results/cue.md").read_text()
    choice = json.loads((ROOT / "docs/results/cue-choice.json").read_text())
    assert choice_table(choice) in page
    assert starts_table(choice) in page
    assert convolutions_table(choice) in page
    assert cue_colours.table(json.loads((ROOT / "docs/results/cue-colours.json").read_text())["rows"]) in page


@pytest.mark.parametrize(
    "path",
    [
        path
        for page in ("dense", "photographs")
        for path in sorted((ROOT / "docs/results" / page).glob("*.json"))
    ],
    ids=lambda path: path.stem,
)
def test_the_tables_of_scenes_and_photographs_are_those_of_their_json(path):
    report = json.loads(path.read_text())
    known = AblationRow.__dataclass_fields__
    rows = [AblationRow(**{name: row[name] for name in row if name in known}) for row in report["rows"]]
    assert len(rows) == len(report["variants"])
    assert all(len(row.test_accuracy) == report["seeds"] for row in rows)
    assert markdown(rows) in path.parent.with_suffix(".md").read_text()


def test_the_table_of_fine_tuning_is_that_of_its_json():
    report = json.loads((ROOT / "docs/results/finetune.json").read_text())
    rows = [AblationRow(name, values, seconds=[]) for name, values in report["rows"].items()]
    assert markdown(rows) in (ROOT / "docs/results/digits.md").read_text()


def test_the_tables_of_a_processor_are_those_of_their_json():
    page = (ROOT / "docs/results/processor.md").read_text()
    assert processor.markdown(json.loads((ROOT / "docs/results/processor.json").read_text())) in page
    networks = json.loads((ROOT / "docs/results/processor-networks.json").read_text())
    assert models_report.markdown(networks).partition("\n\n## ")[2] in page


def test_the_tables_of_networks_are_those_of_their_json():
    report = json.loads((ROOT / "docs/results/models.json").read_text())
    assert models_report.markdown(report) in (ROOT / "docs/results/models.md").read_text()


def test_the_tables_of_what_maps_show_are_those_of_their_json(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import attended_cue

    page = (ROOT / "docs/results/maps.md").read_text()
    report = json.loads((ROOT / "docs/results/attended-cue.json").read_text())
    assert len(report["rows"]) == 24
    assert attended_cue.attention_table(report) in page
    assert attended_cue.deletion_table(report) in page
    assert maps.markdown(json.loads((ROOT / "docs/results/maps.json").read_text())) in page


def test_the_tables_of_ranks_are_those_of_their_json():
    report = json.loads((ROOT / "docs/results/ranks.json").read_text())
    assert ranks.markdown(report) in (ROOT / "docs/results/ranks.md").read_text()


def test_the_table_of_trainings_is_that_of_its_json():
    report = json.loads((ROOT / "docs/results/training.json").read_text())
    assert training.markdown(report) in (ROOT / "docs/results/training.md").read_text()


def test_the_tables_of_many_gpus_are_those_of_their_json():
    report = json.loads((ROOT / "docs/results/scale.json").read_text())
    assert scale.markdown(report) in (ROOT / "docs/results/scale.md").read_text()


def test_the_table_of_the_large_map_is_that_of_its_json():
    report = json.loads((ROOT / "docs/results/large-map.json").read_text())
    assert large_map.markdown(report) in (ROOT / "docs/results/large-map.md").read_text()


def test_the_table_of_sequences_is_that_of_its_json():
    report = json.loads((ROOT / "docs/results/sequences.json").read_text())
    assert len(report["sets"][0]["rows"]) == 9
    assert sequences.markdown(report) in (ROOT / "docs/results/sequences.md").read_text()


def test_the_tables_of_volumes_are_those_of_their_json():
    report = json.loads((ROOT / "docs/results/volumes.json").read_text())
    assert len(report["rows"]) == 6
    assert volumes.markdown(report) in (ROOT / "docs/results/volumes.md").read_text()


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist"])
def test_the_tables_of_digits_are_those_of_their_json(name):
    report = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    rows = [AblationRow(row["variant"], row["test_accuracy"], seconds=[]) for row in report["rows"]]
    assert markdown(rows) in (ROOT / "docs/results/digits.md").read_text()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "DESIGN.md", "SECURITY.md"])
def test_files_that_are_named_are_there(page):
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|md|toml))`", (ROOT / page).read_text()))
    roots = (ROOT, ROOT / "src/nonlocalnn", ROOT / "src/nonlocalnn/checkpoints")
    assert not {name for name in named if not any((root / name).exists() for root in roots)}


def test_the_minute_of_the_choice_has_the_figures_of_the_json():
    page = (ROOT / "docs/guides/choosing.md").read_text(encoding="utf-8")
    minute = page.split("## In a minute")[1].split("\n## ")[0]

    def read(name):
        return json.loads((ROOT / "docs/results" / name).read_text())

    def percent(values):
        return ", ".join(f"{100 * value:.1f}" for value in values)

    def mean(values):
        return percent([sum(values) / len(values)])

    def between(values):
        return f"{100 * min(values):.1f} to {100 * max(values):.1f}"

    far, scenes, legend, forms, start, near, stage, number = (
        {row["variant"]: row["test_accuracy"] for row in read(name)["rows"]}
        for name in (
            "cue/controls.json", "dense/controls.json", "dense/legend.json",
            "cue/forms.json", "cue/init.json", "digits.json", "cue/stage.json", "cue/depth.json",
        )
    )  # fmt: skip
    with_block = sorted(mean(values) for name, values in near.items() if not name.startswith("no block"))
    ops = read("ops.json")
    steps = {
        row["form"]: (row["seconds"]["ours"]["median"], row["peak_bytes"]["ours"])
        for row in ops["grid"]
        if row["backward"] and row["queries"] == row["keys"] == 3136
    }
    compared = ("dot_product", "embedded_gaussian")
    alone = {}
    for row in read("sequences.json")["sets"][0]["rows"]:
        alone.setdefault(row["variant"], []).append(row["alone"])
    for figure in (
        f"{mean(far['no block'])} % without, {mean(far['mean over positions'])} % with a mean, "
        f"{mean(far['dot_product'])} % with dot product blocks]",
        f"{mean(near['no block'])} % without, {with_block[0]} to {with_block[-1]} % with]",
        f"[clips with {between(forms['embedded_gaussian'])} %]",
        f"has {between(forms['dot_product'])} there, [{percent(scenes['dot_product'])}]",
        *(f"{percent(stage[name])} in `{name}`" for name in ("layer2", "layer3", "layer4")),
        f"has {percent(stage['layer1'])} % in `layer1`",
        f"have {percent(number['2 blocks'])} %, four {percent(number['4 blocks'])};",
        f"[{percent(far['mean over positions'])} %]",
        f"where the embedded Gaussian has {percent(far['embedded_gaussian'])};",
        f"[{percent(scenes['mean over positions'])}]",
        f"on scenes, where it has {percent(scenes['embedded_gaussian'])} |",
        f"[{percent(legend['embedded_gaussian'])} %]",
        f"with a mean {percent(legend['mean over positions'])} |",
        f"and {percent(legend['dot_product'])} with a legend |",
        f"[{percent(start['gamma 1'])} %]",
        f"gamma 1, {percent(start['gamma 0'])} from gamma 0",
        *(
            f"{1000 * time:.0f} ms and {size / 2**20:.0f} MiB"
            for time, size in (steps[form] for form in compared)
        ),
        f"{mean(alone['one block, no mask'])} %, and with it in {mean(alone['one block'])} %",
        *(f"N^{ops['exponents'][form]['ours']['seconds']['exponent']:.2f}" for form in compared),
    ):
        assert figure in minute, figure
