"""A model for VLMEvalKit, registered by `register`; it has no audio there.

from ola_jax.eval.adapters.vlmevalkit import register
register("ola_jax", checkpoint="DIR")  # before VLMEvalKit's own functions are called
"""

import functools
from typing import Any, Literal

from vlmeval.config import supported_VLM
from vlmeval.vlm.base import BaseModel

from ola_jax.eval.adapters.chat_parts import ChatPart, ask_chats, load_engine, to_item, wording
from ola_jax.eval.asking import Asking
from ola_jax.eval.benchmark import Quirks
from ola_jax.eval.run import with_quirks

HIGH_VIEW_ONLY = ("MMVet", "MMMU")  # data sets that the published adapter shows without the low view


def register(name: str, checkpoint: str, **options: Any) -> None:
    """Adds a model to VLMEvalKit's table."""
    supported_VLM[name] = functools.partial(OlaJax, checkpoint=checkpoint, **options)


class OlaJax(BaseModel):
    """Ola, answering VLMEvalKit's messages through the engine, one at a time as it asks."""

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True

    def __init__(
        self,
        checkpoint: str,
        max_new_tokens: int = 512,
        length: int | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        sound: bool = True,
        paper_quirks: bool = False,
        **unknown: Any,
    ):
        """`paper_quirks`: only the high-resolution view for MMVet and MMMU, small images enlarged."""
        super().__init__()
        self.engine = load_engine(checkpoint, slots=1, length=length, dtype=dtype, tensor=1)
        self.processor = self.engine.processor
        self.paper_quirks, self.asking = paper_quirks, Asking(wording, max_new_tokens, sound=sound, workers=1)
        self.asked = 0

    def generate_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        """The answer to a list of {type, value}."""
        self.asked += 1
        only_high = self.paper_quirks and any(name in (dataset or "") for name in HIGH_VIEW_ONLY)
        self.engine.processor = with_quirks(self.processor, Quirks(only_high, self.paper_quirks))
        parts = [ChatPart(part["type"], part["value"]) for part in message]
        (answer,) = ask_chats(self.engine, [to_item(f"{dataset}_{self.asked}", parts)], self.asking)
        return answer.text.strip()
