"""Facts about a released checkpoint that an export needs and our own checkpoint does not hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ola_jax.errors import OlaError


@dataclasses.dataclass(frozen=True)
class Origin:
    """The released checkpoint that a model was imported from; its JSON form is released.json."""

    config: Mapping[str, Any] | None = None  # config.json
    whisper_dims: Mapping[str, Any] | None = None  # of the separate Whisper file, if there was one
    beats_cfg: Mapping[str, Any] | None = None  # of the separate BEATs file, if there was one
    # by key, where the layers of one leaf differ
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    head: Literal["absent", "present"] = "present"  # absent: tied to the embeddings and not stored

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def parse_origin(values: Mapping[str, Any] | None, where: str) -> Origin:
    """The inverse of `to_json`; None: of a model without origin. OlaError names `where`."""
    values = values or {}
    given: dict[str, Any] = {}
    for name in ("config", "whisper_dims", "beats_cfg", "dtypes"):
        value = values.get(name)
        if not isinstance(value, Mapping | None):
            raise OlaError(f"{where}: {name}: found {value!r:.60}, expected a JSON object or null")
        if value is not None:
            given[name] = value
    head = values.get("head", "present")
    if head not in ("absent", "present"):
        raise OlaError(f"{where}: head: found {head!r:.60}, expected 'absent' or 'present'")
    return Origin(head=head, **given)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
