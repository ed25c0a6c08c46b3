"""The tensors of an adapter in PEFT's layout, by the names of the base's tensors."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ola_jax.convert import adapter_config, pickles
from ola_jax.convert.safetensors_reader import Tensor, open_safetensors, read_json
from ola_jax.errors import OlaError

CONFIG = "adapter_config.json"
DTYPES = ("float16", "bfloat16", "float32", "float64")
KINDS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
# The name of the adapter stands behind its kind in some files.
LORA_KEY = re.compile(rf"(.+)\.({'|'.join(KINDS)})(?:\.(?!(?:weight|bias)$)([^.]+))?(?:\.(weight|bias))?")
PREFIXES = ("base_model.model.", "base_model.")
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter, its tensors not yet read."""

    directory: pathlib.Path
    config: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Tensor]]  # by module: its lora_A, lora_B, ...
    base: Mapping[str, Tensor]  # what a changed module's own weight or bias is to be before the change
    whole: Mapping[str, Tensor]  # tensors that were trained whole

    @property
    def file(self) -> pathlib.Path:
        """The config's, for messages."""
        return self.directory / CONFIG


def read(directory: pathlib.Path, tensors: Mapping[str, Tensor]) -> Adapter:
    """The adapter in `directory`, checked against the base's `tensors`.

    Reads adapter_config.json, adapter_model.safetensors (or .bin), and the original's
    non_lora_trainables.bin if it is there. Raises OlaError for a key of another kind.
    """
    if not (directory / CONFIG).is_file():
        others = sorted(path.parent.name for path in directory.glob(f"*/{CONFIG}"))
        if others:
            names = ", ".join(others[:5])
            raise OlaError(f"{directory}: holds {len(others)} adapters: {names}; name one of them")
        raise OlaError(f"{directory / CONFIG}: no such file; expected an adapter in PEFT's layout")
    config = read_json(directory / CONFIG)
    adapter_config.check(config, directory / CONFIG)
    found, names = _tensors(directory), set()
    parts: dict[str, dict[str, Tensor]] = {}
    base: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in found.items():
        if tensor.dtype not in DTYPES:
            raise OlaError(
                f"{tensor.file}: {key} has dtype {tensor.dtype}; expected one of {', '.join(DTYPES)}"
            )
        bare = _bare(key)
        if match := LORA_KEY.fullmatch(bare):
            module = _known(match[1], tensors, ".weight")
            names.add(match[3] or "default")
            parts.setdefault(module, {})[match[2] + (".bias" if match[4] == "bias" else "")] = tensor
        elif "lora_" in bare or "trainable_tokens" in bare:
            raise OlaError(
                f"{tensor.file}: {key} is of a kind of adapter that cannot be merged; LoRA and DoRA can"
            )
        elif ".base_layer." in bare:
            base[_known(bare.replace(".base_layer.", "."), tensors)] = tensor
        elif ".original_module." not in bare:  # that is what modules_to_save took the place of
            whole[_known(bare, tensors)] = tensor
    if len(names) > 1:
        raise OlaError(f"{directory}: holds several adapters in one file: {', '.join(sorted(names))}")
    adapter = Adapter(directory, config, parts, base, whole)
    _check_complete(adapter, tensors)
    return adapter


def _tensors(directory: pathlib.Path) -> dict[str, Tensor]:
    file = directory / "adapter_model.safetensors"
    if file.is_file():
        tensors = open_safetensors(file)
    elif (file := directory / "adapter_model.bin").is_file():
        tensors = pickles.tensors_of(file, pickles.load(file))
    else:
        raise OlaError(f"{directory}: no adapter: expected adapter_model.safetensors or adapter_model.bin")
    extra = directory / "non_lora_trainables.bin"
    return tensors | (pickles.tensors_of(extra, pickles.load(extra)) if extra.is_file() else {})


def _bare(key: str) -> str:
    key = WRAPPERS.sub("", key)
    return next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), key)


def _known(name: str, tensors: Mapping[str, Tensor], end: str = "") -> str:
    """The name in the base: some files have one `model.` more or less, or say `modules_to_save`."""
    trained = (re.sub(rf"\.modules_to_save{adapter}(?=\.)", "", name) for adapter in (r"\.[^.]+", ""))
    for bare in dict.fromkeys((name, *trained)):
        for candidate in (bare, bare.removeprefix("model."), f"model.{bare}"):
            if candidate + end in tensors:
                return candidate
    return name


def _check_complete(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Raises OlaError where the file lacks what the config speaks of: PEFT would merge nothing there."""
    config, where = adapter.config, adapter.directory
    if not adapter.parts and not adapter.whole:
        raise OlaError(f"{where}: the adapter's file holds no tensors of LoRA; save the adapter again")
    targets, saved = config.get("target_modules") or [], config.get("modules_to_save") or []
    if targets and not adapter.parts:
        raise OlaError(
            f"{where}: the adapter's file holds no tensors of LoRA, but target_modules is {targets!r:.80}; "
            "save the adapter again"
        )
    decoder = [key for key in tensors if key.startswith(("model.layers.", "model.embed_tokens.", "lm_head."))]
    kinds = [("target_modules", targets, [f"{module}.weight" for module in adapter.parts])]
    kinds += [("modules_to_save", saved, list(adapter.whole))]
    for field, modules, keys in kinds:
        for name in modules if isinstance(modules, list) and not config.get("exclude_modules") else []:
            has = lambda keys, name=name: any(f".{name}." in f".{key}" for key in keys)
            if has(decoder) and not has(keys):
                raise OlaError(
                    f"{where}: the adapter's file holds nothing of {name!r:.60}, which {field} names; save "
                    "the adapter again"
                )
