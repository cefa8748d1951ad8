"""Labels of scatter plots."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from toolchain.svg_labels import place_labels

LEFT, RIGHT = 46.0, 480.0
NEAR = [((100.0, 100.0), "8 bits"), ((104.0, 101.0), "4 bits"), ((99.0, 104.0), "ternary")]


def test_a_lone_label_stands_right_above_its_point() -> None:
    [label] = place_labels([((100.0, 100.0), "fp32")], LEFT, RIGHT)
    assert (label.x, label.y, label.anchor) == (107, 94, "")


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    labels = place_labels(NEAR, LEFT, RIGHT)
    for one, other in combinations(labels, 2):
        assert one.box.overlap(other.box) == 0


@given(st.lists(st.tuples(st.floats(60, 450), st.floats(60, 280)), min_size=1, max_size=8))
def test_labels_stay_inside(places) -> None:
    for label in place_labels([(place, "params=0.3") for place in places], LEFT, RIGHT):
        assert label.box.left >= LEFT and label.box.right <= RIGHT
