"""The accuracies of a run's stages on its tasks, and the summary at the end."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import rich.console

from ola_jax import checkpoint
from ola_jax.data.processor import Processor
from ola_jax.eval import report
from ola_jax.eval.tasks import read_tasks, score_tasks
from ola_jax.models.ola import Ola
from ola_jax.training.config import TrainConfig
from ola_jax.training.start import stage_folder

console = rich.console.Console()


def score_stage(config: TrainConfig, folder: pathlib.Path, limit: int | None) -> dict[str, Any]:
    """The result of `evaluate` for the stage in `folder`; stored there, recomputed if tasks were added."""
    file = folder / "accuracy.json"
    try:
        known = json.loads(file.read_text())
        if all("accuracy" in known[task.name] for task in config.tasks):
            return {task.name: known[task.name] for task in config.tasks}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not evaluated yet, or not completely
    found = evaluate(config, folder / "model", limit)
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def evaluate(config: TrainConfig, model_dir: pathlib.Path, limit: int | None) -> dict[str, Any]:
    """Exact-match accuracy of every task, answered by the model that a stage ended with."""
    model_config, params = checkpoint.load(model_dir)
    processor = Processor.from_pretrained(model_dir, preset="infer")
    questions = read_tasks(config.tasks, processor, limit)
    generation = checkpoint.load_configs(model_dir)[2]
    return score_tasks(
        Ola(model_config),
        params,
        processor,
        questions=questions,
        generation=generation,
        rows=config.evaluation.rows,
    )


def summarize(
    config: TrainConfig, results: dict[str, Any], *, finished_before: Sequence[str], seconds: float
) -> None:
    """Reports the accuracies (a table, JSON, PNG), and a command to try next."""
    output = pathlib.Path(config.output)
    stages = [stage.name for stage in config.stages]
    last = stage_folder(config, len(stages) - 1) / "model"
    if results:
        console.print(report.make_table(config.tasks, stages, results))
        report.write_json(output / "report.json", config.tasks, results, seconds=round(seconds, 1))
        report.plot(output / "report.png", config.tasks, stages, results=results)
        console.print(f"report: {output / 'report.json'}, {output / 'report.png'}")
    if finished_before:
        all_of_them = len(finished_before) == len(stages)
        console.print(
            f"{'nothing was trained: ' if all_of_them else ''}finished before this run: "
            f"{', '.join(finished_before)}"
        )
    console.print(f"done in {seconds / 60:.1f} minutes; checkpoint: {last}")
    console.print(f"next: python -m ola_jax.infer --checkpoint {last} {config.example}", soft_wrap=True)
