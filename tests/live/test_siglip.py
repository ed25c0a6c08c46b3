import jax
import numpy as np
import pytest
import torch
import transformers

from ola_jax.config import OlaConfig, OryxViTConfig, Qwen2Config
from ola_jax.convert.names import VISION, to_jax
from ola_jax.models.oryx_vit import OryxViT, normalize
from ola_jax.typing import Params
from tests.golden import assert_close
from tests.live.perturb import perturb

SIZES = [
    OryxViTConfig(48, 2, 4, 90, 16, 6),
    OryxViTConfig(36, 4, 2, 135, 8, 5),
    OryxViTConfig(64, 3, 8, 64, 4, 9),
]
RELEASED_NAMES = {  # by transformers' names
    "vision_model.": "",
    "embeddings.patch_embedding": "patch_embed.proj",
    "encoder.layers": "blocks",
    "layer_norm": "norm",
    "self_attn.out_proj": "attn.proj",
}


def released_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict with OryxViT's names, q, k and v in one matrix, without SigLIP's last norm and head."""
    tensors = {}
    for key, value in model.state_dict().items():
        for old, new in RELEASED_NAMES.items():
            key = key.replace(old, new)
        if not key.startswith(("head.", "post_layernorm.")):
            tensors[VISION + key] = value
    tensors[f"{VISION}pos_embed"] = tensors.pop(f"{VISION}embeddings.position_embedding.weight")[None]
    for key in [key for key in tensors if "q_proj" in key]:
        parts = [tensors.pop(key.replace("q_proj", name)) for name in ("q_proj", "k_proj", "v_proj")]
        tensors[key.replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
    return {key: value.numpy() for key, value in tensors.items()}


@pytest.mark.parametrize("config", SIZES)
def test_every_block_equals_pytorch(config: OryxViTConfig) -> None:
    patch, grid = config.patch_size, config.position_grid
    torch_config = transformers.SiglipVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        image_size=grid * patch,
        patch_size=patch,
        hidden_act="gelu",  # OryxViT's; SigLIP's own is the tanh approximation
        layer_norm_eps=config.layer_norm_eps,
        attn_implementation="eager",
    )
    model = perturb(transformers.SiglipVisionModel(torch_config), seed=config.hidden_size)
    ola_config = OlaConfig(llm=Qwen2Config(), vision=config, whisper=None, beats=None)
    params = to_jax(ola_config, released_tensors(model))["vision"]

    rng = np.random.default_rng(config.hidden_size)
    images = rng.integers(0, 256, (3, grid * patch, grid * patch, 3), np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states
    expected = [state.numpy() for state in expected]

    # One window holds two images and padding, patches in random order; another holds one image.
    patches = images.reshape(3, grid, patch, grid, patch, 3).swapaxes(2, 3).reshape(3, grid**2, -1)
    window = np.zeros((2, 2 * grid**2 + 3, patches.shape[-1]), np.uint8)
    number = np.zeros(window.shape[:2], np.int32)
    position = np.zeros((*window.shape[:2], 4), np.int32)
    order = rng.permutation(2 * grid**2)
    positions = np.stack([*np.divmod(np.arange(grid**2), grid), *[np.full(grid**2, grid)] * 2], -1)
    window[0, : len(order)] = patches[:2].reshape(len(order), -1)[order]
    number[0, : len(order)] = 1 + order // grid**2
    position[0, : len(order)] = np.tile(positions, (2, 1))[order]
    window[1, : grid**2], number[1, : grid**2], position[1, : grid**2] = patches[2], 1, positions

    @jax.jit
    def forward(params: Params, window: jax.Array, *layout: jax.Array) -> tuple:
        pixels = normalize(window)
        return OryxViT(config).apply({"params": params}, pixels, *layout, mutable="intermediates")

    features, sown = forward(params, window, number, position)
    blocks = sown["intermediates"]["blocks"]["output"][0]
    for i, (actual, reference) in enumerate(
        zip([*blocks, features], [*expected[1:], expected[-1]], strict=True)
    ):
        both = reference[:2].reshape(len(order), -1)[order]
        assert_close(actual[0, : len(order)], both, None, f"block {i} of packed images")
        assert_close(actual[1, : grid**2], reference[2], None, f"block {i} of a single image")
