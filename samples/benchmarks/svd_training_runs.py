"""The runs of `svd_training`: training at full rank, cut, fine-tuning, export and scores."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from passes.cost import model_cost
from samples.benchmarks.results import make_data, optc
from samples.benchmarks.svd_training_methods import (
    METHODS,
    PAPER_STRENGTHS,
    STRENGTHS,
    Settings,
)
from samples.benchmarks.training_runs import printed, score_exported
from samples.networks import resnet
from toolchain.model_io import load_model, save_model
from toolchain.training.batches import Batches, Dataset
from toolchain.training.distillation import distillation_loss
from toolchain.training.export import exported
from toolchain.training.hooks import Hook
from toolchain.training.log import read_json, write_json
from toolchain.training.low_rank import (
    Form,
    LowRankConfig,
    Orthogonality,
    factorize,
    to_plain,
)
from toolchain.training.low_rank_pruning import drop_energy, energy_for_macs, report_ranks
from toolchain.training.low_rank_splits import take_splits
from toolchain.training.objectives import Loss, classification_loss, top1
from toolchain.training.statistics import estimate_batchnorm
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer

MODELS = {"resnet20": resnet.resnet20, "resnet56": resnet.resnet56}
STATISTICS_BATCHES = 40
TEMPERATURE = 2.0
ROW, FILE = "row.json", "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        model: name of the network.
        form: of the factors.
        method: name of the method.
        share: of the MACs that was asked for.
        settings: see `Settings`.
        dense: top-1 of the model it starts from, percent.
        full: top-1 at full rank, after the first phase.
        energy: e of the cut, share of σ² that every layer may lose.
        cut: top-1 right after the cut, statistics of BatchNorm estimated anew.
        top1: in the end, by torch.
        exported: in the end, by onnxruntime from the exported file.
        macs: share left.
        parameters: share left.
        nbytes: size of the exported file.
        residual: largest orthogonality residual of a layer before the cut.
        seconds: of training, of the first phase also where runs share it.
        milliseconds: median time of the file on one thread; None before it is measured.
        speedup: of the file over the dense one.
    """

    model: str
    form: str
    method: str
    share: float
    settings: dict[str, Any]
    dense: float
    full: float
    energy: float
    cut: float
    top1: float
    exported: float
    macs: float
    parameters: float
    nbytes: int
    residual: float
    seconds: float
    milliseconds: float | None = None
    speedup: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One network and where its runs are kept.

    Attributes:
        source: folder of data and models.
        work: folder of the runs.
        name: of the network.
        form: of the factors.
        settings: of all runs.
        device: that trains.
    """

    source: Path
    work: Path
    name: str
    form: Form
    settings: Settings
    device: str

    def folder(self, method: str, share: float | None = None) -> Path:
        """Of a run; without a share, of its phase at full rank."""
        last = "full" if share is None else f"{share:g}"
        return self.work / f"{self.name}-{self.form}-{method.replace(' ', '-')}-{last}"

    @property
    def path(self) -> Path:
        """The trained model."""
        return self.source / "models" / f"{self.name}_cifar10.onnx"

    @property
    def sample(self) -> Tensor:
        """An image, (1, 3, 32, 32)."""
        return torch.zeros(1, 3, 32, 32, device=self.device)

    def network(self) -> nn.Module:
        """The trained model in torch."""
        return MODELS[self.name](str(self.path)).to(self.device)

    def run(self, method: str, share: float, data: Dataset) -> Row:
        """Trains, cuts, fine-tunes and exports; what was done before is read."""
        folder = self.folder(method, share)
        if (folder / ROW).exists():
            return Row(**read_json(folder / ROW))
        sparse, finetune = self.settings.phases
        model, batches, seconds = self.network(), data.train(self.settings.batch), 0.0
        full = dense = self._once("dense", self.work / self.name, model, data)
        if METHODS[method].start == "full":
            factorize(model, LowRankConfig(form=self.form))
            hooks = METHODS[method].hooks(self._strengths(), self.settings.strength)
            seconds = self._train(model, batches, sparse, hooks, self.folder(method))
            full = self._once("full", self.folder(method), model, data)
        else:
            finetune = replace(finetune, epochs=sparse.epochs + finetune.epochs)
        energy, residual = self._cut(model, method, share)
        macs = report_ranks(model, self.sample).macs
        estimate_batchnorm(model, batches, STATISTICS_BATCHES)
        cut = self._once("cut", folder, model, data)
        kept = (Orthogonality(strength=METHODS[method].orthogonality),)
        seconds += self._train(model, batches, finetune, kept, folder)
        file = self._export(model, folder)
        cost, whole = model_cost(load_model(file)), model_cost(load_model(self.path))
        assert cost.macs == macs and whole.macs
        row = Row(
            model=self.name,
            form=self.form,
            method=method,
            share=share,
            settings=asdict(self.settings),
            dense=dense,
            full=full,
            energy=energy,
            cut=cut,
            top1=score(model, data),
            exported=score_exported(load_model(file), data.test(500)),
            macs=cost.macs / whole.macs,
            parameters=cost.parameters / whole.parameters,
            nbytes=file.stat().st_size,
            residual=residual,
            seconds=seconds,
        )
        write_json(folder / ROW, asdict(row))
        return row

    def _cut(self, model: nn.Module, method: str, share: float) -> tuple[float, float]:
        """Lowers ranks in place; returns what `Row` calls energy and residual."""
        if METHODS[method].start == "pass":
            split = load_model(self._split(self.folder(method, share), share))
            take_splits(model, load_model(self.path), split)
            return 0.0, 0.0
        if METHODS[method].start == "cut":
            factorize(model, LowRankConfig(form=self.form))
        residual = max(layer.residual for layer in report_ranks(model, self.sample).layers)
        energy = energy_for_macs(model, share, self.sample)
        drop_energy(model, energy, self.sample)
        return energy, residual

    def _split(self, folder: Path, share: float) -> Path:
        """What the pass `svd` makes of the model with 512 images, no labels and no training."""
        calibration, file = self.work / "calib.npz", folder / "split.onnx"
        if not calibration.exists():
            make_data(self.source, self.work)
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            options = f"svd:macs={share:g},form={self.form},multiple=1"
            optc("transform", self.path, "--pass", options, "--calib", calibration, "-o", file)
        return file

    def _strengths(self) -> Mapping[str, float]:
        if self.settings.recipe == "paper":
            return PAPER_STRENGTHS[self.name, self.form]
        return STRENGTHS[self.name]

    def _train(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainConfig,
        hooks: Sequence[Hook],
        folder: Path,
    ) -> float:
        """Trains, and returns the seconds it took, those of an interrupted run included."""
        trainer = Trainer(
            model,
            batches,
            config,
            loss=self._loss(),
            hooks=hooks,
            folder=folder,
            progress=printed(50, folder.name),
        )
        return sum(record["seconds"] for record in trainer.run())

    def _loss(self) -> Loss:
        if not self.settings.distill:
            return classification_loss
        settings = self.settings
        return distillation_loss(self.network(), settings.distill, TEMPERATURE, settings.mixup)

    def _once(self, what: str, folder: Path, model: nn.Module, data: Dataset) -> float:
        """Top-1, kept in the folder so that a run that goes on need not measure it again."""
        path = folder / f"{what}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, score(model, data))
        return float(read_json(path))

    def _export(self, model: nn.Module, folder: Path) -> Path:
        plain = to_plain(copy.deepcopy(model)).cpu()
        save_model(exported(plain, torch.zeros(2, 3, 32, 32)), folder / FILE)
        return folder / FILE


def score(model: nn.Module, data: Dataset) -> float:
    """Top-1 on the full test set, percent."""
    model.eval()
    with torch.no_grad():
        return top1(model, data.test(500))["top1"]


def claim(work: Path, settings: Settings) -> None:
    """Writes the settings into the folder of runs, or finds the same ones there.

    Raises:
        click.UsageError: it holds runs of others.
    """
    path = work / "settings.json"
    if path.exists() and Settings(**read_json(path)) != settings:
        raise click.UsageError(f"{work}: holds runs of other settings; choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(settings))
