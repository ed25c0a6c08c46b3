"""Ola: encoders, projectors, one gather that merges all modalities, and the decoder."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ola_jax.batch import MARKS, PARTS, TEXT, Budget, OlaBatch, padding
from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError
from ola_jax.models import beats, oryx_vit, projectors, qwen2, whisper
from ola_jax.models.beats import Beats
from ola_jax.models.oryx_vit import OryxViT, normalize
from ola_jax.models.projectors import SpeechProjector, VisionProjector
from ola_jax.models.qwen2 import Qwen2
from ola_jax.models.spectrogram import kaldi_fbank, log_mel
from ola_jax.models.whisper import Whisper
from ola_jax.sharding import constrain, gather_windows, map_window_shards, no_mesh, shard_windows
from ola_jax.typing import Array, Float, Params

# The encoders that each projector takes its features from. All projectors lead to the decoder.
ENCODERS: dict[str, tuple[str, ...]] = {
    "vision_projector": ("vision",),
    "speech_projector": ("whisper", "beats"),
}


class Ola(nn.Module):
    """The omni-modal model (arXiv 2502.04328).

    `Ola(config).apply({"params": params}, batch)` returns the logits; other methods are called by
    `apply(..., method="hidden")`. Branches depend only on the shapes of a batch, not on its content.
    """

    config: OlaConfig

    def setup(self) -> None:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.llm = Qwen2(c.llm, dtype, c.remat, c.attention)
        if c.vision:
            self.vision = OryxViT(c.vision, dtype, c.remat, c.attention)
            self.vision_projector = VisionProjector(c.llm.hidden_size, dtype, c.downsampling, c.pooling)
        if c.whisper:
            self.whisper = Whisper(c.whisper, dtype, c.remat, c.attention)
        if c.beats:
            self.beats = Beats(c.beats, c.remat)
        if c.has_audio:
            self.speech_projector = SpeechProjector(
                c.llm.hidden_size, c.speech_hidden_size, c.speech_stack, dtype
            )

    def __call__(self, batch: OlaBatch) -> Float[Array, "B L V"]:
        """Float32 logits; position i predicts token i + 1."""
        return self.llm.logits(self.hidden(batch))

    def hidden(self, batch: OlaBatch) -> Float[Array, "B L D"]:
        """Hidden states after the decoder's final norm."""
        return self.llm(self.merge(batch), jnp.asarray(batch.positions), jnp.asarray(batch.segments))

    def merge(self, batch: OlaBatch) -> Float[Array, "B L D"]:
        """The decoder's inputs: embedded tokens, and features where `source` points to one."""
        is_text = batch.source == TEXT
        text = self.llm.embed(jnp.where(is_text, batch.tokens, 0))
        table = self.features(batch)
        row = jnp.maximum(batch.source, 0)[..., None]
        merged = jnp.where(is_text[..., None], text, jnp.take_along_axis(table, row, axis=1))
        return constrain(merged, "rows", "length", None)

    def features(self, batch: OlaBatch) -> Float[Array, "B R D"]:
        """The feature table of each row, in the order of PARTS."""
        rows = batch.tokens.shape[0]
        marks = self.marks()
        parts: dict[str, Array] = {"marks": jnp.broadcast_to(marks, (rows, *marks.shape))}
        if windows := batch.patches.shape[1]:
            parts["patches"] = gather_windows(self.encode_images(batch), rows, windows)
        if chunks := batch.audio.shape[1]:
            audio = shard_windows(batch.audio)
            parts["audio"] = gather_windows(self.encode_audio(audio), rows, chunks)
        width = marks.shape[-1]
        tables = [parts[part].reshape(rows, -1, width) for part in PARTS if part in parts]
        return jnp.concatenate(tables, axis=1)

    def marks(self) -> Float[Array, "marks D"]:
        """All marks, in the order of MARKS; zeros for those of a projector that the model lacks."""
        c = self.config
        learned: dict[str, Array] = dict.fromkeys(MARKS, jnp.zeros(c.llm.hidden_size))
        learned |= self.vision_projector.marks if c.vision else {}
        learned |= self.speech_projector.marks if c.has_audio else {}
        return jnp.stack([learned[name] for name in MARKS]).astype(c.dtype)

    def encode_images(self, batch: OlaBatch) -> Float[Array, "windows G D"]:
        """Pooled, projected patches of all windows of all rows."""
        if self.config.vision is None:
            raise OlaError("the batch has windows of patches, and this model has no vision encoder")
        fields = batch.patches, batch.patch_image, batch.patch_position
        patches, image, position = (shard_windows(field) for field in fields)
        return self.vision_projector(self.vision(normalize(patches), image, position))

    def encode_audio(self, audio: Float[Array, "chunks T"]) -> Float[Array, "chunks F D"]:
        """Projected tokens of all audio chunks: Whisper's and BEATs' frames side by side, or those of one."""
        c = self.config
        if not c.has_audio:
            raise OlaError("the batch has audio chunks, and this model has no audio encoder")
        frames = []
        if c.whisper:
            mel = map_window_shards(functools.partial(log_mel, num_mels=c.whisper.num_mels), audio)
            frames.append(self.whisper(mel.astype(c.dtype)))
        if c.beats:
            fbank = map_window_shards(functools.partial(kaldi_fbank, num_mels=c.beats.num_mels), audio)
            frames.append(self.beats(fbank))
        longest = max(f.shape[1] for f in frames)
        frames = [jnp.pad(f, ((0, 0), (0, longest - f.shape[1]), (0, 0))) for f in frames]
        joined = jnp.concatenate([f.astype(c.dtype) for f in frames], axis=-1)
        self.sow("intermediates", "speech_encoder", joined)
        return self.speech_projector(joined)


