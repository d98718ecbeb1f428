"""Pictures of a sequence with the class of each of its steps."""

import pytest
import torch

from nonlocalnn.explorer.step_pictures import draw_steps

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_lines_and_rows_have_their_names_as_they_are():
    labels = torch.tensor([0, 0, 2, 2, 2])
    classes, names = ("Gr\u00fcn $a$", "never", "b c"), ("hip", "_knee", "$x$")
    figure = draw_steps(torch.rand(3, 5), labels, classes=classes, title="walk", channel_names=names)
    figure.draw_without_rendering()
    # A line whose name begins with an underscore would be left out of the legend.
    assert legend_of(figure) == ["hip", "knee", "$x$"]
    below = figure.axes[1]
    assert [text.get_text() for text in below.get_yticklabels()] == ["Gr\u00fcn $a$", "b c"]
    assert not any(text.get_parse_math() for text in below.get_yticklabels())
    assert below.get_xlabel() == "step of the input"


def test_without_names_lines_have_numbers_and_a_rate_gives_seconds():
    figure = draw_steps(torch.rand(2, 5), torch.zeros(5).long(), classes=["a"], title="walk", rate=10.0)
    figure.draw_without_rendering()
    assert legend_of(figure) == ["channel 0", "channel 1"]
    assert [axis.get_xlabel() for axis in figure.axes[1].child_axes] == ["seconds"]
