"""Trains and scores the arms of the ablations, and writes tables and a plot.

    python -m examples.ablations                                  all arms, three seeds each
    python -m examples.ablations --ablation pooling --seeds 0     the arms of one question, one seed
    python -m examples.ablations --arm mean conv                  single arms
    python -m examples.ablations --only-report --docs docs        the tables of what is finished

A run that is finished is not repeated; one that was interrupted continues from its last checkpoint. Every run
writes one JSON file into OUTPUT/results.
"""

import argparse
import pathlib
from collections.abc import Sequence

from examples.ablations import report
from examples.ablations.arms import ABLATIONS, ARMS, Arm, find_arm
from examples.ablations.runs import read_results, run_arm
from ola_jax.compilation_cache import keep_compiled_programs
from ola_jax.errors import run


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    options = _parser().parse_args(arguments)
    keep_compiled_programs(str(options.output / "compiled"))
    if not options.only_report:
        for seed in options.seeds:  # all arms have one seed before the first has two
            for arm in _chosen(options.ablation, options.arm):
                result = run_arm(arm, seed, options.output)
                scores = ", ".join(f"{task} {100 * score:.0f} %" for task, score in result["scores"].items())
                print(f"{arm.title}, seed {seed}: {scores}", flush=True)
    report.write(read_results(options.output), options.docs or options.output)


def _parser() -> argparse.ArgumentParser:
    usage, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m examples.ablations",
        description=usage,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ablations, arms = [each.name for each in ABLATIONS], [arm.name for arm in ARMS]
    parser.add_argument(
        "--ablation", nargs="+", choices=ablations, default=[], help="questions; default: all"
    )
    parser.add_argument("--arm", nargs="+", choices=arms, default=[], help="single arms")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/ablations"))
    parser.add_argument(
        "--docs", type=pathlib.Path, help="folder of ablations.md and its plot; default: that of --output"
    )
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    return parser


def _chosen(ablations: Sequence[str], arms: Sequence[str]) -> list[Arm]:
    """The arms of these ablations, and these arms, each once; all if nothing is named."""
    names = [name for each in ABLATIONS if each.name in ablations for name in each.arms] + [*arms]
    return [find_arm(name) for name in dict.fromkeys(names)] or [*ARMS]


if __name__ == "__main__":
    run(main)
