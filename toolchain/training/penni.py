"""The training of PENNI: coefficients and bases in turn, as hooks for any loop.

Source: PENNI (Li et al., ICML 2020), steps B and C. With one factor fixed the layer is linear in
the other, so each phase fits what the other has left; training both at once is the comparison.
Sparsity comes from a `Penalty` on ``*.coefficients`` (L1 as in the paper, or Hoyer-Square on
elements or channel pairs) and from `pruning`.
"""

from dataclasses import dataclass

import torch
from torch import nn

from passes.framework import ConfigError
from toolchain.training.decomposed_conv import decomposed_convs
from toolchain.training.hooks import Hook


@dataclass(frozen=True, kw_only=True)
class Alternation(Hook):
    """Trains the coefficients for `interval` epochs, then the bases for as many, and so on.

    All other parameters are trained all the time.
    """

    interval: int

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ConfigError: the interval is below 1.
        """
        if self.interval < 1:
            raise ConfigError(f"alternate is {self.interval}, expected 1 epoch or more")

    def before_epoch(self, model: nn.Module, epoch: int) -> None:
        """Freezes one factor of every decomposed convolution."""
        coefficients_turn = epoch // self.interval % 2 == 0
        for conv in decomposed_convs(model).values():
            conv.coefficients.requires_grad_(coefficients_turn)
            conv.basis.requires_grad_(not coefficients_turn)

    def after_run(self, model: nn.Module) -> None:
        """Lets both be trained again."""
        for conv in decomposed_convs(model).values():
            conv.coefficients.requires_grad_(True)
            conv.basis.requires_grad_(True)


@dataclass(frozen=True, kw_only=True)
class BalancedFactors(Hook):
    """Keeps basis kernels at length 1 by moving their length into the coefficients.

    W[k, c] stays the same. Otherwise L1 on the coefficients could be lowered without effect, by
    longer kernels, and coefficients of one layer could not be compared by size. The published
    code leaves this to weight decay.
    """

    def before_epoch(self, model: nn.Module, epoch: int) -> None:
        """Moves the lengths of all decomposed convolutions."""
        with torch.no_grad():
            for conv in decomposed_convs(model).values():
                length = conv.basis.flatten(1).norm(dim=1)  # (M,)
                length = torch.where(length > 0, length, 1)
                conv.basis.div_(length[:, None, None])
                conv.coefficients.mul_(length)
