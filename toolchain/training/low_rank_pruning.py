"""Lowers the ranks of factored layers by energy, and reports what they cost.

Rule of SVD training (official code): σ² sorted, the shortest prefix with Σ kept / Σ all ≥ 1 − e is
kept; e is the share of energy that is removed. Layers whose factors would cost more than the dense
layer become dense again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from passes.framework import ConfigError
from toolchain.training.low_rank import LowRank, low_rank_layers
from toolchain.training.modules import replace_module

BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class LayerRank:
    """One factored layer.

    Attributes:
        name: of the module.
        rank: r.
        full: largest possible rank.
        residual: L_o of the layer.
        macs: of one sample, as two layers.
        dense_macs: as one layer.
    """

    name: str
    rank: int
    full: int
    residual: float
    macs: int
    dense_macs: int


@dataclass(frozen=True, kw_only=True)
class LowRankReport:
    """All layers of a model.

    Attributes:
        layers: factored ones.
        macs: of one sample, all convolutions and Linear layers.
        dense_macs: the same before any was factored.
        parameters: of the model as it would be exported.
    """

    layers: tuple[LayerRank, ...]
    macs: int
    dense_macs: int
    parameters: int


def kept_ranks(sigma: Tensor, energy: float) -> Tensor:
    """Indices of the singular values that the rule keeps, largest first.

    Args:
        sigma: (r,), any order and sign.
        energy: e, share of Σ σ² that is removed, below 1.
    """
    squares = sigma.detach().double().square()
    order = squares.argsort(descending=True, stable=True)
    kept = squares[order].cumsum(0)
    count = int((kept < (1 - energy - 1e-12) * squares.sum()).sum()) + 1
    return order[:count]


def drop_energy(model: nn.Module, energy: float, sample: Tensor) -> LowRankReport:
    """Lowers the rank of every factored layer in place; optimisers must be made anew.

    Args:
        model: with factored layers.
        energy: e, share of each layer's energy that is removed.
        sample: an input (1, ...), to count MACs.

    Raises:
        ConfigError: e is not a share.
    """
    if not 0 <= energy < 1:
        raise ConfigError(f"energy is {energy:g}, expected a share from 0 and below 1")
    sizes = _positions(model, sample)
    for name, layer in list(low_rank_layers(model)):
        chosen = kept_ranks(layer.sigma, energy)
        if _macs(layer, len(chosen), sizes[name]) < _dense_macs(layer, sizes[name]):
            layer.keep(chosen)
        else:
            replace_module(model, name, layer.dense())
    return report_ranks(model, sample)


def energy_for_macs(model: nn.Module, share: float, sample: Tensor) -> float:
    """The smallest e with at most a share of the dense model's MACs left after `drop_energy`.

    Raises:
        ConfigError: even rank 1 everywhere costs more.
    """
    sizes = _positions(model, sample)
    layers = list(low_rank_layers(model))
    whole = report_ranks(model, sample)
    others = whole.dense_macs - sum(_dense_macs(layer, sizes[name]) for name, layer in layers)

    def macs(energy: float) -> int:
        return others + sum(
            min(
                _macs(layer, len(kept_ranks(layer.sigma, energy)), sizes[name]),
                _dense_macs(layer, sizes[name]),
            )
            for name, layer in layers
        )

    return bisect(lambda energy: macs(energy) <= share * whole.dense_macs)


def bisect(enough: Callable[[float], bool]) -> float:
    """The smallest e in [0, 1) that is enough, for a condition that stays true once it is.

    Raises:
        ConfigError: none is.
    """
    low, high = 0.0, 1 - 1e-9
    if enough(low):
        return low
    if not enough(high):
        raise ConfigError("rank 1 in every layer costs more than the share of MACs asked for")
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5 if low > 0 else high / 16  # e spans many decades
        low, high = (low, middle) if enough(middle) else (middle, high)
        if high < 1e-12 or high - low < 1e-9 * high:
            break
    return high


def report_ranks(model: nn.Module, sample: Tensor) -> LowRankReport:
    """Ranks, orthogonality residuals and MACs; `sample` is an input (1, ...)."""
    sizes = _positions(model, sample)
    layers = [
        LayerRank(
            name=name,
            rank=layer.rank,
            full=min(_matrix(layer)),
            residual=float(layer.orthogonality().detach()),
            macs=_macs(layer, layer.rank, sizes[name]),
            dense_macs=_dense_macs(layer, sizes[name]),
        )
        for name, layer in low_rank_layers(model)
    ]
    plain = sum(
        positions[0] * module.weight.numel()
        for name, positions in sizes.items()
        if isinstance(module := model.get_submodule(name), nn.Conv2d | nn.Linear)
    )
    factors = sum(p.numel() for p in model.parameters()) - sum(each.rank for each in layers)
    return LowRankReport(
        layers=tuple(layers),
        macs=plain + sum(each.macs for each in layers),
        dense_macs=plain + sum(each.dense_macs for each in layers),
        parameters=factors,
    )


def _positions(model: nn.Module, sample: Tensor) -> dict[str, tuple[int, int]]:
    """Output rows of every layer, and those between the two layers of a spatial split."""
    found: dict[str, tuple[int, int]] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if _is_convolution(module):
                rows = output.numel() // output.shape[-3]
                between = rows // output.shape[-1] * inputs[0].shape[-1]
                spatial = isinstance(module, LowRank) and module.form == "spatial"
                found[name] = (rows, between if spatial else rows)
            else:
                rows = output.numel() // output.shape[-1]
                found[name] = (rows, rows)

        return module.register_forward_hook(hook)

    kinds = (LowRank, nn.Conv2d, nn.Linear)
    handles = [watch(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    training = model.training
    model.eval()
    with torch.no_grad():
        model(sample)
    model.train(training)
    for handle in handles:
        handle.remove()
    return found


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) or (
        isinstance(module, LowRank) and module.geometry is not None
    )


def _matrix(layer: LowRank) -> tuple[int, int]:
    return layer.U.shape[0], layer.V.shape[1]


def _macs(layer: LowRank, rank: int, positions: tuple[int, int]) -> int:
    """MACs, rank · (rows between · columns of V + output rows · rows of U)."""
    rows, columns = _matrix(layer)
    return rank * (positions[1] * columns + positions[0] * rows)


def _dense_macs(layer: LowRank, positions: tuple[int, int]) -> int:
    return positions[0] * prod(layer.shape)
