"""adapter_config.json of a LoRA, field by field: what is used, what changes no number, what is refused.

The fields are those of PEFT's LoraConfig; how it reads them was checked with version 0.21.
"""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ola_jax.errors import OlaError

USED = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
    *("bias", "init_lora_weights", "target_modules", "exclude_modules", "modules_to_save"),
}
HARMLESS = {  # of training and bookkeeping; which modules have an adapter is shown by its tensors
    *("lora_dropout", "inference_mode", "task_type", "auto_mapping", "peft_version", "revision"),
    *("base_model_name_or_path", "layers_to_transform", "layers_pattern", "megatron_core", "runtime_config"),
    # of an initialisation that init_lora_weights names, or of a switch that is refused below
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # ms-swift's: of training
    "ensure_weight_tying",  # tied matrices get the changes of both adapters in any case
}
REFUSED = {
    "fan_in_fan_out": "Ola's linear layers store [out, in]",
    "megatron_config": "its layers are not Megatron's",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "single rows of the embeddings cannot be merged",
    "target_parameters": "only modules can be merged, not single parameters",
    "use_qalora": "it belongs to a quantized base",
    "alora_invocation_tokens": "it acts only behind certain tokens",
    "arrow_config": "it chooses between adapters token by token",
    "use_bdlora": "its matrices are in blocks",
    "kasa_config": "it changes the base and has a diagonal between A and B",
    "monteclora_config": "it draws its matrices at random",
    "velora_config": "it stores more than A and B",
}
UNCHANGED_BASE = ("gaussian", "eva", "orthogonal", "mica")  # initialisations that leave the base as it is
CONVERT = "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
LOST_BASE = {  # those that change the base by what no file holds
    "pissa_niter": "its decomposition was drawn at random",
    "corda": "it needs the data that the base was decomposed with",
    "loftq": "it belongs to a quantized base",
    "lora_ga": "it took gradients from the base",
}


def check(config: Mapping[str, Any], file: pathlib.Path) -> None:
    """Raises OlaError for what cannot be merged, or is not known."""
    if config.get("peft_type") != "LORA":
        raise OlaError(
            f"{file}: peft_type is {config.get('peft_type')!r:.40}; LORA (DoRA included) can be merged"
        )
    for name, reason in REFUSED.items():
        if config.get(name):
            raise OlaError(f"{file}: {name} is on ({config[name]!r:.60}), which cannot be merged: {reason}")
    for name, value in config.items():
        if value and name not in USED | HARMLESS:
            raise OlaError(
                f"{file}: unknown field {name!r:.60}, {value!r:.60}: what it changes is not known, so the "
                "adapter is not merged"
            )
    for name in ("use_rslora", "use_dora", "lora_bias"):
        if not isinstance(config.get(name) or False, bool):
            raise OlaError(f"{file}: {name}: found {config[name]!r:.40}, expected true or false")
    if (config.get("bias") or "none") not in ("none", "all", "lora_only"):
        raise OlaError(f"{file}: bias: found {config['bias']!r:.40}, expected none, all or lora_only")
    _check_number(config.get("r"), int, f"{file}: r")
    _check_number(config.get("lora_alpha"), int | float, f"{file}: lora_alpha")
    for name, kind in (("rank_pattern", int), ("alpha_pattern", int | float)):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise OlaError(f"{file}: {name}: found {patterns!r:.60}, expected a JSON object")
        for pattern, value in patterns.items():
            _check_number(value, kind, f"{file}: {name}: {pattern:.60}")
            try:
                re.compile(pattern)
            except re.error as error:
                raise OlaError(f"{file}: {name}: {pattern!r:.60} is not a pattern ({error})") from error
    initialisation(config, file)


def initialisation(config: Mapping[str, Any], file: pathlib.Path) -> str | None:
    """Which of pissa, olora took its first values out of the base; None: the base is as it was."""
    name = config.get("init_lora_weights")
    if name is None or isinstance(name, bool):
        return None
    name = str(name)
    known = name if name.startswith("pissa") else name.lower()  # as PEFT compares them
    if known in UNCHANGED_BASE:
        return None
    if known in ("pissa", "olora"):
        return known
    lost = "pissa_niter" if known.startswith("pissa_niter_") else known
    if lost in LOST_BASE:
        raise OlaError(
            f"{file}: init_lora_weights is {name!r:.40}, which changed the base, and {LOST_BASE[lost]}; "
            + CONVERT
        )
    raise OlaError(
        f"{file}: init_lora_weights is {name!r:.40}, which is not known; the adapter is not merged"
    )


def rank(config: Mapping[str, Any], module: str) -> int:
    """The rank of a module's adapter."""
    return _by_pattern(config.get("rank_pattern"), module, config["r"])


def scale(config: Mapping[str, Any], module: str) -> float:
    """What the product of a module's two matrices is multiplied by."""
    alpha, r = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"]), rank(config, module)
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches the whole name, or its end behind a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _check_number(value: Any, kind: Any, where: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < 2**31:
        raise OlaError(f"{where}: found {value!r:.40}, expected a positive number")
