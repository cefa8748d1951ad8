"""What the pass `penni` has fitted, taken over to torch: against the pass's own graph."""

import copy
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from passes.cleanup import prepare
from passes.cost import layer_name
from passes.framework import ConfigError, Context
from passes.penni import PenniPass
from passes.penni_config import PenniConfig
from passes.shrink import ShrinkPass
from runtimes import ort
from runtimes.operators.decomposed_conv import is_decomposed_conv, read_weights
from tests.toolchain.training import tiny
from toolchain.layerwise import ArrayCalibration
from toolchain.training.batches import TensorBatches
from toolchain.training.decomposed_conv import decomposed_convs
from toolchain.training.export import dense_onnx, exported
from toolchain.training.penni_stages import PenniStage
from toolchain.training.penni_start import BATCH, decompose_by_pass
from toolchain.training.run import Run
from toolchain.training.stages import ExportStage, TrainStage, run_stages
from toolchain.training.train_config import TrainConfig

CONFIG = PenniConfig(rank=4, density=0.5, min_weights=100)


def network(*, normalised: bool) -> nn.Module:
    """Three convolutions; batch norms have statistics as after training, one row is dead."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for C, K, stride in ((3, 12, 2), (12, 16, 1), (16, 14, 1)):
        layers.append(nn.Conv2d(C, K, 3, stride=stride, padding=1, bias=not normalised))
        if normalised:
            norm = nn.BatchNorm2d(K)
            for values in (norm.running_mean, norm.weight, norm.bias):
                nn.init.normal_(values)
            nn.init.uniform_(norm.running_var, 0.5, 3)
            nn.init.zeros_(norm.weight[:1])
            layers.append(norm)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(14 * 25, 10)).eval()


def images() -> torch.Tensor:
    return torch.randn(40, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def passed(model: nn.Module) -> ir.Model:
    """What the pass makes of the exported model."""
    graph = prepare(dense_onnx(model, images()[:2]))
    feeds = [{"input": part.numpy()} for part in images().split(BATCH)]
    PenniPass(CONFIG, Context(calibration=ArrayCalibration(feeds)))(graph)
    return graph


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    """Dense weights of decomposed layers."""
    return {
        layer_name(node): read_weights(node).dense()
        for node in model.graph
        if is_decomposed_conv(node)
    }


def test_torch_computes_what_the_graph_of_the_pass_does() -> None:
    model = network(normalised=False)
    expected = passed(model)
    plan = decompose_by_pass(model, CONFIG, images())
    assert len(plan.applied) == len(decomposed_convs(model)) == 3
    x = images()[:5]
    [logits] = ort.run(ort.session_of(expected), {"input": x.numpy()})
    np.testing.assert_allclose(model(x).detach().numpy(), logits, rtol=1e-3, atol=1e-3)


def test_batch_norms_are_unfolded_and_folded_again() -> None:
    model = network(normalised=True)
    graph = passed(model)
    ShrinkPass()(graph)  # as the export does
    expected = weights(graph)
    decompose_by_pass(model, CONFIG, images())
    found = weights(exported(model, images()[:2]))
    assert expected.keys() == found.keys() and len(found) == 3
    for name, weight in expected.items():
        np.testing.assert_allclose(found[name], weight, rtol=1e-3, atol=1e-4)


def test_zeros_of_the_pass_are_held_while_training_goes_on() -> None:
    run = Run(model=tiny.network(), data=tiny.dataset())
    train = TrainConfig(epochs=4, lr=0.05)
    penni = PenniStage(config=PenniConfig(rank=5, density=0.4, min_weights=100), samples=64)
    stages = [
        TrainStage(config=train, batch=32),
        penni,
        TrainStage(config=train, batch=32, distill=0.5),
        ExportStage(),
    ]
    outcome = run_stages(run, stages)
    dense, fitted, tuned = (stage["top1"] for stage in outcome.stages[:3])
    [layer] = decomposed_convs(run.model).values()
    assert torch.count_nonzero(layer.coefficients) == round(0.4 * layer.coefficients.numel())
    assert tuned >= max(fitted, dense - 3)
    assert outcome.stages[1]["nonzero"] == outcome.nonzero


def test_zeros_are_the_same_after_a_kill_though_augmentation_draws_from_numpy() -> None:
    def augmented(batch: torch.Tensor) -> torch.Tensor:
        return batch + torch.from_numpy(np.random.randn(*batch.shape)).float()

    tensors = tiny.data(64).tensors
    data = replace(
        tiny.dataset(),
        train=lambda size: TensorBatches(tensors=tensors, size=size, transform=augmented),
    )
    penni = PenniStage(config=PenniConfig(rank=5, density=0.4, min_weights=100), samples=32)
    found = []
    for state in (1, 2):  # of another process
        np.random.seed(state)
        run = Run(model=tiny.network(), data=data)
        run_stages(run, [penni])
        found.append(run.model.state_dict())
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


def test_what_cannot_be_done_is_said() -> None:
    model = network(normalised=False)
    with pytest.raises(ConfigError, match=r"nothing to decompose: .*tiny: 324 weights"):
        decompose_by_pass(copy.deepcopy(model), PenniConfig(min_weights=10**6), images())
    with pytest.raises(ConfigError, match="samples is 1"):
        PenniStage(config=CONFIG, samples=1)
    shared = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    shared[1].weight = shared[0].weight
    with pytest.raises(ConfigError, match="nothing to decompose"):
        decompose_by_pass(shared, PenniConfig(min_weights=0), images())
