import dataclasses
import json
import pathlib

import numpy as np
import pytest

from ola_jax import checkpoint
from ola_jax.convert import importer
from ola_jax.convert.import_job import prepare_import
from ola_jax.errors import OlaError
from ola_jax.eval.logits import compare_outputs, read_prompts
from tests import golden
from tests.convert.checkpoints import HF, SPEECH, read_released, write

INPUTS = golden.VISIBLE / "inputs"
PROMPTS = [
    "What is a digit?",
    {"id": "picture", "image": str(INPUTS / "img_tiny.png"),
     "conversations": [{"from": "human", "value": "<image>\nDescribe it."}]},
    {"id": "audio", "audio": str(INPUTS / "a_short.wav"),
     "conversations": [{"from": "human", "value": "<speech>\nWhat is it?"}]},
]  # fmt: skip


@pytest.fixture
def prompts(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    return tmp_path / "prompts.json"


def test_logits_agree_with_pytorch(prompts: pathlib.Path, tmp_path: pathlib.Path) -> None:
    job = prepare_import(HF, **SPEECH)
    importer.write_checkpoint(job, tmp_path / "ola")
    found, features = compare_outputs(tmp_path / "ola", job, prompts)
    assert [one.prompt for one in found] == ["What is a digit?", "picture", "audio"]
    assert found[0].positions < found[1].positions
    for one in found:
        assert one.relative < 1e-5
        assert 0 < one.max_abs < 1e-3
        assert one.top1 == 1
        assert abs(one.kl) < 1e-9
    assert [(one.prompt, one.encoder) for one in features] == [("picture", "vision"), ("audio", "whisper")]
    for one in features:
        assert one.vectors > 40
        assert 0 < one.relative < 1e-5
        assert 0 < one.max_abs < 1e-4


def test_other_weights_do_not_agree(tmp_path: pathlib.Path) -> None:
    released = read_released(HF)
    scale = released.params["llm"]["norm"]["scale"]
    released.params["llm"]["norm"]["scale"] = np.roll(scale, 1)
    checkpoint.save(
        tmp_path / "ola",
        config=released.config,
        processor_config=released.processor_config,
        params=released.params,
        tokenizer_dir=HF,
        generation_config={},
    )
    (tmp_path / "prompts.json").write_text('["One?"]')
    [found], features = compare_outputs(tmp_path / "ola", prepare_import(HF), tmp_path / "prompts.json")
    assert not features
    assert found.relative > 1e-3
    assert found.kl > 1e-6


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize("seen", [True, False])
def test_misread_config_changes_the_logits(seen: bool, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", config={"rope_scaling": YARN})
    job = prepare_import(source)
    assert job.config.llm.rope_scaling
    if not seen:  # as if it had been overlooked
        llm = dataclasses.replace(job.config.llm, rope_scaling=None)
        job = dataclasses.replace(job, config=dataclasses.replace(job.config, llm=llm))
    importer.write_checkpoint(job, tmp_path / "ola")
    (tmp_path / "prompts.json").write_text('["What is a digit, and how many of them are there?"]')
    [found], _ = compare_outputs(tmp_path / "ola", job, tmp_path / "prompts.json")
    assert (found.relative < 1e-5) == seen
    assert seen or found.relative > 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not readable as JSON"),
        ("{}", "expected an array of prompts"),
        ("[]", "expected an array of prompts"),
        ("[3]", "a prompt is a text or a record, found 3"),
    ],
)
def test_other_files_are_refused_as_prompts(text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(OlaError, match=message):
        read_prompts(tmp_path / "prompts.json")
