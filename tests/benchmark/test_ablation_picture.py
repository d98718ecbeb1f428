"""The picture of an ablation: each seed's point and the mean at the right place."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.ablation import picture

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


def test_points_and_means_are_where_the_figures_are(tmp_path, monkeypatch):
    figures: list[Figure] = []
    save = picture.Picture.save

    def keep(drawn, path):
        figures.append(drawn.figure)
        save(drawn, path)

    monkeypatch.setattr(picture.Picture, "save", keep)
    path = tmp_path / "deep" / "table.png"
    picture.draw_accuracies({"no block": [0.5, 0.75], "gaussian": [0.25]}, path)
    (axis,) = figures[0].axes
    lines = [(line.get_xdata(), line.get_ydata()) for line in axis.get_lines()]
    assert [[list(x), list(y)] for x, y in lines] == [
        [[50.0, 75.0], [0, 0]], [[0.0, 100.0], [0, 0]], [[62.5], [0]], [[25.0], [1]], [[25.0], [1]]
    ]  # fmt: skip
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "one seed",
        "95 % interval of the mean",
        "mean",
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["no block", "gaussian"]
    # The first variant stands on top.
    assert axis.get_ylim() == (1.6, -0.6)
    with Image.open(path) as written:
        assert written.format == "PNG"
