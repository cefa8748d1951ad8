"""Small layers with random shapes, strides, pads and sparsity."""

import numpy as np

from runtimes.accelerator.workload import Factors, Layer
from runtimes.operators.decomposed_conv import ConvGeometry


def random_layer(seed: int, *, decomposed: bool, group: int = 1) -> Layer:
    rng = np.random.default_rng(seed)
    K, C, M = (int(n) for n in rng.integers(1, (7, 12, 5)))
    K, R = K * group, int(rng.choice([1, 3]))
    x = rng.standard_normal((C * group, *rng.integers(R, 7, 2))) * (
        rng.random((C * group, 1, 1)) < rng.random()
    )
    x *= rng.random(x.shape) < rng.random()
    ce = np.sign(rng.standard_normal((K, C, M))) * (rng.random((K, C, M)) < rng.random())
    basis = rng.standard_normal((M, R, R))
    weight = np.tensordot(ce, basis, axes=1)
    weight *= decomposed or rng.random(weight.shape) < rng.random()
    pads = tuple(int(n) for n in rng.integers(0, 2, 4))
    stride = int(rng.integers(1, 3))
    geometry = ConvGeometry(strides=(stride, stride), pads=pads, dilations=(1, 1), group=group)
    size = tuple(geometry.output_size(n, R, axis) for axis, n in enumerate(x.shape[1:]))
    return Layer(
        name=f"layer{seed}",
        op_type="Conv",
        x=x.astype(np.float32),
        weight=weight.astype(np.float32),
        factors=Factors(basis=basis, coefficients=ce) if decomposed else None,
        geometry=geometry,
        output_size=(size[0], size[1]),
        stored=rng.random((K, *size)) < 0.5,
    )
