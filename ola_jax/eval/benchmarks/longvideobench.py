"""LongVideoBench, validation."""

import pathlib

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import PAPER, Benchmark, Reference, Source
from ola_jax.eval.benchmarks.common import LETTER_DIRECTLY, lettered
from ola_jax.eval.counting import accuracy
from ola_jax.eval.items import LETTERS, Item, Prompt, after_media
from ola_jax.eval.judging import match_option
from ola_jax.eval.published import find, read_json
from ola_jax.eval.rules.letters import LONG_VIDEO_PREFIXES, VIDEO_PREFIXES, first_letter
from ola_jax.eval.rules.reading import Reading, of_letter


def read(folder: pathlib.Path) -> Source:
    """Reads lvb_val.json; videos are videos/NAME."""
    files = find(folder, "lvb_val.json")
    columns = ["video_id", "video_path", "question", "candidates", "correct_choice", "duration_group"]
    items = []
    for number, row in enumerate(read_json(files[0], columns)):
        choice, options = row["correct_choice"], tuple(map(str, row["candidates"]))
        if not isinstance(choice, int) or not 0 <= choice < len(options):
            raise OlaError(f"{files[0]}: question {number}: correct_choice {choice!r} of {len(options)}")
        items.append(
            Item(
                str(row.get("id", number)),
                row["question"],
                (LETTERS[choice],),
                options,
                video=files[0].parent / "videos" / row["video_path"],
                category=str(row["duration_group"]),
                groups={"video": row["video_id"], "kind": row.get("question_category", "")},
            )
        )
    return Source(items, files)


def _lmms(item: Item) -> Prompt:
    return after_media(f"{item.question}\n{lettered(item)}\n{LETTER_DIRECTLY}\n")


def _vlmevalkit(item: Item) -> Prompt:
    return after_media(f"{item.question}\n{lettered(item)}\n{LETTER_DIRECTLY}")


def _lmms_rule(item: Item, answer: str) -> Reading:
    return of_letter(item, first_letter(answer, LONG_VIDEO_PREFIXES, "ABCDE"))


def _vlmevalkit_rule(item: Item, answer: str) -> Reading:
    return of_letter(item, first_letter(answer, VIDEO_PREFIXES, "ABCDE"))


LONGVIDEOBENCH = Benchmark(
    name="longvideobench_val",
    title="LongVideoBench, validation",
    modality="video",
    expects="lvb_val.json, videos/",
    read=read,
    wordings={"lmms_eval": _lmms, "vlmevalkit": _vlmevalkit},
    rules={"lmms_eval": _lmms_rule, "vlmevalkit": _vlmevalkit_rule},
    measures=accuracy("video", "kind"),
    max_new_tokens=256,
    references=(Reference(PAPER, 61.4),),
    judge=match_option,
    judged="unreadable",
    note="without subtitles between the frames, as lmms-eval's longvideobench_val_v",
)
