"""Simulated accelerators: what a model file costs in cycles, energy and traffic on them.

    network.py   runs the model node by node and keeps what every layer reads and writes
    layers.py, hybrid_layers.py   read nodes as layers: in real numbers, and in integers
    arrays.py, architecture.py, architectures/   the machines; every parameter names its source
    systolic.py, escalate.py, scnn.py, sparten.py   tile times and event counts of one layer
    schedule.py  double-buffered DRAM transfers around the tiles, as one stream of records
    simulator.py puts them together and checks that nothing is lost
    sweep.py     many machines that differ in some parameters
    writers/     derive every trace and table from the records

No layer's sparsity is assumed: weights are those of the file, activations those of a real run.
"""
