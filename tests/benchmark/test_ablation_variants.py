"""The tables: fair controls, and one folder for each network whatever the table."""

import pytest

from benchmarks.ablation.variants import folder_name, tables
from nonlocalnn.models import create_model
from nonlocalnn.models.cost import cost

CUE = tables("cue")
EVERY_VARIANT = [variant for table in CUE.values() for variant in table]


def variant_of(table, name):
    return next(variant for variant in CUE[table] if variant.name == name)


def build(variant):
    return create_model(variant.model, num_classes=10, **variant.overrides)


def num_parameters(table, name):
    return sum(each.numel() for each in build(variant_of(table, name)).parameters())


def test_names_of_tables_and_of_their_rows():
    assert list(CUE) == [
        "instantiations", "controls", "stage", "depth", "extent", "vs-3d-conv", "init", "embeddings", "forms",
        "concatenation", "on-3d-conv",
    ]  # fmt: skip
    for table in CUE.values():
        assert len({variant.name for variant in table}) == len(table)
    assert list(tables("detect-cue")) == list(tables("keypoint-cue")) == ["context"]
    assert list(tables("digits")) == list(tables("cue-sequence")) == ["instantiations"]


def cost_of(table, name):
    found = cost(build(variant_of(table, name)), (1, 3, 8, 32, 32))
    return found.num_parameters, found.materialised_flops


@pytest.mark.parametrize(
    ("table", "control", "blocks", "percent"),
    [
        ("instantiations", "no block, deeper", "embedded_gaussian", 2),
        ("depth", "no block, deeper", "2 blocks", 2),
        ("vs-3d-conv", "I3D 3x3x3, deeper", "C2D, 2 blocks", 2),
        ("vs-3d-conv", "C2D, deeper", "C2D, 2 blocks", 2),
        ("vs-3d-conv", "I3D 3x1x1, deeper", "I3D 3x1x1, 2 blocks", 4),
        ("instantiations", "no block, wider", "concatenation", 20),
        ("controls", "no block, wider", "embedded_gaussian", 20),
        ("extent", "no block, wider", "spacetime", 20),
        *(("stage", "no block, wider", stage, 50) for stage in ("layer2", "layer3")),
    ],
)
def test_controls_have_as_many_parameters_and_flops_as_the_blocks_bring_along(
    table, control, blocks, percent
):
    (parameters, flops), (with_blocks, flops_with) = cost_of(table, control), cost_of(table, blocks)
    assert 1 <= parameters / with_blocks < 1 + percent / 100
    assert flops >= flops_with


def test_a_control_has_the_parameters_of_four_blocks():
    ratio = num_parameters("depth", "no block, deeper still") / num_parameters("depth", "4 blocks")
    assert 1 <= ratio < 1.02


def test_the_wider_control_is_the_narrowest_with_as_many_parameters():
    width = variant_of("instantiations", "no block, wider").overrides["width"]
    narrower = create_model("c2d_tiny", num_classes=10, width=width - 1)
    count = sum(each.numel() for each in narrower.parameters())
    assert count < num_parameters("instantiations", "embedded_gaussian")


@pytest.mark.parametrize(
    ("table", "name", "places"),
    [
        *(("stage", f"layer{n}", [f"layer{n}.0.nl"]) for n in (1, 2, 3, 4)),
        ("depth", "no block", []),
        ("depth", "1 block", ["layer3.0.nl"]),
        ("depth", "2 blocks", ["layer2.0.nl", "layer3.0.nl"]),
        ("depth", "4 blocks", [f"layer{n}.0.nl" for n in (1, 2, 3, 4)]),
        ("depth", "no block, deeper", []),
        ("vs-3d-conv", "I3D 3x3x3", []),
        ("vs-3d-conv", "I3D 3x1x1, 2 blocks", ["layer2.0.nl", "layer3.0.nl"]),
    ],
)
def test_where_the_blocks_are(table, name, places):
    modules = build(variant_of(table, name)).named_modules()
    assert [path for path, _ in modules if path.endswith(".nl")] == places


def test_what_the_rows_without_settings_are():
    assert variant_of("instantiations", "embedded_gaussian").overrides == {}
    for block in (
        build(variant_of("extent", "spacetime")).layer3[0].nl,
        build(EVERY_VARIANT[4]).layer2[0].nl,
    ):
        assert (block.instantiation, block.extent, block.zero_init) == (
            "embedded_gaussian",
            "spacetime",
            False,
        )


def test_a_folder_is_one_network_and_a_network_one_folder():
    networks = {}
    for variant in EVERY_VARIANT:
        network = (variant.model, variant.overrides, variant.gamma, variant.alike, variant.control)
        folder = folder_name(*network)
        assert networks.setdefault(folder, network) == network
    distinct = [
        network for i, network in enumerate(networks.values()) if network not in list(networks.values())[:i]
    ]
    assert len(distinct) == len(networks) == 27
    # The same weights at the start and the same settings, however they are spelt, must share a folder too.
    assert not any(variant.overrides.get("extent") == "spacetime" for variant in EVERY_VARIANT)
    assert not any(variant.overrides.get("zero_init") is False for variant in EVERY_VARIANT)


def test_folder_names():
    assert folder_name("c2d_tiny", {}, None) == "c2d_tiny"
    assert folder_name("nl2_c2d_tiny", {}, 0.1) == "nl2_c2d_tiny-gamma-0.1"
    assert folder_name("nl2_c2d_tiny", {}, None, False) == "nl2_c2d_tiny-alike-false"
    assert folder_name("nl2_c2d_tiny", {}, control="mean") == "nl2_c2d_tiny-control-mean"
    settings = {"zero_init": True, "depth": [1, 1, 2, 1]}
    assert folder_name("c2d_tiny", settings, None) == "c2d_tiny-depth-1-1-2-1-zero_init-true"


def test_wide_dilation_has_as_many_parameters_and_flops_as_a_block_over_scenes():
    rows = {variant.name: variant for variant in tables("segment-cue")["controls"]}
    control, block = (
        cost(create_model(rows[name].model, num_classes=3), (1, 3, 96, 128))
        for name in ("no block, dilation 6", "embedded_gaussian")
    )
    assert block.num_parameters <= control.num_parameters < 1.2 * block.num_parameters
    assert block.materialised_flops <= control.materialised_flops < 1.2 * block.materialised_flops
