"""Fields of a TrainConfig that have moved into groups, with their former names."""

from typing import Any

RENAMED = {
    "save_every": "checkpoint.save_every",
    "keep": "checkpoint.keep",
    "keep_best": "checkpoint.keep_best",
    "best": "checkpoint.best",
    "final_model": "checkpoint.final_model",
    "log_every": "logging.log_every",
    "tensorboard": "logging.tensorboard",
    "wandb": "logging.wandb",
    "profile": "logging.profile",
    "eval_every": "evaluation.every",
    "eval_batches": "evaluation.batches",
    "eval_tasks": "evaluation.tasks",
    "eval_rows": "evaluation.rows",
    "eval_limit": "evaluation.limit",
    "max_skipped": "data.max_skipped",
    "cache_samples": "data.cache_samples",
    "data_threads": "data.workers",
    "prefetch": "data.prefetch",
    "bad_step": "bad_steps.action",
    "max_bad_steps": "bad_steps.max_skipped",
    "spike_factor": "bad_steps.spike_factor",
}


def move_into_groups(values: dict[str, Any]) -> dict[str, Any]:
    """Converts settings of a run that may have the former names to the current ones."""
    moved = {name: value for name, value in values.items() if name not in RENAMED}
    for name in values.keys() & RENAMED.keys():
        group, _, field = RENAMED[name].partition(".")
        moved[group] = moved.get(group, {}) | {field: values[name]}
    return moved
