"""The results of all runs as a table in Markdown and as a plot."""

import collections
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from examples.ablations.arms import ABLATIONS, find_arm
from examples.ablations.recipe import TASKS
from ola_jax.errors import OlaError, require

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PICTURE = "ablations.png"
SEEDS = 3  # of either arm, before a difference is called one

Scores = dict[str, dict[str, list[float]]]  # accuracies in % by arm and task, one for each seed


def collect(results: Sequence[Mapping[str, Any]]) -> Scores:
    """The accuracies of all results, in %."""
    scores: Scores = collections.defaultdict(lambda: collections.defaultdict(list))
    for result in results:
        for task, accuracy in result["scores"].items():
            scores[result["arm"]][task].append(100 * accuracy)
    return scores


def direction(scores: Sequence[float], ola: Sequence[float]) -> str:
    """The mark of an arm against Ola's recipe: whether all of its seeds are below or above all of Ola's."""
    if min(len(scores), len(ola)) < SEEDS:
        return ""
    return " ↓" if max(scores) < min(ola) else " ↑" if min(scores) > max(ola) else " ="


def make_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A table for each ablation, and a line about the runs."""
    scores = collect(results)
    chance = {task: 100 * results[0]["chance"][task] for task in TASKS}
    head = "| | seeds | " + " | ".join(f"{task} ({chance[task]:.0f})" for task in TASKS) + " |"
    lines = []
    for ablation in ABLATIONS:
        lines += [f"**{ablation.title}**", "", head, "|---|---|" + "---|" * len(TASKS)]
        for name in ablation.arms:
            if not scores[name]:
                lines.append(f"| {find_arm(name).title} | 0 |" + " |" * len(TASKS))
                continue
            cells = []
            for task in TASKS:
                mark = "" if name == ablation.arms[0] else direction(scores[name][task], scores["ola"][task])
                cells.append(_cell(scores[name][task]) + mark)
            count = len(scores[name][TASKS[0]])
            lines.append(f"| {find_arm(name).title} | {count} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *_facts(results)])


def write(results: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> None:
    """Writes the plot into `folder`, and the tables into its ablations.md, between the marks there."""
    if not results:
        raise OlaError("there is no result yet; run an arm first")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "ablations.md"
    text = file.read_text() if file.exists() else f"# Ablations\n\n{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OlaError(
            f"{file}: expected one line {BEGIN!r} and one {END!r}, between which tables are written"
        )
    before, _, rest = text.partition(BEGIN)
    table = f"{BEGIN}\n\n{make_markdown(results)}\n\n![accuracy of each arm]({PICTURE})\n\n{END}"
    plot(results, folder / PICTURE)
    file.write_text(before + table + rest.partition(END)[2])


def plot(results: Sequence[Mapping[str, Any]], file: pathlib.Path) -> None:
    """Plots a panel for each ablation: a bar for the mean of each arm, a dot for each seed; as PNG."""
    require("demo", "matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = collect(results)
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 7), sharey=True, layout="constrained")
    colours = pyplot.get_cmap("tab10")
    for axes, ablation in zip(panels.ravel(), ABLATIONS, strict=True):
        width = 0.8 / len(ablation.arms)
        for number, name in enumerate(ablation.arms):
            for place, task in enumerate(TASKS):
                found = scores[name][task]
                if not found:
                    continue
                x = place + (number - (len(ablation.arms) - 1) / 2) * width
                label = f"{find_arm(name).title} ({len(found)})" if place == 0 else None
                axes.bar(
                    x, statistics.fmean(found), 0.9 * width, color=colours(number), alpha=0.5, label=label
                )
                axes.plot([x] * len(found), found, "o", color=colours(number), markersize=3)
        for place, task in enumerate(TASKS):
            chance = 100 * results[0]["chance"][task]
            axes.plot([place - 0.45, place + 0.45], [chance] * 2, ":", color="black", linewidth=0.8)
        axes.set_title(ablation.title)
        axes.set_xticks(range(len(TASKS)), TASKS)
        axes.set_ylim(0, 102)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2, frameon=False)
    for axes in panels[:, 0]:
        axes.set_ylabel("held-out accuracy, % (dotted: chance)")
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _cell(scores: Sequence[float]) -> str:
    mean = f"{statistics.fmean(scores):.0f}"
    return mean if len(scores) < 2 else f"{mean} ({min(scores):.0f} to {max(scores):.0f})"


def _facts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines about the runs: dates, machines, versions; what each arm was trained on."""
    different = lambda name: ", ".join(sorted({str(result[name]) for result in results}))
    versions = {re.sub(r"[{}']", "", str(result["versions"])) for result in results}
    lines = [
        f"{len(results)} runs; {different('machine')}; {different('date')}; commit {different('commit')};",
        f"{'; '.join(sorted(versions))}.",
        "",
        "| | steps | tokens | labelled tokens |",
        "|---|---|---|---|",
    ]
    for ablation in ABLATIONS:
        for name in ablation.arms[1 if ablation is not ABLATIONS[0] else 0 :]:
            mine = [result for result in results if result["arm"] == name]
            if mine:
                mean = lambda key, of=mine: f"{statistics.fmean(result[key] for result in of):,.0f}"
                cells = (mean(key) for key in ("steps", "tokens", "labelled_tokens"))
                lines.append(f"| {find_arm(name).title} | " + " | ".join(cells) + " |")
    return lines
