"""What a checkpoint is put together from: its own tensors, and encoders from files of their own."""

import pathlib
from typing import Any

from ola_jax.config import OlaConfig
from ola_jax.convert import export_config, released_config
from ola_jax.convert.names import BEATS, VISION, WHISPER
from ola_jax.convert.pickles import read_beats, read_whisper
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.convert.vision_files import read_vision
from ola_jax.errors import OlaError

_OLA = {"architectures": ["OlaQwenForCausalLM"], "model_type": "ola_qwen"}
# Vectors as wide as Whisper and as BEATs.
_SPEECH_WIDTHS = (f"{WHISPER}ln_post.weight", f"{BEATS}encoder.layer_norm.weight")


def with_vision(
    source: pathlib.Path,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
    vision: pathlib.Path,
    heads: int | None,
    init: tuple[str, ...],
) -> tuple[dict[str, Any], dict[str, Tensor], int | None, list[str]]:
    """config.json, tensors, number of heads and notes with a vision encoder that the checkpoint lacks."""
    if released_config.has_vision(values):
        raise OlaError(f"{source}: has a vision encoder (mm_vision_tower); leave out --vision")
    if "vision_projector" not in init:
        raise OlaError("--vision gives an encoder without its projector: add --init vision_projector")
    encoder, said, notes = read_vision(vision)
    width = encoder[f"{VISION}patch_embed.proj.weight"].shape[0]
    values = values | export_config.vision_values(width, vision.name) | _OLA
    return values, tensors | encoder, heads or said, notes


def with_speech(
    source: pathlib.Path,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
    whisper: pathlib.Path | None,
    beats: pathlib.Path | None,
    init: tuple[str, ...],
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """All tensors, the separate speech files' in the place of those inside; config.json; dims and cfg."""
    named = released_config.has_speech(values, str(source / "config.json"))
    if not named and not (whisper and beats and "speech_projector" in init):
        if whisper or beats:
            raise OlaError(
                f"{source}: config.json names no speech_encoder, so there is no place for --whisper or "
                "--beats; leave them out, or give both and --init speech_projector to add one"
            )
        return tensors, values, None, None
    inside = lambda prefix: any(key.startswith(prefix) for key in tensors)
    needed = [
        f"{flag} {file}"
        for flag, file, given, prefix in (
            ("--whisper", "large-v3.pt", whisper, WHISPER),
            ("--beats", "BEATs.pt", beats, BEATS),
        )
        if given is None and not inside(prefix)
    ]
    if needed:
        raise OlaError(
            f"{source}: holds no weights of its speech encoder (model.speech_encoder.*); give "
            + " and ".join(needed)
        )
    dims = cfg = None
    if whisper:
        dims, encoder = read_whisper(whisper)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(WHISPER)} | encoder
    if beats:
        cfg, encoder = read_beats(beats)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(BEATS)} | encoder
    if not named:
        width = sum(tensors[key].shape[0] for key in _SPEECH_WIDTHS if key in tensors)
        names = (whisper.name, beats.name)
        values = values | export_config.speech_values(width, OlaConfig.speech_stack, *names) | _OLA
    return tensors, values, dims, cfg
