"""All benchmarks, by name."""

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import Benchmark
from ola_jax.eval.benchmarks.air_bench import AIR_BENCH_CHAT, AIR_BENCH_FOUNDATION
from ola_jax.eval.benchmarks.audio_visual import AV_ODYSSEY, DAILY_OMNI, MMAU, OMNI_BENCH, WORLDSENSE
from ola_jax.eval.benchmarks.image_answers import HALLUSION_BENCH, MMVET, OCRBENCH
from ola_jax.eval.benchmarks.image_choices import AI2D, MMSTAR
from ola_jax.eval.benchmarks.librispeech import ASR_CHINESE, LIBRISPEECH
from ola_jax.eval.benchmarks.longvideobench import LONGVIDEOBENCH
from ola_jax.eval.benchmarks.mathvista import MATHVISTA
from ola_jax.eval.benchmarks.mmbench import MMBENCH
from ola_jax.eval.benchmarks.mmmu import MMMU
from ola_jax.eval.benchmarks.mvbench import MVBENCH
from ola_jax.eval.benchmarks.records import PERPLEXITY, RECORDS
from ola_jax.eval.benchmarks.videomme import VIDEOMME, VIDEOMME_SUBTITLES

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *(MMBENCH, MMSTAR, MMMU, MATHVISTA, HALLUSION_BENCH, AI2D, OCRBENCH, MMVET),
        *(VIDEOMME, VIDEOMME_SUBTITLES, LONGVIDEOBENCH, MVBENCH),
        *(LIBRISPEECH, ASR_CHINESE, AIR_BENCH_CHAT, AIR_BENCH_FOUNDATION, MMAU),
        *(OMNI_BENCH, WORLDSENSE, DAILY_OMNI, AV_ODYSSEY),
        *(RECORDS, PERPLEXITY),
    )
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises OlaError for one that is not there."""
    if name not in BENCHMARKS:
        raise OlaError(f"no task {name!r}; expected one of {', '.join(BENCHMARKS)}: see `ola eval list`")
    return BENCHMARKS[name]
