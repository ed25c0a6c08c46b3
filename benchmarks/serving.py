"""The engine beside PyTorch's batched `generate`: greedy answers of unlike lengths from the same weights.

    python benchmarks/serving.py                    # on this machine's CPU, a model as small as the demo's
    python benchmarks/serving.py --requests 32 --hidden-size 512 --layers 8

Both should make the same tokens; how many answers differ is printed. A batch of PyTorch runs until its
longest answer ends. Then the gap between the tokens of one answer while long prompts arrive. Compilation and
a first run are not timed.
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

from ola_jax.config import OlaConfig, ProcessorConfig, Qwen2Config
from ola_jax.convert.names import to_jax
from ola_jax.data.processor import Processor
from ola_jax.data.sample import Sample
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.generate.engine import Completion, Engine, EngineConfig, Piece, Request
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola

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


def gaps(engine: Engine, args: Args, sampling: SamplingConfig, rng: np.random.Generator) -> list[float]:
    """Seconds between the pieces of one long answer, while prompts of the greatest length come in."""
    times: list[float] = []

    def note(event: Piece | Completion) -> None:
        if isinstance(event, Piece):
            times.append(time.perf_counter())

    long = Work(rng.integers(0, VOCABULARY, 16), 400)
    handle = engine.submit(long.request(sampling), note)
    while len(times) < 5:
        time.sleep(0.001)
    others = []
    for _ in range(12):
        others.append(engine.submit(Work(rng.integers(0, VOCABULARY, args.prompt[1]), 1).request(sampling)))
        others[-1].result()
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
    sizes = EngineConfig(slots=4, length=length, prefill_chunk=args.chunk, steps=args.steps)
    with Engine(Ola(config), params, processor, sampling, sizes) as engine:
        gaps(engine, args, sampling, rng)
        found = gaps(engine, args, sampling, rng)
    median, p99 = np.median(found), np.percentile(found, 99)
    console.print(
        f"gap between two pieces of an answer while prompts come in: median {1e3 * median:.1f} ms, "
        f"p99 {1e3 * p99:.1f} ms, {p99 / median:.1f} times the median"
    )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # PyTorch is measured there
    main(tyro.cli(Args))
