"""Simulated accelerators: what a model file costs in cycles, energy and traffic on them.

    network.py   runs the model node by node and keeps what every layer reads and writes
    layers.py, hybrid_layers.py   read nodes as layers: in real numbers, and in integers
    arrays.py, architecture.py, architectures/   the machines; every parameter names its source
    systolic.py, escalate.py, scnn.py, sparten.py   ways to cut one layer into tiles: times, events
    escalate_work.py, basis_first.py   what a block of ESCALATE does, in both orders of its stages
    schedule.py  double-buffered DRAM transfers around the tiles, as one stream of records
    simulator.py takes the fastest way that fits, conservation.py checks that nothing is lost
    energy.py, area.py   what counts cost, and units take, from tables with their sources
    sweep.py     many machines that differ in some parameters
    writers/     derive every trace and table from the records

More memory or bandwidth never costs cycles: a larger buffer loses no way to run a layer and makes
none read more. More blocks may, where work does not divide.

No layer's sparsity is assumed: weights are those of the file, activations those of a real run.
"""
