import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.kernels.local_global_pool import PoolParams, local_global_pool
from ola_jax.models.projectors import SpeechProjector, VisionProjector
from tests import golden
from tests.released import released

EXPECTED = golden.arrays("projector.npz")
TOLERANCE = golden.stage("projector")["tolerance"]


def blocks(x: np.ndarray, side: int) -> np.ndarray:
    """[b, h, w, c] to [b, h / side, w / side, side * side, c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side * side, c)


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_pooling_equals_the_original(side: int, implementation: str) -> None:
    p = released().params["vision_projector"]["pooler"]
    first, second = p["predictor_0"], p["predictor_2"]
    params = PoolParams(*map(jnp.asarray, (first["kernel"], first["bias"], second["kernel"])))
    x = jnp.asarray(blocks(EXPECTED["pool_in"], side))
    actual = local_global_pool(x, params, implementation=implementation, interpret=True)
    name = f"pool_{side}x"
    golden.assert_close(actual, EXPECTED[name], TOLERANCE[name], name)


def test_pooling_survives_scores_that_overflow_a_naive_softmax() -> None:
    x = np.array([[1e4, 1e3], [2e4, 2.0], [0.0, 0.0], [3.0, 4.0]], np.float32)
    one = np.eye(2, dtype=np.float32)
    kernel = np.concatenate([one, one])
    params = jax.tree.map(jnp.asarray, PoolParams(kernel, np.zeros(2, np.float32), one))
    pooled = local_global_pool(jnp.asarray(x), params)
    np.testing.assert_allclose(pooled, [2e4, 1e3], rtol=1e-6)


def project(patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """Tokens [b, h / 2, w / 2, D] of row-major patches [b, h * w, Dv]."""
    params = released().params["vision_projector"]
    model = VisionProjector(released().config.llm.hidden_size)
    ordered = blocks(patches.reshape(-1, height, width, patches.shape[-1]), 2)
    ordered = ordered.reshape(len(patches), -1, patches.shape[-1])
    tokens = jax.jit(lambda p, x: model.apply({"params": p}, x))(params, ordered)
    return np.asarray(tokens).reshape(-1, height // 2, width // 2, tokens.shape[-1])


def with_newlines(tokens: np.ndarray) -> np.ndarray:
    """Tokens with a newline mark after each row, flattened."""
    newline = np.asarray(released().params["vision_projector"]["image_newline"])
    rows = [np.concatenate([row, newline[None]]) for image in tokens for row in image]
    return np.concatenate(rows)


def mark(name: str) -> np.ndarray:
    return np.asarray(released().params["vision_projector"][name])[None]


def test_image_tokens_equal_the_original() -> None:
    low = with_newlines(project(EXPECTED["mlp_lo_in"], *EXPECTED["mlp_lo_hw"]))
    high = with_newlines(project(EXPECTED["mlp_hi_in"], *EXPECTED["mlp_hi_hw"]))
    begin, sep, end = mark("image_begin"), mark("image_sep"), mark("image_end")
    for name, parts in {
        "mlp_image": [begin, low, sep, high, end],
        "mlp_image_oneview": [begin, low, end],
    }.items():
        golden.assert_close(np.concatenate(parts)[None], EXPECTED[name], TOLERANCE[name], name)


def test_video_tokens_equal_the_original() -> None:
    frames = project(EXPECTED["mlp_vid_in"], *EXPECTED["mlp_vid_hw"])
    sep = mark("image_sep")
    body = [part for frame in frames for part in (with_newlines(frame[None]), sep)]
    actual = np.concatenate([mark("image_begin"), *body, mark("image_end")])[None]
    golden.assert_close(actual, EXPECTED["mlp_video"], TOLERANCE["mlp_video"], "mlp_video")


def test_speech_tokens_equal_the_original_and_drop_the_last_frames() -> None:
    config, params = released().config, released().params["speech_projector"]
    model = SpeechProjector(config.llm.hidden_size, config.speech_hidden_size, config.speech_stack)
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x))
    tokens = np.asarray(apply(params, EXPECTED["sproj_in"]))
    assert tokens.shape[1] == 15  # of 157 frames, seven are dropped
    newline = params["speech_newline"][None]
    body = [part for chunk in tokens for part in (chunk, newline)]
    actual = np.concatenate([params["speech_begin"][None], *body, params["speech_end"][None]])
    golden.assert_close(actual, EXPECTED["sproj_out"], TOLERANCE["sproj_out"], "sproj_out")
