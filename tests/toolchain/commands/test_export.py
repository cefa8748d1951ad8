"""`optc export`: results against torch, and one line for what a user may get wrong."""

import json
import sys

import numpy as np
import onnx
import pytest

from runtimes import ort
from toolchain.cli import run

torch = pytest.importorskip("torch")

MODULE = """
import torch
from torch import nn

def net():
    torch.manual_seed(3)
    body = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4 * 6 * 6, 5))

class Two(nn.Module):
    def forward(self, ids, x):
        return torch.where(ids > 0, x, -x), x.sum(1)

def random():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)
    return Noisy()

def unexportable():
    class Loop(nn.Module):
        def forward(self, x):
            while x.sum() > 0:
                x = x - 1
            return x
    return Loop()

def nothing():
    return 3

def broken():
    raise KeyError("weights")

def leaving():
    raise SystemExit(0)
"""

SEVERAL = """
class Several(nn.Module):
    def forward(self, *values):
        joined = torch.cat(values, 1)
        return joined.sum(1), joined
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "userland.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("userland", None)


def test_result_is_what_torch_computes_at_any_batch(folder, capsys) -> None:
    sys.path.insert(0, str(folder))
    import userland  # type: ignore[import-not-found]

    sys.path.remove(str(folder))
    module = userland.net().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1
    torch.save({"state_dict": module.state_dict()}, folder / "state.pt")
    arguments = ["export", "userland:net", "--state", "state.pt", "--input", "image=3,6,6"]
    assert run([*arguments, "-o", "net.onnx", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["deviation"] < 1e-5 and document["path"] == "net.onnx"
    onnx.checker.check_model("net.onnx", full_check=True)
    session = ort.session(folder / "net.onnx")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 6, 6)
        [ours] = ort.run(session, {"image": x.numpy()})
        np.testing.assert_allclose(ours, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_several_inputs_of_other_types(folder) -> None:
    inputs = ["--input", "ids=4:int64", "--input", "x=4"]
    assert run(["export", "userland:Two", *inputs, "-o", "two.onnx"]) == 0
    session = ort.session(folder / "two.onnx")
    feeds = {"ids": np.ones((2, 4), np.int64), "x": np.ones((2, 4), np.float32)}
    assert [y.shape for y in ort.run(session, feeds)] == [(2, 4), (2,)]


def test_a_size_with_a_name_is_free_and_outputs_can_be_named(folder) -> None:
    (folder / "userland.py").write_text(MODULE + SEVERAL)
    names = ["--output-name", "total", "--output-name", "joined"]
    inputs = ["--input", "a=L,3", "--input", "b=M,3"]
    assert run(["export", "userland:Several", *inputs, *names, "-o", "free.onnx"]) == 0
    session = ort.session(folder / "free.onnx")
    assert [value.name for value in session.get_outputs()] == ["total", "joined"]
    for lengths in ((1, 2), (7, 4)):
        feeds = {n: np.ones((2, k, 3), np.float32) for n, k in zip("ab", lengths, strict=True)}
        total, joined = ort.run(session, feeds)
        assert (total == sum(lengths)).all() and joined.shape == (2, sum(lengths), 3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["userland:nothing"], 3, "gives int, expected a torch.nn.Module"),
        (["userland:broken"], 3, "failed with KeyError"),
        (["userland:leaving"], 3, "failed with SystemExit"),
        (["userland:missing"], 3, "has no function 'missing'"),
        (["nowhere:net"], 3, "cannot import 'nowhere'"),
        (["userland:unexportable"], 3, "torch cannot export the module"),
        (["userland:net", "--state", "gone.pt"], 3, "no such file"),
        (["userland:net", "--state", "userland.py"], 3, "not a state dictionary"),
        (["userland:net", "--state", "other.pt"], 3, "does not fit the module"),
        (["userland:net", "--state", "text"], 3, "not a state dictionary"),
        (["userland:net", "--state", "numbers.pt"], 3, "does not fit the module"),
        (["userland:net", "--input", "3:quint8"], 2, "torch cannot make torch.quint8"),
        (["userland:net", "--input", f"{10**25}"], 2, "torch cannot make torch.float32"),
        (["userland:net", "--input", "3,4.5"], 2, "sizes are positive numbers"),
        (["userland:net", "--input", "3:float99"], 2, "expected [NAME=]SIZE"),
        (["userland:random"], 5, "onnxruntime and torch differ"),
    ],
)
def test_what_goes_wrong_is_one_line(folder, capsys, arguments, code, message) -> None:
    torch.save({"weight": torch.zeros(2)}, folder / "other.pt")
    torch.save({1: torch.zeros(2)}, folder / "numbers.pt")
    (folder / "text").write_text("junk")
    given = arguments if "--input" in arguments else [*arguments, "--input", "3,6,6"]
    assert run(["export", *given, "-o", "out.onnx"]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not (folder / "out.onnx").exists()
    assert (folder / "out.rejected.onnx").exists() == (code == 5)


def test_the_state_is_not_replaced(folder, capsys) -> None:
    (folder / "state.rejected.onnx").write_bytes(b"weights")
    arguments = ["--state", "state.rejected.onnx", "--input", "3,6,6", "-o", "state.onnx"]
    assert run(["export", "userland:net", *arguments]) == 2
    assert "state.rejected.onnx: it is an input" in capsys.readouterr().err
    assert (folder / "state.rejected.onnx").read_bytes() == b"weights"


def test_missing_torch_names_the_fix(folder, capsys, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "toolchain.torch_export", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    import toolchain

    monkeypatch.delattr(toolchain, "torch_export", raising=False)
    assert run(["export", "userland:net", "--input", "3,6,6", "-o", "out.onnx"]) == 7
    assert "pip install 'optc[torch]'" in capsys.readouterr().err
