"""The engine beside PyTorch's batched `generate`: greedy answers of unlike lengths from the same weights.

    python benchmarks/serving.py                    # on this machine's CPU, a model as small as the demo's
    python benchmarks/serving.py --requests 32 --hidden-size 512 --layers 8

Both should make the same tokens; how many answers differ is printed. A batch of PyTorch runs until its
longest answer ends. Then the gap between the tokens of one answer while long prompts arrive, and while 30 s
of audio and an image of 1536x1536 do. Compilation and a first run are not timed.
"""

import dataclasses
import pathlib
import time

import jax
import numpy as np
import rich.console
import rich.table
import torch
import transformers
import tyro

from ola_jax.config import OlaConfig, OryxViTConfig, ProcessorConfig, Qwen2Config, WhisperConfig
from ola_jax.convert.names import to_jax
from ola_jax.data.processor import Processor
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.generate.engine import Completion, Engine, EngineConfig, Piece, Request
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola, init_params

VOCABULARY = 700  # ids that are used: those behind would end an answer
TOKENIZER = pathlib.Path(__file__).parents[1] / "tests" / "goldens" / "visible" / "hf"


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured."""

    requests: tuple[int, ...] = (1, 8, 32)  # at the same time
    hidden_size: int = 96
    layers: int = 4
    prompt: tuple[int, int] = (16, 200)  # tokens, shortest and longest
    new: tuple[int, int] = (8, 96)
    rounds: int = 3
    steps: int = 4  # tokens of an answer in one call
    chunk: int = 64  # tokens of a prompt read at a time


@dataclasses.dataclass(frozen=True)
class Work:
    """One request: a prompt, and how many tokens are wanted."""

    tokens: np.ndarray
    new: int

    def request(self, sampling: SamplingConfig) -> Request:
        """For the engine."""
        tokens = self.tokens.astype(np.int32)
        source = np.full(len(tokens), -1, np.int32)
        audio = np.zeros((0, 0), np.float32)
        sample = Sample("", tokens, tokens, source, (), audio, tokens, {"text": len(tokens)})
        return Request(sample, sampling, self.new)


def torch_model(config: Qwen2Config) -> transformers.Qwen2ForCausalLM:
    """Random weights."""
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.intermediate_size,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=False,
            initializer_range=0.1,
        )
    ).eval()


def by_torch(model: transformers.Qwen2ForCausalLM, work: list[Work]) -> list[list[int]]:
    """One padded batch, until the longest answer is made."""
    longest = max(len(w.tokens) for w in work)
    ids = np.zeros((len(work), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, w in enumerate(work):
        ids[row, longest - len(w.tokens) :] = w.tokens
        mask[row, longest - len(w.tokens) :] = 1
    new = max(w.new for w in work)
    with torch.inference_mode():
        out = model.generate(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=list(range(VOCABULARY, model.config.vocab_size)),
            pad_token_id=0,
        )
    return [row[longest : longest + w.new].tolist() for row, w in zip(out, work, strict=True)]


def by_engine(engine: Engine, work: list[Work], sampling: SamplingConfig) -> list[list[int]]:
    """All requests at once."""
    handles = [engine.submit(w.request(sampling)) for w in work]
    return [list(handle.result().ids) for handle in handles]


def media_request(engine: Engine, sampling: SamplingConfig, rng: np.random.Generator) -> Request:
    """30 s of audio, and the views of an image of 1536x1536 pixels: 96 and 24 patches a side."""
    config = engine.model.config
    images = tuple(
        ImagePatches(rng.integers(0, 256, (side * side, 768)).astype(np.uint8), (side, side))
        for side in (24, 96)
    )
    audio = rng.normal(size=(1, config.chunk_samples)).astype(np.float32) * 0.1
    features = sum(len(image.patches) // 4 for image in images) + config.chunk_tokens
    source = np.concatenate([np.arange(features), np.full(9, -1)]).astype(np.int32)
    tokens = np.zeros(len(source), np.int32)
    sample = Sample("", tokens, tokens, source, images, audio, tokens, {"image": len(source)})
    return Request(sample, sampling, 1)


def gaps(engine: Engine, others: list[Request], sampling: SamplingConfig) -> list[float]:
    """Seconds between the pieces of one long answer, while the other requests come in, one after another."""
    times: list[float] = []

    def note(event: Piece | Completion) -> None:
        if isinstance(event, Piece):
            times.append(time.perf_counter())

    long = Work(np.arange(16), 400)
    handle = engine.submit(long.request(sampling), note)
    while len(times) < 5:
        time.sleep(0.001)
    for other in others:
        engine.submit(other).result()
    handle.cancel()
    handle.result()
    return np.diff(times).tolist()


def main(args: Args) -> None:
    """Measure and print."""
    console, rng = rich.console.Console(), np.random.default_rng(0)
    llm = Qwen2Config(768, args.hidden_size, args.layers, 4, 2, 8 * args.hidden_size // 3)
    config = OlaConfig(llm=llm, vision=None, whisper=None, beats=None)
    torch_llm = torch_model(llm)
    params = to_jax(config, {key: value.numpy() for key, value in torch_llm.state_dict().items()})
    processor = Processor(config, ProcessorConfig(), load_tokenizer(TOKENIZER), preset="infer")
    sampling = SamplingConfig(vocab_size=VOCABULARY)
    table = rich.table.Table("requests", "tokens", "engine tokens/s", "PyTorch tokens/s", "ratio")
    length = args.prompt[1] + 512
    for count in args.requests:
        work = [
            Work(rng.integers(0, VOCABULARY, rng.integers(*args.prompt)), int(rng.integers(*args.new)))
            for _ in range(count)
        ]
        sizes = EngineConfig(slots=count, length=length, prefill_chunk=args.chunk, steps=args.steps)
        with Engine(Ola(config), params, processor, sampling, sizes) as engine:
            forms = {
                "engine": lambda work=work, engine=engine: by_engine(engine, work, sampling),
                "torch": lambda work=work: by_torch(torch_llm, work),
            }
            seconds: dict[str, list[float]] = {name: [] for name in forms}
            for round_ in range(args.rounds + 1):
                for name, run in forms.items():
                    begin = time.perf_counter()
                    out = run()
                    if round_:
                        seconds[name].append(time.perf_counter() - begin)
                    if name == "engine":
                        ours = out
                same = sum(a == b for a, b in zip(ours, out, strict=True))
                if same < count:
                    console.print(f"{count - same} of {count} answers differ")
        tokens = sum(w.new for w in work)
        rates = {name: tokens / np.median(each) for name, each in seconds.items()}
        ratio = f"{rates['engine'] / rates['torch']:.2f}"
        table.add_row(str(count), str(tokens), f"{rates['engine']:.0f}", f"{rates['torch']:.0f}", ratio)
    console.print(table)
    prompts = [Work(rng.integers(0, VOCABULARY, args.prompt[1]), 1).request(sampling) for _ in range(12)]
    sizes = EngineConfig(slots=4, length=length, prefill_chunk=args.chunk, steps=args.steps)
    with Engine(Ola(config), params, processor, sampling, sizes) as engine:
        gaps(engine, prompts, sampling)
        report("prompts come in", gaps(engine, prompts, sampling), console)
    config = with_media(llm)
    processor = Processor(config, ProcessorConfig(), load_tokenizer(TOKENIZER), preset="infer")
    sizes = dataclasses.replace(sizes, length=4096)
    with Engine(Ola(config), init_params(config, seed=0), processor, sampling, sizes) as engine:
        media = [media_request(engine, sampling, rng)]
        gaps(engine, media, sampling)
        report("an image of 1536x1536 and 30 s of audio come in", gaps(engine, media, sampling), console)


def with_media(llm: Qwen2Config) -> OlaConfig:
    """The decoder with encoders as small as the demo's, but for 30 s of audio."""
    return OlaConfig(
        llm=llm,
        vision=OryxViTConfig(
            hidden_size=96, num_layers=3, num_heads=4, intermediate_size=288, position_grid=8
        ),
        whisper=WhisperConfig(num_mels=80, num_positions=1500, hidden_size=64, num_layers=2, num_heads=4),
        beats=None,
        speech_hidden_size=256,
    )


def report(what: str, found: list[float], console: rich.console.Console) -> None:
    """A line about the gaps."""
    median, p99 = np.median(found), np.percentile(found, 99)
    console.print(
        f"gap between two pieces of an answer while {what}: median {1e3 * median:.1f} ms, p99 "
        f"{1e3 * p99:.1f} ms, {p99 / median:.1f} times the median; longest {1e3 * max(found):.1f} ms"
    )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # PyTorch is measured there
    main(tyro.cli(Args))
