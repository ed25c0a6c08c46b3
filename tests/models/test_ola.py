"""The complete model, from records to logits, against the original; and its invariants."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.batch import IGNORE, Budget, OlaBatch
from ola_jax.config import OlaConfig
from ola_jax.data.assembly import assemble
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola, example_batch
from ola_jax.training.step import loss
from tests import golden, parity
from tests.released import released

ROOT = str(golden.VISIBLE)


@jax.jit
def forward(params: dict, batch: OlaBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Merged embeddings, logits and loss; compiled once for each shape of a batch."""
    model = Ola(parity.config())
    logits = model.apply({"params": params}, batch)
    return model.apply({"params": params}, batch, method="merge"), logits, loss(model, params, batch)[0]


@jax.jit
def logits_only(params: dict, batch: OlaBatch) -> jax.Array:
    return Ola(parity.config()).apply({"params": params}, batch)


@functools.cache
def run(name: str) -> tuple[OlaBatch, np.ndarray, np.ndarray, float]:
    """Batch, merged embeddings, logits and loss of a case."""
    case = golden.case(name)
    batch = parity.processor(case["preset"])(parity.records(name), root=ROOT)
    embeds, logits, mean = forward(released().params, batch)
    return batch, np.asarray(embeds), np.asarray(logits), float(mean)


@pytest.mark.parametrize("name", parity.TRAIN)
def test_training_cases_equal_the_original(name: str) -> None:
    z, tolerance = golden.arrays(f"cases/{name}.npz"), golden.case(name)["tolerance"]
    batch, embeds, logits, mean = run(name)
    length = z["merged_labels"].shape[1]
    mask = z["merged_attention_mask"].astype(bool)

    np.testing.assert_array_equal(batch.segments[:, :length] > 0, mask)
    np.testing.assert_array_equal(batch.targets[:, : length - 1], z["merged_labels"][:, 1:])
    np.testing.assert_array_equal(batch.positions[:, :length], z["merged_position_ids"])
    assert int((batch.targets != IGNORE).sum()) == int(z["n_loss_tokens"])

    for array, values in {"inputs_embeds": embeds, "logits": logits}.items():
        actual = values[:, :length] * mask[..., None]
        used = parity.kept(z, array, mask)[..., None]
        golden.assert_close(parity.kept(z, array, actual), z[array] * used, tolerance[array], array)
    lse = np.asarray(jax.nn.logsumexp(logits[:, :length], axis=-1)) * mask
    golden.assert_close(lse, z["logits_lse"], tolerance["logits_lse"], "logits_lse")
    golden.assert_close(mean, z["loss"], tolerance["loss"], "loss")


@pytest.mark.parametrize("name", parity.INFER)
def test_inference_cases_equal_the_original(name: str) -> None:
    z, tolerance = golden.arrays(f"cases/{name}.npz"), golden.case(name)["tolerance"]
    batch, embeds, logits, _ = run(name)
    length = int(z["merged_len"])
    assert int((batch.segments > 0).sum()) == length
    actual = parity.kept(z, "inputs_embeds", embeds[:, :length])
    golden.assert_close(actual, z["inputs_embeds"], tolerance["inputs_embeds"], "inputs_embeds")
    vocab = z["logits"].shape[-1]  # the original's inference drops the padding of the vocabulary (C5)
    actual = parity.kept(z, "logits", logits[:, :length, :vocab])
    golden.assert_close(actual, z["logits"], tolerance["logits"], "logits")


@pytest.mark.parametrize(("name", "max_length"), [("merge_truncated", 120), ("merge_leftpad", 16_384)])
def test_merging_equals_the_original_when_truncated_or_left_padded(name: str, max_length: int) -> None:
    z, tolerance = golden.arrays(f"cases/{name}.npz"), golden.case(name)["tolerance"]
    processor = parity.processor("train")
    limits = dataclasses.replace(processor.processor_config, max_length=max_length)
    processor = dataclasses.replace(processor, processor_config=limits)
    batch = processor(parity.records(name), root=ROOT)
    model = Ola(parity.config())
    embeds = np.asarray(
        jax.jit(lambda p, b: model.apply({"params": p}, b, method="merge"))(released().params, batch)
    )
    mask = z["merged_attention_mask"].astype(bool)
    index = z["inputs_embeds__idx"]
    for row in range(len(mask)):
        used = np.flatnonzero(mask[row])  # left padding only shifts a row
        kept = [i for i in range(len(index)) if mask[row, index[i]]]
        columns = [int(np.searchsorted(used, index[i])) for i in kept]
        expected = z["inputs_embeds"][row, kept]
        golden.assert_close(embeds[row, columns], expected, tolerance["inputs_embeds"], f"row {row}")
        labels = z["merged_labels"][row, used]
        np.testing.assert_array_equal(batch.targets[row, : len(used) - 1], labels[1:])


