"""Which channels of a network belong together, which are needed, and how they are removed.

A channel is a line of weights: a feature of a hidden layer, a head, a feature of a head, a map of
a convolution. `follow` walks the graph with one rule per operator, `liveness` asks what can go
without changing the output, `groups` lists what goes together, `removal` slices the model.
"""
