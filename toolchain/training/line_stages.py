"""The stages that prune lines that go together; the penalty on them is part of `train`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from toolchain.training.line_pruning import LinePruneConfig, prune_lines
from toolchain.training.line_report import LineReportConfig, report_lines
from toolchain.training.run import Run, Stage, hold_pruned


@dataclass(frozen=True, kw_only=True)
class PruneLinesStage(Stage):
    """Drops lines that go together; later stages hold them at zero."""

    name: ClassVar[str] = "prune-lines"

    config: LinePruneConfig

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns metrics and what is left of the weights."""
        return hold_pruned(run, prune_lines(run.model, run.lines, self.config))


@dataclass(frozen=True, kw_only=True)
class ReportLinesStage(Stage):
    """Says how sparse every weight and group of lines is, and chooses lines for what follows."""

    name: ClassVar[str] = "report-lines"

    config: LineReportConfig

    def run(self, run: Run, folder: Path | None) -> Mapping[str, Any]:
        """Returns metrics, shares of small lines, and the groups that are chosen."""
        report = report_lines(run.model, run.all_lines, self.config)
        run.chosen = report.chosen
        weights = {
            name: {**asdict(each), "direction": each.direction}
            for name, each in report.weights.items()
        }
        chosen = [group.name for group in report.chosen]
        found = {"weights": weights, "groups": dict(report.groups), "chosen": chosen}
        return {**run.measure(run.model), **found}
