"""A model for lmms-eval 0.7: `python -m lmms_eval --model ola_jax --model_args checkpoint=DIR --tasks ...`.

Installed beside lmms-eval, this package is found by its entry point `lmms_eval.models`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages

from ola_jax.errors import OlaError
from ola_jax.eval.adapters.chat_parts import ChatPart, ask_chats, load_engine, to_item, wording
from ola_jax.eval.answers import Answer
from ola_jax.eval.asking import Asking
from ola_jax.eval.benchmark import Quirks
from ola_jax.eval.items import Item
from ola_jax.eval.run import with_quirks

NEW_TOKENS = 256  # of an answer, where a task says nothing


def manifest() -> ModelManifest:
    """The manifest that lmms-eval registers."""
    return ModelManifest(model_id="ola_jax", chat_class_path=f"{__name__}.OlaJax")


class OlaJax(lmms):
    """Ola, answering lmms-eval's requests through the engine."""

    is_simple = False

    def __init__(
        self,
        checkpoint: str,
        slots: int = 8,
        length: int | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        tensor: int = 1,
        sound: bool = True,
        high_view_only: bool = False,
        enlarge_small_images: bool = False,
        batch_size: int | str = 1,
        device: str | None = None,
        **unknown: object,
    ):
        """`batch_size` and `device` are lmms-eval's and not used: the engine has slots, on JAX's device."""
        super().__init__()
        if unknown:
            raise OlaError(f"unknown model argument {next(iter(unknown))!r}")
        if dtype not in (None, "float32", "bfloat16"):
            raise OlaError(f"dtype is {dtype!r}; expected 'float32' or 'bfloat16'")
        self.engine = load_engine(
            checkpoint,
            slots=int(slots),
            length=length,
            dtype=dtype,
            tensor=int(tensor),
        )
        quirks = Quirks(bool(high_view_only), bool(enlarge_small_images))
        self.engine.processor = with_quirks(self.engine.processor, quirks)
        self.sound = bool(sound)

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers to requests of (text, messages, generation arguments, document, task, split)."""
        groups: defaultdict[Asking, list[tuple[int, Item]]] = defaultdict(list)
        for number, request in enumerate(requests):
            _, to_messages, kwargs, doc_id, task, split = request.args
            messages = ChatMessages(messages=to_messages(self.task_dict[task][split][doc_id]))
            item = to_item(f"{task}_{split}_{doc_id}_{number}", _parts(messages))
            groups[self._asking(kwargs)].append((number, item))
        found: dict[int, Answer] = {}
        for asking, members in groups.items():
            answers = ask_chats(self.engine, [item for _, item in members], asking)
            found |= {number: answer for (number, _), answer in zip(members, answers, strict=True)}
        return [_result(found[number]) for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise OlaError("ola_jax answers questions; it gives no likelihoods to lmms-eval")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported."""
        raise OlaError("ola_jax has no several rounds for lmms-eval")

    def _asking(self, kwargs: dict[str, Any]) -> Asking:
        """The settings of a task. As in lmms-eval's models, do_sample=False or temperature 0 is greedy."""
        temperature = float(kwargs.get("temperature") or 0.0)
        if not kwargs.get("do_sample", temperature > 0):
            temperature = 0.0
        until = kwargs.get("until") or ()
        stop = (until,) if isinstance(until, str) else tuple(until)
        return Asking(
            wording,
            int(kwargs.get("max_new_tokens") or NEW_TOKENS),
            sound=self.sound,
            temperature=temperature,
            top_p=kwargs.get("top_p") if temperature else None,
            stop=tuple(text for text in stop if text.strip()),
        )


def _parts(messages: ChatMessages) -> list[ChatPart]:
    parts = []
    for message in messages.messages:
        for content in message.content:
            value = content.text if content.type == "text" else content.url
            kind = content.type
            if (
                kind == "video"
                and isinstance(value, dict)
                and {"array", "bytes", "sampling_rate"} & set(value)
            ):
                kind = "audio"  # lmms-eval takes every dict without a type for a video
            parts.append(ChatPart(kind, value))
    return parts


def _result(answer: Answer) -> GenerationResult:
    counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.new_tokens)
    return GenerationResult(text=answer.text.strip(), token_counts=counts)
