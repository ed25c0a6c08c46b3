"""Reports of what a source holds: kinds, sizes and failures, as text and as a picture."""

import collections
import pathlib

import numpy as np

from ola_jax.data.index import KINDS, Index
from ola_jax.errors import require
from ola_jax.typing import HostArray, Int

WIDTH = 40  # characters of the longest bar
_BARS = 12  # of a histogram


def describe_index(index: Index) -> str:
    """Kinds, lengths and failures of a source, with histograms, as lines of text."""
    good = len(index) - len(index.failures)
    lines = [f"{len(index)} records, {good} good, {len(index.failures)} bad"]
    for kind, count in _kinds(index).items():
        lines.append(f"  {kind:<18}{count:>10}{share(count, len(index)):>8}")
    if index.failures:
        lines += ["bad records"]
        counts = collections.Counter(failure.kind for failure in index.failures.values())
        lines += [
            f"  {kind:<18}{count:>10}{share(count, len(index)):>8}" for kind, count in counts.most_common()
        ]
    for name, values in measures(index).items():
        if len(values):
            lines += _summary(name, values)
    return "\n".join(lines)


def measures(index: Index) -> dict[str, Int[HostArray, "_"]]:
    """The sizes that are reported, each of the records, or of the images, that have any."""
    patches = (
        np.add.reduceat(
            np.append(index.patches, 0).astype(np.int64),
            np.minimum(index.image_offsets[:-1], len(index.patches)),
        )
        if len(index)
        else np.zeros(0, np.int64)
    )
    patches = np.where(np.diff(index.image_offsets) > 0, patches, 0)
    found = {
        "tokens of a record": index.tokens,
        "patches of a record": patches,
        "patches of a view or frame": index.patches,
        "audio chunks of a record": index.chunks,
    }
    return {name: np.asarray(values)[np.asarray(values) > 0] for name, values in found.items()}


def draw_histograms(index: Index, path: pathlib.Path, title: str) -> None:
    """Draws the histograms of all sizes into a PNG file."""
    require("data", "matplotlib")
    import matplotlib.figure

    found = {name: values for name, values in measures(index).items() if len(values)}
    figure = matplotlib.figure.Figure(figsize=(6.4, 2.4 * max(len(found), 1)), layout="constrained")
    for number, (name, values) in enumerate(found.items(), start=1):
        axes = figure.add_subplot(len(found), 1, number)
        axes.hist(values, bins=60, color="tab:blue")
        axes.set_title(f"{name}: mean {values.mean():.0f}, largest {values.max()}", fontsize=9)
        axes.set_yscale("log")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, format="png", dpi=100)


def share(part: int, total: int) -> str:
    """A share in per cent."""
    return f"{100 * part / total:.1f} %" if total else "-"


def _kinds(index: Index) -> dict[str, int]:
    failed = np.zeros(len(index), bool)
    failed[list(index.failures)] = True
    counts = np.bincount(np.asarray(index.kinds)[~failed], minlength=len(KINDS)).tolist()
    return {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}


def _summary(name: str, values: Int[HostArray, "_"]) -> list[str]:
    marks = np.percentile(values, [0, 50, 90, 99, 100]).astype(int).tolist()
    least, median, ninety, most_of, largest = marks
    lines = [
        f"{name}: {len(values)} with any, sum {values.sum(dtype=np.int64)}, mean {values.mean():.0f}",
        f"  least {least}, median {median}, 90 % {ninety}, 99 % {most_of}, largest {largest}",
    ]
    counts, edges = np.histogram(values, bins=min(_BARS, largest - least + 1), range=(least, largest + 1))
    for count, low in zip(counts.tolist(), edges.tolist(), strict=False):
        bar = "#" * -(-count * WIDTH // int(counts.max()))
        lines.append(f"  {low:>9.0f} {count:>10} {bar}".rstrip())
    return lines
