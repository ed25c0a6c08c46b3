"""Results of a benchmark: as a table, as JSON, as a plot."""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import rich.table

from ola_jax import json_files
from ola_jax.errors import OlaError, require
from ola_jax.eval.benchmark import Benchmark, Reference
from ola_jax.eval.grading import Scores
from ola_jax.eval.measures import Figure, Measure, Unit

RESULTS, SCORES, PLOT = "results.json", "scores.jsonl", "results.png"
LIBRARIES = (
    "ola_jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "jiwer",
    "whisper-normalizer",
    "pyarrow",
    "av",
    "pillow",
)


def make_table(benchmark: Benchmark, scores: Scores, questions: int) -> rich.table.Table:
    """A row for each figure with its interval, and one for each published figure of the first."""
    title = f"{benchmark.title}: {len(scores.graded)} of {questions} questions"
    out = rich.table.Table(title=title, caption=_caption(scores))
    for name in ("figure", "value", "95 % interval", "of", "interval by"):
        out.add_column(name, justify="left" if name == "figure" else "right")
    if scores.not_comparable:
        out.add_row(benchmark.title, "not comparable", "", str(len(scores.graded)), "")
    for figure in scores.figures:
        interval = figure.interval
        out.add_row(figure.name, _short(figure.value), _range(figure), str(figure.count), interval.method)
    for reference in benchmark.references:
        out.add_row(f"Ola-7b, {reference.who}", _short(reference.value), "", "", "")
    return out


def write_results(
    folder: pathlib.Path, benchmark: Benchmark, scores: Scores, *, questions: int, facts: dict[str, Any]
) -> None:
    """Writes results.json, scores.jsonl (a line for each question) and, with figures, results.png."""
    results = {
        "task": benchmark.name,
        "title": benchmark.title,
        "score": _number(scores.figures[0].value) if scores.figures else None,
        "comparable": scores.not_comparable is None,
        "not_comparable": scores.not_comparable,
        "questions": questions,
        "answered": len(scores.graded),
        "unreadable": scores.unreadable,
        "failed": scores.failed,
        "judged": scores.judged,
        "figures": [_figure(figure) for figure in scores.figures],
        "references": [dataclasses.asdict(reference) for reference in benchmark.references],
        "note": benchmark.note,
        "versions": versions(),
        **facts,
        "measures": [dataclasses.asdict(measure) for measure in scores.measures],
    }
    try:
        json_files.write_object(folder / RESULTS, results)
        with (folder / SCORES).open("w", encoding="utf-8") as stream:
            for each in scores.graded:
                line = {
                    "id": each.item.id,
                    "category": each.item.category,
                    "groups": dict(each.item.groups),
                    "expected": list(each.item.answers),
                    "answer": each.answer,
                    "read": each.reading.found,
                    "score": each.reading.score,
                    "judged": each.judged,
                }
                stream.write(json.dumps(line) + "\n")
        if scores.figures:
            plot(folder / PLOT, benchmark.title, scores.figures, benchmark.references)
    except OSError as error:
        raise OlaError(f"{folder}: results cannot be written ({error.strerror})") from error


def read_measures(folder: pathlib.Path) -> tuple[dict[str, Any], list[Measure]]:
    """The results of a run, and its measures. Raises OlaError if there are none to compare."""
    results = json_files.read_object(folder / RESULTS)
    if not results.get("measures"):
        reason = results.get("not_comparable") or "it has no figures"
        raise OlaError(f"{folder / RESULTS}: nothing to compare ({reason})")
    try:
        return results, [
            Measure(**{**m, "parts": tuple(tuple(Unit(**u) for u in part) for part in m["parts"])})
            for m in results["measures"]
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise OlaError(f"{folder / RESULTS}: not the results of `ola eval` ({error})") from error


def plot(file: pathlib.Path, title: str, figures: Sequence[Figure], references: Sequence[Reference]) -> None:
    """Plots figures with their intervals as PNG; dotted lines are published figures of the first."""
    require("eval", "matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = list(reversed(figures[:40]))
    drawing, axes = pyplot.subplots(figsize=(8, 1.2 + 0.32 * len(shown)), layout="constrained")
    for row, figure in enumerate(shown):
        low, high = figure.interval.low, figure.interval.high
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [row, row], color="tab:blue", linewidth=2)
        axes.plot([figure.value], [row], "o", color="tab:blue")
    for number, reference in enumerate(references):
        axes.axvline(reference.value, linestyle=":", color=f"C{number + 1}", label=reference.who)
    axes.set_yticks(range(len(shown)), [figure.name for figure in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_title(f"{title} (95 % intervals)")
    if references:
        axes.legend(fontsize="small")
    drawing.savefig(file, dpi=120)
    pyplot.close(drawing)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that answers and scores depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _caption(scores: Scores) -> str:
    counted = f"{scores.unreadable} unreadable answers and {scores.failed} failed questions count as wrong"
    judged = f"; a judge read {scores.judged}" if scores.judged else ""
    return scores.not_comparable or counted + judged


def _figure(figure: Figure) -> dict[str, Any]:
    values = {"value": figure.value, "low": figure.interval.low, "high": figure.interval.high}
    return {
        "name": figure.name,
        **{name: _number(value) for name, value in values.items()},
        "count": figure.count,
        "interval": figure.interval.method,
    }


def _number(value: float) -> float | None:
    """The number; None for NaN, which JSON lacks."""
    return value if math.isfinite(value) else None


def _short(value: float) -> str:
    return f"{value:.2f}"


def _range(figure: Figure) -> str:
    low, high = figure.interval.low, figure.interval.high
    return f"{low:.2f} to {high:.2f}" if math.isfinite(low) and math.isfinite(high) else "none"
