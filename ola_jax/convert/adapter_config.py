"""adapter_config.json of a LoRA: fields that are used, that change no number, and that are refused.

The fields are those of PEFT's LoraConfig, interpreted as in its version 0.21.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from ola_jax.errors import OlaError

BaseInit = Literal["pissa", "olora"]
Number = TypeVar("Number", int, float)

USED = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
    *("bias", "init_lora_weights", "target_modules", "exclude_modules", "modules_to_save"),
}
HARMLESS = {  # of training and bookkeeping; the tensors themselves show which modules have an adapter
    *("lora_dropout", "inference_mode", "task_type", "auto_mapping", "peft_version", "revision"),
    *("base_model_name_or_path", "layers_to_transform", "layers_pattern", "megatron_core", "runtime_config"),
    # of an initialization that init_lora_weights names, or of a switch that is refused below
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # of ms-swift's training
    "ensure_weight_tying",  # tied matrices get the changes of both adapters anyway
}
REFUSED = {
    "fan_in_fan_out": "Ola's linear layers store [out, in]",
    "megatron_config": "its layers are not Megatron's",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it changes single rows of the embeddings",
    "target_parameters": "it changes single parameters, not modules",
    "use_qalora": "it belongs to a quantized base",
    "alora_invocation_tokens": "it acts only after certain tokens",
    "arrow_config": "it chooses between adapters token by token",
    "use_bdlora": "its matrices are in blocks",
    "kasa_config": "it changes the base and has a diagonal between A and B",
    "monteclora_config": "it draws its matrices at random",
    "velora_config": "it stores more than A and B",
}
UNCHANGED_BASE = ("gaussian", "eva", "orthogonal", "mica")  # initializations that do not change the base
CONVERT = "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA"
LOST_BASE = {  # initializations that change the base by values that no file holds
    "pissa_niter": "its decomposition was random",
    "corda": "its decomposition needs the data that it was computed from",
    "loftq": "it belongs to a quantized base",
    "lora_ga": "it took gradients from the base",
}


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """The fields of adapter_config.json that change numbers, checked."""

    r: int  # the rank
    lora_alpha: float
    rank_pattern: Mapping[str, int]  # by pattern of module names, instead of r
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    base_init: BaseInit | None  # the initialization that subtracted its values from the base; None: unchanged
    target_modules: list[str] | str  # names, or one pattern
    modules_to_save: list[str] | str
    has_exclusions: bool  # exclude_modules excludes some of target_modules

    def rank(self, module: str) -> int:
        """Rank of the adapter of a module."""
        return _first_match(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Factor of the product of a module's two matrices."""
        alpha, rank = _first_match(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def parse_adapter_config(values: Mapping[str, Any], file: pathlib.Path) -> AdapterConfig:
    """The config. Raises OlaError for a field that is unknown or that cannot be folded into weights."""
    if values.get("peft_type") != "LORA":
        raise OlaError(f"{file}: peft_type is {values.get('peft_type')!r:.40}; expected LORA (DoRA included)")
    for name, reason in REFUSED.items():
        if values.get(name):
            raise OlaError(
                f"{file}: {name} is on ({values[name]!r:.60}), which cannot be folded into weights: {reason}"
            )
    for name, value in values.items():
        if value and name not in USED | HARMLESS:
            raise OlaError(
                f"{file}: unknown field {name!r:.60}, {value!r:.60}: its effect is not known, so the "
                "adapter is refused"
            )
    switches = {name: _read_switch(values, name, file) for name in ("use_rslora", "use_dora", "lora_bias")}
    if (values.get("bias") or "none") not in ("none", "all", "lora_only"):
        raise OlaError(f"{file}: bias: found {values['bias']!r:.40}, expected none, all or lora_only")
    return AdapterConfig(
        **switches,
        r=_integer(values.get("r"), f"{file}: r"),
        lora_alpha=_number(values.get("lora_alpha"), f"{file}: lora_alpha"),
        rank_pattern=_read_patterns(values, "rank_pattern", file, _integer),
        alpha_pattern=_read_patterns(values, "alpha_pattern", file, _number),
        base_init=_read_base_init(values, file),
        target_modules=_read_modules(values, "target_modules", file),
        modules_to_save=_read_modules(values, "modules_to_save", file),
        has_exclusions=bool(values.get("exclude_modules")),
    )


def _read_switch(values: Mapping[str, Any], name: str, file: pathlib.Path) -> bool:
    value = values.get(name) or False
    if not isinstance(value, bool):
        raise OlaError(f"{file}: {name}: found {value!r:.40}, expected true or false")
    return value


def _read_modules(values: Mapping[str, Any], name: str, file: pathlib.Path) -> list[str] | str:
    value = values.get(name) or []
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(module, str) for module in value):
        raise OlaError(f"{file}: {name}: found {value!r:.60}, expected names of modules")
    return value


def _read_patterns(
    values: Mapping[str, Any], name: str, file: pathlib.Path, check: Callable[[object, str], Number]
) -> dict[str, Number]:
    patterns = values.get(name) or {}
    if not isinstance(patterns, dict):
        raise OlaError(f"{file}: {name}: found {patterns!r:.60}, expected a JSON object")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise OlaError(f"{file}: {name}: {pattern!r:.60} is not a pattern ({error})") from error
    return {p: check(value, f"{file}: {name}: {p:.60}") for p, value in patterns.items()}


def _read_base_init(values: Mapping[str, Any], file: pathlib.Path) -> BaseInit | None:
    value = values.get("init_lora_weights")
    if value is None or isinstance(value, bool):
        return None
    name = str(value)
    known = name if name.startswith("pissa") else name.lower()  # as PEFT compares them
    if known in UNCHANGED_BASE:
        return None
    if known == "pissa":
        return "pissa"
    if known == "olora":
        return "olora"
    lost = "pissa_niter" if known.startswith("pissa_niter_") else known
    if lost in LOST_BASE:
        raise OlaError(
            f"{file}: init_lora_weights is {name!r:.40}, which changed the base, and {LOST_BASE[lost]}; "
            + CONVERT
        )
    raise OlaError(f"{file}: init_lora_weights is {name!r:.40}, which is not known; the adapter is refused")


def _first_match(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that matches the full name, or its end after a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _integer(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise OlaError(f"{where}: found {value!r:.40}, expected a positive number")
    return value


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 2**31:
        raise OlaError(f"{where}: found {value!r:.40}, expected a positive number")
    return float(value)
