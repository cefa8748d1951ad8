"""A trained model as ONNX, decomposed and shrunk by the same code as `optc transform`.

The dense equivalent goes through torch's exporter. What that and the folding of batch
normalisation leave of a weight is s[k]·W[k], so the factors are s[k]·Ce[k] with the same basis.
"""

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from passes.cleanup import finish, prepare
from passes.conv import ConvLayer
from passes.framework import CompressionPass
from passes.mathematics.decomposition import Factors
from passes.penni import PenniPass, readable_convs, rewrite
from passes.shrink import ShrinkPass
from toolchain.errors import VerificationError
from toolchain.torch_export import silent_torch
from toolchain.training.decomposed_conv import decomposed_convs, dense_copy
from toolchain.training.folding import modules_by_layer
from toolchain.training.objectives import model_device

OPSET = 18
INPUT, OUTPUT = "input", "logits"
LARGEST_DEVIATION = 1e-4
"""Of an exported weight from s[k]·W[k], relative."""


def exported(model: nn.Module, *examples: Tensor) -> ir.Model:
    """The model in eval mode, with output ``logits``, and ``input`` where it has one input.

    Args:
        model: with decomposed convolutions or without; not changed.
        examples: inputs of two or more samples; their number is left open.

    Raises:
        VerificationError: the exporter changed a weight in a way that is not a scale.
    """
    dense = dense_copy(model)
    result = prepare(dense_onnx(dense, *examples))
    convs = decomposed_convs(model)
    followers: tuple[CompressionPass, ...] = (ShrinkPass(),)
    if convs:
        layers = {layer.name: layer for layer in readable_convs(result)}
        modules = modules_by_layer(dense, result)
        factors = {
            name: scaled_factors(layer, convs[modules[name]].factors())
            for name, layer in layers.items()
            if modules.get(name) in convs
        }
        if len(factors) < len(convs):
            raise VerificationError(
                f"export: {len(convs) - len(factors)} decomposed convolutions were not found in "
                "the exported graph; give each its own weights and use it once"
            )
        rewrite(result, layers, factors)
        followers = PenniPass().followers()
    for follower in followers:
        follower(result)
    return finish(result)


def dense_onnx(model: nn.Module, *examples: Tensor) -> ir.Model:
    """What torch's exporter makes of a model; initializers are named like parameters.

    The first axis of every input is left open; one input is named ``input``.
    """
    model.eval()
    batch = torch.export.Dim("N")
    with silent_torch():
        program = torch.onnx.export(
            model,
            tuple(example.to(model_device(model)) for example in examples),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT] if len(examples) == 1 else None,
            output_names=[OUTPUT],
            dynamic_shapes=tuple({0: batch} for _ in examples),
        )
    assert program is not None
    return program.model


def scaled_factors(layer: ConvLayer, factors: Factors) -> Factors:
    """Factors of the layer's weight s[k]·W[k], where W is that of the factors; its bias.

    Raises:
        VerificationError: the layer's weight is something else.
    """
    W = factors.reconstruct().astype(np.float64).reshape(len(factors.coefficients), -1)
    V = layer.weight.astype(np.float64).reshape(W.shape)
    power = np.square(W).sum(axis=1)
    s = (V * W).sum(axis=1) / np.where(power > 0, power, 1)  # (K,)
    if np.linalg.norm(V - s[:, None] * W) > LARGEST_DEVIATION * np.linalg.norm(V):
        raise VerificationError(f"export: the weight of layer '{layer.name}' was changed")
    return Factors(
        basis=factors.basis,
        coefficients=(factors.coefficients * s[:, None, None]).astype(np.float32),
        bias=layer.bias,
    )
