"""Training for high compression; the only part of the toolchain, besides export, that needs torch.

`regularizers` pull weights to zero, `hooks` attaches them to a loop, `trainer` is such a loop with
checkpoints, `pruning` drops what became small and holds it at zero.
"""
