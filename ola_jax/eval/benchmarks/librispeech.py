"""LibriSpeech: word error rate, and character error rate of Chinese transcripts in its layout."""

import functools
import pathlib

from ola_jax.errors import OlaError, first_line
from ola_jax.eval.benchmark import PAPER, Benchmark, Reference, Source
from ola_jax.eval.counting import error_rate
from ola_jax.eval.items import Item, Prompt, after_media
from ola_jax.eval.published import find, read_parquet
from ola_jax.eval.rules.reading import Reading
from ola_jax.eval.wer import Language, transcript_errors


def read(folder: pathlib.Path) -> Source:
    """Reads SPEAKER/CHAPTER/*.trans.txt beside the .flac files, or parquet files with audio, gt and task."""
    files = find(folder, "**/*.trans.txt", "**/*.parquet")
    if files[0].suffix == ".parquet":
        items = [
            Item(
                str(row.get("id") or number),
                "",
                (row["gt"],),
                audio=(row["audio"],),
                category=row.get("source") or "",
            )
            for number, row in enumerate(read_parquet(files, ["gt", "task"], ["audio"]))
        ]
        return Source(items, files)
    items = []
    for file in files:
        if not file.name.endswith(".trans.txt"):
            raise OlaError(f"{file}: expected transcripts, SPEAKER-CHAPTER.trans.txt")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OlaError(f"{file}: cannot be read ({first_line(error)})") from error
        for line in filter(str.strip, lines):
            name, _, text = line.partition(" ")
            items.append(
                Item(
                    name,
                    "",
                    (text,),
                    audio=(file.parent / f"{name}.flac",),
                    category=next((p.name for p in file.parents if p.name.startswith(("test-", "dev-"))), ""),
                    groups={"speaker": name.split("-")[0]},
                )
            )
    return Source(items, files)


def _wording(item: Item) -> Prompt:
    """lmms-eval, tasks/librispeech."""
    return after_media("Please recognize the speech and only output the recognized content:")


def _rule(item: Item, answer: str, language: Language) -> Reading:
    errors = transcript_errors(item.answers[0], answer, language)
    return Reading(float(errors.errors == 0), f"{errors.errors}/{errors.length}")


LIBRISPEECH = Benchmark(
    name="librispeech",
    title="LibriSpeech, word error rate",
    modality="audio",
    expects="SPEAKER/CHAPTER/*.flac with *.trans.txt, or the parquet files of lmms-lab/librispeech",
    read=read,
    wordings={"lmms_eval": _wording},
    rules={"lmms_eval": functools.partial(_rule, language="en")},
    measures=error_rate("WER"),
    max_new_tokens=256,
    references=(
        Reference(f"{PAPER}, test-clean and test-other", 3.1),
        Reference(f"{PAPER}, test-clean", 1.9),
    ),
)
ASR_CHINESE = Benchmark(
    name="asr_zh",
    title="Chinese speech, character error rate",
    modality="audio",
    expects="*.trans.txt beside .flac files, as LibriSpeech, or parquet files with audio, gt and task",
    read=read,
    wordings={"lmms_eval": _wording},
    rules={"lmms_eval": functools.partial(_rule, language="zh")},
    measures=error_rate("CER", "zh"),
    max_new_tokens=256,
    note="numbers and traditional characters are not folded",
)
