"""The table of the released checkpoints' keys, their paths in our tree, and the layouts between them.

Both directions are derived from it: `to_jax` and `to_torch` here for tensors in memory, `importer`
and `exporter` tensor by tensor for files. A `*` in a key is the number of a layer; our tree stacks
the layers on a leading axis. Keys are those of a checkpoint with the speech encoder inside (quirk C1);
the separate files of Whisper and BEATs differ by a prefix only (WHISPER_FILE, BEATS_FILE).
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from flax import traverse_util

from ola_jax.config import OlaConfig
from ola_jax.convert.layouts import CONV1D, LINEAR, Layout, PatchKernel, Squeeze
from ola_jax.typing import HostArray, Params, Shaped

WHISPER = "model.speech_encoder.whisper_model."
BEATS = "model.speech_encoder.beats_model."
WHISPER_FILE = "encoder."  # the prefix in OpenAI's file, instead of WHISPER
BEATS_FILE = ""  # the prefix in the BEATs file, instead of BEATS
VISION = "model.vision_tower.vision_tower."


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter: its key(s) in a released checkpoint, its path in our tree, its layout in both."""

    torch: str
    path: str
    layout: Layout | None = None  # None: the same axes
    copies: bool = False  # every layer may hold a copy of the one tensor; ours is not stacked

    @property
    def part(self) -> str:
        """The part of the model: the first name of the path, as in OlaConfig."""
        return self.path.partition("/")[0]

    @property
    def stacked(self) -> bool:
        """True if our tree holds all of its layers in one array."""
        return "*" in self.torch and not self.copies

    def keys(self, layers: int) -> list[str]:
        """The keys in a released checkpoint, layer by layer."""
        return [self.torch.replace("*", str(i)) for i in range(layers)] if "*" in self.torch else [self.torch]

    def to_jax(self, tensor: Shaped[HostArray, "..."]) -> Shaped[HostArray, "..."]:
        """One layer's tensor in our layout."""
        return self.layout.to_jax(tensor) if self.layout else tensor

    def to_torch(self, tensor: Shaped[HostArray, "..."]) -> Shaped[HostArray, "..."]:
        """One layer's tensor in PyTorch's layout."""
        return self.layout.to_torch(tensor) if self.layout else tensor

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in a released checkpoint; `shape`: of the leaf in our tree."""
        one_layer = shape[1:] if self.stacked else shape
        return self.to_torch(np.broadcast_to(np.int8(0), one_layer)).shape


def _linear(torch: str, path: str, bias: bool = True) -> tuple[Entry, ...]:
    kernel = Entry(f"{torch}.weight", f"{path}/kernel", LINEAR)
    return (kernel, Entry(f"{torch}.bias", f"{path}/bias")) if bias else (kernel,)


def _norm(torch: str, path: str) -> tuple[Entry, ...]:
    return Entry(f"{torch}.weight", f"{path}/scale"), Entry(f"{torch}.bias", f"{path}/bias")


def _conv1d(torch: str, path: str) -> tuple[Entry, ...]:
    return Entry(f"{torch}.weight", f"{path}/kernel", CONV1D), Entry(f"{torch}.bias", f"{path}/bias")


TABLE: tuple[Entry, ...] = (
    # Qwen2.5
    Entry("model.embed_tokens.weight", "llm/embed_tokens/embedding"),
    Entry("model.layers.*.input_layernorm.weight", "llm/layers/input_layernorm/scale"),
    Entry("model.layers.*.post_attention_layernorm.weight", "llm/layers/post_attention_layernorm/scale"),
    *_linear("model.layers.*.self_attn.q_proj", "llm/layers/self_attn/q_proj"),
    *_linear("model.layers.*.self_attn.k_proj", "llm/layers/self_attn/k_proj"),
    *_linear("model.layers.*.self_attn.v_proj", "llm/layers/self_attn/v_proj"),
    *_linear("model.layers.*.self_attn.o_proj", "llm/layers/self_attn/o_proj", bias=False),
    *_linear("model.layers.*.mlp.gate_proj", "llm/layers/mlp/gate_proj", bias=False),
    *_linear("model.layers.*.mlp.up_proj", "llm/layers/mlp/up_proj", bias=False),
    *_linear("model.layers.*.mlp.down_proj", "llm/layers/mlp/down_proj", bias=False),
    Entry("model.norm.weight", "llm/norm/scale"),
    *_linear("lm_head", "llm/lm_head", bias=False),
    # OryxViT
    Entry(f"{VISION}patch_embed.proj.weight", "vision/patch_embed/kernel", PatchKernel(channels=3)),
    Entry(f"{VISION}patch_embed.proj.bias", "vision/patch_embed/bias"),
    Entry(f"{VISION}pos_embed", "vision/position_embedding", Squeeze((0,))),
    *_norm(f"{VISION}blocks.*.norm1", "vision/blocks/norm1"),
    *_linear(f"{VISION}blocks.*.attn.qkv", "vision/blocks/attn/qkv"),
    *_linear(f"{VISION}blocks.*.attn.proj", "vision/blocks/attn/proj"),
    *_norm(f"{VISION}blocks.*.norm2", "vision/blocks/norm2"),
    *_linear(f"{VISION}blocks.*.mlp.fc1", "vision/blocks/mlp/fc1"),
    *_linear(f"{VISION}blocks.*.mlp.fc2", "vision/blocks/mlp/fc2"),
    # Whisper's encoder
    *_conv1d(f"{WHISPER}conv1", "whisper/conv1"),
    *_conv1d(f"{WHISPER}conv2", "whisper/conv2"),
    Entry(f"{WHISPER}positional_embedding", "whisper/positional_embedding"),
    *_norm(f"{WHISPER}blocks.*.attn_ln", "whisper/blocks/attn_ln"),
    *_linear(f"{WHISPER}blocks.*.attn.query", "whisper/blocks/attn/query"),
    *_linear(f"{WHISPER}blocks.*.attn.key", "whisper/blocks/attn/key", bias=False),
    *_linear(f"{WHISPER}blocks.*.attn.value", "whisper/blocks/attn/value"),
    *_linear(f"{WHISPER}blocks.*.attn.out", "whisper/blocks/attn/out"),
    *_norm(f"{WHISPER}blocks.*.mlp_ln", "whisper/blocks/mlp_ln"),
    *_linear(f"{WHISPER}blocks.*.mlp.0", "whisper/blocks/mlp/fc1"),
    *_linear(f"{WHISPER}blocks.*.mlp.2", "whisper/blocks/mlp/fc2"),
    *_norm(f"{WHISPER}ln_post", "whisper/ln_post"),
    # BEATs
    Entry(f"{BEATS}patch_embedding.weight", "beats/patch_embedding/kernel", PatchKernel(channels=1)),
    *_norm(f"{BEATS}layer_norm", "beats/layer_norm"),
    *_linear(f"{BEATS}post_extract_proj", "beats/post_extract_proj"),
    Entry(f"{BEATS}encoder.pos_conv.0.weight_g", "beats/encoder/pos_conv/weight_g", Squeeze((0, 1))),
    Entry(f"{BEATS}encoder.pos_conv.0.weight_v", "beats/encoder/pos_conv/weight_v", CONV1D),
    Entry(f"{BEATS}encoder.pos_conv.0.bias", "beats/encoder/pos_conv/bias"),
    *_norm(f"{BEATS}encoder.layer_norm", "beats/encoder/layer_norm"),
    Entry(
        f"{BEATS}encoder.layers.*.self_attn.relative_attention_bias.weight",
        "beats/encoder/relative_attention_bias",
        copies=True,
    ),
    *_linear(f"{BEATS}encoder.layers.*.self_attn.q_proj", "beats/encoder/layers/self_attn/q_proj"),
    *_linear(f"{BEATS}encoder.layers.*.self_attn.k_proj", "beats/encoder/layers/self_attn/k_proj"),
    *_linear(f"{BEATS}encoder.layers.*.self_attn.v_proj", "beats/encoder/layers/self_attn/v_proj"),
    *_linear(f"{BEATS}encoder.layers.*.self_attn.out_proj", "beats/encoder/layers/self_attn/out_proj"),
    *_linear(f"{BEATS}encoder.layers.*.self_attn.grep_linear", "beats/encoder/layers/self_attn/grep_linear"),
    Entry(
        f"{BEATS}encoder.layers.*.self_attn.grep_a",
        "beats/encoder/layers/self_attn/grep_a",
        Squeeze((0, 2, 3)),
    ),
    *_norm(f"{BEATS}encoder.layers.*.self_attn_layer_norm", "beats/encoder/layers/self_attn_layer_norm"),
    *_linear(f"{BEATS}encoder.layers.*.fc1", "beats/encoder/layers/fc1"),
    *_linear(f"{BEATS}encoder.layers.*.fc2", "beats/encoder/layers/fc2"),
    *_norm(f"{BEATS}encoder.layers.*.final_layer_norm", "beats/encoder/layers/final_layer_norm"),
    *_linear(f"{BEATS}predictor", "beats/predictor"),
    # Projectors
    *_linear("model.mm_projector.proj1", "vision_projector/proj1"),
    *_linear("model.mm_projector.pooler.predictor.0", "vision_projector/pooler/predictor_0"),
    *_linear("model.mm_projector.pooler.predictor.2", "vision_projector/pooler/predictor_2"),
    *_linear("model.mm_projector.proj2", "vision_projector/proj2"),
    Entry("model.mm_projector.image_newline", "vision_projector/image_newline"),
    Entry("model.mm_projector.image_begin", "vision_projector/image_begin"),
    Entry("model.mm_projector.image_end", "vision_projector/image_end"),
    Entry("model.mm_projector.image_sep", "vision_projector/image_sep"),
    *_linear("model.speech_projector.linear1", "speech_projector/linear1"),
    *_linear("model.speech_projector.linear2", "speech_projector/linear2"),
    Entry("model.speech_projector.speech_newline", "speech_projector/speech_newline"),
    Entry("model.speech_projector.speech_begin", "speech_projector/speech_begin"),
    Entry("model.speech_projector.speech_end", "speech_projector/speech_end"),
)
BY_PATH: Mapping[str, Entry] = {entry.path: entry for entry in TABLE}


def num_layers(config: OlaConfig, entry: Entry) -> int:
    """The number of layers in the part of the model that `entry` belongs to; 1 if it has none."""
    return getattr(getattr(config, entry.part), "num_layers", 1) if "*" in entry.torch else 1


def to_jax(config: OlaConfig, tensors: Mapping[str, HostArray]) -> Params:
    """The parameter tree of a released checkpoint's tensors; parameters that it lacks are left out.

    A shared tensor is read from its first copy. Raises KeyError if a layer is missing.
    """
    flat = {}
    for entry in TABLE:
        if getattr(config, entry.part, True) is None:
            continue
        present = [key for key in entry.keys(num_layers(config, entry)) if key in tensors]
        if not present:
            continue
        if entry.stacked:
            keys = entry.keys(num_layers(config, entry))
            flat[entry.path] = np.stack([entry.to_jax(tensors[key]) for key in keys])
        else:
            flat[entry.path] = entry.to_jax(tensors[present[0]])
    return traverse_util.unflatten_dict(flat, sep="/")


def to_torch(config: OlaConfig, params: Params) -> Iterator[tuple[str, HostArray]]:
    """Keys and tensors of a released checkpoint, one after the other; the inverse of `to_jax`.

    A shared tensor is yielded once for each layer, as the released files store it.
    """
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        entry, leaf = BY_PATH[path], np.asarray(leaf)
        for i, key in enumerate(entry.keys(num_layers(config, entry))):
            yield key, entry.to_torch(leaf[i] if entry.stacked else leaf)
