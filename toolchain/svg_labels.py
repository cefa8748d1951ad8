"""Where the labels of a scatter plot go: beside their points, and clear of each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHARACTER = 5.8
"""Width of a character of 11 px, on average."""
ASCENT, DESCENT = 8.5, 2.5
GAP = 7
RADIUS = 4
"""Of a point."""
Place = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


@dataclass(frozen=True)
class Label:
    """Start or end of a text, by its anchor, on its base line."""

    x: float
    y: float
    anchor: str
    box: Box


def place_labels(named: Sequence[tuple[Place, str]], left: float, right: float) -> list[Label]:
    """A place for each label, one after the other, where it covers least of what there is.

    Args:
        named: points and their texts.
        left: where the axis with its numbers ends.
        right: end of the drawing; a label that ends beyond it, or left of the axis, costs most.
    """
    taken = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for (x, y), _ in named]
    labels = []
    for place, text in named:

        def cost(label: Label) -> float:
            box = label.box
            outside = max(box.right - right, 0.0) + max(left - box.left, 0.0)
            return sum(box.overlap(other) for other in taken) + 1e3 * outside

        best = min(_candidates(place, CHARACTER * len(text)), key=cost)  # the first of equals
        labels.append(best)
        taken.append(best.box)
    return labels


def _candidates(place: Place, width: float) -> Iterator[Label]:
    """Right and left of a point: a little above, below, and farther away."""
    x, y = place
    for shift in (-6.0, 14.0, 4.0, -18.0, 26.0, -30.0, 38.0):
        for anchor, side in (("", 1), ("end", -1)):
            start = x + side * GAP
            left = start if anchor == "" else start - width
            box = Box(left, y + shift - ASCENT, left + width, y + shift + DESCENT)
            yield Label(start, y + shift, anchor, box)
