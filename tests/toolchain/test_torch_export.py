"""What a module may return, raise and print while it is exported."""

import logging

import pytest

from toolchain.errors import UnreadableError
from toolchain.model_io import save_model

torch = pytest.importorskip("torch")

from toolchain.torch_export import deviation, export, parse_input  # noqa: E402


def test_an_output_that_is_none_is_left_out(tmp_path) -> None:
    class WithNone(torch.nn.Module):
        def forward(self, x):
            return x + 1, None

    inputs = [parse_input("3", 0)]
    save_model(export(WithNone(), inputs), tmp_path / "m.onnx")
    assert deviation(WithNone(), tmp_path / "m.onnx", inputs) == 0


def test_torch_says_nothing_about_an_error_that_it_raises() -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("torch")
    logger.addHandler(handler)
    with pytest.raises(UnreadableError, match="same reduction dim"):
        export(torch.nn.Linear(8, 4), [parse_input("7", 0)])
    logger.removeHandler(handler)
    assert records == []


def test_a_module_that_fails_at_another_batch_is_named(tmp_path) -> None:
    class Picky(torch.nn.Module):
        def forward(self, x):
            print("called")
            return x if len(x) == 2 else x.reshape(7)

    save_model(export(torch.nn.Identity(), inputs := [parse_input("3", 0)]), tmp_path / "m.onnx")
    with pytest.raises(UnreadableError, match="the module fails at batch 1: RuntimeError"):
        deviation(Picky(), tmp_path / "m.onnx", inputs)
