"""`optc transform` as a user meets it: files, exit codes and messages."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.helpers import parse, save
from tests.passes.contract_models import Builder, no_layers
from toolchain import cli

PENNI = "penni:rank=4,density=0.5,min_weights=0"


def network() -> onnx.ModelProto:
    net = Builder()
    x = net.op("Relu", net.conv("x", 3, 16, pads=[1] * 4))
    x = net.op("Relu", net.conv(x, 16, 16, pads=[1] * 4))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.op("Gemm", x, net.array("fc.w", 16, 5), net.array("fc.b", 5)))


@pytest.fixture
def model(tmp_path) -> Path:
    return save(network(), tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "calib.npz"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 40)
    np.savez(path, x=rng.standard_normal((40, 3, 9, 7)).astype(np.float32), labels=labels)
    return path


@pytest.fixture
def optc(capsys, monkeypatch):
    """Runs a command; returns its exit code, stdout and stderr."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(["transform", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def outputs(path: Path):
    x = np.random.default_rng(3).standard_normal((4, 3, 9, 7)).astype(np.float32)
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]


def test_a_pass_is_enough(optc, model) -> None:
    code, out, err = optc(model, "--pass", PENNI)
    written = model.with_name("model.penni.onnx")
    assert code == 0 and out == "" and "total" in err
    assert written.stat().st_size < model.stat().st_size
    assert outputs(written).shape == (4, 5)


def test_no_more_samples_are_used_than_asked_for(optc, model, data, tmp_path) -> None:
    options = ["--calib", data, "--samples", 7, "-o", tmp_path / "small.onnx", "--json"]
    code, out, _ = optc(model, "--pass", PENNI, *options)
    result = json.loads(out)
    assert code == 0 and result["calibration"]["samples"] == 7
    assert result["verification"]["outputs"][0]["samples"] == 7


