"""Made-up questions, and a model of text that answers them."""

import json
import pathlib
from collections.abc import Sequence

from ola_jax import checkpoint
from ola_jax.config import ProcessorConfig
from ola_jax.eval.benchmark import Graded
from ola_jax.eval.items import Item
from ola_jax.eval.rules.reading import Reading
from tests import golden
from tests.generate import small


def text_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """A checkpoint of the small model of text."""
    checkpoint.save(
        folder,
        config=small.CONFIG,
        processor_config=ProcessorConfig(system_prompt="", max_length=128),
        params=small.params(),
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config={"eos_token_id": 0, "do_sample": False},
    )
    return folder


def write_records(file: pathlib.Path, texts: Sequence[str], answers: Sequence[str]) -> pathlib.Path:
    """Records of questions in text, with their answers."""
    turns = lambda q, a: [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([{"conversations": turns(q, a)} for q, a in zip(texts, answers, strict=True)]))
    return file


def graded(name: str, score: float, category: str = "", found: str | None = "A", **groups: str) -> Graded:
    """A graded question."""
    return Graded(Item(name, "", ("A",), category=category, groups=groups), "", Reading(float(score), found))
