"""Imports and exports a full-size Ola-7b: peak memory, time, and equality of every bit.

`python benchmarks/convert_7b.py --workdir DIR` makes a checkpoint of random bits with every key and
shape of the released one (bfloat16 in shards of 5 GB, Whisper in float16 and BEATs in float32 in
files of their own), makes a plain copy for
comparison, imports it, exports it, compares every tensor's checksum, and deletes all of it. Needs
about 46 GB of disk.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ola_jax.convert import pickles  # noqa: E402  after the path
from ola_jax.convert.disk_space import check_space  # noqa: E402
from ola_jax.convert.safetensors_reader import read_safetensors  # noqa: E402
from ola_jax.convert.safetensors_writer import ShardWriter, TensorSpec  # noqa: E402
from ola_jax.errors import run  # noqa: E402

HF = ROOT / "tests" / "goldens" / "visible" / "hf"  # a tokenizer, and the fields of config.json
MANIFEST = ROOT / "tests" / "goldens" / "ola_7b_manifest.json"
SHARED = "relative_attention_bias"  # one tensor in all layers of BEATs
Shapes = dict[str, list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where to create a new directory")
    parser.add_argument("--manifest", type=pathlib.Path, default=MANIFEST, help="keys, shapes and sizes")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    options = parser.parse_args()
    folder = options.workdir / "ola_convert_7b"
    folder.mkdir(parents=True)
    try:
        figures = measure(folder, json.loads(options.manifest.read_text()))
    finally:
        shutil.rmtree(folder)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if figures["different"]:
        sys.exit(1)


def measure(folder: pathlib.Path, manifest: dict) -> dict:
    """The figures of one round."""
    source, ours, exported, plain = (folder / name for name in ("hf", "jax", "exported", "plain"))
    size = make(source, manifest)
    print(f"made {size / 1e9:.1f} GB; checksums", file=sys.stderr)
    expected = digests(source)
    figures: dict = {"bytes": size, "tensors": len(expected), "machine": machine()}
    begin = time.perf_counter()
    shutil.copytree(source, plain)
    for file in plain.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    figures["copy"] = {"seconds": time.perf_counter() - begin}
    shutil.rmtree(plain)

    whisper, beats = source / "whisper.pt", source / "beats.pt"
    speech = ["--whisper", whisper, "--beats", beats]
    figures["import"] = timed("import", "--from", source, "--to", ours, *speech)
    for file in source.glob("*.safetensors"):  # make room; their checksums are known
        file.unlink()
    separate = ["--speech-encoder", "separate", "--whisper", whisper]
    figures["export"] = timed("export", "--from", ours, "--to", exported, *separate)
    found = digests(exported)
    keys = expected.keys() | found.keys()
    figures["different"] = sorted(key for key in keys if expected.get(key) != found.get(key))
    return figures


def make(directory: pathlib.Path, manifest: dict) -> int:
    """A random checkpoint; returns its bytes."""
    shapes: Shapes = manifest["llm_vision_projectors"]
    encoders = (manifest["whisper_pt_model_state_dict"], manifest["beats_pt_model"])
    count = lambda shapes, width: width * sum(int(np.prod(shape)) for shape in shapes.values())
    size = count(shapes, 2) + count(encoders[0], 2) + count(encoders[1], 4)
    check_space(directory, int(2.3 * size))
    directory.mkdir()
    for file in HF.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, directory / file.name)
    values = json.loads((HF / "config.json").read_text()) | manifest["config"]
    (directory / "config.json").write_text(json.dumps(values))
    bits = RandomBits()
    specs = {key: TensorSpec(tuple(shape), "bfloat16") for key, shape in shapes.items()}
    writer = ShardWriter(directory, specs, "5GB")
    for key, shape in shapes.items():
        writer.write(key, bits.array(shape, "bfloat16"))
    writer.close()
    whisper = {key: bits.array(shape, "float16") for key, shape in encoders[0].items()}
    dims = {"dims": manifest["whisper_dims"]}
    pickles.save(directory / "whisper.pt", whisper, section="model_state_dict", beside=dims)
    del whisper
    beats = {key: bits.array(shape, "float32") for key, shape in encoders[1].items()}
    one = next(values for key, values in beats.items() if SHARED in key)
    beats |= {key: one for key in beats if SHARED in key}
    cfg = {"cfg": manifest["beats_cfg"]}
    pickles.save(directory / "beats.pt", beats, section="model", beside=cfg)
    return size


class RandomBits:
    """Arrays of random bits, cut from one pool at different offsets: fast, and no two are equal."""

    def __init__(self) -> None:
        self._pool = np.random.default_rng(0).integers(0, 2**16, 2**27, dtype=np.uint16)
        self._number = 0

    def array(self, shape: list[int], dtype: str) -> np.ndarray:
        self._number += 1
        words = int(np.prod(shape)) * np.dtype(dtype).itemsize // 2
        pool = self._pool[(self._number * 1_000_003) % (len(self._pool) // 2) :]
        bits = pool[:words] if words <= len(pool) else np.resize(pool, words)
        return bits.view(dtype).reshape(shape)


def digests(directory: pathlib.Path) -> dict[str, str]:
    """A checksum of dtype, shape and bits of every tensor, those in .pt files included."""
    tensors = read_safetensors(directory)
    for name, section in (("whisper.pt", "model_state_dict"), ("beats.pt", "model")):
        state = pickles.load(directory / name)[section]
        tensors |= pickles.read_state(directory / name, state, released=f"{name}:")
    found = {}
    for key, tensor in tensors.items():
        values = np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8)
        found[key] = f"{tensor.dtype}{list(tensor.shape)} {hashlib.blake2b(values).hexdigest()}"
    return found


def timed(*arguments: object) -> dict[str, float]:
    """Seconds and peak resident memory of convert_weights.py, in a process of its own."""
    command = [sys.executable, ROOT / "convert_weights.py", *arguments]
    begin = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments[0]} failed")
    scale = 1 if sys.platform == "darwin" else 1024
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "rss": usage.ru_maxrss * scale,
    }


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {memory:.0f} GiB, Python {platform.python_version()}"
    )


def table(figures: dict) -> str:
    """The figures in Markdown."""
    size, copy = figures["bytes"], figures["copy"]["seconds"]
    lines = [
        f"{size / 1e9:.1f} GB in {figures['tensors']} tensors; {figures['machine']}; "
        f"{len(figures['different'])} tensors differ after import and export.",
        "",
        "| | seconds | GB/s | against a plain copy | peak memory, GB |",
        "|---|---|---|---|---|",
        f"| plain copy, synced | {copy:.0f} | {size / copy / 1e9:.2f} | 1 | |",
    ]
    for name in ("import", "export"):
        one = figures[name]
        lines.append(
            f"| {name} | {one['seconds']:.0f} | {size / one['seconds'] / 1e9:.2f} | "
            f"{one['seconds'] / copy:.2f} x | {one['rss'] / 1e9:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
