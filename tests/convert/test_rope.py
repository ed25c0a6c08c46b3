import json
import pathlib
from typing import Any

import pytest
import transformers

from ola_jax import checkpoint
from ola_jax.config import Qwen2Config, YarnConfig
from ola_jax.convert import exporter, importer
from ola_jax.convert.export_job import prepare_export
from ola_jax.convert.import_job import prepare_import
from ola_jax.convert.rope import read_rope, write_rope
from ola_jax.errors import OlaError
from tests.convert.checkpoints import HF, read_released, write

YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("values", "theta", "scaling"),
    [
        ({"rope_theta": 1e6}, 1e6, None),
        ({"rope_theta": 1000000, "rope_scaling": None}, 1e6, None),
        ({"rope_theta": 1e6, "rope_scaling": {}}, 1e6, None),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "default"}}, 1e6, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 1e4, None),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **YARN}}, 1e6, YarnConfig()),
        ({"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4},
          "max_position_embeddings": 64}, 1e6, YarnConfig(4.0, 64)),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN, "truncate": False}},
         1e6, YarnConfig(truncate=False)),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN,
          "beta_fast": 16, "beta_slow": None, "attention_factor": 1.5, "mscale": 1, "mscale_all_dim": None}},
         1e6, YarnConfig(beta_fast=16.0, attention_factor=1.5, mscale=1.0)),
    ],
)  # fmt: skip
def test_rotary_positions_are_read_and_written(
    values: dict, theta: float, scaling: YarnConfig | None
) -> None:
    assert read_rope(values, "config.json") == (theta, scaling)
    config = Qwen2Config(rope_theta=theta, rope_scaling=scaling)
    assert write_rope(values, config) == values  # as it was
    for other in (Qwen2Config(rope_theta=5e5, rope_scaling=YarnConfig(2.0, 99, 1.1)), Qwen2Config()):
        written = json.loads(json.dumps(write_rope(values, other)))
        assert read_rope(written, "") == (other.rope_theta, other.rope_scaling)
        theirs = transformers.Qwen2Config(**written)
        assert theirs.rope_parameters["rope_theta"] == other.rope_theta
        assert theirs.rope_parameters.get("factor") == (other.rope_scaling and other.rope_scaling.factor)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_scaling: rope type 'linear'; .* 'yarn'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, r"rope type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, r"rope type 'llama3'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, r"rope type 'longrope'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, r"rope type 'mrope'"),
        ({"rope_scaling": {"type": "mrope", "rope_type": "default"}}, r"type and rope_type differ"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, r"unknown field 'mrope_section'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, r"unknown field 'full_attention'"),
        ({"rope_scaling": {"factor": 4.0}}, r"unknown field 'factor'; of rope type 'default'"),
        ({"rope_scaling": {"type": "yarn"}, "max_position_embeddings": 9}, r"factor: found nothing"),
        ({"rope_scaling": {"type": "yarn", **YARN, "factor": 0.5}}, r"factor: found 0\.5, .* at least 1"),
        ({"rope_scaling": {"type": "yarn", **YARN, "factor": float("nan")}}, r"factor: found nan"),
        ({"rope_scaling": {"type": "yarn", **YARN, "factor": "4"}}, r"factor: found '4'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, r"original_max_position_embeddings: found None"),
        ({"rope_scaling": {"type": "yarn", **YARN, "beta_fast": 1}}, r"beta_fast is 1\.0, expected more"),
        ({"rope_scaling": {"type": "yarn", **YARN, "truncate": 1}}, r"truncate: found 1, expected true or"),
        ({"rope_scaling": {"type": "yarn", **YARN, "finetuned": True}}, r"unknown field 'finetuned'"),
        ({"rope_scaling": "yarn"}, r"rope_scaling: found 'yarn', expected a JSON object or null"),
        ({"rope_scaling": {"type": "yarn", **YARN}, "rope_parameters": {"rope_type": "default"}}, r"differ"),
        ({"rope_scaling": {"type": "yarn", **YARN, "rope_theta": 5e5}}, r"found 500000\.0 and 1000000\.0"),
        ({"rope_theta": 1, "rope_scaling": {"type": "yarn", **YARN}}, r"rope_theta is 1\.0; YaRN needs"),
        ({"rope_theta": float("inf")}, r"rope_theta: found inf, expected a positive number"),
        ({"rope_theta": None}, r"rope_theta: found nothing"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor is 0\.5"),
    ],
)  # fmt: skip
def test_other_rotary_positions_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OlaError, match=message):
        read_rope({"rope_theta": 1e6} | values, "config.json")


def test_scaling_survives_import_and_export(tmp_path: pathlib.Path) -> None:
    scaling = {"type": "yarn", **YARN}
    source = write(tmp_path / "hf", config={"rope_scaling": scaling})
    job = prepare_import(source)
    assert any("YaRN, factor 4, as config.json says" in note for note in job.notes)
    importer.write_checkpoint(job, tmp_path / "ola")
    config, _, _ = checkpoint.load_configs(tmp_path / "ola")
    assert config.llm.rope_scaling == YarnConfig()
    assert read_released(HF).config.llm.rope_scaling is None
    export = prepare_export(tmp_path / "ola")
    assert any("ignores rope_scaling (YaRN)" in note for note in export.notes)
    exporter.write_released(export, tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["rope_scaling"] == scaling
