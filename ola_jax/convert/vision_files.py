"""Reading a separate vision encoder: OryxViT's state dict, or SigLIP of transformers."""

import pathlib
from collections.abc import Mapping

import numpy as np

from ola_jax.config import OryxViTConfig
from ola_jax.convert import pickles
from ola_jax.convert.names import VISION
from ola_jax.convert.safetensors_reader import Tensor, open_safetensors, read_json, read_safetensors
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray

FIRST = "patch_embed.proj.weight"  # every OryxViT state dict has it, below some prefix
UNUSED = ("norm.", "fc_norm.", "attn_pool.", "head.")  # SigLIP's last layers, which OryxViT leaves out
SIGLIP_FIRST = "embeddings.patch_embedding.weight"
SIGLIP_NAMES = {  # transformers' names, and OryxViT's
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.position_embedding.weight": "pos_embed",
    "encoder.layers": "blocks",
    "layer_norm": "norm",
    "self_attn.out_proj": "attn.proj",
}
SIGLIP_UNUSED = ("head.", "post_layernorm.")


def read_vision(path: pathlib.Path) -> tuple[dict[str, Tensor], int | None, list[str]]:
    """Tensors by released key, the number of attention heads if the files have it, and notes for the user.

    `path`: a file with OryxViT's state dict (.safetensors, .pth, .pt, .bin), or a directory of
    transformers' SigLIP, whose position embeddings are resized to OryxViT's grid as the original does.
    """
    if path.is_dir():
        return _siglip(path)
    if path.suffix == ".safetensors":
        tensors = open_safetensors(path)
    else:
        content = pickles.load(path)
        tensors = pickles.read_state(path, content.get("state_dict", content))
    own = _below(tensors, FIRST)
    if own is None:
        raise OlaError(f"{path}: not a vision encoder: found no {FIRST}; expected OryxViT's state dict")
    unused = [key for key in own if key.startswith(UNUSED)]
    notes = []
    if unused:
        notes.append(f"{path.name}: {len(unused)} tensors left out that Ola does not use: {unused[0]} ...")
    return {VISION + key: tensor for key, tensor in own.items() if key not in unused}, None, notes


def _below(tensors: Mapping[str, Tensor], first: str) -> dict[str, Tensor] | None:
    """The tensors beside the one whose key ends in `first`, without the prefix that they share."""
    prefix = next((key.removesuffix(first) for key in tensors if key.endswith(first)), None)
    if prefix is None:
        return None
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _siglip(directory: pathlib.Path) -> tuple[dict[str, Tensor], int, list[str]]:
    values = read_json(directory / "config.json")
    vision = values.get("vision_config", values)
    if not isinstance(vision, Mapping):
        raise OlaError(
            f"{directory / 'config.json'}: vision_config: found {vision!r:.40}, expected an object"
        )
    if "siglip" not in str(vision.get("model_type", values.get("model_type"))):
        raise OlaError(
            f"{directory / 'config.json'}: model_type is {values.get('model_type')!r}; expected "
            "transformers' SigLIP, or a file with OryxViT's state dict"
        )
    patch = OryxViTConfig.patch_size
    if vision.get("patch_size", patch) != patch:
        raise OlaError(
            f"{directory / 'config.json'}: patches of {vision['patch_size']} pixels; Ola's have {patch}"
        )
    own = _below(read_safetensors(directory), SIGLIP_FIRST)
    if own is None:
        raise OlaError(f"{directory}: no vision encoder: found no {SIGLIP_FIRST}")
    tensors: dict[str, Tensor] = {}
    for key, tensor in own.items():
        if key.startswith(SIGLIP_UNUSED) or ".k_proj." in key or ".v_proj." in key:
            continue
        name = key
        for old, new in SIGLIP_NAMES.items():
            name = name.replace(old, new)
        if ".q_proj." in key:
            keys = [key.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
            if not all(part in own for part in keys):
                raise OlaError(f"{directory}: {key} exists, but not its k_proj or v_proj")
            tensors[VISION + name.replace("self_attn.q_proj", "attn.qkv")] = _join([own[k] for k in keys])
        elif name == "pos_embed":
            tensors[VISION + name] = _resize_grid(tensor, OryxViTConfig.position_grid)
        else:
            tensors[VISION + name] = tensor
    heads = vision.get("num_attention_heads", 16)  # transformers does not write its own defaults
    if type(heads) is not int or heads <= 0:
        raise OlaError(
            f"{directory / 'config.json'}: num_attention_heads: found {heads!r:.40}, expected a positive "
            "number"
        )
    side = OryxViTConfig.position_grid
    return tensors, heads, [f"{directory.name}: SigLIP's position embeddings resized to {side} x {side}"]


def _join(parts: list[Tensor]) -> Tensor:
    first = parts[0]
    shape = (3 * first.shape[0], *first.shape[1:])
    return Tensor(shape, first.dtype, first.file, lambda: np.concatenate([part.read() for part in parts]))


def _resize_grid(tensor: Tensor, side: int) -> Tensor:
    """Resizes [cells, width] to [1, side * side, width] by PyTorch's bicubic interpolation."""
    cells, width = tensor.shape
    old = round(cells**0.5)

    def read() -> HostArray:
        torch = pickles.import_torch(tensor.file)
        values = tensor.read()
        grid = torch.from_numpy(values.astype(np.float32)).reshape(1, old, old, width).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1).reshape(1, side * side, width).numpy().astype(values.dtype)

    return Tensor((1, side * side, width), tensor.dtype, tensor.file, read)
