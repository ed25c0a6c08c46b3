"""A model that is asked questions: from a checkpoint directory to answers, in one object."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

from ola_jax.checkpoint import load, load_configs
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.generate.answer import POSITIONS, answer
from ola_jax.generate.conversation import Question, check, conversation_record
from ola_jax.generate.sampling import SamplingConfig, from_generation_config
from ola_jax.models.ola import Ola
from ola_jax.typing import Params

Path = str | os.PathLike[str]
NEW_TOKENS = 1024  # of an answer, if nothing else is said


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer; `str(reply)` is its text."""

    text: str
    ids: tuple[int, ...]  # the stop id included
    prompt_ids: tuple[int, ...]  # -300 stands for an image or video, -200 for audio
    tokens: dict[str, int]  # of the prompt, by modality: text, image, video, audio
    prefill_seconds: float  # compilation included, as below
    decode_seconds: float

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, eq=False)
class Assistant:
    """Answers questions about images, a video, audio, or in plain text.

        assistant = Assistant.from_pretrained("runs/golden")
        print(assistant.ask("What is this?", images=["cat.png"]))

    The parameters are read for the first answer and stay in memory; what is compiled for one answer serves
    all others of the same shapes (prompts are padded to multiples of 64 tokens).
    """

    model: Ola
    load_params: Callable[[], Params]
    processor: Processor
    sampling: SamplingConfig  # what `ask` takes for options that it is not given

    @classmethod
    def from_pretrained(
        cls, directory: Path, dtype: Literal["float32", "bfloat16"] | None = None
    ) -> "Assistant":
        """The model of an ola_jax checkpoint; its matrix products are of `dtype`, or as the model says.

        Media are decoded in a process of its own, which is ended where it takes too long.
        """
        directory = pathlib.Path(directory)
        config, _, generation = load_configs(directory)
        if dtype not in (None, "float32", "bfloat16"):
            raise OlaError(f"dtype is {dtype!r}; expected 'float32', 'bfloat16' or None")
        processor = Processor.from_pretrained(directory, preset="infer")
        sampling = from_generation_config(
            generation, processor.tokenizer.get_vocab_size(), str(directory / "generation_config.json")
        )
        return cls(
            Ola(dataclasses.replace(config, dtype=dtype) if dtype else config),
            lambda: load(directory)[1],
            dataclasses.replace(
                processor, decode=IsolatedDecoder(processor.processor_config.media.decode_seconds)
            ),
            sampling,
        )

    @functools.cached_property
    def params(self) -> Params:
        """The parameters, read once."""
        return self.load_params()

    def chat(self) -> "Chat":
        """A conversation of several questions."""
        return Chat(self)

    def ask(
        self,
        text: str = "",
        images: Path | Sequence[Path] = (),
        video: Path | None = None,
        audio: Path | None = None,
        sound: bool = True,
        *,
        stream: Callable[[str], object] | None = None,
        max_new_tokens: int = NEW_TOKENS,
        temperature: float | int | None = None,
        top_p: float | int | None = None,
        top_k: int | None = None,
        repetition_penalty: float | int | None = None,
        seed: int = 0,
    ) -> Reply:
        """The answer to one question.

        Audio beside images is a spoken question about them; audio beside a video takes the place of the
        video's own sound track, which is heard unless `sound` is False. `stream` is called with each piece
        of the text as it comes; the pieces together are the text, but for space around it. Options of
        sampling left out are the checkpoint's (temperature 0 is greedy). Raises OlaError for a question that
        cannot be asked.
        """
        return self.chat().ask(
            text,
            images,
            video,
            audio,
            sound,
            stream=stream,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )


class Chat:
    """A conversation: every question is asked after those before it, with their media and answers.

    All media are in one record: any number of images or one video, and one sound. A question that cannot be
    asked raises OlaError and leaves the conversation as it was. The model reads all of it for each answer.
    """

    def __init__(self, assistant: Assistant):
        self._assistant = assistant
        self.turns: tuple[tuple[Question, Reply], ...] = ()

    def ask(
        self,
        text: str = "",
        images: Path | Sequence[Path] = (),
        video: Path | None = None,
        audio: Path | None = None,
        sound: bool = True,
        *,
        stream: Callable[[str], object] | None = None,
        max_new_tokens: int = NEW_TOKENS,
        temperature: float | int | None = None,
        top_p: float | int | None = None,
        top_k: int | None = None,
        repetition_penalty: float | int | None = None,
        seed: int = 0,
    ) -> Reply:
        """The answer to the next question; parameters are those of `Assistant.ask`."""
        images = (images,) if isinstance(images, str | os.PathLike) else images
        path = lambda of: None if of is None else os.fspath(of)
        question = Question(text, tuple(map(os.fspath, images)), path(video), path(audio), sound)
        check(question, max_new_tokens, seed)
        given = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "repetition_penalty": repetition_penalty,
        }
        given = {
            name: value if name == "top_k" else float(value)
            for name, value in given.items()
            if value is not None
        }
        sampling = dataclasses.replace(self._assistant.sampling, **given)
        reply = self._answer(question, sampling, max_new_tokens, seed, stream)
        self.turns = (*self.turns, (question, reply))
        return reply

    def _answer(
        self,
        question: Question,
        sampling: SamplingConfig,
        max_new_tokens: int,
        seed: int,
        stream: Callable[[str], object] | None,
    ) -> Reply:
        assistant, processor = self._assistant, self._assistant.processor
        questions = [*(asked for asked, _ in self.turns), question]
        record = conversation_record(questions, [reply.text for _, reply in self.turns])
        sample = processor.sample(record)
        out = answer(
            assistant.model,
            assistant.params,
            processor.batch([sample]),
            processor.tokenizer,
            sampling,
            max_new_tokens,
            seed,
            stream,
            max(POSITIONS, processor.processor_config.max_length),
        )
        return Reply(
            out.texts[0],
            tuple(out.ids[0]),
            tuple(sample.prompt_ids.tolist()),
            sample.counts,
            out.prefill_seconds,
            out.decode_seconds,
        )
