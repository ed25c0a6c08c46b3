"""AIR-Bench: chat, graded by a judge, and foundation, multiple choice."""

import pathlib
from collections.abc import Sequence

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import PAPER, Benchmark, Graded, Reference, Source
from ola_jax.eval.benchmarks.common import LETTER_DIRECTLY, letter_of, letter_rule
from ola_jax.eval.counting import accuracy, split, units
from ola_jax.eval.items import Item, Prompt, after_media
from ola_jax.eval.judging import grade_air_bench
from ola_jax.eval.measures import Measure
from ola_jax.eval.published import find, read_json
from ola_jax.eval.rules.letters import audio_letter
from ola_jax.eval.rules.reading import UNREADABLE

SPLITS = {  # of the tasks of the chat part
    "speech_QA": "speech",
    "speech_dialogue_QA": "speech",
    "sound_QA": "sound",
    "sound_generation_QA": "sound",
    "music_QA": "music",
    "music_generation_analysis_QA": "music",
    "speech_and_sound_QA": "speech_and_sound",
    "speech_and_music_QA": "speech_and_music",
}
MIXED = ("speech_and_sound", "speech_and_music")
CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


def read_chat(folder: pathlib.Path) -> Source:
    """Reads Chat_meta.json; audio is TASK_DATASET/PATH beside it."""
    files = find(folder, "Chat_meta.json", "Chat/Chat_meta.json")
    columns = ["path", "question", "answer_gt", "meta_info", "task_name", "dataset_name", "uniq_id"]
    items = [
        Item(
            str(row["uniq_id"]),
            row["question"],
            (row["answer_gt"],),
            audio=(_audio(files[0], row),),
            category=SPLITS.get(row["task_name"], row["task_name"]),
            groups={"audio": f"{row['dataset_name']}/{row['path']}"},
            fields={"description": row["meta_info"]},
        )
        for row in read_json(files[0], columns)
    ]
    return Source(items, files)


def read_foundation(folder: pathlib.Path) -> Source:
    """Reads Foundation_meta.json; audio is TASK_DATASET/PATH beside it, FLAC for Audio_Grounding."""
    files = find(folder, "Foundation_meta.json", "Foundation/Foundation_meta.json")
    columns = [
        "path",
        "question",
        "choice_a",
        "choice_b",
        "answer_gt",
        "task_name",
        "dataset_name",
        "uniq_id",
    ]
    items = []
    for row in read_json(files[0], columns):
        options = [row.get(name) for name in CHOICES]
        filled = [str(option) for option in options if option not in (None, "")]
        if [str(o) for o in options[: len(filled)]] != filled:
            raise OlaError(f"{files[0]}: question {row['uniq_id']}: a choice is missing between others")
        items.append(
            Item(
                str(row["uniq_id"]),
                row["question"],
                (letter_of(str(row["answer_gt"]), filled, f"{files[0]}: question {row['uniq_id']}"),),
                tuple(filled),
                audio=(_audio(files[0], row),),
                category=row["task_name"],
                groups={"audio": f"{row['dataset_name']}/{row['path']}"},
                fields={"choices": tuple(options)},
            )
        )
    return Source(items, files)


def _audio(file: pathlib.Path, row: dict) -> pathlib.Path:
    path = row["path"]
    if row["task_name"] == "Audio_Grounding":
        path = f"{path[:-3]}flac"
    return file.parent / f"{row['task_name']}_{row['dataset_name']}" / path


def _four_lines(item: Item) -> str:
    """All four choices; those that are missing are "None", as both published wordings have them."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", item.fields["choices"], strict=True))


def _chat_lmms(item: Item) -> Prompt:
    return after_media(f"{item.question}Give a detail answer to the question in English.")


def _foundation_lmms(item: Item) -> Prompt:
    return after_media(f"{item.question}\n{_four_lines(item)}\n\n{LETTER_DIRECTLY}")


def _chat_measures(graded: Sequence[Graded]) -> list[Measure]:
    """The mean of all, of each kind, and of the mixed kinds; in points from 1 to 10."""
    parts = split(graded, lambda each: each.item.category)
    found = [Measure("mean score (1 to 10)", (units(graded, "audio"),), scale=10.0)]
    found += [Measure(name, (units(part, "audio"),), scale=10.0) for name, part in parts.items()]
    mixed = tuple(units(parts[name], "audio") for name in MIXED if name in parts)
    return [*found, Measure("mixed audio", mixed, scale=10.0)] if len(mixed) == len(MIXED) else found


AIR_BENCH_CHAT = Benchmark(
    name="air_bench_chat",
    title="AIR-Bench, chat",
    modality="audio",
    expects="Chat_meta.json, TASK_DATASET/*.wav",
    read=read_chat,
    wordings={"lmms_eval": _chat_lmms, "ola": lambda item: after_media(item.question)},
    rules={"lmms_eval": lambda item, answer: UNREADABLE, "ola": lambda item, answer: UNREADABLE},
    measures=_chat_measures,
    max_new_tokens=1024,
    references=(Reference(f"{PAPER}, judge gpt-4-0125-preview", 6.41),),
    judge=grade_air_bench,
    judged="always",
    note="the judge rates answer and reference from 1 to 10, twice, with their places swapped; the prompt "
    "'ola' is the question alone, as AIR-Bench's own script asks it",
)
AIR_BENCH_FOUNDATION = Benchmark(
    name="air_bench_foundation",
    title="AIR-Bench, foundation",
    modality="audio",
    expects="Foundation_meta.json, TASK_DATASET/*.wav",
    read=read_foundation,
    wordings={"lmms_eval": _foundation_lmms},
    rules={"lmms_eval": letter_rule(audio_letter)},
    measures=accuracy("audio"),
    max_new_tokens=256,
)
