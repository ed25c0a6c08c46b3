"""Whisper, BEATs and the speech projector against the original, stage by stage."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ola_jax.models.beats import FBANK_MEAN, FBANK_STD, position_bias, relative_buckets
from ola_jax.models.ola import Ola
from tests import golden
from tests.models.test_spectrogram import chunks
from tests.released import released

EXPECTED = golden.arrays("speech.npz")
TOLERANCE = golden.stage("speech")["tolerance"]


def check(name: str, actual: np.ndarray) -> None:
    kept = EXPECTED.get(f"{name}__idx")
    actual = np.asarray(actual)
    if kept is not None:  # along time: the axis that is longer than what was kept of it
        axis = next(a for a in range(1, actual.ndim) if EXPECTED[name].shape[a] != actual.shape[a])
        actual = actual.take(kept, axis=axis)
    golden.assert_close(actual, EXPECTED[name], TOLERANCE.get(name), name)


@functools.cache
def hear(name: str) -> tuple[np.ndarray, dict]:
    model = Ola(released().config)
    audio = chunks(name)
    apply = jax.jit(
        lambda p: model.apply({"params": p}, audio, method="encode_audio", mutable="intermediates")
    )
    out, sown = apply(released().params)
    return out, sown["intermediates"]


def test_every_whisper_block_equals_the_original() -> None:
    sown = hear("a_short")[1]["whisper"]
    check("a_short_whisper_conv1", np.swapaxes(sown["conv1_out"][0], 1, 2))
    check("a_short_whisper_conv2", np.swapaxes(sown["conv2_out"][0], 1, 2))
    for i, block in enumerate(sown["blocks"]["output"][0]):
        check(f"a_short_whisper_block{i}", block)


def test_every_beats_layer_equals_the_original() -> None:
    sown = hear("a_short")[1]["beats"]
    patches = np.asarray(sown["patch_embedding_out"][0])
    check("a_short_beats_patch", patches.reshape(1, -1, 8, patches.shape[-1]).transpose(0, 3, 1, 2))
    check("a_short_beats_layer_norm", sown["layer_norm_out"][0])
    check("a_short_beats_post_extract_proj", sown["post_extract_proj_out"][0])
    check("a_short_beats_pos_conv", sown["encoder"]["pos_conv_out"][0])
    check("a_short_beats_encoder_ln", sown["encoder"]["layer_norm_out"][0])
    for i, layer in enumerate(sown["encoder"]["layers"]["output"][0]):
        check(f"a_short_beats_layer{i}", layer)


@pytest.mark.parametrize("name", ["a_short", "a_long"])
def test_whisper_beats_and_projector_equal_the_original(name: str) -> None:
    out, sown = hear(name)
    joined = np.asarray(sown["speech_encoder"][0])
    width = released().config.whisper.hidden_size
    check(f"{name}_whisper_out", joined[..., :width])
    check(f"{name}_beats_out", joined[:, :1496, width:])
    assert not joined[:, 1496:, width:].any()
    check(f"{name}_dual", joined)

    marks = released().params["speech_projector"]
    newline = np.broadcast_to(marks["speech_newline"], (out.shape[0], 1, out.shape[2]))
    body = np.concatenate([out, newline], axis=1).reshape(-1, out.shape[2])
    check(
        f"{name}_speech_projector_out",
        np.concatenate([marks["speech_begin"][None], body, marks["speech_end"][None]]),
    )


def test_filterbank_is_normalised_as_by_the_original() -> None:
    from ola_jax.models.spectrogram import kaldi_fbank

    check("a_short_beats_fbank_norm", (kaldi_fbank(chunks("a_short")) - FBANK_MEAN) / (2 * FBANK_STD))


def test_relative_buckets_equal_the_originals() -> None:
    positions, expected = EXPECTED["rel_positions"], EXPECTED["rel_buckets"]
    np.testing.assert_array_equal(relative_buckets(positions, 320, 800), expected)


def test_position_bias_equals_the_originals() -> None:
    table = released().params["beats"]["encoder"]["relative_attention_bias"]
    bias = position_bias(table, 1496, 800)
    np.testing.assert_allclose(bias[:, 0, :], EXPECTED["pos_bias_row0"], atol=1e-7)
    np.testing.assert_allclose(bias[:, :, 0], EXPECTED["pos_bias_col0"], atol=1e-7)


def test_half_precision_is_as_near_to_the_original_as_its_own_rounding() -> None:
    """Whisper errs as much as the original does in bfloat16; BEATs stays in float32 (S7)."""
    width = released().config.whisper.hidden_size
    golden_bf16 = golden.arrays("bf16_dual.npz")
    kept = golden_bf16["a_short_dual_bf16_as_f32__idx"]
    theirs = golden_bf16["a_short_dual_bf16_as_f32"]
    exact = np.asarray(hear("a_short")[1]["speech_encoder"][0])[:, kept]
    model = Ola(dataclasses.replace(released().config, dtype="bfloat16"))
    audio = chunks("a_short")
    hear_half = jax.jit(
        lambda p: model.apply({"params": p}, audio, method="encode_audio", mutable="intermediates")[1]
    )
    sown = hear_half(released().params)["intermediates"]
    ours = np.asarray(sown["speech_encoder"][0], np.float32)[:, kept]
    distance = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)
    whisper, beats = np.s_[..., :width], np.s_[..., width:]
    assert distance(ours[whisper], theirs[whisper]) < 2 * distance(theirs[whisper], exact[whisper])
    assert distance(ours[beats], theirs[beats]) < 1e-4
