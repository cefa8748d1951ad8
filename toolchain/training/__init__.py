"""Training for high compression; the only part of the toolchain, besides export, that needs torch.

`regularizers` pull weights to zero, `hooks` attaches them to a loop, `trainer` is such a loop with
checkpoints, `pruning` drops what became small and holds it at zero. `decomposed_conv`, `penni` and
`distillation` are the training of PENNI, `export` writes what came out. `stages` puts these in a
row, `recipe` and `sweep` run such rows from a file for `optc train`.
"""
