"""``layers.csv`` and ``activity.csv``."""

import re
from collections import Counter

from runtimes.accelerator.energy import event_energies, load_table
from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.workload import Layer

LOGIC = frozenset({"combine_adder", "accumulator", "multiplier", "basis_multiplier"})


def csv_name(layer: Layer) -> str:
    """A layer's name as every table has it: no commas, and no DP unless it is depthwise.

    SCALE-Sim takes DP in a name as depthwise.
    """
    name = re.sub(r"[,\s]+", "_", layer.name)
    if layer.geometry.group == layer.channels > 1:
        return f"{name}_DP" if "DP" not in name else name
    return name.replace("DP", "Dp")


def layers_table(result: NetworkResult) -> str:
    """One row a layer; energies in pJ, utilisation as a share of the multipliers."""
    lines = [
        "layer,compute_cycles,total_cycles,macs,macs_skipped,adds,adds_skipped,dram_bytes,"
        "energy_pj,utilisation"
    ]
    lines += [
        f"{csv_name(each.layer)},{each.compute_cycles},{each.total_cycles},{each.macs},"
        f"{each.macs_skipped},{each.adds},{each.adds_skipped},{sum(each.dram_bytes.values())},"
        f"{sum(each.energy_pj.values()):.1f},{each.utilisation:.4f}"
        for each in result.layers
    ]
    return "\n".join(lines) + "\n"


def activity(result: NetworkResult) -> str:
    """Counts of the whole network: bits moved, or operations done, and their energy."""
    counts: Counter[tuple[str, str]] = Counter()
    for layer in result.layers:
        counts.update(layer.counts)
    architecture = result.architecture
    energies = event_energies(architecture, load_table(architecture.energy_table))
    lines = ["component,action,count,unit,pj_each,energy_pj"]
    for (component, action), count in sorted(counts.items()):
        unit = "operations" if component in LOGIC else "bits"
        each = energies[component]
        lines.append(f"{component},{action},{count},{unit},{each:.6g},{count * each:.1f}")
    return "\n".join(lines) + "\n"
