"""Answers of a model without downsampling and with BEATs alone: media encoded part by part, as in a batch."""

import dataclasses

import jax
import numpy as np

from ola_jax.batch import TEXT, Budget
from ola_jax.data.assembly import assemble
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.generate.engine import Engine, EngineConfig, Request
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola, init_params
from tests import tiny
from tests.generate import small

CONFIG = dataclasses.replace(tiny.CONFIG, downsampling="none", whisper=None, beats_chunk=200)
MODEL = Ola(CONFIG)
GREEDY = SamplingConfig(vocab_size=512)
GRIDS = ((4, 4), (2, 6))


def make_sample(seed: int) -> Sample:
    """Two views and a chunk of audio among tokens; every feature and mark is used."""
    rng = np.random.default_rng(seed)
    images = tuple(
        ImagePatches(rng.integers(0, 256, (h * w, 768)).astype(np.uint8), (h, w)) for h, w in GRIDS
    )
    audio = rng.normal(size=(1, CONFIG.chunk_samples)).astype(np.float32) * 0.1
    features = sum(h * w for h, w in GRIDS) + CONFIG.chunk_tokens
    media = rng.permutation(features + 7)
    source = np.concatenate([np.full(9, TEXT), media, np.full(9, TEXT)]).astype(np.int32)
    tokens = rng.integers(0, 512, len(source)).astype(np.int32)
    return Sample("", tokens, tokens, source, images, audio, tokens, {})


def test_an_answer_begins_as_the_logits_of_the_batch_say() -> None:
    params = jax.tree.map(lambda x: 3 * x, init_params(CONFIG, seed=0))
    samples = [make_sample(seed) for seed in range(4)]
    budget = Budget(tokens=64, windows=1, window_patches=28, audio_chunks=1)
    batch = assemble([[sample] for sample in samples], budget, CONFIG)
    logits = jax.jit(MODEL.apply)({"params": params}, batch)
    expected = [int(logits[i, len(sample.tokens) - 1].argmax()) for i, sample in enumerate(samples)]
    assert len({*expected}) > 1
    config = EngineConfig(slots=2, length=128, prefill_chunk=64)
    with Engine(MODEL, params, small.processor(), GREEDY, config) as engine:
        done = [engine.submit(Request(sample, GREEDY, 1)).result(100) for sample in samples]
    assert [completion.error for completion in done] == [None] * 4
    assert [completion.ids[0] for completion in done] == expected
