"""Encoders from files of their own, added to the tensors and config.json of a checkpoint."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class PartialModel:
    """A model before its config is known."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # config.json
    vision_heads: int | None = None
    whisper_dims: dict[str, Any] | None = None  # of the separate Whisper file
    beats_cfg: dict[str, Any] | None = None  # of the separate BEATs file
    notes: tuple[str, ...] = ()  # for the user

    def add_tensors(self, tensors: dict[str, Tensor], *, instead_of: str) -> "PartialModel":
        """Returns the model with `tensors` instead of those whose keys begin with `instead_of`."""
        kept = {key: tensor for key, tensor in self.tensors.items() if not key.startswith(instead_of)}
        return dataclasses.replace(self, tensors=kept | tensors)


def add_vision(
    model: PartialModel, vision: pathlib.Path, *, init: tuple[str, ...], source: pathlib.Path
) -> PartialModel:
    """Adds the vision encoder of the file or directory `vision`, which the checkpoint lacks."""
    if released_config.has_vision(model.values):
        raise OlaError(f"{source}: has a vision encoder (mm_vision_tower); leave out --vision")
    if "vision_projector" not in init:
        raise OlaError("--vision gives an encoder without its projector: add --init vision_projector")
    encoder, heads, notes = read_vision(vision)
    width = encoder[f"{VISION}patch_embed.proj.weight"].shape[0]
    return dataclasses.replace(
        model,
        tensors=model.tensors | encoder,
        values=model.values | export_config.make_vision_fields(width, vision.name) | _OLA,
        vision_heads=model.vision_heads or heads,
        notes=(*model.notes, *notes),
    )


def add_speech(
    model: PartialModel,
    whisper: pathlib.Path | None,
    beats: pathlib.Path | None,
    *,
    init: tuple[str, ...],
    source: pathlib.Path,
) -> PartialModel:
    """Adds the encoders of the separate speech files, which replace any copies inside (quirk C3)."""
    named = released_config.has_speech(model.values, str(source / "config.json"))
    adds = whisper is not None and beats is not None and "speech_projector" in init
    if not named and not adds:
        if whisper or beats:
            raise OlaError(
                f"{source}: config.json names no speech_encoder, so --whisper and --beats have no use; "
                "leave them out, or give both and --init speech_projector to add one"
            )
        return model
    inside = lambda prefix: any(key.startswith(prefix) for key in model.tensors)
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
    if whisper:
        dims, encoder = read_whisper(whisper)
        model = dataclasses.replace(model.add_tensors(encoder, instead_of=WHISPER), whisper_dims=dims)
    if beats:
        cfg, encoder = read_beats(beats)
        model = dataclasses.replace(model.add_tensors(encoder, instead_of=BEATS), beats_cfg=cfg)
    if not named and whisper and beats:
        width = sum(model.tensors[key].shape[0] for key in _SPEECH_WIDTHS if key in model.tensors)
        fields = export_config.make_speech_fields(
            width, OlaConfig.speech_stack, whisper_name=whisper.name, beats_name=beats.name
        )
        model = dataclasses.replace(model, values=model.values | fields | _OLA)
    return model
