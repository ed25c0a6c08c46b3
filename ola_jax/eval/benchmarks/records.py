"""Questions in Ola's own record format, answered exactly: the tasks of a data set of one's own."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ola_jax.data.chat import AUDIO, IMAGE
from ola_jax.data.records import read_records
from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import Benchmark, Source
from ola_jax.eval.counting import mean_of_categories
from ola_jax.eval.items import Item, Prompt
from ola_jax.eval.perplexity import perplexity_measures, read_loss
from ola_jax.eval.published import find
from ola_jax.eval.rules.words import is_answer


def read(folder: pathlib.Path) -> Source:
    """Reads a JSON file of records, or every one of a folder, each a category of its own.

    A record is one message of 'human' and one of 'gpt'. Media paths are relative to the folder of the file,
    or to the one above it if the media are there.
    """
    files = find(folder, "*.json")
    items = []
    for file in files:
        if file.name == "media.json" and len(files) > 1:  # the demo's facts about its media
            continue
        for number, record in enumerate(read_records(file)):
            items.append(_item(record, f"{file.stem}_{record.get('id', number)}", file))
    if not items:
        raise OlaError(f"{folder}: no records; expected questions with their answers")
    return Source(items, files)


def _item(record: Mapping[str, Any], name: str, file: pathlib.Path) -> Item:
    turns = record.get("conversations")
    turns = turns if isinstance(turns, list) else []
    if [turn.get("from") for turn in turns if isinstance(turn, dict)] != ["human", "gpt"] or len(turns) != 2:
        raise OlaError(f"{file}: record {name}: expected one message from 'human' and one from 'gpt'")
    answer = turns[1].get("value")
    if not isinstance(answer, str) or not answer.strip():
        raise OlaError(f"{file}: record {name}: expected the answer as text, found {str(answer)[:60]!r}")
    question = {**record, "id": name, "conversations": [turns[0]]}
    media = next((str(record[k]) for k in ("image", "video", "audio", "audio_q") if record.get(k)), name)
    return Item(
        name,
        str(turns[0].get("value", "")).replace(IMAGE, "").replace(AUDIO, "").strip(),
        (answer,),
        category=file.stem,
        groups={"media": media},
        fields={"record": question, "roots": (file.parent, file.parent.parent)},
    )


def _wording(item: Item) -> Prompt:
    """The record's own question: it is asked as it stands."""
    return ()


RECORDS = Benchmark(
    name="records",
    title="Questions in Ola's record format, exact match",
    modality="any",
    expects="JSON files of records with one question and its answer each",
    read=read,
    wordings={"ola": _wording},
    rules={"ola": is_answer},
    measures=mean_of_categories("media"),
    max_new_tokens=32,
)
PERPLEXITY = Benchmark(
    name="perplexity",
    title="Perplexity of the right answers to questions in Ola's record format",
    modality="any",
    expects="JSON files of records with one question and its answer each",
    read=read,
    wordings={"ola": _wording},
    rules={"ola": read_loss},
    measures=perplexity_measures,
    max_new_tokens=1,
    kind="likelihood",
)
