"""The loop that the README shows, from a dense model to a file that runs."""

import numpy as np
import onnx_ir
import onnxruntime
import torch
from torch import nn

from runtimes.operators.decomposed_conv import is_decomposed_conv
from tests.toolchain.training import tiny
from toolchain.model_io import save_model
from toolchain.training.decomposed_conv import DecomposeConfig, decompose
from toolchain.training.export import exported
from toolchain.training.hooks import Penalty
from toolchain.training.objectives import top1
from toolchain.training.pruning import PruneConfig, prune


def test_the_methods_work_in_a_loop_of_ones_own(tmp_path) -> None:
    model, batches = tiny.network(), tiny.data(256)
    criterion = nn.CrossEntropyLoss()
    decompose(model, DecomposeConfig(rank=5))
    penalty = Penalty(regularizer="l1", strength=1e-4, parameters=["*.coefficients"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    masks = None
    for epoch in range(10):
        for x, y in batches:
            loss = criterion(model(x), y) + penalty.penalty(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if masks is not None:
                masks.after_step(model)
        if epoch == 5:
            rule = PruneConfig(rule="deviation", value=0.7, parameters=("*.coefficients",))
            masks = prune(model, rule)
    model.eval()
    assert top1(model, tiny.data(200, seed=1))["top1"] > 70
    assert (model[3].coefficients == 0).float().mean() > 0.3
    path = tmp_path / "small.onnx"
    save_model(exported(model, x), path)
    assert any(is_decomposed_conv(node) for node in onnx_ir.load(path).graph)
    [logits] = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(logits, model(x).detach().numpy(), rtol=1e-3, atol=1e-4)
