"""The tensors of an adapter in PEFT's layout, under the names of the base's tensors."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping

from ola_jax.convert import pickles
from ola_jax.convert.adapter_config import AdapterConfig, parse_adapter_config
from ola_jax.convert.safetensors_reader import Tensor, open_safetensors, read_json
from ola_jax.errors import OlaError

CONFIG = "adapter_config.json"
DTYPES = ("float16", "bfloat16", "float32", "float64")
KINDS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
# In some files the name of the adapter follows the kind.
LORA_KEY = re.compile(rf"(.+)\.({'|'.join(KINDS)})(?:\.(?!(?:weight|bias)$)([^.]+))?(?:\.(weight|bias))?")
PREFIXES = ("base_model.model.", "base_model.")
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """An adapter, its tensors not yet read."""

    directory: pathlib.Path
    config: AdapterConfig
    parts: dict[str, dict[str, Tensor]]  # by module: its lora_A, lora_B, ...
    base: dict[str, Tensor]  # a changed module's own weight or bias, which replaces the base's
    trained: dict[str, Tensor]  # tensors that were trained directly and replace the base's

    @property
    def file(self) -> pathlib.Path:
        """The file of the config, for messages."""
        return self.directory / CONFIG


def read_adapter(directory: pathlib.Path, tensors: Mapping[str, Tensor]) -> PeftAdapter:
    """The adapter in `directory`, checked against the base's `tensors`.

    Reads adapter_config.json, adapter_model.safetensors (or .bin), and the original's
    non_lora_trainables.bin if it exists. Raises OlaError for a key of another kind.
    """
    if not (directory / CONFIG).is_file():
        others = sorted(path.parent.name for path in directory.glob(f"*/{CONFIG}"))
        if others:
            listed = ", ".join(others[:5])
            raise OlaError(f"{directory}: holds {len(others)} adapters: {listed}; name one of them")
        raise OlaError(f"{directory / CONFIG}: no such file; expected an adapter in PEFT's layout")
    config = parse_adapter_config(read_json(directory / CONFIG), directory / CONFIG)
    names: set[str] = set()
    adapter = PeftAdapter(directory, config, {}, {}, {})
    for key, tensor in _read_tensors(directory).items():
        if tensor.dtype not in DTYPES:
            raise OlaError(
                f"{tensor.file}: {key} has dtype {tensor.dtype}; expected one of {', '.join(DTYPES)}"
            )
        bare = _strip_prefixes(key)
        if match := LORA_KEY.fullmatch(bare):
            module = _find_in_base(match[1], tensors, ".weight")
            names.add(match[3] or "default")
            part = match[2] + (".bias" if match[4] == "bias" else "")
            adapter.parts.setdefault(module, {})[part] = tensor
        elif "lora_" in bare or "trainable_tokens" in bare:
            raise OlaError(
                f"{tensor.file}: {key} is of a kind of adapter that cannot be folded into weights; LoRA and "
                "DoRA can"
            )
        elif ".base_layer." in bare:
            adapter.base[_find_in_base(bare.replace(".base_layer.", "."), tensors)] = tensor
        elif ".original_module." not in bare:  # which modules_to_save replaced
            adapter.trained[_find_in_base(bare, tensors)] = tensor
    if len(names) > 1:
        raise OlaError(f"{directory}: holds several adapters in one file: {', '.join(sorted(names))}")
    _check_complete(adapter, tensors)
    return adapter


def _read_tensors(directory: pathlib.Path) -> dict[str, Tensor]:
    file = directory / "adapter_model.safetensors"
    if file.is_file():
        tensors = open_safetensors(file)
    elif (file := directory / "adapter_model.bin").is_file():
        tensors = pickles.read_state(file, pickles.load(file))
    else:
        raise OlaError(f"{directory}: no adapter: expected adapter_model.safetensors or adapter_model.bin")
    extra = directory / "non_lora_trainables.bin"
    return tensors | (pickles.read_state(extra, pickles.load(extra)) if extra.is_file() else {})


def _strip_prefixes(key: str) -> str:
    key = WRAPPERS.sub("", key)
    return next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), key)


def _find_in_base(name: str, tensors: Mapping[str, Tensor], end: str = "") -> str:
    """The name in the base: some files have one `model.` more or less, or have `modules_to_save` in it."""
    trained = (re.sub(rf"\.modules_to_save{adapter}(?=\.)", "", name) for adapter in (r"\.[^.]+", ""))
    for bare in dict.fromkeys((name, *trained)):
        for candidate in (bare, bare.removeprefix("model."), f"model.{bare}"):
            if candidate + end in tensors:
                return candidate
    return name


def _check_complete(adapter: PeftAdapter, tensors: Mapping[str, Tensor]) -> None:
    """Raises OlaError if the file lacks modules that the config names: PEFT would leave them unchanged."""
    config, where = adapter.config, adapter.directory
    if not adapter.parts and not adapter.trained:
        raise OlaError(f"{where}: the adapter's file holds no tensors of LoRA; save the adapter again")
    if config.target_modules and not adapter.parts:
        raise OlaError(
            f"{where}: the adapter's file holds no tensors of LoRA, but target_modules is "
            f"{config.target_modules!r:.80}; save the adapter again"
        )
    if config.has_exclusions:
        return
    decoder = [key for key in tensors if key.startswith(("model.layers.", "model.embed_tokens.", "lm_head."))]
    for field, modules, keys in (
        ("target_modules", config.target_modules, [f"{module}.weight" for module in adapter.parts]),
        ("modules_to_save", config.modules_to_save, list(adapter.trained)),
    ):
        for name in modules if isinstance(modules, list) else ():
            if _any_below(name, decoder) and not _any_below(name, keys):
                raise OlaError(
                    f"{where}: the adapter's file holds nothing of {name!r:.60}, which {field} names; save "
                    "the adapter again"
                )


def _any_below(module: str, keys: Iterable[str]) -> bool:
    return any(f".{module}." in f".{key}" for key in keys)
