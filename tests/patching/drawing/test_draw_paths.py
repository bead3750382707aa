"""The drawing of a circuit: lines pass beside the nodes that are not theirs."""

import pytest
from matplotlib.patches import FancyArrowPatch

from patching.drawing.paths import Circuit, Node, draw_circuit

# Places of sender, m1 and receiver: m1 stands on the straight line or on a bent one.
IN_LINE = [
    ((0, 0), (0, 1), (0, 2)),
    ((1, 0), (2, 1), (4, 2)),
    ((4, 0), (2, 1), (1, 2)),
    ((0, 0), (2, 0), (4, 0)),
]


@pytest.mark.parametrize("places", IN_LINE)
@pytest.mark.parametrize("kind", ["q", "k", "v", ""])
def test_a_line_passes_beside_a_third_node(places, kind):
    names = ("sender", "m1", "receiver")
    nodes = [Node(name, layer, column) for name, (column, layer) in zip(names, places, strict=True)]
    drawn = Circuit(tuple(nodes), 5, (("sender", "receiver", kind, 1.0),), "effect", ("title",))

    figure = draw_circuit(drawn)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (line,) = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    (box,) = [text.get_window_extent() for text in axes.texts if text.get_text() == "m1"]

    curve = line.get_transform().transform_path(line.get_path())
    assert not curve.intersects_bbox(box, filled=False)
