"""What a run shows and writes while it trains: a progress bar, and metrics as JSON lines."""

import json
import pathlib
import time
from typing import Any

import rich.console
import rich.progress


class Progress:
    """A bar with loss, tokens/s and time left; the metrics of every step go to a JSONL file."""

    def __init__(self, title: str, steps: int, start: int, file: pathlib.Path):
        self._file = file.open("a", encoding="utf-8")
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[metrics]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
        )
        self.console = rich.console.Console()
        self._bar = rich.progress.Progress(*columns, console=self.console)
        self._task = self._bar.add_task(title, total=steps, completed=start, metrics="")
        self._title, self._steps, self._tokens, self._begin = title, steps, 0, time.perf_counter()
        self._bar.start()

    def update(self, step: int, metrics: dict[str, Any], show: bool) -> None:
        """After a step: log its metrics (numbers); with `show`, bring the bar up to date."""
        self._tokens += int(metrics["tokens"])
        seconds = time.perf_counter() - self._begin
        line = {name: float(value) for name, value in metrics.items()} | {"seconds": round(seconds, 3)}
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        if show:
            text = f"loss {float(metrics['loss']):.3f}  {self._tokens / seconds:,.0f} tokens/s"
            self._bar.update(self._task, completed=step, metrics=text)
            if not self.console.is_terminal:
                self.console.print(f"{self._title} {step}/{self._steps} {text}")

    def close(self) -> None:
        """Leave the bar as it is, and the file complete."""
        self._bar.stop()
        self._file.close()
