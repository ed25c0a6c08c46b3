"""The least that each part of Ola-7b costs: FLOPs, bytes of memory, and the time that these bound.

    python benchmarks/floors.py

One training row of the omni stage, forward and what its backward pass needs (encoders are frozen), and one
request. Bytes are what must move at the least: of whole parts their weights (three times where they are
trained: forward, backward, gradient), of hot ones their inputs and outputs, and weights where they have any.
The last table is the share of attention's blocks that hold a pair, which splash attention computes, and the
share of the pairs themselves.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig
from ola_jax.hardware import CHIPS, Chip
from ola_jax.kernels.segment_blocks import computed_blocks
from ola_jax.models import ola

CHIP_KINDS = ("TPU v5", "TPU v6 lite", "NVIDIA H100 80GB HBM3")
ROW = Budget(tokens=16_384, windows=6, window_patches=9216, audio_chunks=26)
REQUEST = Budget(
    tokens=2560, windows=1, window_patches=9216, audio_chunks=1
)  # 2304 + 150 + 100 tokens, marks
TABLES = {"omni row": (ROW, True), "request, prefill": (REQUEST, False)}


@dataclasses.dataclass(frozen=True)
class Floor:
    """Of one part."""

    part: str
    flops: float
    bytes: float

    def seconds(self, chip: Chip) -> float:
        """Whichever takes longer, at the chip's peak."""
        return max(self.flops / chip.flops, self.bytes / chip.memory_bandwidth)


def floors(config: OlaConfig, budget: Budget, train: bool) -> list[Floor]:
    """Of the whole parts, then of the hot ones in them. BEATs at bfloat16 rates, though it is float32."""
    llm, vit, whisper, beats = config.llm, config.vision, config.whisper, config.beats
    tokens, patches = budget.tokens, budget.windows * budget.window_patches
    width, vocabulary = llm.hidden_size, llm.vocab_size
    once = ola.flops(config, budget)
    trained = ("llm", "vision_projector", "speech_projector") if train else ()
    if not train:  # logits of the last token only
        once["llm"] -= 2 * (tokens - 1) * width * vocabulary
    found = [
        Floor(
            part,
            value * (3 if part in trained else 1),
            weight_bytes(config, part) * (3 if part in trained else 1),
        )
        for part, value in once.items()
    ]
    kv = llm.num_kv_heads * llm.head_dim
    back = 3.5 if train else 1  # of two products forward, five backward: scores are made again
    frames, layers = config.beats_frames, beats.num_layers
    hot = [
        Floor(
            "decoder attention, one sample",
            llm.num_layers * 2 * tokens**2 * width * back,
            llm.num_layers * tokens * (2 * width + 2 * kv) * 2 * (3 if train else 1),
        ),
        Floor(
            "ViT attention, one image a window",
            vit.num_layers * 4 * patches * budget.window_patches * vit.hidden_size,
            vit.num_layers * patches * 4 * vit.hidden_size * 2,
        ),
        Floor(
            "ViT attention, frames of 784",
            vit.num_layers * 4 * patches * 784 * vit.hidden_size,
            vit.num_layers * patches * 4 * vit.hidden_size * 2,
        ),
        Floor(
            "BEATs attention",
            layers * budget.audio_chunks * 4 * frames**2 * beats.hidden_size,
            layers * (budget.audio_chunks * frames * 4 * beats.hidden_size + beats.num_heads * frames**2) * 4,
        ),
        Floor(
            "cross-entropy" if train else "logits of one token",
            (3 * tokens if train else 1) * 2 * width * vocabulary,
            (2 if train else 1) * width * vocabulary * 2 + (2 * tokens * width * 2 if train else 0),
        ),
        Floor(
            "resampling",
            patches * vit.hidden_size * 9,
            vit.position_grid**2 * vit.hidden_size * 4 + patches * vit.hidden_size * 2,
        ),
        Floor(
            "log-mel and filterbank",
            budget.audio_chunks * 3000 * 2 * (2.5 * 512 * 9 + 2 * 257 * whisper.num_mels),
            budget.audio_chunks * (2 * config.chunk_samples + 6000 * whisper.num_mels) * 4,
        ),
    ]
    return found + hot