def test_json_tells_everything(optc, model, data, tmp_path) -> None:
    small = tmp_path / "small.onnx"
    code, out, _ = optc(model, "--pass", PENNI, "--calib", data, "-o", small, "--json")
    result = json.loads(out)
    assert code == 0 and result["schema"] == "optc-result/1"
    assert result["output"]["nbytes"] == small.stat().st_size
    assert result["calibration"]["samples"] == 40
    assert result["verification"]["outputs"][0]["samples"] == 40
    assert result["verification"]["passed"] and result["verification"]["data"] == "calibration"
    assert result["plans"][0]["pass_name"] == "penni"
    assert all(layer["measured_error"] > 0 for layer in result["plans"][0]["layers"])


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_same_run_writes_the_same_bytes(optc, model, data, tmp_path, calibrated) -> None:
    more = ["--calib", data] if calibrated else []
    paths = [tmp_path / name / "small.onnx" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        assert optc(model, "--pass", PENNI, "-o", path, *more)[0] == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_standard_lowering_leaves_no_operator_of_ours(optc, model, tmp_path) -> None:
    ours, plain = tmp_path / "ours.onnx", tmp_path / "plain.onnx"
    assert optc(model, "--pass", PENNI, "-o", ours)[0] == 0
    assert optc(model, "--pass", PENNI, "-o", plain, "--lower", "standard")[0] == 0
    loaded = onnx.load(plain)
    assert not loaded.functions and {node.domain for node in loaded.graph.node} == {""}
    np.testing.assert_allclose(outputs(plain), outputs(ours), rtol=1e-4, atol=1e-5)


def test_dry_run_writes_nothing_and_its_plan_can_be_executed(optc, model, tmp_path) -> None:
    direct, planned = tmp_path / "direct.onnx", tmp_path / "planned.onnx"
    before = files(tmp_path)
    code, out, _ = optc(model, "--pass", PENNI, "--dry-run", "--json", "-o", planned)
    assert code == 0 and files(tmp_path) == before
    plan = tmp_path / "plan.json"
    plan.write_text(out)
    assert optc(model, "--plan", plan, "-o", planned)[0] == 0
    assert optc(model, "--pass", PENNI, "-o", direct)[0] == 0
    assert planned.read_bytes() == direct.read_bytes()


def test_a_report_repeats_a_run(optc, model, tmp_path) -> None:
    direct, again = tmp_path / "direct.onnx", tmp_path / "again.onnx"
    assert optc(model, "--pass", PENNI, "-o", direct, "--report", tmp_path / "r")[0] == 0
    assert optc(model, "--plan", tmp_path / "r" / "report.json", "-o", again)[0] == 0
    assert again.read_bytes() == direct.read_bytes()


def test_recipe_and_options_mean_the_same(optc, model, tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "version: 1\npasses:\n  - penni: {rank: 4, density: 0.5, min_weights: 0}\n"
        "exclude: ['conv0']\n"
    )
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    assert optc(model, "--recipe", recipe, "-o", one)[0] == 0
    assert optc(model, "--pass", PENNI, "--exclude", "conv0", "-o", two)[0] == 0
    assert one.read_bytes() == two.read_bytes()


def test_passes_run_one_after_the_other(optc, model, tmp_path) -> None:
    path = tmp_path / "two.onnx"
    code, out, _ = optc(model, "--pass", PENNI, "--pass", "lower:form=dense", "-o", path, "--json")
    assert code == 0
    names = [plan["pass_name"] for plan in json.loads(out)["plans"]]
    assert names[0] == "penni" and names[-1] == "lower"
    assert not onnx.load(path).functions


@pytest.mark.parametrize("limit", [None, 0])
def test_external_data_stays_external(optc, model, data, tmp_path, monkeypatch, limit) -> None:
    """With a limit of zero, no weight may ever pass through one protobuf message."""
    path, small = tmp_path / "big.onnx", tmp_path / "small.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    if limit is not None:
        monkeypatch.setattr("runtimes.ort.MAX_MESSAGE_BYTES", limit)
    assert optc(path, "--pass", PENNI, "--calib", data, "-o", small)[0] == 0
    assert (tmp_path / "small.onnx.data").exists()
    monkeypatch.undo()
    assert optc(model, "--pass", PENNI, "--calib", data, "-o", tmp_path / "s.onnx")[0] == 0
    np.testing.assert_array_equal(outputs(small), outputs(tmp_path / "s.onnx"))


def test_nothing_to_do_is_exit_code_4_and_the_report_says_why(optc, tmp_path) -> None:
    path = save(no_layers(), tmp_path / "m.onnx")
    code, _, err = optc(path, "--pass", "penni")
    assert code == 4 and "nothing was written" in err.splitlines()[-1]
    path = save(network(), tmp_path / "m.onnx")
    tiny = "penni:rank=4,min_weights=100000"
    code, _, err = optc(path, "--pass", tiny, "--report", tmp_path / "r")
    assert code == 4 and "tiny" in err.splitlines()[-1]
    assert "Nothing applied" in (tmp_path / "r" / "report.html").read_text()
    assert sorted(files(tmp_path)) == ["m.onnx"]


def test_a_result_far_off_is_rejected_and_kept_aside(optc, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("toolchain.verify.LOSSY_TOLERANCE", 1e-6)
    small = tmp_path / "small.onnx"
    small.write_bytes(b"an older file")
    code, _, err = optc(model, "--pass", PENNI, "-o", small, "--report", tmp_path / "r")
    assert code == 5 and "relative error" in err.splitlines()[-1]
    assert small.read_bytes() == b"an older file"
    assert outputs(tmp_path / "small.rejected.onnx").shape == (4, 5)
    assert "Rejected" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--max-size", "0.01"], "--max-size"),
        (["--min-speedup", "1000"], "--min-speedup"),
        (["--max-drop", "1", "--eval", "{data}"], "--max-drop"),
    ],
)
def test_a_missed_gate_is_exit_code_6(
    optc, model, data, tmp_path, monkeypatch, options, word
) -> None:
    monkeypatch.setattr("toolchain.gates.drop_points", lambda before, after: 2.0)
    small = tmp_path / "small.onnx"
    given = [option.format(data=data) for option in options]
    code, _, err = optc(model, "--pass", PENNI, "-o", small, *given)
    assert code == 6 and word in err.splitlines()[-1]
    assert not small.exists() and (tmp_path / "small.rejected.onnx").exists()


