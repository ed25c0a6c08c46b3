import jax
import numpy as np
import pytest
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ola_jax.config import OlaConfig, Qwen2Config, WhisperConfig
from ola_jax.convert.names import WHISPER, to_jax
from ola_jax.models.whisper import Whisper
from tests.golden import assert_close
from tests.live.perturb import perturb

SIZES = [WhisperConfig(128, 30, 48, 2, 3), WhisperConfig(80, 75, 40, 4, 2), WhisperConfig(20, 51, 64, 3, 8)]
OPENAI_NAMES = {  # by transformers' names
    "embed_positions.weight": "positional_embedding",
    "self_attn_layer_norm": "attn_ln",
    "final_layer_norm": "mlp_ln",
    "layer_norm": "ln_post",
    "layers": "blocks",
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}


def openai_name(name: str) -> str:
    for old, new in OPENAI_NAMES.items():
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("config", SIZES)
def test_every_layer_equals_pytorch(config: WhisperConfig) -> None:
    torch_config = transformers.WhisperConfig(
        num_mel_bins=config.num_mels,
        max_source_positions=config.num_positions,
        d_model=config.hidden_size,
        encoder_layers=config.num_layers,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=4 * config.hidden_size,
        attn_implementation="eager",
    )
    model = perturb(WhisperEncoder(torch_config), seed=config.hidden_size)
    tensors = {WHISPER + openai_name(key): value.numpy() for key, value in model.state_dict().items()}
    ola_config = OlaConfig(llm=Qwen2Config(), vision=None, whisper=config, beats=None)
    params = to_jax(ola_config, tensors)["whisper"]

    rng = np.random.default_rng(config.num_mels)
    mel = rng.normal(size=(2, 2 * config.num_positions, config.num_mels)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(mel.swapaxes(1, 2)), output_hidden_states=True)
    forward = jax.jit(lambda p, mel: Whisper(config).apply({"params": p}, mel, mutable="intermediates"))
    actual, sown = forward(params, mel)
    blocks = sown["intermediates"]["blocks"]["output"][0]
    for i in range(config.num_layers - 1):  # PyTorch returns the last one after the final norm
        assert_close(blocks[i], expected.hidden_states[i + 1], None, f"block {i}")
    assert_close(actual, expected.last_hidden_state, None, "output")
