import pytest

from ola_jax.convert.origin import Origin, parse_origin
from ola_jax.errors import OlaError


@pytest.mark.parametrize(
    "origin",
    [
        Origin(),
        Origin(
            {"hidden_size": 64}, {"n_mels": 128}, {"deep_norm": True}, {"lm_head.weight": "float16"}, "absent"
        ),
    ],
)
def test_json_holds_all_of_it(origin: Origin) -> None:
    assert parse_origin(origin.to_json(), "released.json") == origin


def test_a_model_that_was_not_imported_has_no_origin() -> None:
    assert parse_origin(None, "released.json") == Origin()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": [1]}, r"released\.json: config: found \[1\], expected a JSON object or null"),
        ({"dtypes": "float32"}, r"dtypes: found 'float32'"),
        ({"head": "missing"}, r"head: found 'missing', expected 'absent' or 'present'"),
    ],
)
def test_values_of_another_kind_are_refused(values: dict, message: str) -> None:
    with pytest.raises(OlaError, match=message):
        parse_origin(values, "released.json")
