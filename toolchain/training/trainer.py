"""A small training loop that can be killed and resumed.

Everything random in an epoch follows from the seed and the number of the epoch: the global
generators are seeded anew at its start. A checkpoint after each epoch thus needs no generator
state, and a run that was killed continues as if nothing had happened (bit for bit on a CPU).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from passes.framework import ConfigError, Progress
from toolchain.errors import UnreadableError, UsageError
from toolchain.training.batches import Batches
from toolchain.training.checkpoint import load_state, save_state
from toolchain.training.hooks import Hook
from toolchain.training.log import Record, write_csv
from toolchain.training.objectives import (
    Batch,
    Loss,
    classification_loss,
    model_device,
    plain_metrics,
)
from toolchain.training.seeds import epoch_seed, seed_generators
from toolchain.training.train_config import TrainConfig

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
RECORDED = ("epoch", "lr", "loss", "penalty", "seconds")
"""What is known of an epoch besides its metrics."""
STATE = ("history", "model", "mean", "optimizer")
"""What a checkpoint must have."""

Evaluation = Callable[[nn.Module], Mapping[str, float]]
"""Metrics by name; called in eval mode without gradients."""


class Trainer:
    """Trains a model in place, on the device it is on.

    Args:
        model: changed by `run`.
        batches: training data.
        config: how to train.
        loss: of a batch; cross entropy if not given.
        evaluate: measures the model after epochs.
        hooks: regularisers, masks and other methods, called in this order.
        folder: where checkpoint and log go; a run that finds its checkpoint there continues.
        progress: called after every step with a line of what is known.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainConfig,
        *,
        loss: Loss = classification_loss,
        evaluate: Evaluation | None = None,
        hooks: Sequence[Hook] = (),
        folder: Path | None = None,
        progress: Progress = lambda done, total, label: None,
    ) -> None:
        self.model = model
        self.history: list[Record] = []
        self._batches = batches
        self._config = config
        self._loss = loss
        self._evaluate = evaluate
        self._hooks = tuple(hooks)
        self._folder = folder
        self._progress = progress
        self._device = model_device(model)
        self._optimizer = config.make_optimizer(model)
        self._mean: dict[str, Tensor] = {}
        if config.channels_last:
            _lay_out_channels_last(model)

    def run(self) -> list[Record]:
        """Trains all epochs that are still to be done.

        Returns:
            One record an epoch, those of an interrupted run before this one included.

        Raises:
            UsageError: the loss is not finite, or the folder holds a run of another configuration
                or model.
            UnreadableError: the checkpoint is damaged.
            ConfigError: a metric has the name of something else that is recorded.
        """
        self._restore()
        for epoch in range(len(self.history), self._config.epochs):
            start = time.perf_counter()
            record = self._train_epoch(epoch)
            self._average(epoch)
            record |= self._measure(epoch)
            record["seconds"] = time.perf_counter() - start
            self.history.append(record)
            self._store()
        for hook in self._hooks:
            hook.after_run(self.model)
        return self.history

    def _train_epoch(self, epoch: int) -> Record:
        config, steps = self._config, len(self._batches)
        seed_generators(epoch_seed(config.seed, epoch))
        for hook in self._hooks:
            hook.before_epoch(self.model, epoch)
        self.model.train()
        sums = torch.zeros(2, device=self._device)  # loss, penalty
        for step, batch in enumerate(self._batches):
            done = epoch * steps + step
            rate = config.learning_rate(done / (config.epochs * steps))
            sums += self._step(batch, rate)
            self._progress(done + 1, config.epochs * steps, self._line(epoch))
        loss, penalty = (sums / steps).tolist()
        if not np.isfinite(loss + penalty):
            raise UsageError(
                f"epoch {epoch + 1}: the loss is not finite; lower lr or the strength of penalties"
            )
        return {"epoch": epoch + 1, "lr": rate, "loss": loss, "penalty": penalty}

    def _step(self, batch: Batch, rate: float) -> Tensor:
        """One step of the optimiser; loss and penalty, (2,)."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        half = self._config.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            loss = self._loss(self.model, tuple(self._moved(tensor) for tensor in batch))
        terms = [hook.penalty(self.model) for hook in self._hooks]
        penalty = sum((term for term in terms if term is not None), torch.zeros_like(loss))
        self._optimizer.zero_grad(set_to_none=True)
        (loss + penalty).backward()  # type: ignore[no-untyped-call]
        if self._config.clip:
            for hook in self._hooks:
                hook.before_clip(self.model)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._config.clip)
        self._optimizer.step()
        for hook in self._hooks:
            hook.after_step(self.model)
        return torch.stack([loss.detach(), penalty.detach()]).float()

    def _average(self, epoch: int) -> None:
        """Adds up the parameters of the last epochs; the model ends with their mean."""
        config = self._config
        if config.average == 1 or epoch < config.epochs - config.average:
            return
        state = self.model.state_dict()
        for name, tensor in state.items():
            if tensor.is_floating_point():
                share = tensor / min(config.average, config.epochs)
                self._mean[name] = self._mean[name] + share if name in self._mean else share
        if epoch + 1 == config.epochs:
            self.model.load_state_dict(state | self._mean)

    def _moved(self, tensor: Tensor) -> Tensor:
        images = self._config.channels_last and tensor.ndim == 4
        layout = torch.channels_last if images else torch.preserve_format
        return tensor.to(self._device, non_blocking=True, memory_format=layout)

    def _measure(self, epoch: int) -> Record:
        last = epoch + 1 == self._config.epochs
        if self._evaluate is None or not (last or (epoch + 1) % self._config.evaluate_every == 0):
            return {}
        self.model.eval()
        with torch.no_grad():
            metrics = plain_metrics(self._evaluate(self.model))
        for name in RECORDED:
            if name in metrics:
                raise ConfigError(f"a metric is named '{name}', as what is recorded of every epoch")
        return metrics

    def _line(self, epoch: int) -> str:
        known = self.history[-1] if self.history else {}
        shown = ("loss", "top1", "bleu")
        values = " ".join(f"{key} {known[key]:.4g}" for key in shown if key in known)
        return f"epoch {epoch + 1} {values}".rstrip()

    def _store(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": _plain(self._config),
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "mean": self._mean,
        }
        save_state(self._folder / CHECKPOINT, state)
        write_csv(self._folder / LOG, self.history)

    def _restore(self) -> None:
        if self._folder is None or not (self._folder / CHECKPOINT).exists():
            return
        state = load_state(self._folder / CHECKPOINT, self._device)
        missing = [key for key in STATE if key not in state]
        if missing:
            raise UnreadableError(f"{self._folder / CHECKPOINT}: has no {', '.join(missing)}")
        # An option that the checkpoint lacks is newer than it is.
        if _plain(TrainConfig(epochs=1)) | state.get("config", {}) != _plain(self._config):
            raise UsageError(
                f"{self._folder}: holds a run of another configuration; remove it or choose another"
            )
        self.history = list(state["history"])
        self._mean = state["mean"]
        try:
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:  # other names, shapes or numbers of parameters
            raise UsageError(
                f"{self._folder}: holds a run of another model; remove it or choose another"
            ) from error
        write_csv(self._folder / LOG, self.history)  # a kill may have left it an epoch behind


def _lay_out_channels_last(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _plain(config: TrainConfig) -> dict[str, object]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(config).items()}
