"""What all benchmark scripts share: running optc commands, and writing the tables."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from runtimes import native_build
from toolchain.console import say
from toolchain.environment import environment, package_version

RESULTS = Path(__file__).parents[1] / "results"
RECIPES = Path(__file__).parents[1] / "recipes"
MAKE_DATA = Path(__file__).parents[1] / "make_data.py"


def optc(*arguments: str | Path) -> tuple[Any, float]:
    """Runs an optc command; returns its JSON and its peak memory in bytes.

    Raises:
        SystemExit: the command failed.
    """
    program = Path(sys.executable).with_name("optc")
    with tempfile.TemporaryFile() as stdout:
        child = subprocess.Popen([program, *arguments, "--json"], stdout=stdout)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"optc {' '.join(map(str, arguments))}: exit code {child.returncode}")
        stdout.seek(0)
        return json.load(stdout), usage.ru_maxrss * 1024


def train_recipe(name: str, work: Path, *options: str, run: str | None = None) -> None:
    """Runs `optc train` on one thread; keeps what it prints as ``run.json`` beside its folder.

    Args:
        name: of a recipe of `samples/recipes`.
        work: folder of the runs; made where it is not there.
        options: of the command.
        run: name of the run; that of the recipe where it is None.
    """
    run = name if run is None else run
    work.mkdir(parents=True, exist_ok=True)
    fixed = ("--threads", "1", "--out", work / run)
    document, _ = optc("train", RECIPES / f"{name}.yaml", *options, *fixed)
    (work / f"{run}.json").write_text(json.dumps(document))


def score(model: Path, data: Path, *options: str) -> float:
    """Top-1 of `optc eval`, percent."""
    return 100 * float(optc("eval", model, "--data", data, *options)[0]["top1"])


def make_data(source: Path, out: Path) -> None:
    """Writes ``calib.npz`` and ``eval_full.npz`` of CIFAR-10 (see samples/make_data.py)."""
    subprocess.run([sys.executable, MAKE_DATA, "--source", source, "--out", out], check=True)


def machine() -> dict[str, str]:
    """Versions, processor, instruction sets and cores."""
    known = {"openvino": package_version("openvino"), "cores": str(os.cpu_count())}
    return {**environment(), **known}


def native_library() -> Path:
    """The native kernels, built if they are not yet.

    Raises:
        click.ClickException: they cannot be.
    """
    try:
        return native_build.library_path(report=say)
    except native_build.NativeError as error:
        raise click.ClickException(str(error)) from error


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def store(name: str, rows: Sequence[Any], known: dict[str, str], out: Path) -> None:
    """Writes all numbers of some dataclasses as ``name.json``, a line for each."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    text = f'{{"environment": {json.dumps(known)},\n"rows": [\n{lines}\n]}}\n'
    (out / f"{name}.json").write_text(text, encoding="utf-8")


def stored(name: str, out: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows and machine of an earlier `store`; none where there was none."""
    path = out / f"{name}.json"
    if not path.exists():
        return [], {}
    document = json.loads(path.read_text())
    return document["rows"], document["environment"]


def publish(name: str, parts: Sequence[str], out: Path) -> None:
    """Writes ``name.md`` from its paragraphs, and prints them."""
    text = "\n\n".join(part for part in parts if part)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(f"{text}\n")
    click.echo(text)
