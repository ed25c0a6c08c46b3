"""Tables, results and progress bars on the terminal."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import rich.console
import rich.progress
import rich.table
import rich.text

from ola_jax.convert.progress import Progress


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table; all columns but the first are aligned to the right."""
    table = rich.table.Table()
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row))
    rich.console.Console().print(table)


def print_result(notes: Iterable[str], written: pathlib.Path) -> None:
    """Prints the notes of a conversion, and what it wrote."""
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {written}")


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Shows GB done, GB/s and the time left, if stderr is a terminal."""
    columns = (
        rich.progress.TextColumn(label),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Speed(rich.progress.ProgressColumn):
    """Records per second."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text(f"{task.speed:.0f} records/s" if task.speed else "")


@contextlib.contextmanager
def record_progress(label: str) -> Iterator[Progress]:
    """Shows records done, records per second and the time left, if stderr is a terminal."""
    columns = (
        rich.progress.TextColumn(label),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _Speed(),
        rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