def test_parameters_in_their_storage_dtypes_give_the_same_logits() -> None:
    """Parameters of a checkpoint: bfloat16, float16 and float32 side by side, products in float32."""
    kept = released("keep").params
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(kept)} == {"bfloat16", "float16", "float32"}
    batch, _, logits, _ = run("train_mixed")
    actual = logits_only(kept, batch)
    np.testing.assert_allclose(actual, logits, atol=1e-5 * np.abs(logits).max())


def test_a_case_packed_in_one_row_has_the_logits_of_its_own_rows() -> None:
    _, _, logits, mean = run("train_mixed")
    processor = parity.processor("train")
    samples = [processor.sample(record, ROOT) for record in parity.records("train_mixed")]
    one = processor.batch(samples)
    tokens = sum(len(s.tokens) for s in samples)
    budget = Budget(tokens + 5, one.patches.shape[1] + 1, one.patches.shape[2], one.audio.shape[1])
    packed = assemble([samples], budget, parity.config())
    _, packed_logits, packed_mean = forward(released().params, packed)
    start = 0
    for row, sample in enumerate(samples):
        n = len(sample.tokens)
        golden.assert_close(packed_logits[0, start : start + n], logits[row, :n], None, f"sample {row}")
        start += n
    np.testing.assert_allclose(packed_mean, mean, rtol=1e-5)

    other = samples[1].audio[:, ::-1].copy()
    changed = assemble(
        [[samples[0], dataclasses.replace(samples[1], audio=other), samples[2]]], budget, parity.config()
    )
    after = np.asarray(forward(released().params, changed)[1])
    first, second = len(samples[0].tokens), len(samples[0].tokens) + len(samples[1].tokens)
    np.testing.assert_array_equal(after[0, :first], packed_logits[0, :first])
    np.testing.assert_array_equal(after[0, second:tokens], packed_logits[0, second:tokens])
    assert np.abs(after[0, first:second] - packed_logits[0, first:second]).max() > 0.1


def test_changing_an_image_changes_no_logit_of_another_sample_in_its_window() -> None:
    processor = parity.processor("train")
    samples = [processor.sample(parity.records(n)[0], ROOT) for n in ("train_image", "train_image_gray")]
    sizes = [len(i.patches) for s in samples for i in s.images]
    budget = Budget(1024, 1, -(-sum(sizes) // 4) * 4, 0)
    logits = lambda samples: np.asarray(
        logits_only(released().params, assemble([samples], budget, parity.config()))
    )
    before = logits(samples)
    dark = tuple(dataclasses.replace(i, patches=np.zeros_like(i.patches)) for i in samples[0].images)
    after = logits([dataclasses.replace(samples[0], images=dark), samples[1]])
    n, m = (len(s.tokens) for s in samples)
    np.testing.assert_array_equal(after[0, n : n + m], before[0, n : n + m])
    assert np.abs(after[0, :n] - before[0, :n]).max() > 0.1


@pytest.mark.parametrize(("images", "audio"), [(False, False), (True, False), (False, True), (True, True)])
def test_batches_without_images_or_audio_work_forward_and_backward(images: bool, audio: bool) -> None:
    small = dataclasses.replace(parity.config().whisper, num_positions=100)  # chunks of 2 s
    model = Ola(dataclasses.replace(parity.config(), whisper=small))
    batch = example_batch(model.config)
    batch = batch.replace(targets=batch.targets * 0 + 5)
    if not images:
        batch = batch.replace(
            patches=batch.patches[:, :0],
            patch_image=batch.patch_image[:, :0],
            patch_position=batch.patch_position[:, :0],
        )
    if not audio:
        batch = batch.replace(audio=batch.audio[:, :0])
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), example_batch(model.config)))["params"]
    value, grads = jax.jit(jax.value_and_grad(lambda p: loss(model, p, batch)[0]))(params)
    assert np.isfinite(value)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert np.abs(grads["llm"]["lm_head"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ({"vision": None}, "has windows of patches, and this model has no vision encoder"),
        ({"whisper": None, "beats": None}, "has audio chunks, and this model has no audio encoder"),
    ],
)
def test_media_for_an_encoder_that_the_model_lacks_are_refused(
    lacking: dict[str, None], message: str
) -> None:
    batch = example_batch(OlaConfig.tiny())
    config = dataclasses.replace(OlaConfig.tiny(), **lacking)
    with pytest.raises(OlaError, match=message):
        jax.eval_shape(Ola(config).init, jax.random.key(0), batch)
