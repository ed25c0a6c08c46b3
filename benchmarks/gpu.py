"""All that is to be measured on a GPU, in one command of at most ten minutes.

    python benchmarks/gpu.py --out FOLDER                    # on an H100 or H200
    python benchmarks/gpu.py --out FOLDER --tiny             # anywhere: that each part runs, at tiny sizes
    python benchmarks/gpu.py --out FOLDER --workdir DISK     # conversion of a full-size Ola-7b as well

Each part is a benchmark of its own, run as a process with a limit of time: pooling kernels beside XLA and
PyTorch, forms of attention (cuDNN too), reading of prompts and decoding, the training step beside PyTorch.
What each prints is written to FOLDER/PART.txt and its figures to FOLDER/PART.json; summary.json says how each
ended. A part that fails or takes too long does not keep the others from running; the exit status is then 1.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import tyro

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Args:
    """What is run."""

    out: pathlib.Path
    tiny: bool = False
    only: tuple[str, ...] = ()  # names of parts; default: all
    limit: float = 580.0  # seconds of all parts
    workdir: pathlib.Path | None = None  # a disk with 46 GB free, for the conversion


@dataclasses.dataclass(frozen=True)
class Part:
    """A benchmark: its command, and how long it may take."""

    name: str
    command: tuple[str, ...]
    seconds: float
    figures: bool = True  # the command takes --json


def parts(args: Args) -> list[Part]:
    """The parts, those whose figures decide most first."""
    if args.tiny:
        return [
            Part("pooling", ("pooling.py", "--interpret", "gpu", "--rounds", "1", "--no-torch"), 900),
            Part("attention", ("hot_path.py", "--tiny", "--rounds", "1", "--only", "attention"), 900, False),
            Part("decoding", ("decoding.py", "--new", "8", "--answers", "2", "--rounds", "1"), 900),
            Part("train_step", ("train_step.py", "--size", "tiny", "--rounds", "1", "--samples", "5"), 900),
        ]
    found = [
        Part("pooling", ("pooling.py", "--groups", "64", "4096", "--rounds", "5"), 120),
        Part("attention", ("hot_path.py", "--only", "attention", "--rounds", "3"), 100, False),
        Part("decoding", ("decoding.py", "--prompts", "2048", "--answers", "1", "8"), 120),
        Part("train_step", ("train_step.py", "--size", "7b", "--llm-layers", "4", "--rounds", "2"), 240),
    ]
    if args.workdir:
        found.append(Part("conversion", ("convert_7b.py", "--workdir", str(args.workdir)), 300))
    return found


def run(part: Part, out: pathlib.Path, seconds: float) -> dict[str, object]:
    """Runs a part; its row of the summary."""
    figures = ("--json", str(out / f"{part.name}.json")) if part.figures else ()
    command = [sys.executable, str(HERE / part.command[0]), *part.command[1:], *figures]
    begin = time.perf_counter()
    with (out / f"{part.name}.txt").open("w") as file:
        try:
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
            ended = "done" if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
    return {"part": part.name, "ended": ended, "seconds": round(time.perf_counter() - begin, 1)}


def main(args: Args) -> int:
    """Runs all parts; returns the exit status."""
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in parts(args) if not args.only or part.name in args.only]
    begin, rows = time.perf_counter(), []
    for part in chosen:
        left = args.limit - (time.perf_counter() - begin)
        if args.tiny or part.name == "conversion":  # needs no GPU: its time does not count
            left = part.seconds
        if left < 10:
            rows.append({"part": part.name, "ended": "no time left", "seconds": 0.0})
        else:
            rows.append(run(part, args.out, min(left, part.seconds)))
        print(json.dumps(rows[-1]), flush=True)
    (args.out / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["ended"] != "done" for row in rows))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