def test_a_rejected_result_does_not_replace_its_input(optc, model, tmp_path) -> None:
    rejected = model.rename(tmp_path / "small.rejected.onnx")
    before = files(tmp_path)
    code, _, err = optc(
        rejected, "--pass", PENNI, "-o", tmp_path / "small.onnx", "--max-size", "0.01"
    )
    assert code == 2 and f"cannot write {rejected}: it is an input" in err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["best.onnx", "w.onnx", "recipe.yaml", "calib.npz", "r/report.json"]
)
def test_an_output_does_not_replace_what_is_read_or_written(optc, data, tmp_path, name) -> None:
    """The weights of best.onnx are where those of w.onnx would go."""
    path, recipe = tmp_path / "best.onnx", tmp_path / "recipe.yaml"
    onnx.save(network(), path, save_as_external_data=True, location="w.onnx.data", size_threshold=0)
    recipe.write_text("version: 1\npasses:\n  - penni: {rank: 4, min_weights: 0}\n")
    (tmp_path / "r").mkdir()
    before = files(tmp_path)
    options = ["--recipe", recipe, "--calib", data, "--report", tmp_path / "r"]
    code, _, err = optc(path, *options, "-o", tmp_path / name)
    assert code == 2 and "it is an input or another output of this command" in err
    assert files(tmp_path) == before and not list((tmp_path / "r").iterdir())


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("r/report.json", ["--report", "r"]),
        ("r/report.html", ["--report", "r"]),
        ("r", ["--optimize-for", "latency", "--timings", "none/t.json", "--no-native"]),
    ],
)
def test_other_files_are_checked_before_the_model_is_replaced(
    optc, model, tmp_path, monkeypatch, folder, options
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    small = tmp_path / "small.onnx"
    small.write_bytes(b"an older file")
    code, _, err = optc(model, "--pass", PENNI, "-o", small, *options)
    assert code == 2 and "cannot write" in err
    assert small.read_bytes() == b"an older file"


def test_gates_that_hold_pass(optc, model, data, tmp_path) -> None:
    options = ["--max-size", "1", "--max-drop", "100", "--eval", data]
    assert optc(model, "--pass", PENNI, "-o", tmp_path / "s.onnx", *options)[0] == 0


def with_nan(path: Path) -> None:
    broken = network()
    for tensor in broken.graph.initializer:
        if tensor.name == "conv0.w":
            array = numpy_helper.to_array(tensor).copy()
            array[0, 0, 0, 0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    save(broken, path)


def without_external_data(path: Path) -> None:
    onnx.save(network(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    path.with_name("w.bin").unlink()


BAD_MODELS = {
    "cut off": lambda path: path.write_bytes(network().SerializeToString()[:2000]),
    "not ONNX": lambda path: path.write_bytes(b"PK\x03\x04 something else entirely"),
    "empty": lambda path: path.write_bytes(b""),
    "NaN": with_nan,
    "no external data": without_external_data,
    "invalid graph": lambda path: save(
        parse("g (float[N] x) => (float[N] y) { z = Relu(x)  y = NoSuchOp(z) }"), path
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_exit_code_3(optc, tmp_path, case) -> None:
    path, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    BAD_MODELS[case](path)
    small.write_bytes(b"an older file")
    before = files(tmp_path)
    code, out, err = optc(path, "--pass", "penni", "-o", small)
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1 and str(path) in err
    assert files(tmp_path) == before


def test_missing_model_is_exit_code_3(optc, tmp_path) -> None:
    code, _, err = optc(tmp_path / "none.onnx", "--pass", "penni")
    assert code == 3 and "no such file" in err


X = np.zeros((8, 3, 9, 7), np.float32)
BAD_DATA = {
    "wrong name": ({"images": X}, "no array named 'x'"),
    "wrong shape": ({"x": X[:, :, :8]}, "has shape"),
    "wrong type": ({"x": X.astype(np.uint8)}, "uint8"),
    "empty": ({"x": X[:0]}, "empty"),
    "NaN": ({"x": X * np.nan}, "NaN"),
    "nothing": ({}, "no arrays"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_calibration_is_exit_code_3(optc, model, tmp_path, case) -> None:
    arrays, word = BAD_DATA[case]
    np.savez(tmp_path / "d.npz", **arrays)
    before = files(tmp_path)
    code, out, err = optc(model, "--pass", PENNI, "--calib", tmp_path / "d.npz")
    assert (code, out) == (3, "")
    assert word in err and len(err.splitlines()) == 1
    assert files(tmp_path) == before


BAD_USAGE = {
    "no pass": ([], "give --pass"),
    "unknown pass": (["--pass", "peni"], "did you mean 'penni'?"),
    "unknown option": (["--pass", "penni:rnak=3"], "did you mean 'rank'?"),
    "bad value": (["--pass", "penni:rank=many"], "expected int"),
    "value out of range": (["--pass", "penni:density=2"], "density is 2"),
    "impossible budget": (["--pass", "penni:params=0.0001"], "cannot be reached"),
    "unknown flag": (["--pass", "penni", "--ouput", "x"], "--output"),
    "output folder missing": (["--pass", "penni", "-o", "none/x.onnx"], "no folder"),
    "output is the input": (["--pass", "penni", "-o", "{model}"], "is an input"),
    "output name too long": (["--pass", "penni", "-o", "m" * 300], "name too long"),
    "report name too long": (["--pass", "penni", "--report", "r" * 300], "name too long"),
    "timings name too long": (
        ["--pass", "penni", "--optimize-for", "latency", "--timings", "t" * 300],
        "name too long",
    ),
    "report is a file": (["--pass", "penni", "--report", "{model}"], "is a file"),
    "gate without data": (["--pass", "penni", "--max-drop", "1"], "go together"),
    "limit that is no number": (["--pass", "penni", "--max-size", "nan"], "not a finite number"),
    "negative limit": (["--pass", "penni", "--max-drop", "-1"], "not in the range"),
    "two sources": (["--pass", "penni", "--recipe", "r.yaml"], "one of them"),
}


@pytest.mark.parametrize("case", BAD_USAGE)
def test_bad_usage_is_exit_code_2(optc, model, case) -> None:
    options, word = BAD_USAGE[case]
    before = files(model.parent)
    code, out, err = optc(model, *(option.format(model=model) for option in options))
    assert (code, out) == (2, "")
    assert word in err and len(err.splitlines()) == 1
    assert files(model.parent) == before


@pytest.mark.parametrize(
    ("text", "word"), [("{", "plan"), ("{}", "plans"), ('{"plans": []}', "no plans")]
)
def test_a_file_without_a_plan_is_exit_code_3(optc, model, tmp_path, text, word) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    code, _, err = optc(model, "--plan", path)
    assert code == 3 and word in err


def test_a_plan_for_another_model_is_exit_code_3(optc, model, tmp_path) -> None:
    _, out, _ = optc(model, "--pass", PENNI, "--dry-run", "--json")
    (tmp_path / "plan.json").write_text(out)
    net = Builder()
    other = save(net.model(net.op("Relu", net.conv("x", 3, 8))), tmp_path / "other.onnx")
    code, _, err = optc(other, "--plan", tmp_path / "plan.json")
    assert code == 3 and "plan of penni, layer 'conv0'" in err and "of this model" in err


def test_latency_is_measured_and_a_file_of_times_makes_it_repeatable(optc, model, tmp_path) -> None:
    times, paths = tmp_path / "times.json", [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        options = ["--optimize-for", "latency", "--timings", times, "-o", path, "--no-native"]
        code, out, _ = optc(model, "--pass", PENNI, *options, "--json")
        assert code == 0
    selection = json.loads(out)["plans"][-1]
    assert selection["pass_name"] == "select" and "chosen" in selection["notes"][0]
    assert all(layer["settings"]["ms portable"] > 0 for layer in selection["layers"])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    reference = tmp_path / "size.onnx"
    assert optc(model, "--pass", PENNI, "-o", reference)[0] == 0
    np.testing.assert_allclose(outputs(paths[0]), outputs(reference), rtol=1e-4, atol=1e-5)


def test_a_form_that_was_asked_for_is_not_chosen_anew(optc, model, tmp_path) -> None:
    options = ["--optimize-for", "latency", "-o", tmp_path / "a.onnx", "--no-native"]
    code, out, _ = optc(
        model, "--pass", PENNI, "--pass", "select:form=two-stage", *options, "--json"
    )
    assert code == 0
    selections = [p for p in json.loads(out)["plans"] if p["pass_name"] == "select"]
    assert {each["settings"]["form"] for each in selections[-1]["layers"]} == {"two-stage"}
    assert all(not plan["notes"] for plan in selections)


@pytest.mark.parametrize(("slow", "left"), [("all int8", 2), ("all native", 0)])
def test_quantised_layers_become_int8_where_that_is_faster(
    optc, model, data, monkeypatch, slow, left
) -> None:
    """Layer by layer int8 wins by the times given; the whole model has the last word."""

    def timed(self, forms, config=None):
        times = {"native": 2.0, "int8": 1.0, "layer by layer": 3.0}
        return {form: 9.0 if form == slow else times.get(form, 2.5) for form in forms}

    monkeypatch.setattr("toolchain.layer_timing.FormTimer.__call__", timed)
    target, report = model.with_name("small.onnx"), model.parent / "report"
    options = ("--optimize-for", "latency", "-o", target, "--report", report, "--no-native")
    code, _, _ = optc(model, "--pass", "escalate:rank=4", "--calib", data, *options)
    assert code == 0
    kinds = [node.op_type for node in onnx.load(target).graph.node]
    assert sum("Hybrid" in kind for kind in kinds) == left
    selection = json.loads((report / "report.json").read_text())["plans"][-1]
    assert selection["pass_name"] == "select"
    assert {"ms native": 2.0, "ms int8": 1.0}.items() <= selection["layers"][0]["settings"].items()
    assert "Where the bytes go" in (report / "report.html").read_text()


def test_svd_is_undone_where_the_whole_model_gets_slower(optc, model, data, monkeypatch) -> None:
    slower = {"after": 2.0}

    def timed(self, forms, config=None):
        rank = {name: 0.5 for name in forms}
        return rank | {"dense": 1.0, "before": 1.0, "model": 1.0} | slower

    monkeypatch.setattr("toolchain.layer_timing.FormTimer.__call__", timed)
    target = model.with_name("small.onnx")
    arguments = (model, "--pass", "svd:rank=4", "--optimize-for", "latency", "-o", target)
    code, _, err = optc(*arguments, "--calib", data)
    assert code == 4 and not target.exists() and "measured slower as a whole" in err
    slower["after"] = 0.9
    code, _, err = optc(*arguments, "--calib", data)
    assert code == 0 and "0.9 ms after svd, 1 ms before" in err
    convs = [node.op_type for node in onnx.load(target).graph.node if node.op_type == "Conv"]
    assert len(convs) == 4  # of two


def test_svd_with_a_budget_of_latency_needs_measurements(optc, model) -> None:
    code, _, err = optc(model, "--pass", "svd:latency=0.5")
    assert code == 2 and "latency needs measurements: use --optimize-for latency" in err
