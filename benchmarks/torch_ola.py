"""Ola in PyTorch, for comparison: transformers' Qwen2, all else in plain modules.

The parameters are named as in the released checkpoints, so that ola_jax's own converter fills them. It does
what a good PyTorch training code would: images of one size go through attention together, those of
different sizes one after the other (no image pays for another), sound features are computed on the device,
frozen encoders run without gradients.

A batch is a list of rows, a row a list of samples (`ola_jax.data.sample.Sample`). One sample in a row, and
rows padded to the longest, is how the original trains; several samples in a row are told apart by a mask.
"""

import dataclasses
import itertools

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from ola_jax.batch import IGNORE, TEXT
from ola_jax.config import BeatsConfig, OlaConfig, OryxViTConfig, Qwen2Config, WhisperConfig
from ola_jax.data.layout import block_order
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.models import spectrogram as audio
from ola_jax.models.beats import FBANK_MEAN, FBANK_STD, relative_buckets

Rows = list[list[Sample]]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None):
    """Attention of [B, N, D] inputs, in all directions."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, groups: list[tuple[int, int]]) -> torch.Tensor:
        """`groups`: (images, patches of each), one after the other in x."""
        parts = self.qkv(x).split([images * patches for images, patches in groups])
        out = []
        for part, (images, patches) in zip(parts, groups, strict=True):
            out.append(attend(*part.view(images, patches, -1).chunk(3, -1), self.heads).flatten(0, 1))
        return self.proj(torch.cat(out))


class VisionMLP(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VisionBlock(nn.Module):
    def __init__(self, c: OryxViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.norm2 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.attn = VisionAttention(c.hidden_size, c.num_heads)
        self.mlp = VisionMLP(c.hidden_size, c.intermediate_size)

    def forward(self, x: torch.Tensor, groups: list[tuple[int, int]]) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), groups)
        return x + self.mlp(self.norm2(x))


class OryxViT(nn.Module):
    def __init__(self, c: OryxViTConfig):
        super().__init__()
        self.side = c.position_grid
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, c.hidden_size, c.patch_size, c.patch_size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, c.hidden_size))
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.num_layers))

    def forward(self, images: list[ImagePatches]) -> list[torch.Tensor]:
        """Features of each image's patches, in 2x2-block order."""
        order = sorted(range(len(images)), key=lambda i: images[i].grid)
        device, kernel = self.pos_embed.device, self.patch_embed["proj"].weight
        patches = torch.from_numpy(np.concatenate([images[i].patches for i in order])).to(device)
        x = F.linear((patches / 255 - 0.5) / 0.5, kernel.permute(0, 2, 3, 1).flatten(1))
        x = x + self.patch_embed["proj"].bias
        table = self.pos_embed.view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        groups, places = [], []
        for grid, of_grid in itertools.groupby(order, key=lambda i: images[i].grid):
            count = len(list(of_grid))
            resized = F.interpolate(table, size=grid, mode="bilinear", align_corners=False)[0]
            rows, columns = (torch.from_numpy(a.astype(np.int64)).to(device) for a in block_order(grid))
            places.append(resized[:, rows, columns].T.repeat(count, 1))
            groups.append((count, grid[0] * grid[1]))
        x = x + torch.cat(places).to(x.dtype)
        for block in self.blocks:
            x = block(x, groups)
        parts = x.split([len(images[i].patches) for i in order])
        return [part for _, part in sorted(zip(order, parts, strict=True), key=lambda pair: pair[0])]


class WhisperAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(attend(self.query(x), self.key(x), self.value(x), self.heads))


class WhisperBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn, self.attn_ln = WhisperAttention(width, heads), nn.LayerNorm(width)
        self.mlp, self.mlp_ln = mlp(width, 4 * width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class Whisper(nn.Module):
    def __init__(self, c: WhisperConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(c.num_mels, c.hidden_size, 3, padding=1)
        self.conv2 = nn.Conv1d(c.hidden_size, c.hidden_size, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(c.num_positions, c.hidden_size))
        self.blocks = nn.ModuleList(WhisperBlock(c.hidden_size, c.num_heads) for _ in range(c.num_layers))
        self.ln_post = nn.LayerNorm(c.hidden_size)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """[C, F, M] log-mel to [C, F / 2, D] frames."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel.transpose(1, 2))))).transpose(1, 2)
        x = x + self.positional_embedding.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class BeatsAttention(nn.Module):
    def __init__(self, c: BeatsConfig):
        super().__init__()
        self.c, width = c, c.hidden_size
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.relative_attention_bias = nn.Embedding(c.num_buckets, c.num_heads)
        self.grep_linear = nn.Linear(width // c.num_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, c.num_heads, 1, 1))

    def forward(self, x: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
        q, heads = self.q_proj(x), self.c.num_heads
        gates = self.grep_linear(q.unflatten(-1, (heads, -1)).transpose(1, 2))
        a, b = torch.sigmoid(gates.unflatten(-1, (2, 4)).sum(-1)).chunk(2, -1)
        gate = a * (b * self.grep_a - 1.0) + 2.0  # [B, H, F, 1]
        bias = gate * self.relative_attention_bias(buckets).permute(2, 0, 1)
        return self.out_proj(attend(q, self.k_proj(x), self.v_proj(x), heads, bias))


class BeatsLayer(nn.Module):
    def __init__(self, c: BeatsConfig):
        super().__init__()
        self.alpha = (2 * c.num_layers) ** 0.25
        self.self_attn, self.self_attn_layer_norm = BeatsAttention(c), nn.LayerNorm(c.hidden_size)
        self.fc1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.fc2 = nn.Linear(c.intermediate_size, c.hidden_size)
        self.final_layer_norm = nn.LayerNorm(c.hidden_size)

    def forward(self, x: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
        x = self.self_attn_layer_norm(self.alpha * x + self.self_attn(x, buckets))
        return self.final_layer_norm(self.alpha * x + self.fc2(F.gelu(self.fc1(x))))


class PositionConvolution(nn.Module):
    def __init__(self, c: BeatsConfig):
        super().__init__()
        self.groups, self.taps, width = c.conv_groups, c.conv_positions, c.hidden_size
        self.weight_g = nn.Parameter(torch.ones(1, 1, self.taps))
        self.weight_v = nn.Parameter(torch.randn(width, width // self.groups, self.taps))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.weight_v.square().sum((0, 1), keepdim=True).sqrt()
        kernel = self.weight_v * (self.weight_g / norm)
        y = F.conv1d(x.transpose(1, 2), kernel, self.bias, padding=self.taps // 2, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]].transpose(1, 2))


class BeatsEncoder(nn.Module):
    def __init__(self, c: BeatsConfig):
        super().__init__()
        self.c = c
        self.pos_conv, self.layer_norm = nn.Sequential(PositionConvolution(c)), nn.LayerNorm(c.hidden_size)
        self.layers = nn.ModuleList(BeatsLayer(c) for _ in range(c.num_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        of_distance = relative_buckets(
            np.arange(1 - length, length), self.c.num_buckets, self.c.max_distance
        ).astype(np.int64)
        place = np.arange(length)
        buckets = torch.from_numpy(of_distance[place[None] - place[:, None] + length - 1]).to(x.device)
        x = self.layer_norm(x + self.pos_conv(x))
        for layer in self.layers:
            x = layer(x, buckets)
        return x


class Beats(nn.Module):
    def __init__(self, c: BeatsConfig):
        super().__init__()
        self.patch = c.patch_size
        self.patch_embedding = nn.Conv2d(1, c.embed_dim, self.patch, self.patch, bias=False)
        self.layer_norm = nn.LayerNorm(c.embed_dim)
        same = c.embed_dim == c.hidden_size
        self.post_extract_proj = nn.Identity() if same else nn.Linear(c.embed_dim, c.hidden_size)
        self.encoder = BeatsEncoder(c)

    def forward(self, fbank: torch.Tensor) -> torch.Tensor:
        """[C, T, M] filterbank energies to [C, F, D]."""
        x = (fbank - FBANK_MEAN) / (2 * FBANK_STD)
        x = self.patch_embedding(x[:, None]).flatten(2).transpose(1, 2)
        return self.encoder(self.post_extract_proj(self.layer_norm(x)))


class VisionProjector(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj1, self.proj2 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        predictor = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.pooler = nn.ModuleDict({"predictor": predictor})
        for mark in ("image_newline", "image_begin", "image_end", "image_sep"):
            self.register_parameter(mark, nn.Parameter(torch.zeros(hidden)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, Dv] patches to [N / 4, D] tokens."""
        x = self.proj1(x).unflatten(0, (-1, 4))
        mean = x.mean(1, keepdim=True).expand_as(x)
        weights = self.pooler["predictor"](torch.cat([x, mean], -1)).softmax(1)
        return self.proj2(F.gelu((x * weights).sum(1)))

    def marks(self) -> list[torch.Tensor]:
        return [self.image_newline, self.image_begin, self.image_end, self.image_sep]


class SpeechProjector(nn.Module):
    def __init__(self, width: int, inner: int, hidden: int, stack: int):
        super().__init__()
        self.stack = stack
        self.linear1, self.linear2 = nn.Linear(stack * width, inner), nn.Linear(inner, hidden)
        for mark in ("speech_newline", "speech_begin", "speech_end"):
            self.register_parameter(mark, nn.Parameter(torch.zeros(hidden)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.shape[1] // self.stack
        x = x[:, : tokens * self.stack].reshape(len(x), tokens, -1)
        return self.linear2(F.relu(self.linear1(x)))

    def marks(self) -> list[torch.Tensor]:
        return [self.speech_newline, self.speech_begin, self.speech_end]


class SpeechEncoder(nn.Module):
    def __init__(self, c: OlaConfig):
        super().__init__()
        self.whisper_model, self.beats_model = Whisper(c.whisper), Beats(c.beats)
        self.num_mels = c.whisper.num_mels

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """[C, T] at 16 kHz to [C, F, D], both encoders side by side."""
        whisper = self.whisper_model(log_mel(waveform, self.num_mels))
        with torch.autocast(waveform.device.type, enabled=False):
            beats = self.beats_model(kaldi_fbank(waveform, 128))
        longest = max(whisper.shape[1], beats.shape[1])
        pad = lambda x: F.pad(x, (0, 0, 0, longest - x.shape[1]))
        return torch.cat([pad(whisper), pad(beats).to(whisper.dtype)], -1)


class TorchOla(nn.Module):
    """The whole model; `forward` is the loss of a batch."""

    def __init__(self, c: OlaConfig):
        super().__init__()
        self.config = c
        hidden = c.llm.hidden_size
        self.model = transformers.Qwen2Model(qwen2_config(c.llm))
        self.model.vision_tower = nn.ModuleDict({"vision_tower": OryxViT(c.vision)})
        self.model.mm_projector = VisionProjector(c.vision.hidden_size, hidden)
        self.model.speech_encoder = SpeechEncoder(c)
        joined = c.whisper.hidden_size + c.beats.hidden_size
        self.model.speech_projector = SpeechProjector(joined, c.speech_hidden_size, hidden, c.speech_stack)
        self.lm_head = nn.Linear(hidden, c.llm.vocab_size, bias=False)

    def forward(self, rows: Rows) -> tuple[torch.Tensor, int]:
        """Sum of the negative log-likelihoods of all targets, and their number."""
        embedded = iter(self.embed([sample for row in rows for sample in row]))
        joined = [torch.cat([next(embedded) for _ in row]) for row in rows]
        inputs = nn.utils.rnn.pad_sequence(joined, batch_first=True)
        device = inputs.device
        padded = lambda parts, value: nn.utils.rnn.pad_sequence(
            [torch.from_numpy(np.concatenate(part)) for part in parts], batch_first=True, padding_value=value
        ).to(device)
        positions = padded([[np.arange(len(s.tokens)) for s in row] for row in rows], 0)
        segments = padded([[np.full(len(s.tokens), i + 1) for i, s in enumerate(row)] for row in rows], 0)
        targets = padded([[s.targets.astype(np.int64) for s in row] for row in rows], IGNORE)
        mask = (segments > 0).long()
        if any(len(row) > 1 for row in rows):
            mask = (segments[:, None, :, None] == segments[:, None, None, :]).tril()
        hidden = self.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        labelled = targets != IGNORE
        logits = self.lm_head(hidden[labelled]).float()
        return F.cross_entropy(logits, targets[labelled], reduction="sum"), int(labelled.sum())

    def embed(self, samples: list[Sample]) -> list[torch.Tensor]:
        """The decoder's inputs of each sample: embedded tokens, features where its `source` says so."""
        device = self.lm_head.weight.device
        images = [image for sample in samples for image in sample.images]
        chunks = [sample.audio for sample in samples if len(sample.audio)]
        pooled, heard = iter(()), iter(())
        if images:
            with torch.no_grad():
                features = self.model.vision_tower["vision_tower"](images)
            tokens = self.model.mm_projector(torch.cat(features))
            pooled = iter(tokens.split([len(image.patches) // 4 for image in images]))
        if chunks:
            with torch.no_grad():
                frames = self.model.speech_encoder(torch.from_numpy(np.concatenate(chunks)).to(device))
            heard = iter(self.model.speech_projector(frames))
        marks = torch.stack([*self.model.mm_projector.marks(), *self.model.speech_projector.marks()])
        out = []
        for sample in samples:
            parts = [next(pooled) for _ in sample.images] + [next(heard) for _ in sample.audio]
            table = torch.cat([*parts, marks.to(parts[0].dtype if parts else marks.dtype)])
            source = torch.from_numpy(sample.source.astype(np.int64)).to(device)
            tokens = torch.from_numpy(sample.tokens.astype(np.int64)).to(device)
            is_text = source == TEXT
            text = self.model.embed_tokens(torch.where(is_text, tokens, 0))
            out.append(torch.where(is_text[:, None], text, table[source.clamp(min=0)].to(text.dtype)))
        return out


def qwen2_config(c: Qwen2Config) -> transformers.Qwen2Config:
    return transformers.Qwen2Config(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        intermediate_size=c.intermediate_size,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        rms_norm_eps=c.rms_norm_eps,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )


def log_mel(waveform: torch.Tensor, num_mels: int) -> torch.Tensor:
    """As ola_jax.models.spectrogram.log_mel."""
    window = torch.hann_window(audio.WINDOW, device=waveform.device)
    spectrum = torch.stft(waveform, audio.WINDOW, audio.HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs().square().transpose(1, 2)
    filters = torch.from_numpy(audio.slaney_filters(num_mels)).to(waveform.device)
    log = (power @ filters.T).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


def kaldi_fbank(waveform: torch.Tensor, num_mels: int) -> torch.Tensor:
    """As ola_jax.models.spectrogram.kaldi_fbank."""
    frames = (waveform * 2.0**15).unfold(-1, audio.WINDOW, audio.HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    window = torch.hann_window(audio.WINDOW, periodic=False, device=waveform.device) ** 0.85
    power = torch.fft.rfft((frames - 0.97 * before) * window, n=audio.KALDI_FFT).abs().square()
    filters = torch.from_numpy(audio.kaldi_filters(num_mels)).to(waveform.device)
    return (power @ filters.T).clamp(min=float(np.finfo(np.float32).eps)).log()


def trainable(model: TorchOla) -> list[nn.Parameter]:
    """What Ola trains: the decoder and both projectors; all else is frozen here."""
    for part in (model.model.vision_tower, model.model.speech_encoder):
        part.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclasses.dataclass
class Trainer:
    """AdamW as the original's scripts: clipping at norm 1, no decay."""

    model: TorchOla
    learning_rate: float
    autocast: bool  # products in bfloat16; parameters stay in float32

    def __post_init__(self) -> None:
        self.parameters = trainable(self.model)
        fused = self.parameters[0].is_cuda
        self.optimizer = torch.optim.AdamW(self.parameters, self.learning_rate, weight_decay=0.0, fused=fused)

    def step(self, rows: Rows, rows_at_a_time: int) -> tuple[float, float]:
        """One update from all rows, so many at a time; (loss, norm of the gradients)."""
        targets = sum(int((s.targets != IGNORE).sum()) for row in rows for s in row)
        device, total = self.parameters[0].device.type, 0.0
        for start in range(0, len(rows), rows_at_a_time):
            with torch.autocast(device, torch.bfloat16, enabled=self.autocast):
                loss, _ = self.model(rows[start : start + rows_at_a_time])
            (loss / targets).backward()
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total / targets, float(norm)
