"""`ola train --config=FILE`: trains Ola, stage after stage.

Fields are overridden by path: `--config.seed=1 --config.stages.0.steps=500`. A run that was stopped
(Ctrl-C, SIGTERM) is resumed where it was by the same command; settings that mean another model or other
data are refused then, others are reported.

`--compile_only --topology=v5p:4x4x4` trains nothing: it compiles the step of every stage for TPUs that are
not attached, and reports its needs and bounds; `--search` also searches for the fastest batch size and remat
policy.
"""

import argparse
from collections.abc import Sequence

from ola_jax.aot import compile as compiling
from ola_jax.aot.search import search
from ola_jax.errors import OlaError
from ola_jax.run.stages import run
from ola_jax.training.check_config import check_config
from ola_jax.training.config import TrainConfig
from ola_jax.training.load_config import is_help, load_config, usage


def main(arguments: Sequence[str] | None = None, prog: str = "ola train") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--compile_only", action="store_true")
    parser.add_argument("--topology")
    parser.add_argument("--search", "--plan", action="store_true")  # --plan: its former name
    flags, rest = parser.parse_known_args(arguments)
    if is_help(rest):
        print(usage(prog))
        return
    loaded = load_config(rest, prog)
    only_compile = bool(flags.compile_only or flags.topology or flags.search)
    check_config(loaded.config, to_train=not only_compile)
    if only_compile:
        _compile_for(loaded.config, flags.topology, search_fastest=flags.search)
    else:
        run(loaded.config, loaded.prepare)


def _compile_for(config: TrainConfig, topology: str | None, *, search_fastest: bool) -> None:
    """Compiles the step of every stage for a topology, and prints the report."""
    if not topology:
        raise OlaError("--compile_only: give --topology=NAME, for example --topology=v5p:4x4x4")
    for stage in config.stages:
        if search_fastest:
            best = search(config, stage, topology)
            print(best)
            print(f"fastest: --config.model.remat={best.remat}, {best.rows} rows")
        else:
            print(compiling.compile_stage(config, stage, topology))
