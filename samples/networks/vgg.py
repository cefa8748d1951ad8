"""VGG-16 for CIFAR-10 as PENNI has it: batch normalisation and three small linear layers."""

from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Outputs of the 3×3 convolutions; a maximum over 2×2 pixels follows each group."""


class VGG16(nn.Module):
    """13 convolutions without bias, mean over the image, linear layers 512-512-512-10."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for widths in WIDTHS:
            for width in widths:
                conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(*_linear(512, 512), *_linear(512, 512), nn.Linear(512, 10))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) → logits (N, 10)."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def vgg16() -> VGG16:
    """VGG-16 with random weights."""
    return VGG16()


def _linear(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
