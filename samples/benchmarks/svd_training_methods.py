"""The methods that `svd_training` compares, and how long and how strongly each trains."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from toolchain.training.hooks import Hook, Penalty
from toolchain.training.low_rank import SIGMA, Orthogonality
from toolchain.training.train_config import TrainConfig

STRENGTHS = {
    "resnet20": {"l1": 9e-3, "hoyer": 0.14, "hoyer-square": 0.015},
    "resnet56": {"l1": 5.5e-3, "hoyer": 0.05, "hoyer-square": 5e-3},
}
"""λ_s of three epochs. All push as hard: acting alone for so long they would leave about 1 % of σ²
to be cut for 40 % of the MACs (spatial form). Not chosen by accuracy."""
PAPER_STRENGTHS = {
    ("resnet20", "channel"): {"l1": 0.3, "hoyer": 0.07, "hoyer-square": 0.01},
    ("resnet20", "spatial"): {"l1": 0.3, "hoyer": 0.1, "hoyer-square": 0.01},
    ("resnet56", "channel"): {"l1": 0.3, "hoyer": 0.001, "hoyer-square": 1e-4},
    ("resnet56", "spatial"): {"l1": 0.1, "hoyer": 0.003, "hoyer-square": 1e-4},
}
"""λ_s in the commands of the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is added to the loss.

    Attributes:
        regularizer: of the singular values, while ranks are full.
        orthogonality: λ_o.
        start: full: ranks are full at first; cut: they are cut before training; pass: the pass
            `svd` splits the layers before training, from calibration data.
    """

    regularizer: str | None = None
    orthogonality: float = 1.0
    start: Literal["full", "cut", "pass"] = "full"

    def hooks(self, strengths: Mapping[str, float], factor: float) -> tuple[Hook, ...]:
        """Penalties while ranks are full; λ_s is so many times as strong."""
        kept = (Orthogonality(strength=self.orthogonality),)
        if self.regularizer is None:
            return kept
        strength = factor * strengths[self.regularizer]
        sigma = Penalty(regularizer=self.regularizer, strength=strength, parameters=(SIGMA,))
        return (*kept, sigma)


METHODS = {
    "plain SVD": Method(start="cut"),
    "optc svd": Method(start="pass"),
    "orthogonality only": Method(),
    "no orthogonality": Method(regularizer="hoyer-square", orthogonality=0.0),
    "L1": Method(regularizer="l1"),
    "Hoyer": Method(regularizer="hoyer"),
    "Hoyer-Square": Method(regularizer="hoyer-square"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs of a folder have in common.

    Attributes:
        recipe: short (of this repository) or paper (of the authors' code).
        epochs: of the short recipe, both phases together.
        images: of an epoch: the first so many.
        distill: share of the loss that compares with the dense model.
        strength: factor of λ_s.
        lr: learning rate of the short recipe.
        cycles: of the learning rate after the cut.
        mixup: α of images that are mixed for distillation; 0 mixes none.
    """

    recipe: str = "short"
    epochs: int = 6
    images: int = 50_000
    distill: float = 0.0
    strength: float = 1.0
    lr: float = 0.01
    cycles: int = 1
    mixup: float = 0.0

    @property
    def phases(self) -> tuple[TrainConfig, TrainConfig]:
        """At full rank, and after the cut."""
        if self.recipe == "paper":
            adam = TrainConfig(epochs=164, optimizer="adam", lr=1e-3, schedule="step")
            return adam, adam
        first = self.epochs // 2
        common = TrainConfig(epochs=first, lr=self.lr, weight_decay=1e-4, precision="bfloat16")
        left = self.epochs - first
        tuned = replace(common, epochs=left, cycles=self.cycles)
        return replace(common, schedule="constant"), tuned

    @property
    def batch(self) -> int:
        """Images of a step."""
        return 100 if self.recipe == "paper" else 128
