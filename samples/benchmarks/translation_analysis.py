"""The analysis step of TPrune on the translator: what every weight can lose.

optc train samples/recipes/translation_bssl.yaml
python -m samples.benchmarks.translation_analysis samples/recipes/translation_bssl
"""

import json
from pathlib import Path

import click

from samples.benchmarks.results import RESULTS, publish, table

NAME = "translation_bssl"


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(folder: Path, out: Path) -> None:
    """Write what was found, from the folder of the run."""
    stages = json.loads((folder / "result.json").read_text())["stages"]
    [found] = [stage for stage in stages if stage["stage"] == "report-lines"]
    weights = table(
        ("weight", "small outputs", "small inputs", "can rather lose"),
        [
            [name, f"{each['outputs']:.0%}", f"{each['inputs']:.0%}", each["direction"]]
            for name, each in found["weights"].items()
        ],
    )
    groups = table(
        ("lines that go together", "small", "chosen"),
        [
            [name, f"{share:.0%}", "yes" if name in found["chosen"] else "no"]
            for name, share in found["groups"].items()
        ],
    )
    note = (
        "Made by `optc train samples/recipes/translation_bssl.yaml` and `python -m "
        "samples.benchmarks.translation_analysis`: shares of lines of 64×64 blocks, and of lines "
        "that go together, whose norm is at most 0.3 times the mean of their kind, after group "
        f"lasso on blocks; BLEU on the validation set {found['bleu']:.2f}."
    )
    publish(
        NAME,
        ["# What each weight of the translator can lose", weights, groups, note],
        out,
    )


if __name__ == "__main__":
    main()
