"""Shapes and sizes against the papers, trained weights against onnxruntime."""

import lzma
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from samples.datasets import mnist  # noqa: E402
from samples.networks.lenet import lenet_5, lenet_300_100  # noqa: E402
from samples.networks.resnet import load_onnx_weights, resnet18, resnet20, resnet56  # noqa: E402
from samples.networks.vgg import vgg16  # noqa: E402
from samples.networks.vit import PATCH, VisionTransformer  # noqa: E402
from toolchain.errors import UnreadableError  # noqa: E402

RESNET20 = Path(__file__).parents[2] / "samples" / "models" / "resnet20_cifar10.onnx"


@pytest.mark.parametrize(
    ("build", "shape", "weights"),
    [
        (lenet_300_100, (1, 28, 28), 266_200),
        (lenet_5, (1, 28, 28), 430_500),
        (resnet20, (3, 32, 32), 268_336),
        (resnet56, (3, 32, 32), 848_944),
        (resnet18, (3, 32, 32), 11_164_352),
        (vgg16, (3, 32, 32), 15_239_872),
    ],
)
def test_networks_have_the_published_sizes(build, shape, weights) -> None:
    model = build()
    model.eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters() if p.ndim > 1) == weights


def test_trained_weights_give_the_outputs_of_their_file() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(RESNET20)
    [expected] = session.run(None, {"input": x})
    model = resnet20(str(RESNET20)).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="has no 'layer1"):
        load_onnx_weights(resnet56(), RESNET20)


def test_mnist_is_read_and_normalised(tmp_path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    for part in ("train", "test"):
        with lzma.open(folder / f"{part}.npy.xz", "wb") as stream:
            np.save(stream, pixels)
        np.save(folder / f"{part}_labels.npy", np.arange(5, dtype=np.uint8))
    [(images, labels)] = mnist(str(tmp_path)).test(10)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    expected = (pixels[:, None] / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)
    [(plain, _)] = mnist(str(tmp_path)).train(10)
    [(moved, _)] = mnist(str(tmp_path), shift=28).train(10)
    sums = (sorted(each.sum((1, 2, 3)).tolist()) for each in (plain, images))
    assert next(sums) == pytest.approx(next(sums), rel=1e-4)
    background = -0.1307 / 0.3081
    assert moved.shape == images.shape and moved.min() == pytest.approx(background, abs=1e-5)


def test_missing_data_is_one_clear_error(tmp_path, monkeypatch) -> None:
    with pytest.raises(UnreadableError, match=r"train\.npy\.xz: missing"):
        mnist(str(tmp_path))
    monkeypatch.delenv("OPTC_DATA", raising=False)
    with pytest.raises(UnreadableError, match="set OPTC_DATA"):
        mnist()


def test_tokens_of_the_transformer_are_patches() -> None:
    model, seen = VisionTransformer().eval(), []
    model.embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.arange(2 * 28 * 28, dtype=torch.float32).reshape(2, 1, 28, 28) / 1000
    with torch.no_grad():
        assert model(x).shape == (2, 10)
    for token, row, column in ((0, 0, 0), (6, 1, 2)):
        place = (slice(row * PATCH, (row + 1) * PATCH), slice(column * PATCH, (column + 1) * PATCH))
        assert torch.equal(
            seen[0][:, token].reshape(2, PATCH, PATCH), x[:, 0][:, place[0], place[1]]
        )
