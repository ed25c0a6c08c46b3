"""The table of docs/performance.md: every stage of configs/ola_7b.py compiled for TPU topologies.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/topologies.py --out runs/topologies.jsonl

Needs libtpu, no TPU. Mesh, rows and remat policy are those of the config for each topology. Each cell takes
minutes and is written as it is done; cells that are there are not done again. Stages whose steps are the same
program (only constants of the optimizer and data differ) are compiled once. `--analyze` stops before code is
generated: much faster, and a later run without it puts whole compilations in their place. At the end the file
is printed as a table.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
from typing import Any

from ola_jax.aot import compile as compiling
from ola_jax.aot.report import Report
from ola_jax.errors import OlaError, run
from ola_jax.models.remat import POLICIES
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.load_config import load_config

CONFIG = "configs/ola_7b.py"


def main() -> None:
    """Fill in what is missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--stages", nargs="*", help="default: all")
    parser.add_argument("--topologies", nargs="*", help="default: all that the config has settings for")
    parser.add_argument("--remat", choices=POLICIES, help="instead of the config's")
    parser.add_argument("--analyze", action="store_true", help="generate no code")
    args = parser.parse_args()
    ola_7b = load_config([f"--config={CONFIG}"])
    stages = {stage.name: stage for stage in ola_7b.config.stages}
    topologies = args.topologies or list(ola_7b.module.TOPOLOGIES)
    configs = {topology: load(topology, args.remat) for topology in topologies}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cells = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    programs = {  # of cells that are done, by what decides their program
        (c["topology"], c["remat"], program(stages[c["stage"]])): c
        for c in cells
        if "same_as" not in c and (args.analyze or c["has_code"] or "error" in c)
    }
    for number, stage in enumerate(stages.values()):
        for topology, config in configs.items():
            if args.stages and stage.name not in args.stages:
                continue
            key = topology, config.model.remat, program(stage)
            if key not in programs:
                programs[key] = measure(config, config.stages[number], topology, args.analyze)
            cell = programs[key] | {"stage": stage.name}
            if cell["stage"] != programs[key]["stage"]:
                cell["same_as"] = programs[key]["stage"]
            if cell not in cells:
                cells.append(cell)
                with args.out.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
    print(table(cells, list(stages), list(ola_7b.module.TOPOLOGIES)))


def load(topology: str, remat: str | None) -> TrainConfig:
    """The config for a topology."""
    override = [f"--config.model.remat={remat}"] if remat else []
    return load_config([f"--config={CONFIG}::{topology}", *override]).config


def program(stage: Stage) -> str:
    """All of a stage that decides its program, but for what its topology sets."""
    return repr((stage.budget, stage.trainable, stage.lora, stage.microbatches, stage.optimizer.kind))


def measure(config: TrainConfig, stage: Stage, topology: str, analyze: bool) -> dict[str, Any]:
    """A cell."""
    cell = {
        "stage": stage.name,
        "topology": topology,
        "rows": stage.rows,
        "remat": config.model.remat,
        "has_code": not analyze,
        "libtpu": importlib.metadata.version("libtpu"),
        "date": datetime.date.today().isoformat(),
    }
    try:
        compile_stage = compiling.analyze_stage if analyze else compiling.compile_stage
        report = compile_stage(config, stage, topology)
        print(report, flush=True)
        return cell | summary(report)
    except OlaError as error:
        print(error, flush=True)
        return cell | {"error": str(error)}


def summary(report: Report) -> dict[str, Any]:
    """The numbers of a row of the table."""
    return {
        "arguments": report.arguments,
        "temporaries": report.temporaries,
        "limit": report.limit,
        "tflops": sum(report.flops.values()) / 1e12,
        "flop_seconds": report.flop_seconds,
        "memory_seconds": report.memory_seconds,
        "link_seconds": report.link_seconds,
        "mfu": report.mfu,
        "collectives": sum(c.count for c in report.collectives),
        "asynchronous": sum(c.asynchronous for c in report.collectives),
        "moved": sum(c.bytes for c in report.collectives),
        "moved_asynchronously": sum(c.bytes * c.asynchronous / c.count for c in report.collectives),
        "seconds": round(report.seconds),
        "mesh": {axis: size for axis, size in report.mesh.items() if size > 1},
    }


def table(cells: list[dict[str, Any]], stages: list[str], topologies: list[str]) -> str:
    """As Markdown; of two cells of a stage, topology and policy the one with code."""
    lines = [
        "| stage | topology | mesh | rows | remat | GB: state + batch, temporaries, device | TFLOPs "
        "| ms: FLOPs, memory, links | MFU at most | collectives: asynchronous; of bytes | compiled in |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    chosen = {(c["stage"], c["topology"], c["remat"]): c for c in sorted(cells, key=lambda c: c["has_code"])}
    order = lambda key: (stages.index(key[0]), topologies.index(key[1]), POLICIES.index(key[2]))
    for c in (chosen[key] for key in sorted(chosen, key=order)):
        head = f"| {c['stage']} | {c['topology']} "
        if "error" in c:
            lines.append(
                f"{head}| | {c['rows']} | {c['remat']} | {c['error'].split(': ', 1)[-1][:80]} ||||||"
            )
            continue
        mesh = " ".join(f"{axis}={size}" for axis, size in c["mesh"].items())
        gb = [f"{c[name] / 1e9:.1f}" for name in ("arguments", "temporaries", "limit")]
        ms = [f"{c[name] * 1e3:.0f}" for name in ("flop_seconds", "memory_seconds", "link_seconds")]
        how = f"{c['seconds']} s" if c["has_code"] else "no code"
        how = f"as {c['same_as']}" if "same_as" in c else how
        lines.append(
            f"{head}| {mesh} | {c['rows']} | {c['remat']} | {gb[0]} + {gb[1]} of {gb[2]} | {c['tflops']:.0f} "
            f"| {', '.join(ms)} | {100 * c['mfu']:.0f} % | {c['asynchronous']} of {c['collectives']}; "
            f"{100 * c['moved_asynchronously'] / c['moved']:.0f} % | {how} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
