"""The engines cycle by cycle, one item at a time: slow, to check the fast ones against."""

from collections import deque

from runtimes.accelerator.workload import Mask


def window_cycles(left: Mask, right: Mask, width: int, look_ahead: int) -> int:
    """Cycles of the adder lanes for two vectors (C,), see `matching.window_cycles`."""
    pending = [c for c in range(len(left)) if left[c] and right[c]]
    cycles = 0
    while pending:
        head = pending[0] // width
        window = [c for c in pending if c // width < head + look_ahead]
        pending = [c for c in pending if c not in window[:width]]
        cycles += 1
    return cycles


def pipeline_cycles(first: list[int], second: list[int], depth: int) -> int:
    """Clocks two stages and the FIFO between them until all items are done.

    An item of no cycles passes a stage within a clock; the item that the second stage works on
    has left the FIFO.
    """
    waiting = deque(range(len(first)))
    fifo: deque[int] = deque()
    left_one = left_two = 0  # cycles until the item in each stage is done
    in_one: int | None = None
    in_two: int | None = None
    clock = 0
    while True:
        moved = True
        while moved:  # everything that can move at this clock edge
            moved = False
            if in_two is not None and left_two == 0:
                in_two, moved = None, True
            if in_two is None and fifo:
                in_two = fifo.popleft()
                left_two, moved = second[in_two], True
            if in_one is not None and left_one == 0 and (len(fifo) < depth):
                fifo.append(in_one)
                in_one, moved = None, True
            if in_one is None and waiting:
                in_one = waiting.popleft()
                left_one, moved = first[in_one], True
        if in_one is None and in_two is None and not fifo:
            return clock
        clock += 1
        left_one, left_two = max(left_one - 1, 0), max(left_two - 1, 0)


def scnn_cycles(activations: Mask, weights: Mask, per_activation: int, per_weight: int) -> int:
    """Cycles of one processing element: activations (C, n), weights (C, m) of a group."""
    cycles = 0
    for a, w in zip(activations, weights, strict=True):
        for _ in range(0, int(a.sum()), per_activation):
            for _ in range(0, int(w.sum()), per_weight):
                cycles += 1
    return cycles


def sparten_cycles(filters: list[list[Mask]], x: Mask, chunk: int) -> int:
    """Cycles of one cluster for one position: filters (L,) by unit, x (L,)."""
    cycles = 0
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        pending = [sum(int((w[part] & x[part]).sum()) for w in unit) for unit in filters]
        while True:  # a clock in which every unit takes one match
            cycles += 1
            pending = [max(left - 1, 0) for left in pending]
            if not any(pending):
                break
    return cycles


def systolic_cycles(dataflow: str, rows: int, columns: int, moving: int) -> int:
    """Clocks one fold of a rows × columns array until its last result is out.

    A wave enters row i, column j at clock i + j. Where an operand stays in place, it is first
    shifted in, a row a clock; the results of the last wave leave at the bottom.
    """
    load = 0 if dataflow == "os" else rows
    last = 0
    for wave in range(moving):
        for i in range(rows):
            for j in range(columns):
                last = max(last, load + wave + i + j + 1)
    return last
