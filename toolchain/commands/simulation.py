"""What simulations of one point and of a design space share: architectures, models, inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtimes.accelerator.architecture import Architecture, ArchitectureError
from runtimes.accelerator.architecture_file import load_file, load_shipped, shipped_names
from runtimes.accelerator.network import run_network
from runtimes.accelerator.workload import SimulationError, Workload
from toolchain.commands.options import OpenedModel, open_data_or_random, open_model
from toolchain.data import Data
from toolchain.errors import UnreadableError, UsageError
from toolchain.fidelity import FidelitySums
from toolchain.runner import Feeds, Runner


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A model and the one sample that runs through it."""

    opened: OpenedModel
    data: Data
    feeds: Feeds


def open_sample(path: Path, source: str | None, *, seed: int, dims: dict[str, int]) -> Sample:
    """Opens a model and the first sample of its data, or a random one.

    Raises:
        UnreadableError: either cannot be read, or they do not fit together.
    """
    opened = open_model(path)
    data = open_data_or_random(source, opened.inputs, samples=1, seed=seed, dims=dims)
    return Sample(opened=opened, data=data, feeds=next(iter(data.batches(1))).feeds)


def run_sample(sample: Sample) -> tuple[Workload, float]:
    """The layers of the model, and the error of their outputs, see `functional_error`.

    Raises:
        UnreadableError: the model cannot be simulated.
    """
    try:
        workload = run_network(sample.opened.model, sample.feeds)
    except SimulationError as problem:
        raise UnreadableError(f"{sample.opened.path}: {problem}") from problem
    return workload, functional_error(sample, workload)


def functional_error(sample: Sample, workload: Workload) -> float:
    """Largest ‖y − ŷ‖ / ‖y‖ of an output of the simulated arithmetic against onnxruntime."""
    expected = Runner(sample.opened.path)(sample.feeds)
    errors = []
    for name, array in expected.items():
        sums = FidelitySums(name)
        sums.add(np.asarray(array), np.asarray(workload.outputs[name]), 1)
        errors.append(sums.fidelity().relative_l2)
    return max(errors, default=0.0)


def open_architectures(names: Sequence[str], files: Sequence[Path]) -> list[Architecture]:
    """The architectures that were asked for.

    Raises:
        UsageError: a name is unknown, or a file has wrong content.
        UnreadableError: a file cannot be read.
    """
    wanted = [n for name in names for n in (shipped_names() if name == "all" else [name])]
    try:
        found = [load_shipped(name) for name in dict.fromkeys(wanted)]
        for path in files:
            try:
                found.append(load_file(path))
            except OSError as error:
                raise UnreadableError(f"{path}: {error.strerror or error}") from error
    except ArchitectureError as error:
        raise UsageError(str(error)) from error
    doubled = {each.name for each in found if [a.name for a in found].count(each.name) > 1}
    if doubled:
        raise UsageError(f"two architectures are named '{min(doubled)}', rename one")
    return found
