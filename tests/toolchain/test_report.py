"""Tests of the reports of a transform."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from passes.storage import StoragePart
from tests.toolchain import report_results as results
from toolchain.errors import UsageError
from toolchain.report import render_html, render_json, write_report

VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        pass

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def with_layer(name: str):
    passed = results.result(2, 0)
    first, second = passed.plans[0].layers
    layers = (replace(first, layer=name, reason=name), second)
    return replace(passed, plans=(replace(passed.plans[0], layers=layers, notes=(name,)),))


CASES = {
    "passed": results.result,
    "one layer": lambda: results.result(1, 0),
    "all kept": lambda: results.result(4, 4),
    "no layers": lambda: results.result(0, 0),
    "rejected": results.rejected,
    "dry run": results.dry_run,
}


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_loads_nothing(case) -> None:
    page = render_html(CASES[case]())
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "$" not in page
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"<(link|img|iframe)|\bsrc=|@import|url\(", page)


@pytest.mark.parametrize(
    ("case", "word"), [("passed", "✓ Passed"), ("rejected", "✗ Rejected"), ("dry run", "Dry run")]
)
def test_verdict(case, word) -> None:
    assert f"<title>{word}: resnet20.onnx</title>" in render_html(CASES[case]())


def test_rejected_page_says_why() -> None:
    assert "logits: output holds NaN" in render_html(results.rejected())


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><b>', "a&b", "$title"])
def test_names_are_escaped(name) -> None:
    page = render_html(with_layer(name))
    assert html.escape(name) in page
    if "<" in name:
        assert name not in page


def test_layer_table_holds_the_numbers_of_the_result() -> None:
    passed = results.result()
    page = render_html(passed)
    rows = re.search(r'<table class="layers">.*?<tbody>(.*?)</tbody>', page, re.S)[1].split("</tr>")
    for layer, row in zip(passed.plans[0].layers, rows, strict=False):
        values = re.findall(r'data-value="([^"]*)"', row)
        assert values[0] == layer.layer
        costs = [layer.before, layer.after]
        expected = [
            getattr(cost, key) for key in ("parameters", "macs", "nbytes") for cost in costs
        ]
        assert [int(value) for value in values[6:12]] == expected
        error = "" if layer.measured_error is None else str(layer.measured_error)
        assert values[13] == error
    total = sum(layer.after.parameters for layer in passed.plans[0].layers)
    assert f"{total:,}</td>" in page


def test_tiles_hold_the_headline_numbers() -> None:
    page = render_html(results.result())
    for text in ("81.2 k", "3.32× smaller", "352 kB", "27.7 dB", "97.9%", "18 of 20"):
        assert text in page


def test_storage_table_accounts_for_the_file() -> None:
    parts = (
        StoragePart(part="coefficients", nbytes=52_004, bound=40_000),
        StoragePart(part="<graph>", nbytes=300_000, bound=300_000),
    )
    passed = replace(results.result(), storage=parts, int8_nbytes=704_008)
    page = render_html(passed)
    assert "3.1× smaller than the input, 2.0× smaller than its weights in int8." in page
    table = re.search(r'aria-label="Storage">(.*?)</table>', page, re.S)[1]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table)
    assert cells[4:] == [
        *("coefficients", "52.0 kB", "14.8 %", "40.0 kB"),
        *("&lt;graph&gt;", "300 kB", "85.2 %", "300 kB"),
        *("File", "352 kB", "100.0 %", "340 kB"),
    ]
    larger = replace(passed, int8_nbytes=1000)
    assert "in int8" not in render_html(larger)
    assert "Where the bytes go" not in render_html(replace(passed, storage=()))
    assert "Where the bytes go" not in render_html(results.dry_run())


def test_dry_run_predicts_totals_and_admits_what_is_unknown() -> None:
    planned = results.dry_run()
    page = render_html(planned)
    saved = sum(each.before.nbytes - each.after.nbytes for each in planned.plans[0].layers)
    assert f"{round((planned.input.nbytes - saved) / 1000)} kB" in page
    assert "a shape is not known" in page


def test_json_is_the_result() -> None:
    passed = results.result()
    text = render_json(passed)
    assert json.loads(text) == json.loads(json.dumps(passed.to_json()))
    assert list(json.loads(text)) == list(passed.to_json())


def test_json_has_no_nan() -> None:
    passed = results.result()
    fidelity = replace(passed.verification.outputs[0], cosine=float("nan"))
    broken = replace(passed, verification=replace(passed.verification, outputs=(fidelity,)))
    assert json.loads(render_json(broken))["verification"]["outputs"][0]["cosine"] is None
    assert "nan" in render_html(broken)


def test_writes_both_files_with_the_same_bytes_each_time(tmp_path) -> None:
    first = write_report(results.result(), tmp_path / "new" / "a")
    second = write_report(results.result(), tmp_path / "b")
    assert [path.name for path in first] == ["report.json", "report.html"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(path.name for path in first[0].parent.iterdir()) == ["report.html", "report.json"]


def test_a_failed_write_leaves_the_earlier_report(tmp_path, monkeypatch) -> None:
    paths = write_report(results.result(), tmp_path)
    before = [path.read_bytes() for path in paths]
    original = Path.write_text

    def full_disk(path: Path, text: str, **options) -> int:
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        return original(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(UsageError, match="No space left"):
        write_report(results.rejected(), tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_directory_that_is_a_file_is_a_usage_error(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(UsageError, match="report directory"):
        write_report(results.result(), blocked)


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_a_model_that_blew_up_still_has_a_report(error, tmp_path) -> None:
    failed = results.rejected()
    layers = tuple(replace(layer, measured_error=error) for layer in failed.plans[0].layers)
    output = replace(failed.verification.outputs[0], sqnr_db=error, relative_l2=error)
    checks = replace(failed.verification, outputs=(output,))
    plans = (replace(failed.plans[0], layers=layers),)
    assert write_report(replace(failed, plans=plans, verification=checks), tmp_path)


def test_a_pass_that_only_moves_things_has_no_charts() -> None:
    passed = results.result(4, 0)
    layers = tuple(
        replace(layer, after=layer.before, predicted_error=0.0, measured_error=None)
        for layer in passed.plans[0].layers
    )
    page = render_html(replace(passed, plans=(replace(passed.plans[0], layers=layers),)))
    assert "Parameters of each layer" not in page and "Error of each" not in page
    assert "Parameters of each layer" in render_html(passed)