def weight_bytes(config: OlaConfig, part: str) -> float:
    """Of a part's parameters in bfloat16 (BEATs: float32), the table of embeddings left out."""
    sizes = [x.size for path, x in ola.parameter_shapes(config).items() if path.startswith(f"{part}/")]
    table = config.llm.vocab_size * config.llm.hidden_size if part == "llm" else 0
    return float(sum(sizes) - table) * (4 if part == "beats" else 2)


def once_weights(config: OlaConfig) -> float:
    """Parameters of the decoder that every token meets."""
    return ola.flops(config, Budget(tokens=1))["llm"] / 2


def decode(config: OlaConfig, slots: int) -> Floor:
    """One token after `slots` others."""
    llm = config.llm
    attention = llm.num_layers * 4 * slots * llm.hidden_size
    cache = llm.num_layers * slots * 2 * llm.num_kv_heads * llm.head_dim * 2
    weights = once_weights(config)
    return Floor("one decoded token", 2 * weights + attention, 2 * weights + cache)


def share_computed(sizes: list[int], length: int, block: int, causal: bool) -> float:
    """Of all blocks of a row with segments of these sizes, then padding."""
    segments = np.zeros(-(-length // block) * block, np.int32)
    segments[: sum(sizes)] = np.repeat(np.arange(len(sizes)) + 1, sizes)
    row = jnp.asarray(segments)
    computed = computed_blocks(row, row, block_q=block, block_k=block, causal=causal)
    return float(np.mean(jax.device_get(computed)))


def share_of_pairs(sizes: list[int], length: int, causal: bool) -> float:
    """Of all queries and keys of a row, those that meet."""
    return sum(size * (size + 1) / 2 if causal else size**2 for size in sizes) / length**2


LAYOUTS = {  # name: sizes in each row or window, length, causal
    "48 frames of 784 in 6 windows": ([[784] * 11] * 4 + [[784] * 4, []], 9216, False),
    "one image of 9216": ([[9216]], 9216, False),
    "3136 + 576 + 3136 + 576 + 1024 patches": ([[3136, 576, 3136, 576, 1024]], 9216, False),
    "decoder, one sample of 16384": ([[16_384]], 16_384, True),
    "decoder, 4 samples of 4096": ([[4096] * 4], 16_384, True),
    "decoder, 8000 + 4000 + 2000 + 1500": ([[8000, 4000, 2000, 1500]], 16_384, True),
    "decoder, 30 samples of 512": ([[512] * 30], 16_384, True),
}


def main() -> None:
    """Prints the tables."""
    config, console = OlaConfig.ola_7b(), rich.console.Console(width=120)
    chips = [CHIPS[kind] for kind in CHIP_KINDS]
    for title, (budget, train) in TABLES.items():
        rows = floors(config, budget, train)
        if not train:
            rows.append(decode(config, budget.tokens))
        table = rich.table.Table("part", "TFLOP", "GB", *[f"ms, {chip.name}" for chip in chips], title=title)
        for row in rows:
            times = [f"{row.seconds(chip) * 1e3:.3g}" for chip in chips]
            table.add_row(row.part, f"{row.flops / 1e12:.3g}", f"{row.bytes / 1e9:.3g}", *times)
        console.print(table)
    table = rich.table.Table("layout", "blocks of 512", "blocks of 1024", "pairs", title="share computed")
    for name, (windows, length, causal) in LAYOUTS.items():
        shares = [
            np.mean([share_computed(s, length, block, causal) for s in windows]) for block in (512, 1024)
        ]
        shares.append(np.mean([share_of_pairs(s, length, causal) for s in windows]))
        table.add_row(name, *[f"{share:.1%}" for share in shares])
    console.print(table)


if __name__ == "__main__":
    main()
