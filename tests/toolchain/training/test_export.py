import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from passes.conv import ConvLayer
from passes.cost import model_cost
from passes.mathematics.decomposition import Factors
from runtimes.operators.decomposed_conv import ConvGeometry, is_decomposed_conv, read_weights
from tests.toolchain.training import tiny
from toolchain.errors import VerificationError
from toolchain.training.decomposed_conv import DecomposeConfig, decompose
from toolchain.training.export import exported, scaled_factors
from toolchain.training.pruning import PruneConfig, prune, report_sparsity
from toolchain.training.train_config import TrainConfig
from toolchain.training.trainer import Trainer


class Residual(nn.Module):
    """Two convolutions with batch normalisation in between, and a way around them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.conv1 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.linear = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.linear(torch.relu(x + y).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Decomposed, trained for a moment, pruned; one inner channel is dead."""
    torch.manual_seed(0)
    model = Residual()
    decompose(model, DecomposeConfig(rank=4, exclude=("stem",)))
    Trainer(model, tiny.data(), TrainConfig(epochs=2, lr=0.05)).run()
    prune(model, PruneConfig(rule="sparsity", value=0.6, parameters=("*.coefficients",)))
    with torch.no_grad():
        model.conv1.coefficients[3:, :].zero_()
        model.conv2.coefficients[:, 3:].zero_()
        model.bn1.bias[3:].fill_(-0.5)  # relu(bias) is zero: the channels carry nothing
        model.bn1.running_mean[3:].fill_(0.5)
    return model.eval()


def outputs(model: ir.Model, x: torch.Tensor, tmp_path) -> np.ndarray:
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    [logits] = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    return logits


def test_the_file_computes_what_torch_computes(trained, tmp_path) -> None:
    x = torch.randn(5, 1, 6, 6)
    logits = outputs(exported(trained, x[:2]), x, tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(logits, trained(x).numpy(), rtol=1e-4, atol=1e-5)


def test_pruned_coefficients_are_not_stored_and_dead_channels_go(trained) -> None:
    model = exported(trained, torch.randn(2, 1, 6, 6))
    convs = [node for node in model.graph if is_decomposed_conv(node)]
    shapes = sorted(read_weights(node).coefficients.shape for node in convs)
    assert shapes == [(3, 12, 4), (12, 3, 4)]
    nonzero = {each.name: each.nonzero for each in report_sparsity(trained).tensors}
    stored = sum(np.count_nonzero(read_weights(node).coefficients) for node in convs)
    assert stored == nonzero["conv1.coefficients"] + nonzero["conv2.coefficients"]
    dense = model_cost(exported(Residual(), torch.randn(2, 1, 6, 6)))
    assert model_cost(model).parameters < 0.5 * dense.parameters


def test_models_without_decomposed_layers_are_exported_and_shrunk(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    with torch.no_grad():
        model[1].weight[5:].zero_()
        model[1].bias[5:].fill_(-1.0)
    x = torch.randn(3, 1, 6, 6)
    result = exported(model, x[:2])
    assert model_cost(result).parameters == 36 * 5 + 5 + 5 * 4 + 4
    np.testing.assert_allclose(
        outputs(result, x, tmp_path), model(x).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_factors_take_the_scale_of_each_output() -> None:
    rng = np.random.default_rng(0)
    factors = Factors(
        basis=rng.standard_normal((2, 3, 3)).astype(np.float32),
        coefficients=rng.standard_normal((4, 3, 2)).astype(np.float32),
    )
    factors.coefficients[1] = 0
    scale = np.array([2.0, 5.0, -0.5, 0.0], np.float32)
    weight = factors.reconstruct() * scale[:, None, None, None]
    geometry = ConvGeometry(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    layer = ConvLayer(name="c", weight=weight, bias=scale, geometry=geometry, output_positions=None)
    found = scaled_factors(layer, factors)
    np.testing.assert_allclose(found.reconstruct(), weight, atol=1e-6)
    assert found.bias is scale
    changed = ConvLayer(
        name="c", weight=weight[::-1].copy(), bias=None, geometry=geometry, output_positions=None
    )
    with pytest.raises(VerificationError, match="layer 'c' was changed"):
        scaled_factors(changed, factors)


def test_a_file_says_nothing_of_the_machine_that_it_was_made_on(trained: nn.Module) -> None:
    text = str(ir.to_proto(exported(trained, torch.zeros(2, 1, 8, 8))))
    assert "stack_trace" not in text and ".py" not in text
