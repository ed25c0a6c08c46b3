"""Seconds from a command to its first answer, with and without compiled programs on disk.

    python benchmarks/start_up.py                        # a model of the demo's shape with random weights
    python benchmarks/start_up.py --checkpoint runs/mine --image cat.png

On a busy machine compare CPU seconds: of the command and of all processes that it starts.
"""

import dataclasses
import os
import pathlib
import sys
import tempfile
import time

import rich.console
import rich.table
import tyro

ROOT = pathlib.Path(__file__).parents[1]
TOKENIZER = ROOT / "tests" / "goldens" / "visible" / "hf"


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured."""

    checkpoint: pathlib.Path | None = None
    image: pathlib.Path | None = None  # asked about, else a text
    rounds: int = 3  # with compiled programs on disk


def run(*command: str) -> tuple[float, float]:
    """Seconds and CPU seconds of a Python command, which must succeed."""
    begin = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(sys.executable, [sys.executable, *command], os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def make_checkpoint(directory: pathlib.Path) -> pathlib.Path:
    """A checkpoint of the demo's shape, but for the vocabulary."""
    sys.path.insert(0, str(ROOT))
    from configs import digits_omni
    from ola_jax import checkpoint
    from ola_jax.models.ola import init_params

    llm = dataclasses.replace(digits_omni.MODEL.llm, vocab_size=768)
    config = dataclasses.replace(digits_omni.MODEL, llm=llm)
    checkpoint.save(
        directory,
        config=config,
        processor_config=digits_omni.PROCESSOR,
        params=init_params(config, seed=0),
        tokenizer_dir=TOKENIZER,
        generation_config={"do_sample": False},
    )
    return directory


def main(args: Args) -> None:
    """Measure and print."""
    table = rich.table.Table("command", "seconds", "CPU seconds")

    def add(name: str, times: list[tuple[float, float]]) -> None:
        seconds, cpu = (min(column) for column in zip(*times, strict=True))
        table.add_row(name, f"{seconds:.2f}", f"{cpu:.2f}")

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or make_checkpoint(pathlib.Path(folder) / "model")
        command = ["-m", "ola_jax.cli.main"]
        ask = [*command, "ask", f"--checkpoint={checkpoint}", "--max-new-tokens=16"]
        ask += [f"--compilation-cache={folder}/compiled", "--text=What is this?"]
        ask += [f"--image={args.image}"] if args.image else []
        add("ola --help", [run(*command, "--help") for _ in range(args.rounds)])
        for name in ("ask", "serve", "train", "convert"):
            imported = [run("-c", f"import ola_jax.cli.{name}") for _ in range(args.rounds)]
            add(f"import of ola {name}", imported)
        add("ola ask, the first time", [run(*ask)])
        add("ola ask, again", [run(*ask) for _ in range(args.rounds)])
    rich.console.Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
