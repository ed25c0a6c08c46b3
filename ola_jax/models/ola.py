"""Ola: encoders, projectors, one gather that merges all modalities, and the decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.batch import IGNORE, TEXT, OlaBatch
from ola_jax.config import OlaConfig
from ola_jax.models.beats import Beats
from ola_jax.models.oryx_vit import OryxViT, normalize
from ola_jax.models.projectors import SpeechProjector, VisionProjector
from ola_jax.models.qwen2 import Qwen2
from ola_jax.models.spectrogram import kaldi_fbank, log_mel
from ola_jax.models.whisper import Whisper
from ola_jax.sharding import bring_back, constrain, for_each_device, no_mesh, share_out
from ola_jax.typing import Array, Float, Params


class Ola(nn.Module):
    """The omni-modal model (arXiv 2502.04328).

    `Ola(config).apply({"params": params}, batch)` are the logits; other methods through
    `apply(..., method="hidden")`. No branch depends on what a batch holds, only on its shapes.
    """

    config: OlaConfig

    def setup(self) -> None:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.llm = Qwen2(c.llm, dtype, c.remat, c.attention)
        if c.vision:
            self.vision = OryxViT(c.vision, dtype, c.remat, c.attention)
            self.vision_projector = VisionProjector(c.llm.hidden_size, dtype, c.pooling)
        if c.whisper:
            self.whisper = Whisper(c.whisper, dtype, c.remat, c.attention)
            self.speech_projector = SpeechProjector(
                c.llm.hidden_size, c.speech_hidden_size, c.speech_stack, dtype
            )
        if c.beats:
            self.beats = Beats(c.beats, c.remat)

    def __call__(self, batch: OlaBatch) -> Float[Array, "B L V"]:
        """Float32 logits; position i predicts token i + 1."""
        return self.llm.logits(self.hidden(batch))

    def hidden(self, batch: OlaBatch) -> Float[Array, "B L D"]:
        """Hidden states after the decoder's final norm."""
        return self.llm(self.merge(batch), batch.positions, batch.segments)

    def merge(self, batch: OlaBatch) -> Float[Array, "B L D"]:
        """The decoder's inputs: embedded tokens, and features where `source` points to one."""
        is_text = batch.source == TEXT
        text = self.llm.embed(jnp.where(is_text, batch.tokens, 0))
        table = self.features(batch)
        at = jnp.maximum(batch.source, 0)[..., None]
        merged = jnp.where(is_text[..., None], text, jnp.take_along_axis(table, at, axis=1))
        return constrain(merged, "rows", "length", None)

    def features(self, batch: OlaBatch) -> Float[Array, "B R D"]:
        """The feature table of each row: pooled patches, audio tokens, the seven marks."""
        rows, width = batch.tokens.shape[0], self.config.llm.hidden_size
        marks = [
            self.vision_projector.marks() if self.config.vision else jnp.zeros((4, width)),
            self.speech_projector.marks() if self.config.whisper else jnp.zeros((3, width)),
        ]
        marks = jnp.concatenate(marks).astype(self.config.dtype)
        parts = [jnp.broadcast_to(marks, (rows, *marks.shape))]
        if batch.audio.shape[1]:
            chunks = self.hear(share_out(batch.audio))
            parts.insert(0, bring_back(chunks, rows, batch.audio.shape[1]))
        if batch.patches.shape[1]:
            parts.insert(0, bring_back(self.see(batch), rows, batch.patches.shape[1]))
        return jnp.concatenate([part.reshape(rows, -1, width) for part in parts], axis=1)

    def see(self, batch: OlaBatch) -> Float[Array, "windows G D"]:
        """Pooled, projected patches of all windows of all rows."""
        image, place = share_out(batch.patch_image), share_out(batch.patch_position)
        return self.vision_projector(self.vision(normalize(share_out(batch.patches)), image, place))

    def hear(self, audio: Float[Array, "chunks T"]) -> Float[Array, "chunks F D"]:
        """Projected tokens of all audio chunks: Whisper's and BEATs' frames side by side."""
        c = self.config
        mel = for_each_device(lambda audio: log_mel(audio, c.whisper.num_mels), audio)
        frames = [self.whisper(mel.astype(c.dtype))]
        if c.beats:
            fbank = for_each_device(lambda audio: kaldi_fbank(audio, c.beats.num_mels), audio)
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


def init_params(config: OlaConfig, seed: int, shardings: Params | None = None) -> Params:
    """Random float32 parameters, each made where it belongs."""
    init = lambda key: nn.unbox(Ola(config).init(key, example_batch(config)))["params"]
    with no_mesh():
        return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def example_batch(config: OlaConfig, rows: int = 1) -> OlaBatch:
    """The smallest batch that uses every part: for `init` and for tracing shapes."""
    length, windows, patches, chunks = 8, int(config.vision is not None), 4, int(config.whisper is not None)
    patch_bytes = 3 * config.vision.patch_size**2 if config.vision else 768
    grid = np.array([[0, 0, 2, 2], [0, 1, 2, 2], [1, 0, 2, 2], [1, 1, 2, 2]], np.int32)
    ints = lambda *shape: np.zeros(shape, np.int32)
    return OlaBatch(
        tokens=ints(rows, length),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        segments=ints(rows, length) + 1,
        targets=ints(rows, length) + IGNORE,
        source=ints(rows, length) + TEXT,
        patches=np.zeros((rows, windows, patches, patch_bytes), np.uint8),
        patch_image=ints(rows, windows, patches) + 1,
        patch_position=np.broadcast_to(grid, (rows, windows, 4, 4)),
        audio=np.zeros((rows, chunks, config.chunk_samples), np.float32),
    )
