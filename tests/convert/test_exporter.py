import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, Qwen2Config
from ola_jax.convert import exporter, importer, orbax_store
from ola_jax.convert.export_job import prepare_export
from ola_jax.convert.import_job import prepare_import
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import BEATS_FILE, HF, SPEECH, WHISPER_FILE, Tensors, read_released, write

NOT_WEIGHTS = [file.name for file in HF.iterdir() if file.suffix != ".safetensors"]


def to_float32(tensors: Tensors) -> None:
    for key, value in tensors.items():
        tensors[key] = value.float()


def to_mixed(tensors: Tensors) -> None:
    """Three dtypes, and layers of one kind that differ."""
    for key, value in tensors.items():
        if key.startswith("model.layers.1.") or key.startswith("lm_head"):
            tensors[key] = value.float()
        elif "blocks.0." in key:
            tensors[key] = value.half()


def tie(tensors: Tensors) -> None:
    del tensors["lm_head.weight"]


def same_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def bits(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()


def load_all(directory: pathlib.Path) -> Tensors:
    tensors: Tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        shard = load_file(file)
        assert not tensors.keys() & shard.keys()
        tensors |= shard
    return tensors


def assert_same_tensors(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert bits(found[key]) == bits(tensor), key


def import_then_export(
    source: pathlib.Path,
    tmp_path: pathlib.Path,
    speech: Mapping[str, pathlib.Path] = MappingProxyType({}),
    **options: Any,
) -> pathlib.Path:
    """Imports into tmp_path / "jax", exports to tmp_path / "exported"; `options`: of `prepare_export`."""
    importer.write_checkpoint(prepare_import(source, **speech), tmp_path / "jax")
    exporter.write_released(prepare_export(tmp_path / "jax", **options), tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The golden's checkpoint, imported."""
    directory = tmp_path_factory.mktemp("imported") / "jax"
    importer.write_checkpoint(prepare_import(HF), directory)
    return directory


# Small chunks divide every kind of leaf; large ones hold complete leaves.
@pytest.mark.parametrize(
    ("change", "config", "shards", "chunk_bytes"),
    [
        (lambda tensors: None, {}, 0, 2**30),
        (lambda tensors: None, {}, 3, 2**30),
        (to_float32, {"torch_dtype": "float32"}, 2, 2**30),
        (to_mixed, {}, 0, 2**30),
        (to_mixed, {}, 0, 3000),
        (checkpoints.without_speech, {"speech_encoder": None}, 0, 3000),
        (tie, {"tie_word_embeddings": True}, 0, 30_000),
        (same_head, {"tie_word_embeddings": True}, 0, 2**30),
    ],
    ids=["single", "sharded", "float32", "mixed", "small chunks", "image", "tied", "tied and stored"],
)
def test_import_then_export_gives_back_every_bit(
    change: Callable, config: dict, shards: int, chunk_bytes: int,
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(orbax_store, "CHUNK_BYTES", chunk_bytes)
    source = write(tmp_path / "hf", change, config, shards)
    exported = import_then_export(source, tmp_path)
    assert_same_tensors(load_all(exported), load_all(source))
    assert json.loads((exported / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    for name in set(NOT_WEIGHTS) - {"config.json", "generation_config.json"}:
        assert (exported / name).read_bytes() == (HF / name).read_bytes()
    generation = json.loads((exported / "generation_config.json").read_text())
    assert generation == json.loads((HF / "generation_config.json").read_text())
    assert {path.name for path in exported.iterdir()} == {*NOT_WEIGHTS, "model.safetensors"}


@pytest.mark.parametrize("inside", [True, False])
def test_separate_speech_files_are_exported_bit_for_bit(inside: bool, tmp_path: pathlib.Path) -> None:
    change = (lambda tensors: None) if inside else checkpoints.without_speech_encoder
    source = write(tmp_path / "hf", change)
    exported = import_then_export(source, tmp_path, SPEECH, speech_encoder="separate", whisper=WHISPER_FILE)
    expected = checkpoints.golden_tensors()
    checkpoints.without_speech_encoder(expected)
    assert_same_tensors(load_all(exported), expected)
    for name, section, state, content in (
        ("whisper.pt", "dims", "model_state_dict", checkpoints.whisper_content()),
        ("beats.pt", "cfg", "model", checkpoints.beats_content()),
    ):
        found = torch.load(exported / name, weights_only=True)
        assert found.keys() == content.keys()
        assert found[section] == content[section]
        assert_same_tensors(found[state], content[state])
    assert json.loads((exported / "config.json").read_text())["speech_encoder"] == "./whisper.pt"


def test_speech_from_files_can_be_embedded(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", checkpoints.without_speech_encoder)
    found = load_all(import_then_export(source, tmp_path, SPEECH))
    assert found.keys() == checkpoints.golden_tensors().keys()
    whisper, beats = checkpoints.whisper_content()["model_state_dict"], checkpoints.beats_content()["model"]
    for key, tensor in found.items():
        if key.startswith(checkpoints.WHISPER):
            assert bits(tensor) == bits(whisper[key.replace(checkpoints.WHISPER, "encoder.")])
        if key.startswith(checkpoints.BEATS):
            assert bits(tensor) == bits(beats[key.replace(checkpoints.BEATS, "")])


def test_without_a_whisper_file_the_decoder_has_no_layers(
    imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    exported = tmp_path / "exported"
    exporter.write_released(prepare_export(imported, speech_encoder="separate"), exported)
    found = torch.load(exported / "whisper.pt", weights_only=True)
    given = checkpoints.whisper_content()
    assert found["dims"] == given["dims"] | {
        "n_vocab": 1, "n_text_ctx": 1, "n_text_state": 1, "n_text_head": 1, "n_text_layer": 0
    }  # fmt: skip
    decoder = {k: tuple(v.shape) for k, v in found["model_state_dict"].items() if k.startswith("decoder.")}
    assert decoder == {
        "decoder.token_embedding.weight": (1, 1),
        "decoder.positional_embedding": (1, 1),
        "decoder.ln.weight": (1,),
        "decoder.ln.bias": (1,),
    }
    assert torch.load(exported / "beats.pt", weights_only=True)["cfg"] == checkpoints.beats_content()["cfg"]
    prepare_import(exported, whisper=exported / "whisper.pt", beats=exported / "beats.pt")  # fits


@pytest.mark.parametrize("size", ["300KB", "0.1MB"])
def test_shards_keep_to_their_size_and_their_index(
    size: str, imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    exported = tmp_path / "exported"
    exporter.write_released(prepare_export(imported), exported, max_shard_size=size)
    assert_same_tensors(load_all(exported), checkpoints.golden_tensors())
    files = sorted(exported.glob("*.safetensors"))
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in checkpoints.golden_tensors().values())
    limit = {"300KB": 300_000, "0.1MB": 100_000}[size]
    for file in files:
        tensors = load_file(file)
        assert {key for key, name in index["weight_map"].items() if name == file.name} == tensors.keys()
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= limit
    assert f"model-00001-of-{len(files):05d}.safetensors" == files[0].name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_of_all_tensors_can_be_set(dtype: str, imported: pathlib.Path, tmp_path: pathlib.Path) -> None:
    exported = tmp_path / "exported"
    exporter.write_released(prepare_export(imported, dtype=dtype), exported)
    kind = getattr(torch, dtype)
    assert_same_tensors(load_all(exported), {k: v.to(kind) for k, v in checkpoints.golden_tensors().items()})
    assert json.loads((exported / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize(("dtype", "value"), [("float16", 7e4), ("bfloat16", 3.4e38)])
def test_values_beyond_the_dtype_are_refused(dtype: str, value: float, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", lambda t: t.__setitem__("model.norm.weight", torch.full([64], value)))
    with pytest.raises(OlaError, match=rf"model\.norm\.weight has values beyond the range of {dtype}"):
        import_then_export(source, tmp_path, dtype=dtype)
    assert not (tmp_path / "exported").exists()


def trained(directory: pathlib.Path, released: dict | None = None) -> checkpoints.Released:
    """A model as train.py leaves it: some parameters in float32, others as they were."""
    found = read_released(HF, **SPEECH, vision_heads=4)
    params = dict(found.params) | {
        "llm": jax.tree.map(lambda leaf: np.float32(leaf) + np.float32(1e-6), found.params["llm"])
    }
    checkpoint.save(
        directory,
        config=found.config,
        processor_config=found.processor_config,
        params=params,
        tokenizer_dir=HF,
        generation_config=found.generation_config,
        released=released,
    )
    return dataclasses.replace(found, params=params)


@pytest.mark.parametrize("stored", [True, False])
def test_trained_model_is_exported_without_its_training_state(stored: bool, tmp_path: pathlib.Path) -> None:
    released = prepare_import(HF, **SPEECH).origin.to_json() if stored else None
    model = trained(tmp_path / "0_tune" / "model", released)
    (tmp_path / "0_tune" / "checkpoints").mkdir()
    job = prepare_export(tmp_path / "0_tune", speech_encoder="separate")
    assert "optimizer's state, step and data position are not exported" in job.notes[0]
    exporter.write_released(job, tmp_path / "exported")
    names = ("whisper.pt", "beats.pt") if stored else ("large-v3.pt", "BEATs.pt")
    whisper, beats = (tmp_path / "exported" / name for name in names)
    again = read_released(tmp_path / "exported", whisper=whisper, beats=beats, vision_heads=4)
    assert (again.config, again.processor_config) == (model.config, model.processor_config)
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(model.params), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    values = json.loads((tmp_path / "exported" / "config.json").read_text())
    golden = json.loads((HF / "config.json").read_text())
    assert values["torch_dtype"] == "float32"
    differing = {key for key in golden if key not in values or values[key] != golden[key]}
    # Without the imported config: what it alone can know, and the names of files.
    names = {"max_window_layers", "mm_vision_tower", "music_encoder", "speech_encoder", "tune_mm_mlp_adapter"}
    names.add("tokenizer_model_max_length")  # the default
    assert differing == ({"torch_dtype"} if stored else {"torch_dtype", *names})
    assert not any(part in key for key in load_all(tmp_path / "exported") for part in ("opt", "mu", "nu."))


def test_head_that_training_untied_is_written(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", tie, {"tie_word_embeddings": True})
    job = prepare_import(source)
    params = read_released(source).params
    params["llm"]["lm_head"]["kernel"] += params["llm"]["lm_head"]["kernel"].dtype.type(1)
    checkpoint.save(
        tmp_path / "jax",
        config=job.config,
        processor_config=job.processor_config,
        params=params,
        tokenizer_dir=HF,
        generation_config={},
        released=job.origin.to_json(),
    )
    job = prepare_export(tmp_path / "jax")
    assert "lm_head now differs from the embeddings" in job.notes[0]
    exporter.write_released(job, tmp_path / "exported")
    assert "lm_head.weight" in load_all(tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["tie_word_embeddings"] is False


def test_number_of_vision_heads_is_written_unless_it_is_the_assumed_one(tmp_path: pathlib.Path) -> None:
    importer.write_checkpoint(prepare_import(HF, vision_heads=6), tmp_path / "jax")
    exporter.write_released(prepare_export(tmp_path / "jax"), tmp_path / "exported")
    assert prepare_import(tmp_path / "exported").config.vision.num_heads == 6


def test_progress_counts_every_byte(imported: pathlib.Path, tmp_path: pathlib.Path) -> None:
    calls: list[tuple[int, int]] = []
    exporter.write_released(
        prepare_export(imported), tmp_path / "exported", progress=lambda *now: calls.append(now)
    )
    total = sum(tensor.nbytes for tensor in checkpoints.golden_tensors().values())
    assert calls[-1] == (total, total)
    assert len(calls) == len(checkpoints.golden_tensors())


def test_mistakes_are_reported_and_nothing_is_written(imported: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(imported, tmp_path / "jax")
    image = write(tmp_path / "image", checkpoints.without_speech, {"speech_encoder": None})
    importer.write_checkpoint(prepare_import(image), tmp_path / "run" / "0_tune" / "model")
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").touch()
    before = sorted(tmp_path.iterdir())
    for source, target, options, message in [
        ("jax", "occupied", {}, "exists already and is not overwritten"),
        ("jax", "exported", {"max_shard_size": "many"}, "--max-shard-size many: not a size"),
        ("jax", "exported", {"whisper": WHISPER_FILE}, "--whisper needs --speech-encoder separate"),
        ("jax", "exported", {"speech_encoder": "separate", "whisper": BEATS_FILE}, "no Whisper decoder"),
        ("run/0_tune", "exported", {"speech_encoder": "separate"}, "has no speech encoder"),
        ("run", "exported", {}, "a run of 1 stages; name one, such as --from .*0_tune"),
        ("unfinished", "exported", {}, "has not ended"),
        ("none", "exported", {}, "found nothing, expected a directory"),
        ("image", "exported", {}, "not an ola_jax checkpoint"),
    ]:
        size = {"max_shard_size": options.pop("max_shard_size", "5GB")}
        with pytest.raises(OlaError, match=message):
            exporter.write_released(prepare_export(tmp_path / source, **options), tmp_path / target, **size)
        assert sorted(tmp_path.iterdir()) == before


def test_parameters_of_another_model_are_refused(tmp_path: pathlib.Path) -> None:
    config = OlaConfig(llm=Qwen2Config(48, 24, 3, 4, 2, 40), vision=None, whisper=None, beats=None)
    found = read_released(HF)
    llm = {"llm": found.params["llm"]}
    checkpoint.save(
        tmp_path / "jax",
        config=config,
        processor_config=found.processor_config,
        params=llm,
        tokenizer_dir=HF,
        generation_config={},
    )
    with pytest.raises(OlaError, match=r"llm/embed_tokens/embedding is \[768, 64\], expected \[48, 24\]"):
        prepare_export(tmp_path / "jax")
    checkpoint.save(
        tmp_path / "jax",
        config=found.config,
        processor_config=found.processor_config,
        params=llm,
        tokenizer_dir=HF,
        generation_config={},
    )
    with pytest.raises(OlaError, match=r"beats/encoder/layer_norm/bias is missing, expected \[32\]"):
        prepare_export(tmp_path / "jax")
