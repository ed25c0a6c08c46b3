"""Logits of a JAX checkpoint against PyTorch: the decoder of `transformers` with the released tensors."""

import dataclasses
import gc
import json
import pathlib
from typing import Any

import jax
import numpy as np

from ola_jax import checkpoint
from ola_jax.config import Qwen2Config
from ola_jax.convert.importer import Plan
from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola
from ola_jax.typing import Float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How the logits of one prompt agree, over all of its positions."""

    prompt: str
    positions: int
    max_abs: float  # of the difference of logits
    relative: float  # norm of the difference over norm of PyTorch's logits
    top1: float  # share of positions whose likeliest token is the same
    kl: float  # mean of KL(PyTorch || JAX), nats


def read_prompts(file: pathlib.Path) -> list[dict[str, Any]]:
    """A JSON array of texts, or of records as Ola's data has them (media paths relative to the file)."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OlaError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(values, list) or not values:
        raise OlaError(f"{file}: expected an array of prompts, found {values!r:.60}")
    for value in values:
        if not isinstance(value, str | dict):
            raise OlaError(f"{file}: a prompt is a text or a record, found {value!r:.60}")
    return [prompt_record(text=value) if isinstance(value, str) else value for value in values]


def compare(directory: pathlib.Path, plan: Plan, prompts: pathlib.Path) -> list[Agreement]:
    """One entry for each prompt, both sides in float32, one after the other in memory.

    PyTorch's decoder gets the embeddings that it looks up itself, but for media: their features are
    those of JAX's encoders on both sides.
    """
    records = read_prompts(prompts)
    config, params = checkpoint.load(directory, dtype="float32")
    model = Ola(dataclasses.replace(config, dtype="float32"))
    processor = Processor.from_pretrained(directory, preset="infer")
    forward = jax.jit(
        lambda params, batch: (
            model.apply({"params": params}, batch, method="merge"),
            model.apply({"params": params}, batch),
        )
    )
    sides = []
    with jax.default_matmul_precision("highest"):
        for record in records:
            batch = processor([record], root=str(prompts.parent))
            length = int((batch.segments[0] > 0).sum())
            embedded, logits = (np.asarray(x[0, :length]) for x in forward(params, batch))
            sides.append((batch.tokens[0, :length], batch.source[0, :length] >= 0, embedded, logits))
    del params, model, forward
    gc.collect()  # PyTorch's copy is as large
    decoder = _torch_decoder(plan)
    return [
        _agreement(_name(record), logits, _torch_logits(decoder, tokens, is_media, embedded))
        for record, (tokens, is_media, embedded, logits) in zip(records, sides, strict=True)
    ]


def _torch_decoder(plan: Plan) -> Any:
    """Transformers' Qwen2ForCausalLM in float32, every parameter set from a released tensor."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise OlaError("--logits needs PyTorch: pip install 'ola_jax[convert]'") from error
    config = _torch_config(transformers, plan.config.llm)
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(config)
    names = [name for name, _ in model.named_parameters()]
    state = {name: torch.from_numpy(plan.tensors[name].read().astype(np.float32)) for name in names}
    model.load_state_dict(state, strict=True, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are in no state dict
    return model.eval()


def _torch_config(transformers: Any, config: Qwen2Config) -> Any:
    return transformers.Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=config.intermediate_size,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    )


def _torch_logits(model: Any, tokens: np.ndarray, is_media: np.ndarray, embedded: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        ids = torch.from_numpy(np.where(is_media, 0, tokens).astype(np.int64))[None]
        inputs = model.get_input_embeddings()(ids)
        media = torch.from_numpy(is_media.copy())[None, :, None]
        inputs = torch.where(media, torch.from_numpy(embedded.copy())[None], inputs)
        return model(inputs_embeds=inputs).logits[0].numpy()


def _agreement(name: str, ours: Float[np.ndarray, "L V"], theirs: Float[np.ndarray, "L V"]) -> Agreement:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    log_p, log_q = _log_softmax(b), _log_softmax(a)
    return Agreement(
        prompt=name,
        positions=len(b),
        max_abs=float(np.abs(a - b).max()),
        relative=float(np.linalg.norm(a - b) / np.linalg.norm(b)),
        top1=float((a.argmax(-1) == b.argmax(-1)).mean()),
        kl=float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()),
    )


def _log_softmax(x: Float[np.ndarray, "L V"]) -> Float[np.ndarray, "L V"]:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _name(record: dict[str, Any]) -> str:
    """What the table calls a prompt: its id, or how it begins."""
    if record.get("id") is not None:
        return str(record["id"])
    return record["conversations"][0]["value"].replace("\n", " ")[:40]
