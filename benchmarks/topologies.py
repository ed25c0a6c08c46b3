"""The table of docs/training.md: every stage of configs/ola_7b.py compiled for TPU topologies.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/topologies.py --out runs/topologies.jsonl

Needs libtpu, no TPU. Each cell takes minutes and is written as it is done; cells that are there are not
done again. At the end the file is printed as a table.
"""

import argparse
import dataclasses
import json
import pathlib
import time

from ola_jax.errors import OlaError, run
from ola_jax.sharding import MeshConfig
from ola_jax.training import compile_only
from ola_jax.training.load_config import load_config

# Of each: the mesh, and rows of a batch: a multiple of data * fsdp. Weights are split 32 ways at most: over 64
# the shares of Qwen2.5's are no whole tiles, and XLA takes all-reduces for all-gathers. A v5e has 16 GB: half a
# row each.
CASES = {
    "v5e:16x16": (MeshConfig(data=8, fsdp=16, context=2), 128),
    "v5p:4x4x4": (MeshConfig(data=2, fsdp=32), 64),
    "v6e:16x16": (MeshConfig(data=8, fsdp=32), 256),
    "tpu7x:2x2x1": (MeshConfig(fsdp=8), 8),
}


def main() -> None:
    """Fill in what is missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--stages", nargs="*", help="default: all")
    parser.add_argument("--topologies", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--remat", default="full", choices=["none", "dots", "full"])
    args = parser.parse_args()
    config = load_config(["--config=configs/ola_7b.py", f"--config.model.remat={args.remat}"]).config
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cells = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(cell["stage"], cell["topology"]) for cell in cells}
    for stage in config.stages:
        for topology in args.topologies:
            if (stage.name, topology) in done or (args.stages and stage.name not in args.stages):
                continue
            mesh, rows = CASES[topology]
            begin = time.perf_counter()
            try:
                report = compile_only.compile_stage(
                    dataclasses.replace(config, mesh=mesh), dataclasses.replace(stage, rows=rows), topology
                )
                cell = summary(report)
                print(report, flush=True)
            except OlaError as error:
                cell = {"error": str(error)}
                print(error, flush=True)
            cell |= {"stage": stage.name, "topology": topology, "rows": rows, "remat": args.remat}
            cell["seconds"] = round(time.perf_counter() - begin)
            cells.append(cell)
            with args.out.open("a") as file:
                file.write(json.dumps(cell) + "\n")
    print(table(cells))


def summary(report: compile_only.Report) -> dict[str, float]:
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
    }


def table(cells: list[dict]) -> str:
    """As Markdown."""
    lines = [
        "| stage | topology | rows | GB: state + batch, temporaries, device | TFLOPs "
        "| ms: FLOPs, memory, links | MFU at most | collectives (asynchronous) | compiled in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        head = f"| {c['stage']} | {c['topology']} | {c['rows']} "
        if "error" in c:
            lines.append(f"{head}| does not fit: {c['error'].split(': ', 1)[-1][:80]} ||||||")
            continue
        gb = [f"{c[name] / 1e9:.1f}" for name in ("arguments", "temporaries", "limit")]
        ms = [f"{c[name] * 1e3:.0f}" for name in ("flop_seconds", "memory_seconds", "link_seconds")]
        lines.append(
            f"{head}| {gb[0]} + {gb[1]} of {gb[2]} | {c['tflops']:.0f} | {', '.join(ms)} "
            f"| {100 * c['mfu']:.0f} % | {c['collectives']} ({c['asynchronous']}) | {c['seconds']} s |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
