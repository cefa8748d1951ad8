"""ResNets for images (N, 3, 32, 32) of CIFAR-10; He et al., 2016, section 4.2 and ResNet-18."""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Option A: every second pixel, zeros for the channels that the input has not."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H/2⌉, ⌈W/2⌉)."""
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


def projection_shortcut(inputs: int, outputs: int) -> nn.Module:
    """Option B: a 1×1 convolution with stride 2."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))


Shortcut = Callable[[int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stages of basic blocks; each after the first halves the image."""

    def __init__(self, blocks: list[int], widths: list[int], shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        stages = []
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            first = BasicBlock(before, width, 1 if index == 0 else 2, shortcut)
            rest = [BasicBlock(width, width, 1, shortcut) for _ in range(count - 1)]
            stages.append(nn.Sequential(first, *rest))
            before = width
        for number, stage in enumerate(stages, start=1):  # names of the trained weights
            self.add_module(f"layer{number}", stage)
        self._stages = len(stages)
        self.linear = nn.Linear(before, 10)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) → logits (N, 10)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for number in range(1, self._stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def resnet20(weights: str | None = None) -> ResNet:
    """ResNet-20, shortcut option A; `weights`: an ONNX file to take them from."""
    return _load_if_given(ResNet([3, 3, 3], [16, 32, 64], PadShortcut), weights)


def resnet56(weights: str | None = None) -> ResNet:
    """ResNet-56, shortcut option A; `weights`: an ONNX file to take them from."""
    return _load_if_given(ResNet([9, 9, 9], [16, 32, 64], PadShortcut), weights)


def resnet18() -> ResNet:
    """ResNet-18 with a 3×3 stem and projection shortcuts."""
    return ResNet([2, 2, 2, 2], [64, 128, 256, 512], projection_shortcut)


def load_onnx_weights(model: nn.Module, path: Path) -> None:
    """Takes parameters and statistics from initializers of the same names.

    Raises:
        ValueError: one is missing, or has another shape.
    """
    state = model.state_dict()
    arrays = {each.name: each for each in onnx.load(path).graph.initializer}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in arrays or tuple(arrays[name].dims) != tuple(tensor.shape):
            raise ValueError(f"{path}: has no '{name}' of shape {tuple(tensor.shape)}")
        tensor.copy_(torch.from_numpy(numpy_helper.to_array(arrays[name]).copy()))


def _load_if_given(model: ResNet, weights: str | None) -> ResNet:
    """Takes weights from a file, which may also lie in ``models/`` of the data (OPTC_DATA)."""
    if weights is not None:
        path, data = Path(weights), os.environ.get("OPTC_DATA")
        if not path.exists() and data is not None:
            path = Path(data, "models", weights)
        load_onnx_weights(model, path)
    return model


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
