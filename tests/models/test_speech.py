"""Whisper, BEATs and the speech projector against the original, stage by stage."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.models.beats import FBANK_MEAN, FBANK_STD, position_bias, relative_buckets
from ola_jax.models.ola import Ola
from ola_jax.models.spectrogram import kaldi_fbank
from tests import golden
from tests.models.test_spectrogram import chunks
from tests.released import released

EXPECTED = golden.arrays("speech.npz")
TOLERANCE = golden.stage("speech")["tolerance"]


def assert_equals_original(name: str, actual: np.ndarray) -> None:
    kept = EXPECTED.get(f"{name}__idx")
    actual = np.asarray(actual)
    if kept is not None:  # positions along time, the axis of which only a part was kept
        axis = next(a for a in range(1, actual.ndim) if EXPECTED[name].shape[a] != actual.shape[a])
        actual = actual.take(kept, axis=axis)
    golden.assert_close(actual, EXPECTED[name], TOLERANCE.get(name), name)


@functools.cache
def encode(name: str) -> tuple[np.ndarray, dict]:
    model = Ola(released().config)
    apply = jax.jit(
        lambda p, x: model.apply({"params": p}, x, method="encode_audio", mutable="intermediates")
    )
    out, sown = apply(released().params, chunks(name))
    return out, sown["intermediates"]


def test_every_whisper_block_equals_the_original() -> None:
    sown = encode("a_short")[1]["whisper"]
    assert_equals_original("a_short_whisper_conv1", np.swapaxes(sown["conv1_out"][0], 1, 2))
    assert_equals_original("a_short_whisper_conv2", np.swapaxes(sown["conv2_out"][0], 1, 2))
    for i, block in enumerate(sown["blocks"]["output"][0]):
        assert_equals_original(f"a_short_whisper_block{i}", block)


def test_every_beats_layer_equals_the_original() -> None:
    sown = encode("a_short")[1]["beats"]
    patches = np.asarray(sown["patch_embedding_out"][0])
    assert_equals_original(
        "a_short_beats_patch", patches.reshape(1, -1, 8, patches.shape[-1]).transpose(0, 3, 1, 2)
    )
    assert_equals_original("a_short_beats_layer_norm", sown["layer_norm_out"][0])
    assert_equals_original("a_short_beats_post_extract_proj", sown["post_extract_proj_out"][0])
    assert_equals_original("a_short_beats_pos_conv", sown["encoder"]["pos_conv_out"][0])
    assert_equals_original("a_short_beats_encoder_ln", sown["encoder"]["layer_norm_out"][0])
    for i, layer in enumerate(sown["encoder"]["layers"]["output"][0]):
        assert_equals_original(f"a_short_beats_layer{i}", layer)


@pytest.mark.parametrize("name", ["a_short", "a_long"])
def test_whisper_beats_and_projector_equal_the_original(name: str) -> None:
    out, sown = encode(name)
    joined = np.asarray(sown["speech_encoder"][0])
    width = released().config.whisper.hidden_size
    assert_equals_original(f"{name}_whisper_out", joined[..., :width])
    assert_equals_original(f"{name}_beats_out", joined[:, :1496, width:])
    assert not joined[:, 1496:, width:].any()
    assert_equals_original(f"{name}_dual", joined)

    marks = released().params["speech_projector"]
    newline = np.broadcast_to(marks["speech_newline"], (out.shape[0], 1, out.shape[2]))
    body = np.concatenate([out, newline], axis=1).reshape(-1, out.shape[2])
    assert_equals_original(
        f"{name}_speech_projector_out",
        np.concatenate([marks["speech_begin"][None], body, marks["speech_end"][None]]),
    )


def test_filterbank_is_normalised_as_in_the_original() -> None:
    assert_equals_original(
        "a_short_beats_fbank_norm",
        (kaldi_fbank(jnp.asarray(chunks("a_short"))) - FBANK_MEAN) / (2 * FBANK_STD),
    )


def test_relative_buckets_equal_the_originals() -> None:
    positions, expected = EXPECTED["rel_positions"], EXPECTED["rel_buckets"]
    np.testing.assert_array_equal(relative_buckets(positions, 320, 800), expected)


def test_position_bias_equals_the_originals() -> None:
    table = released().params["beats"]["encoder"]["relative_attention_bias"]
    bias = position_bias(jnp.asarray(table), 1496, 800)
    np.testing.assert_allclose(bias[:, 0, :], EXPECTED["pos_bias_row0"], atol=1e-7)
    np.testing.assert_allclose(bias[:, :, 0], EXPECTED["pos_bias_col0"], atol=1e-7)


def test_half_precision_is_as_accurate_as_in_the_original() -> None:
    """Whisper's error is that of the original in bfloat16; BEATs stays in float32 (S7)."""
    width = released().config.whisper.hidden_size
    golden_bf16 = golden.arrays("bf16_dual.npz")
    kept = golden_bf16["a_short_dual_bf16_as_f32__idx"]
    theirs = golden_bf16["a_short_dual_bf16_as_f32"]
    exact = np.asarray(encode("a_short")[1]["speech_encoder"][0])[:, kept]
    model = Ola(dataclasses.replace(released().config, dtype="bfloat16"))
    hear_half = jax.jit(
        lambda p, x: model.apply({"params": p}, x, method="encode_audio", mutable="intermediates")[1]
    )
    sown = hear_half(released().params, chunks("a_short"))["intermediates"]
    ours = np.asarray(sown["speech_encoder"][0], np.float32)[:, kept]
    distance = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)
    whisper, beats = np.s_[..., :width], np.s_[..., width:]
    assert distance(ours[whisper], theirs[whisper]) < 2 * distance(theirs[whisper], exact[whisper])
    assert distance(ours[beats], theirs[beats]) < 1e-4
