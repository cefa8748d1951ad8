"""The engines cycle by cycle, one item at a time: slow, to check the fast ones against."""

import math
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


def dot_cycles(left: Mask, right: Mask, width: int, multipliers: int, scan_bits: int) -> int:
    """Cycles of a sparse dot product (L,) on a block's multipliers, window after window.

    The masks are compared beside it, `scan_bits` positions a cycle; both have to end.
    """
    windows = deque(
        int((left[start : start + width] & right[start : start + width]).sum())
        for start in range(0, len(left), width)
    )
    unscanned, clock = len(left), 0
    while True:
        while windows and windows[0] <= 0:
            windows.popleft()
        if not windows and unscanned <= 0:
            return clock
        clock += 1
        unscanned -= scan_bits
        if windows:
            windows[0] -= multipliers


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


def _requests(
    loads: list[list[int]], stores: list[int], spills: list[int], bytes_per_cycle: float
) -> deque[tuple[str, int, int]]:
    """Operation, tile and cycles of what the DRAM channel does, in order.

    The last request that a tile waits for is a "load"; operands that partial sums follow are not.
    """
    queue: deque[tuple[str, int, int]] = deque()

    def cycles(*sizes: int) -> int:
        return sum(math.ceil(n / bytes_per_cycle) for n in sizes)

    def store(until: int) -> None:
        first = sum(operation == "store" for operation, *_ in queue)
        queue.extend(("store", i, cycles(stores[i], spills[i])) for i in range(first, until + 1))

    for i in range(len(stores)):
        back = spills[i - 1] if i else 0
        queue.append(("operands" if back else "load", i, cycles(*loads[i])))
        if back:
            store(i - 1)
            queue.append(("load", i, cycles(back)))
        store(i - 2)
    store(len(stores) - 1)
    return queue


def layer_cycles(
    loads: list[list[int]],
    compute: list[int],
    stores: list[int],
    spills: list[int],
    bytes_per_cycle: float,
) -> int:
    """Clocks the DRAM channel and the array until all tiles are stored, see `schedule`.

    Args:
        loads: bytes of every tensor, for every tile.
        compute: cycles of every tile.
        stores: bytes of every tile.
        spills: bytes of partial sums that every tile leaves for the next one.
        bytes_per_cycle: of the channel.
    """
    queue, tiles = _requests(loads, stores, spills, bytes_per_cycle), len(compute)
    done = {"operands": 0, "load": 0, "store": 0, "tile": 0}
    moving: tuple[str, int] | None = None  # operation, cycles left
    computing: int | None = None  # cycles left
    clock = 0
    while True:
        moved = True
        while moved:  # everything that can end or begin at this clock edge
            moved = False
            if moving is not None and moving[1] == 0:
                done[moving[0]] += 1
                moving, moved = None, True
            if computing == 0:
                done["tile"] += 1
                computing, moved = None, True
            if moving is None and queue:
                operation, i, cycles = queue[0]
                if done["tile"] > (i if operation == "store" else i - 2):
                    queue.popleft()
                    moving, moved = (operation, cycles), True
            i = done["tile"]
            if computing is None and i < tiles and done["load"] > i and done["store"] > i - 2:
                computing, moved = compute[i], True
        if moving is None and computing is None:
            return clock
        clock += 1
        moving = None if moving is None else (moving[0], moving[1] - 1)
        computing = None if computing is None else computing - 1
