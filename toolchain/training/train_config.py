"""Options of a training run, and what follows from them alone."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from passes.framework import ConfigError


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of a run."""

    epochs: int = field(metadata={"help": "passes over the training data"})
    optimizer: Literal["sgd", "adam"] = _option("sgd", "SGD with Nesterov momentum, or Adam")
    lr: float = _option(0.1, "learning rate at the start")
    momentum: float = _option(0.9, "of SGD")
    beta2: float = _option(0.999, "of Adam: memory of the second moments")
    clip: float = _option(0.0, "largest norm of the gradient of all parameters; 0 sets none")
    weight_decay: float = _option(0.0, "factor of L2 in the optimiser")
    schedule: Literal["constant", "cosine", "step"] = _option("cosine", "of the learning rate")
    cycles: int = _option(1, "of 'cosine': times that the learning rate starts from the top")
    warmup: float = _option(0.0, "share of the run in which the learning rate rises from 0")
    milestones: tuple[float, ...] = _option((0.5, 0.75), "of 'step': shares of the run")
    decay: float = _option(0.1, "of 'step': factor at each milestone")
    precision: Literal["float32", "bfloat16"] = _option("float32", "of activations")
    average: int = _option(1, "last epochs whose parameters are averaged at the end")
    channels_last: bool = _option(True, "keep images as (N, H, W, C) in memory")
    evaluate_every: int = _option(1, "epochs from one evaluation to the next; the last has one")
    seed: int = _option(0, "of order, augmentation and dropout")

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ConfigError: a value makes no sense.
        """
        counts = (("epochs", 1), ("cycles", 1), ("evaluate_every", 1), ("average", 1), ("seed", 0))
        for name, least in counts:
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr is {self.lr:g}, expected more than 0")
        for name in ("weight_decay", "clip"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name):g}, expected 0 or more")
        for name in ("momentum", "beta2", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                value = getattr(self, name)
                raise ConfigError(f"{name} is {value:g}, expected 0 or more, below 1")
        if not all(0 < share < 1 for share in self.milestones):
            raise ConfigError(f"milestones are {self.milestones}, expected shares between 0 and 1")

    def learning_rate(self, progress: float) -> float:
        """At a share of the run between 0 and 1; the schedule follows the warm-up.

        Cycles: SGDR (Loshchilov and Hutter, ICLR 2017), all of the same length.
        """
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        progress = (progress - self.warmup) / (1 - self.warmup)
        match self.schedule:
            case "constant":
                return self.lr
            case "cosine":
                turns = self.cycles * progress
                turns -= min(math.floor(turns), self.cycles - 1)
                return self.lr * (1 + math.cos(math.pi * turns)) / 2
            case "step":
                passed = sum(progress >= share for share in self.milestones)
                return float(self.lr * self.decay**passed)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Over all parameters, so that those frozen for a while keep their state."""
        if self.optimizer == "adam":
            return torch.optim.Adam(
                model.parameters(),
                self.lr,
                betas=(0.9, self.beta2),
                weight_decay=self.weight_decay,
            )
        return torch.optim.SGD(
            model.parameters(),
            self.lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
        )
