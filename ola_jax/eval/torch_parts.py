"""The parts of Ola that `transformers` has, in PyTorch and float32, with the weights of released tensors."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ola_jax.config import OryxViTConfig, WhisperConfig
from ola_jax.convert.names import VISION, WHISPER
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.errors import OlaError
from ola_jax.typing import Bool, Float, HostArray, Int

QWEN2 = (  # fields of config.json that describe the decoder
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    *("original_max_position_embeddings", "use_sliding_window", "sliding_window", "max_window_layers"),
    "layer_types",
)
SIGLIP = {  # OryxViT's names, and transformers'
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
OPENAI = {  # OpenAI's names of Whisper, and transformers'
    "attn_ln": "self_attn_layer_norm",
    "mlp_ln": "final_layer_norm",
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
}


def import_libraries() -> tuple[Any, Any]:
    """Torch and transformers. Raises OlaError if they are not installed."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise OlaError("--logits needs PyTorch: pip install 'ola_jax[convert]'") from error
    return torch, transformers


class Decoder:
    """transformers' Qwen2ForCausalLM, as the release's own config.json (`values`) describes it.

    Our config is not used: if it was read wrongly, the logits should show it.
    """

    def __init__(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]):
        torch, transformers = import_libraries()
        known = {key: values[key] for key in QWEN2 if values.get(key) is not None}
        known = copy.deepcopy(known)  # transformers changes the dicts
        theirs = transformers.Qwen2Config(**known, tie_word_embeddings=False)  # both are read
        with torch.device("meta"):  # no memory for initial weights: 7B are read below
            self._model = transformers.Qwen2ForCausalLM(theirs)
        names = [name for name, _ in self._model.named_parameters()]
        self._model.load_state_dict({name: _read(tensors, name) for name in names}, assign=True)
        self._model.model.rotary_emb = type(self._model.model.rotary_emb)(theirs)  # not in the state dict
        self._model.eval()

    def logits(
        self,
        tokens: Int[HostArray, " L"],
        features: Float[HostArray, "L D"],
        is_feature: Bool[HostArray, " L"],
    ) -> Float[HostArray, "L V"]:
        """Logits of one prompt, with `features` instead of the embedded token where `is_feature`."""
        torch, _ = import_libraries()
        with torch.no_grad():
            ids = torch.from_numpy(np.where(is_feature, 0, tokens).astype(np.int64))[None]
            embedded = self._model.get_input_embeddings()(ids)
            replace = torch.from_numpy(np.array(is_feature))[None, :, None]
            embedded = torch.where(replace, torch.from_numpy(np.array(features))[None], embedded)
            return self._model(inputs_embeds=embedded).logits[0].numpy()


class Vision:
    """OryxViT, built from the layers of transformers' SigLIP."""

    def __init__(self, config: OryxViTConfig, tensors: Mapping[str, Tensor]):
        _, transformers = import_libraries()
        from transformers.models.siglip.modeling_siglip import SiglipEncoder

        theirs = transformers.SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            hidden_act="gelu",  # OryxViT's; SigLIP's own is the tanh approximation
            layer_norm_eps=config.layer_norm_eps,
            attn_implementation="sdpa",
        )
        read = lambda name: _read(tensors, VISION + name)
        state = {}
        for i in range(config.num_layers):
            for kind in ("weight", "bias"):
                for old, new in SIGLIP.items():
                    state[f"layers.{i}.{new}.{kind}"] = read(f"blocks.{i}.{old}.{kind}")
                for name, part in zip("qkv", read(f"blocks.{i}.attn.qkv.{kind}").chunk(3), strict=True):
                    state[f"layers.{i}.self_attn.{name}_proj.{kind}"] = part
        self._encoder = _build(lambda: SiglipEncoder(theirs), state)
        kernel = read("patch_embed.proj.weight").permute(2, 3, 1, 0)
        self._kernel, self._bias = kernel.reshape(-1, config.hidden_size), read("patch_embed.proj.bias")
        side = config.position_grid
        self._table = read("pos_embed").reshape(1, side, side, -1).permute(0, 3, 1, 2)

    def features(
        self, pixels: Float[HostArray, "N P"], position: Int[HostArray, "N 4"]
    ) -> Float[HostArray, "N D"]:
        """Features of one image's patches, which may be in any order."""
        torch, _ = import_libraries()
        with torch.no_grad():
            size = tuple(int(n) for n in position[0, 2:])
            table = torch.nn.functional.interpolate(self._table, size=size, mode="bilinear")
            rows, columns = torch.from_numpy(np.array(position[:, :2]).T.astype(np.int64))
            embedded = torch.from_numpy(np.array(pixels)) @ self._kernel + self._bias
            embedded = embedded + table[0, :, rows, columns].T
            return self._encoder(inputs_embeds=embedded[None]).last_hidden_state[0].numpy()


class Whisper:
    """transformers' Whisper encoder; its sizes are those of its file (`dims`), if it has one."""

    def __init__(
        self, config: WhisperConfig, tensors: Mapping[str, Tensor], dims: Mapping[str, Any] | None = None
    ):
        _, transformers = import_libraries()
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        dims, width = dims or {}, config.hidden_size
        theirs = transformers.WhisperConfig(
            num_mel_bins=dims.get("n_mels", config.num_mels),
            max_source_positions=dims.get("n_audio_ctx", config.num_positions),
            d_model=dims.get("n_audio_state", width),
            encoder_layers=dims.get("n_audio_layer", config.num_layers),
            encoder_attention_heads=dims.get("n_audio_head", config.num_heads),
            encoder_ffn_dim=4 * dims.get("n_audio_state", width),
        )
        read = lambda name: _read(tensors, WHISPER + name)
        state = {"embed_positions.weight": read("positional_embedding")}
        for kind in ("weight", "bias"):
            for name in ("conv1", "conv2"):
                state[f"{name}.{kind}"] = read(f"{name}.{kind}")
            state[f"layer_norm.{kind}"] = read(f"ln_post.{kind}")
            for i in range(config.num_layers):
                for old, new in OPENAI.items():
                    if (old, kind) != ("attn.key", "bias"):  # it has none
                        state[f"layers.{i}.{new}.{kind}"] = read(f"blocks.{i}.{old}.{kind}")
        self._encoder = _build(lambda: WhisperEncoder(theirs), state)

    def features(self, mel: Float[HostArray, "C T M"]) -> Float[HostArray, "C F D"]:
        """Features of chunks of log-mel."""
        torch, _ = import_libraries()
        with torch.no_grad():
            return self._encoder(torch.from_numpy(np.array(mel.swapaxes(1, 2)))).last_hidden_state.numpy()


def _build(module: Callable[[], Any], state: Mapping[str, Any]) -> Any:
    torch, _ = import_libraries()
    with torch.device("meta"):
        built = module()
    built.load_state_dict(dict(state), assign=True)
    return built.eval()


def _read(tensors: Mapping[str, Tensor], key: str) -> Any:
    torch, _ = import_libraries()
    return torch.from_numpy(tensors[key].read().astype(np.float32))
