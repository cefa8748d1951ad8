"""DRAM traces: one burst a line, in order of time.

    DRAMsim3      0xADDRESS READ|WRITE CYCLE, cycles of the DRAM's clock
    Ramulator 2   LD|ST 0xADDRESS, without time

DRAMsim3 (2021) reads one request more than a file that ends with a newline has.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from runtimes.accelerator.results import NetworkResult


@dataclass(frozen=True, kw_only=True)
class Burst:
    """One request."""

    address: int
    is_read: bool
    cycle: int  # of the accelerator


def bursts(result: NetworkResult) -> Iterator[Burst]:
    """All requests, at even distances within each transfer.

    Every tensor of a layer has a region of its own, as large as one pass over it.
    """
    size, base = result.architecture.dram.burst_bytes, 0
    for each in result.layers:
        regions = {}
        for tensor, nbytes in each.regions.items():
            regions[tensor] = (base, max(-(-nbytes // size), 1))
            base += regions[tensor][1] * size
        transfers = [record for record in each.records if record.unit == "dram"]
        for record in transfers:
            start, n_bursts = regions[record.tensor]
            first, last = record.offset // size, -(-(record.offset + record.nbytes) // size)
            for index in range(first, last):
                share = (index - first) / (last - first)
                cycle = record.start + int(share * (record.end - record.start))
                address = start + index % n_bursts * size
                yield Burst(address=address, is_read=record.op == "load", cycle=cycle)


def dramsim3_trace(result: NetworkResult) -> str:
    """For DRAMsim3, with cycles of the DRAM's clock."""
    ratio = result.architecture.dram.clock_hz / result.architecture.clock_hz
    lines = (
        f"{burst.address:#x} {'READ' if burst.is_read else 'WRITE'} "
        f"{math.ceil(burst.cycle * ratio)}\n"
        for burst in bursts(result)
    )
    return "".join(lines)


def ramulator2_trace(result: NetworkResult) -> str:
    """For the LoadStoreTrace front end of Ramulator 2."""
    return "".join(
        f"{'LD' if burst.is_read else 'ST'} {burst.address:#x}\n" for burst in bursts(result)
    )
