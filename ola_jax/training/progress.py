"""Progress of a run in the terminal: a bar, or occasional lines if the output is not a terminal."""

import rich.console
import rich.progress


class ProgressBar:
    """A bar with a few figures and the time left. Silent in all processes but the first."""

    def __init__(self, title: str, steps: int, start: int, *, silent: bool = False):
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=16),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[figures]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
        )
        self._console = rich.console.Console(quiet=silent)
        self._bar = rich.progress.Progress(*columns, console=self._console, disable=silent)
        self._task = self._bar.add_task(title, total=steps, completed=start, figures="")
        self._title, self._steps = title, steps
        self._bar.start()

    def update(self, step: int, figures: str) -> None:
        """Shows that a step is done, and figures of the last few."""
        self._bar.update(self._task, completed=step, figures=figures)
        if not self._console.is_terminal:
            self.print_line(f"{self._title} {step}/{self._steps} {figures}")

    def print_line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, soft_wrap=True, highlight=False)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()
