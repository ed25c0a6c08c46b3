import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from ola_jax.config import YarnConfig
from ola_jax.models.rotary import inverse_frequencies, rope


@pytest.mark.parametrize("theta", [1e6, 1e4, 5e5])
@pytest.mark.parametrize("width", [128, 64, 10])
@pytest.mark.parametrize(
    "scaling", [None, YarnConfig(), YarnConfig(3.0, 4096, beta_fast=20.0, truncate=False)]
)
def test_frequencies_are_those_of_transformers(theta: float, width: int, scaling: YarnConfig | None) -> None:
    rope_scaling = None
    if scaling:
        rope_scaling = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
            "beta_fast": scaling.beta_fast,
            "truncate": scaling.truncate,
        }
    config = transformers.Qwen2Config(
        hidden_size=2 * width,
        num_attention_heads=2,
        max_position_embeddings=131_072,
        rope_theta=theta,
        rope_scaling=rope_scaling,
    )
    theirs = transformers.models.qwen2.modeling_qwen2.Qwen2RotaryEmbedding(config)
    ours, magnitude = inverse_frequencies(width, theta, scaling)
    assert ours.dtype == np.float32
    assert magnitude == pytest.approx(theirs.attention_scaling, rel=1e-12)
    # Within one unit in the last place, as PyTorch rounds its own power of float32.
    np.testing.assert_allclose(ours, theirs.inv_freq.numpy(), rtol=2e-7)


def test_far_positions_are_rotated_exactly() -> None:
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 64)).astype(np.float32)
    positions = np.int32([[0, 99_991, 131_071]])
    config = transformers.Qwen2Config(hidden_size=128, num_attention_heads=2, rope_theta=1e6)
    modeling = transformers.models.qwen2.modeling_qwen2
    cos, sin = modeling.Qwen2RotaryEmbedding(config)(torch.from_numpy(x), torch.from_numpy(positions))
    swapped = torch.from_numpy(x).transpose(1, 2)
    expected = modeling.apply_rotary_pos_emb(swapped, swapped, cos, sin)[0].transpose(1, 2).numpy()
    np.testing.assert_allclose(rope(jnp.asarray(x), jnp.asarray(positions), theta=1e6), expected, atol=2e-6)