def abstract_params(config: OlaConfig) -> Params:
    """Shapes, dtypes (float32) and logical axes of all parameters, boxed as Flax does it."""
    with no_mesh():
        return jax.eval_shape(Ola(config).init, jax.random.key(0), example_batch(config))["params"]


def parameter_shapes(config: OlaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Path, shape and dtype (float32) of every parameter, such as "llm/layers/mlp/up_proj/kernel"."""
    return dict(_parameter_shapes(config))


@functools.lru_cache(maxsize=4)
def _parameter_shapes(config: OlaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return traverse_util.flatten_dict(nn.unbox(abstract_params(config)), sep="/")


def init_params(config: OlaConfig, seed: int, shardings: Params | None = None) -> Params:
    """Random float32 parameters, each created on its own devices."""
    init = lambda key: nn.unbox(Ola(config).init(key, example_batch(config)))["params"]
    with no_mesh():
        return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def example_batch(config: OlaConfig, rows: int = 1) -> OlaBatch:
    """The smallest batch that uses every part: for `init` and for tracing shapes."""
    length, images, audio = 8, int(config.vision is not None), int(config.has_audio)
    batch = padding(config, rows, Budget(length, images, 4, audio))
    grid = np.array([[0, 0, 2, 2], [0, 1, 2, 2], [1, 0, 2, 2], [1, 1, 2, 2]], np.int32)
    return dataclasses.replace(
        batch,
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        segments=np.ones_like(batch.segments),
        patch_image=np.ones_like(batch.patch_image),
        patch_position=np.broadcast_to(grid, batch.patch_position.shape),
    )


def flops(config: OlaConfig, budget: Budget) -> dict[str, float]:
    """FLOPs of one row through each part, forward.

    Matrix products only, each multiply-add as two. Attention is counted over full windows and chunks, and
    over half of each row of the decoder, as it is causal.
    """
    width = config.llm.hidden_size
    found = {"llm": qwen2.flops(config.llm, budget.tokens)}
    if config.vision and budget.windows:
        windows, patches = budget.windows, budget.window_patches
        found["vision"] = oryx_vit.flops(config.vision, windows, patches)
        found["vision_projector"] = projectors.vision_flops(
            windows * patches, config.vision.hidden_size, width, config.downsampling
        )
    if config.has_audio and (chunks := budget.audio_chunks):
        frame = 0
        if config.whisper:
            found["whisper"] = whisper.flops(config.whisper, chunks)
            frame += config.whisper.hidden_size
        if config.beats:
            found["beats"] = beats.flops(config.beats, chunks, config.beats_frames)
            frame += config.beats.hidden_size
        found["speech_projector"] = projectors.speech_flops(
            chunks * config.chunk_tokens, config.speech_stack * frame, config.speech_hidden_size, width
        )
    return found
