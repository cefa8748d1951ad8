"""What the pass `svd` has split, taken over to torch: against the split file in onnxruntime."""

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from passes.cleanup import prepare
from passes.framework import ConfigError, Context
from passes.svd import SvdPass
from passes.svd_config import SvdConfig
from runtimes import ort
from toolchain.torch_export import InputShape, export
from toolchain.training.low_rank import low_rank_layers
from toolchain.training.low_rank_splits import take_splits

IMAGE = InputShape(name="input", sizes=(3, 9, 9))


def network() -> nn.Module:
    """Batch norms with statistics and weights as after training, one of them dead."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, (3, 5), stride=(2, 1), padding=(1, 2)),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 14, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(14 * 3 * 7, 10),
    )
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 3)
            nn.init.normal_(module.weight)
            nn.init.zeros_(module.weight[:1])
            nn.init.normal_(module.bias)
    return model.eval()


def split(model: nn.Module, form: str, exclude=()) -> tuple[ir.Model, ir.Model]:
    exported = export(model, [IMAGE], ["logits"])
    changed = prepare(exported.clone())
    config = SvdConfig(rank=4, form=form, multiple=1)
    SvdPass(config, Context(exclude=exclude))(changed)
    return exported, changed


def user_of(model: nn.Module, weight: str) -> str:
    """Name of the node that uses a weight."""
    graph = export(model, [IMAGE], ["logits"]).graph
    [use] = graph.initializers[weight].uses()
    return use.node.name


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_torch_computes_what_the_split_file_does(form) -> None:
    model = network()
    exported, changed = split(model, form)
    take_splits(model, exported, changed)
    assert [name for name, _ in low_rank_layers(model)] == ["0", "3", "6", "9"]
    assert {layer.rank for _, layer in low_rank_layers(model)} == {4}
    x = torch.randn(5, 3, 9, 9)
    [expected] = ort.run(ort.session_of(changed), {"input": x.numpy()})
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-3, atol=1e-3)


def test_layers_that_were_not_split_stay() -> None:
    model = network()
    exported, changed = split(model, "channel", exclude=(user_of(model, "3.weight"),))
    take_splits(model, exported, changed)
    assert [name for name, _ in low_rank_layers(model)] == ["0", "6", "9"]
    x = torch.randn(5, 3, 9, 9)
    [expected] = ort.run(ort.session_of(changed), {"input": x.numpy()})
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_file_of_another_model_is_refused() -> None:
    exported, changed = split(network(), "channel")
    other = nn.Sequential(copy.deepcopy(network()))
    with pytest.raises(ConfigError, match="its weight is none of the torch model"):
        take_splits(other, exported, changed)
