"""A benchmark as data: how its files are read, how it is asked, how answers are read and counted."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ola_jax.errors import OlaError
from ola_jax.eval.items import Item, PromptName, Wording
from ola_jax.eval.measures import Measure
from ola_jax.eval.rules.reading import Reading, Rule

Ask = Callable[[str], str]  # a judge: from its prompt to its answer
JudgeRule = Callable[[Item, str, Ask], Reading]
Modality = Literal["image", "video", "audio", "omni", "any"]


@dataclasses.dataclass(frozen=True, eq=False)
class Graded:
    """An answered question, and what was found in the answer."""

    item: Item
    answer: str
    reading: Reading
    judged: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """The questions of a benchmark, and the files that they come from."""

    items: list[Item]
    files: list[pathlib.Path]


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published figure of Ola-7b, to stand beside the user's."""

    who: str
    value: float


PAPER = "paper (arXiv 2502.04328)"
AUTHOR = "author's run with VLMEvalKit (Ola#14)"


@dataclasses.dataclass(frozen=True)
class Quirks:
    """Settings in which the paper's runs differ from the released inference code."""

    high_view_only: bool = False  # the low-resolution view and the separator are left out
    enlarge_small_images: bool = False  # images with a side below 32 pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """A benchmark. The first measure is its score; the wordings' first is the default."""

    name: str
    title: str
    modality: Modality
    expects: str  # what the folder of its data holds
    read: Callable[[pathlib.Path], Source]
    wordings: Mapping[PromptName, Wording]
    rules: Mapping[PromptName, Rule]
    measures: Callable[[Sequence[Graded]], list[Measure]]
    max_new_tokens: int
    references: tuple[Reference, ...] = ()
    known_md5: Mapping[str, str] = dataclasses.field(default_factory=dict)
    judge: JudgeRule | None = None
    # "always": no score without a judge; "unreadable": it reads what the rule cannot; None: no judge is used
    judged: Literal["always", "unreadable", None] = None
    paper_quirks: Quirks = dataclasses.field(default_factory=Quirks)
    note: str = ""
    # "likelihood": the right answers are not asked for, but how likely the model finds them is computed
    kind: Literal["answers", "likelihood"] = "answers"

    def prompt_name(self, name: PromptName | None) -> PromptName:
        """The name of a wording; None is the default. Raises OlaError for one that it does not have."""
        found: PromptName = next(iter(self.wordings)) if name is None else name
        if found not in self.wordings:
            raise OlaError(f"task {self.name}: no prompt {found!r}; it has {', '.join(self.wordings)}")
        return found
