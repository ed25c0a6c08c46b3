"""Rotary positions in config.json: `rope_theta` and `rope_scaling`, or `rope_parameters`.

transformers up to version 4 writes the first two; version 5 writes the third, with the base inside.
"""

from collections.abc import Mapping
from typing import Any

from ola_jax.config import Qwen2Config, YarnConfig
from ola_jax.errors import OlaError

YARN_FIELDS = (
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
)
SECTIONS = ("rope_scaling", "rope_parameters")


def read_rope(values: Mapping[str, Any], where: str) -> tuple[float, YarnConfig | None]:
    """The base of the rotary angles, and their scaling. OlaError names any scaling but YaRN."""
    name, section = _section(values, where)
    here = f"{where}: {name}" if name else where
    sections = ((here, section), (where, values))
    bases = {
        _number(fields, "rope_theta", name)
        for name, fields in sections
        if fields.get("rope_theta") is not None
    }
    if len(bases) != 1:
        found = " and ".join(str(base) for base in sorted(bases)) or "nothing"
        raise OlaError(f"{where}: rope_theta: found {found}, expected one positive number")
    [theta] = bases
    kinds = {section[key] for key in ("rope_type", "type") if isinstance(section.get(key), str)}
    if len(kinds) == 2:
        raise OlaError(f"{here}: type and rope_type differ: {' and '.join(sorted(kinds))}")
    kind = section.get("rope_type") or section.get("type") or "default"
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if kind == "yarn":
        known |= set(YARN_FIELDS)
    elif kind != "default":
        raise OlaError(f"{here}: rope type {kind!r:.40}; ola_jax's decoder has 'default' and 'yarn'")
    for key, value in section.items():
        if key not in known and value is not None:
            raise OlaError(
                f"{here}: unknown field {key!r:.40}; of rope type {kind!r}: {', '.join(sorted(known))}"
            )
    for label, fields in sections:
        share = fields.get("partial_rotary_factor")
        if share is not None and share != 1:
            raise OlaError(
                f"{label}: partial_rotary_factor is {share!r:.40}; ola_jax's decoder rotates full heads (1)"
            )
    return theta, _yarn(section, values, theta, here) if kind == "yarn" else None


def write_rope(values: Mapping[str, Any], llm: Qwen2Config) -> dict[str, Any]:
    """Returns config.json with the rotary positions of `llm`; unchanged if it already has them."""
    out = dict(values)
    try:
        if read_rope(values, "") == (llm.rope_theta, llm.rope_scaling):
            return out
    except OlaError:  # none yet, or another model's
        pass
    for name in SECTIONS:
        out.pop(name, None)
    scaling = None
    if llm.rope_scaling:
        fields = {name: getattr(llm.rope_scaling, name) for name in YARN_FIELDS}
        fields = {name: value for name, value in fields.items() if value is not None}
        scaling = {"rope_type": "yarn", "type": "yarn", **fields}
    if isinstance(values.get("rope_parameters"), Mapping) and "rope_theta" not in values:
        return out | {
            "rope_parameters": (scaling or {"rope_type": "default"}) | {"rope_theta": llm.rope_theta}
        }
    return out | {"rope_theta": llm.rope_theta, "rope_scaling": scaling}


def _section(values: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """The name and content of the only section; empty if there is none."""
    found = {name: values[name] for name in SECTIONS if values.get(name)}
    for name, section in found.items():
        if not isinstance(section, Mapping):
            raise OlaError(f"{where}: {name}: found {section!r:.60}, expected a JSON object or null")
    if len(found) == 2:
        first, second = ({**section, "type": None} for section in found.values())
        if first != second:
            raise OlaError(f"{where}: rope_scaling and rope_parameters differ; leave one of them out")
    return next(iter(found.items()), ("", {}))


def _yarn(section: Mapping[str, Any], values: Mapping[str, Any], theta: float, where: str) -> YarnConfig:
    length = section.get("original_max_position_embeddings")
    for key in ("original_max_position_embeddings", "max_position_embeddings"):
        length = values.get(key) if length is None else length
    if not isinstance(length, int) or isinstance(length, bool) or not 0 < length < 2**31:
        raise OlaError(
            f"{where}: original_max_position_embeddings: found {length!r:.40}, expected a number of positions"
        )
    optional = {
        key: _number(section, key, where)
        for key in ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        if section.get(key) is not None
    }
    truncate = section.get("truncate", True)
    if not isinstance(truncate, bool):
        raise OlaError(f"{where}: truncate: found {truncate!r:.40}, expected true or false")
    scaling = YarnConfig(_number(section, "factor", where), length, truncate=truncate, **optional)
    if scaling.factor < 1:
        raise OlaError(f"{where}: factor: found {scaling.factor}, expected a number of at least 1")
    if scaling.beta_fast <= scaling.beta_slow:
        raise OlaError(
            f"{where}: beta_fast is {scaling.beta_fast}, expected more than beta_slow, {scaling.beta_slow}"
        )
    if theta <= 1:
        raise OlaError(f"{where}: rope_theta is {theta}; YaRN needs one above 1")
    return scaling


def _number(values: Mapping[str, Any], key: str, where: str) -> float:
    value = values.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30:
        return float(value)
    found = "nothing" if value is None else f"{value!r:.40}"
    raise OlaError(f"{where}: {key}: found {found}, expected a positive number")
