"""The analysis step of TPrune: which sparsity every weight and every kind of line can carry.

After training with a group lasso over the rows and columns of the blocks of each matrix (BSSL,
block-wise structured sparsity learning),

    L = L_task + λ Σ_W Σ_blocks (Σ_rows ‖·‖₂ + Σ_columns ‖·‖₂),

lines of blocks have become small where the task allows it. Counted for outputs and inputs of each
weight, that says in which direction it can be pruned; counted over whole coupled lines, what a
group can lose. L is an ordinary `Penalty` on `Blocks`; here is what is read off.

Source: TPrune (Mao et al., ACM TCPS 5(3), 2021), modelled from the abstract.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from passes.framework import ConfigError
from toolchain.training.lines import LineGroup
from toolchain.training.regularizers import Blocks, group_norms


@dataclass(frozen=True, kw_only=True)
class LineReportConfig:
    """What counts as small."""

    block: int = field(default=64, metadata={"help": "rows and columns of a block"})
    threshold: float = field(
        default=0.3, metadata={"help": "norm of a line, as a share of the mean of its kind"}
    )

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ConfigError: an option makes no sense.
        """
        if self.block < 1:
            raise ConfigError(f"block is {self.block}, expected 1 or more")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold:g}, expected a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class WeightSparsity:
    """Of one weight (K, C), shares of lines of blocks that are small.

    Attributes:
        outputs: of those along axis 0: one output of a block of inputs.
        inputs: of those along axis 1.
    """

    outputs: float
    inputs: float

    @property
    def direction(self) -> str:
        """Which lines the weight can rather lose; outputs where there is no difference."""
        return "inputs" if self.inputs > self.outputs else "outputs"


@dataclass(frozen=True, kw_only=True)
class LineReport:
    """Of a model.

    Attributes:
        weights: by name of the parameter.
        groups: share of coupled lines that are small, by name of the group.
        chosen: groups whose lines run in the direction of most of their weights.
    """

    weights: Mapping[str, WeightSparsity]
    groups: Mapping[str, float]
    chosen: tuple[LineGroup, ...]


def report_lines(
    model: nn.Module, groups: Sequence[LineGroup], config: LineReportConfig
) -> LineReport:
    """Counts small lines, and chooses the groups to be pruned.

    Raises:
        ConfigError: every weight can rather lose lines that nothing may remove.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    names = dict.fromkeys(
        name for group in groups for name, _ in group.members if parameters[name].ndim == 2
    )
    weights = {name: _weight_sparsity(parameters[name], config) for name in names}
    chosen = tuple(group for group in groups if _runs_along(group, weights))
    if not chosen:
        raise ConfigError("every weight is sparser in the direction that cannot be removed")
    shares = {group.name: _share(group.norms(parameters), config) for group in groups}
    return LineReport(weights=weights, groups=shares, chosen=chosen)


def _weight_sparsity(weight: Tensor, config: LineReportConfig) -> WeightSparsity:
    outputs = group_norms(weight, Blocks(rows=1, columns=config.block))
    inputs = group_norms(weight, Blocks(rows=config.block, columns=1))
    return WeightSparsity(outputs=_share(outputs, config), inputs=_share(inputs, config))


def _share(norms: Tensor, config: LineReportConfig) -> float:
    return float((norms <= config.threshold * norms.mean()).float().mean())


def _runs_along(group: LineGroup, weights: Mapping[str, WeightSparsity]) -> bool:
    """Whether the group's weights are as sparse along its lines as across them."""
    along = across = 0.0
    for name, axis in group.members:
        if name in weights:
            both = (weights[name].outputs, weights[name].inputs)
            along, across = along + both[axis], across + both[1 - axis]
    return along >= across
