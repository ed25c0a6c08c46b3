"""Batches of the processor, and the settings and checkpoints that it is made of."""

import dataclasses

import numpy as np
import pytest

from ola_jax.batch import Budget
from ola_jax.checkpoint import save
from ola_jax.config import ProcessorConfig
from ola_jax.data import Processor
from ola_jax.errors import OlaError
from tests.data.golden_processor import golden_processor
from tests.data.made_up import conversation
from tests.golden import VISIBLE

ROOT = str(VISIBLE)


def test_rows_keep_the_order_of_the_records_and_a_budget_fixes_the_sizes():
    processor = golden_processor()
    image = conversation("<image>\nx", "ok", id="r2", image="inputs/img_tiny.png")
    records = [conversation("first", "ok", id="r1"), image, conversation("third", "ok", id="r3")]
    free = processor(records, ROOT)
    fixed = processor(records, ROOT, Budget(512, 2, 600, 1))
    assert fixed.tokens.shape == (3, 512)
    assert fixed.patches.shape == (3, 2, 600, 768)
    assert fixed.audio.shape == (3, 1, 480_000)
    length = free.tokens.shape[1]
    for field in ("tokens", "positions", "segments", "targets"):
        np.testing.assert_array_equal(getattr(free, field), getattr(fixed, field)[:, :length])
    with pytest.raises(OlaError, match=r"record 'r1': .* tokens, a row holds 8; raise the budget"):
        processor(records, ROOT, Budget(8))


def test_batches_are_no_larger_than_necessary():
    batch = golden_processor()([conversation("only text", "ok")])
    assert batch.tokens.shape == (1, 64)
    assert batch.patches.shape[1] == batch.audio.shape[1] == 0
    with pytest.raises(OlaError, match="there are no records"):
        golden_processor()([])


def test_a_processor_is_loaded_from_a_checkpoint(tmp_path):
    expected = golden_processor("infer")
    params = {"any": np.zeros(1, np.float32)}
    save(
        tmp_path,
        config=expected.config,
        processor_config=ProcessorConfig(max_length=99),
        params=params,
        tokenizer_dir=VISIBLE / "hf",
        generation_config={},
    )
    processor = Processor.from_pretrained(tmp_path, preset="infer")
    assert processor.config == expected.config
    assert processor.processor_config.max_length == 99
    assert processor.limits.video_multiple == 64
    assert Processor.from_pretrained(tmp_path).limits.video_multiple == 32
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(OlaError, match="tokenizer: the tokenizer cannot be read"):
        Processor.from_pretrained(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(OlaError, match=r"tokenizer: no tokenizer in it"):
        Processor.from_pretrained(tmp_path)


def test_settings_that_cannot_work_are_errors():
    good = golden_processor()
    limits = dataclasses.replace(good.limits, video_multiple=48)
    with pytest.raises(OlaError, match="video_multiple is 48 pixels; expected a multiple of 32"):
        dataclasses.replace(good, processor_config=ProcessorConfig(train=limits))
    limits = dataclasses.replace(good.limits, max_frames=0)
    with pytest.raises(OlaError, match="max_frames is 0"):
        dataclasses.replace(good, processor_config=ProcessorConfig(train=limits))
    small = dataclasses.replace(good.config, llm=dataclasses.replace(good.config.llm, vocab_size=700))
    with pytest.raises(OlaError, match="728 tokens and the model's vocab_size is 700"):
        dataclasses.replace(good, config=small)


def test_media_that_the_model_has_no_encoder_for_are_errors():
    config = golden_processor().config
    without_vision = dataclasses.replace(golden_processor(), config=dataclasses.replace(config, vision=None))
    with pytest.raises(OlaError, match="'image': this model has no vision encoder"):
        without_vision.sample(conversation("<image>\nx", "ok", image="inputs/img_tiny.png"), ROOT)
    config = dataclasses.replace(config, whisper=None, beats=None)
    without_audio = dataclasses.replace(golden_processor(), config=config)
    with pytest.raises(OlaError, match="'audio': this model has no audio encoder"):
        without_audio.sample(conversation("<speech>\nx", "ok", audio="inputs/a_short.wav"), ROOT)
    sample = without_audio.sample(conversation("<speech><image>\nx", video="inputs/clip.mp4"), ROOT)
    assert sample.counts["audio"] == 0
