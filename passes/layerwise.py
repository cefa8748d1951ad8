"""What a calibrated pass needs to know of the network's activations, layer by layer.

`toolchain.layerwise` implements this with onnxruntime; passes see only these types.
"""

from typing import Protocol


class LayerwiseCalibration(Protocol):
    """Placeholder: completed together with `toolchain.layerwise`."""
