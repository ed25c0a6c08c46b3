"""The accuracy of every task after every stage, as a table, as JSON and as a plot."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import rich.table

from ola_jax.errors import require
from ola_jax.training.config import EvalTask


def make_table(tasks: Sequence[EvalTask], stages: Sequence[str], results: dict[str, Any]) -> rich.table.Table:
    """A table with a row for each task and a column for each stage: `results[stage][task]["accuracy"]`."""
    out = rich.table.Table(title="held-out accuracy after each stage (exact match, %)")
    for name in ("task", "chance", *stages):
        out.add_column(name, justify="left" if name == "task" else "right")
    for task in tasks:
        cells = [f"{100 * results[stage][task.name]['accuracy']:.1f}" for stage in stages]
        out.add_row(task.title, f"{100 * task.chance:.1f}", *cells)
    return out


def write_json(file: pathlib.Path, tasks: Sequence[EvalTask], results: dict[str, Any], **facts: Any) -> None:
    """Writes all figures, with chance levels and `facts` about the run."""
    chance = {task.name: task.chance for task in tasks}
    file.write_text(json.dumps({**facts, "chance": chance, "stages": results}, indent=1) + "\n")


def plot(
    file: pathlib.Path, tasks: Sequence[EvalTask], stages: Sequence[str], *, results: dict[str, Any]
) -> None:
    """Plots a line for each task over the stages, its chance level dotted, as PNG."""
    require("demo", "matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    colours = pyplot.get_cmap("tab10")
    for number, task in enumerate(tasks):
        colour = colours(number % 10)
        values = [100 * results[stage][task.name]["accuracy"] for stage in stages]
        axes.plot(range(len(stages)), values, marker="o", color=colour, label=task.title)
        axes.axhline(100 * task.chance, color=colour, linestyle=":", linewidth=0.8)
    axes.set_xticks(range(len(stages)), stages)
    axes.set_ylim(0, 102)
    axes.set_ylabel("held-out accuracy, % (dotted: chance)")
    axes.set_title("Each stage adds a modality without losing the others")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
