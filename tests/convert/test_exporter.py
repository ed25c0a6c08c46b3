import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, Qwen2Config
from ola_jax.convert import exporter, importer, store
from ola_jax.convert.importer import read_released
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import BEATS_FILE, HF, WHISPER_FILE, Tensors, write

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


def there_and_back(
    source: pathlib.Path, tmp_path: pathlib.Path, *speech: pathlib.Path, **options: object
) -> pathlib.Path:
    """Import into tmp_path / "jax", export to tmp_path / "back"."""
    importer.write(importer.plan(source, *speech), tmp_path / "jax")
    size = options.pop("max_shard_size", "5GB")
    exporter.write(exporter.plan(tmp_path / "jax", **options), tmp_path / "back", size)
    return tmp_path / "back"


@pytest.mark.parametrize("chunk_bytes", [3000, 2**30])
@pytest.mark.parametrize(
    ("change", "config", "shards"),
    [
        (lambda tensors: None, {}, 0),
        (lambda tensors: None, {}, 3),
        (to_float32, {"torch_dtype": "float32"}, 2),
        (to_mixed, {}, 0),
        (checkpoints.without_speech, {"speech_encoder": None}, 0),
        (tie, {"tie_word_embeddings": True}, 0),
        (same_head, {"tie_word_embeddings": True}, 0),
    ],
    ids=["single", "sharded", "float32", "mixed", "image", "tied", "tied and stored"],
)
def test_import_then_export_gives_back_every_bit(
    change: Callable, config: dict, shards: int, chunk_bytes: int,
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(store, "CHUNK_BYTES", chunk_bytes)
    source = write(tmp_path / "hf", change, config, shards)
    back = there_and_back(source, tmp_path)
    assert_same_tensors(load_all(back), load_all(source))
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    for name in set(NOT_WEIGHTS) - {"config.json", "generation_config.json"}:
        assert (back / name).read_bytes() == (HF / name).read_bytes()
    generation = json.loads((back / "generation_config.json").read_text())
    assert generation == json.loads((HF / "generation_config.json").read_text())
    assert {path.name for path in back.iterdir()} == {*NOT_WEIGHTS, "model.safetensors"}


@pytest.mark.parametrize("inside", [True, False])
def test_separate_speech_files_come_back_bit_by_bit(inside: bool, tmp_path: pathlib.Path) -> None:
    change = (lambda tensors: None) if inside else checkpoints.without_speech_encoder
    source = write(tmp_path / "hf", change)
    speech = (WHISPER_FILE, BEATS_FILE)
    back = there_and_back(source, tmp_path, *speech, speech_encoder="separate", whisper=WHISPER_FILE)
    expected = checkpoints.golden_tensors()
    checkpoints.without_speech_encoder(expected)
    assert_same_tensors(load_all(back), expected)
    for name, section, state, content in (
        ("whisper.pt", "dims", "model_state_dict", checkpoints.whisper_content()),
        ("beats.pt", "cfg", "model", checkpoints.beats_content()),
    ):
        found = torch.load(back / name, weights_only=True)
        assert found.keys() == content.keys()
        assert found[section] == content[section]
        assert_same_tensors(found[state], content[state])
    assert json.loads((back / "config.json").read_text())["speech_encoder"] == "./whisper.pt"


def test_speech_from_files_can_be_embedded(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", checkpoints.without_speech_encoder)
    found = load_all(there_and_back(source, tmp_path, WHISPER_FILE, BEATS_FILE))
    assert found.keys() == checkpoints.golden_tensors().keys()
    whisper, beats = checkpoints.whisper_content()["model_state_dict"], checkpoints.beats_content()["model"]
    for key, tensor in found.items():
        if key.startswith(checkpoints.WHISPER):
            assert bits(tensor) == bits(whisper[key.replace(checkpoints.WHISPER, "encoder.")])
        if key.startswith(checkpoints.BEATS):
            assert bits(tensor) == bits(beats[key.replace(checkpoints.BEATS, "")])


def test_whisper_file_without_a_decoder_has_all_that_a_decoder_without_layers_needs(
    tmp_path: pathlib.Path,
) -> None:
    plan_options = {"speech_encoder": "separate"}
    back = there_and_back(HF, tmp_path, **plan_options)
    found = torch.load(back / "whisper.pt", weights_only=True)
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
    assert torch.load(back / "beats.pt", weights_only=True)["cfg"] == checkpoints.beats_content()["cfg"]
    importer.plan(back, back / "whisper.pt", back / "beats.pt")  # fits


@pytest.mark.parametrize("size", ["300KB", "0.1MB", "5GB"])
def test_shards_keep_to_their_size_and_their_index(size: str, tmp_path: pathlib.Path) -> None:
    back = there_and_back(HF, tmp_path, max_shard_size=size)
    assert_same_tensors(load_all(back), checkpoints.golden_tensors())
    files = sorted(back.glob("*.safetensors"))
    if size == "5GB":
        assert [file.name for file in files] == ["model.safetensors"]
        return
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in checkpoints.golden_tensors().values())
    limit = {"300KB": 300_000, "0.1MB": 100_000}[size]
    for file in files:
        tensors = load_file(file)
        assert {key for key, name in index["weight_map"].items() if name == file.name} == tensors.keys()
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= limit
    assert f"model-00001-of-{len(files):05d}.safetensors" == files[0].name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_of_all_tensors_can_be_set(dtype: str, tmp_path: pathlib.Path) -> None:
    back = there_and_back(HF, tmp_path, dtype=dtype)
    kind = getattr(torch, dtype)
    assert_same_tensors(load_all(back), {k: v.to(kind) for k, v in checkpoints.golden_tensors().items()})
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize(("dtype", "value"), [("float16", 7e4), ("bfloat16", 3.4e38)])
def test_values_beyond_the_dtype_are_refused(dtype: str, value: float, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", lambda t: t.__setitem__("model.norm.weight", torch.full([64], value)))
    with pytest.raises(OlaError, match=rf"model\.norm\.weight has values beyond {dtype}'s range"):
        there_and_back(source, tmp_path, dtype=dtype)
    assert not (tmp_path / "back").exists()


def trained(directory: pathlib.Path, released: dict | None = None) -> importer.Released:
    """A model as train.py leaves it: some parameters in float32, others as they were."""
    found = read_released(HF, WHISPER_FILE, BEATS_FILE, vision_heads=4)
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
def test_trained_model_is_exported_and_its_training_state_stays_behind(
    stored: bool, tmp_path: pathlib.Path
) -> None:
    released = importer.plan(HF, WHISPER_FILE, BEATS_FILE).released if stored else None
    model = trained(tmp_path / "0_tune" / "model", released)
    (tmp_path / "0_tune" / "checkpoints").mkdir()
    plan = exporter.plan(tmp_path / "0_tune", speech_encoder="separate")
    assert "optimizer's state, step and data position stay behind" in plan.notes[0]
    exporter.write(plan, tmp_path / "back")
    names = ("whisper.pt", "beats.pt") if stored else ("large-v3.pt", "BEATs.pt")
    again = read_released(tmp_path / "back", *(tmp_path / "back" / name for name in names), vision_heads=4)
    assert (again.config, again.processor_config) == (model.config, model.processor_config)
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(model.params), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    golden = json.loads((HF / "config.json").read_text())
    assert values["torch_dtype"] == "float32"
    differing = {key for key in golden if key not in values or values[key] != golden[key]}
    # Without the imported config: what it alone can know, and the names of files.
    names = {"max_window_layers", "mm_vision_tower", "music_encoder", "speech_encoder", "tune_mm_mlp_adapter"}
    names.add("tokenizer_model_max_length")  # the default
    assert differing == ({"torch_dtype"} if stored else {"torch_dtype", *names})
    assert not any(part in key for key in load_all(tmp_path / "back") for part in ("opt", "mu", "nu."))


def test_untied_by_training_is_written_and_said(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", tie, {"tie_word_embeddings": True})
    planned = importer.plan(source)
    params = read_released(source).params
    params["llm"]["lm_head"]["kernel"] += params["llm"]["lm_head"]["kernel"].dtype.type(1)
    checkpoint.save(
        tmp_path / "jax",
        config=planned.config,
        processor_config=planned.processor_config,
        params=params,
        tokenizer_dir=HF,
        generation_config={},
        released=planned.released,
    )
    plan = exporter.plan(tmp_path / "jax")
    assert "lm_head differs from the embeddings by now" in plan.notes[0]
    exporter.write(plan, tmp_path / "back")
    assert "lm_head.weight" in load_all(tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False


def test_number_of_vision_heads_that_is_not_the_assumed_one_is_written(tmp_path: pathlib.Path) -> None:
    importer.write(importer.plan(HF, vision_heads=6), tmp_path / "jax")
    exporter.write(exporter.plan(tmp_path / "jax"), tmp_path / "back")
    assert importer.plan(tmp_path / "back").config.vision.num_heads == 6


def test_progress_counts_every_byte(tmp_path: pathlib.Path) -> None:
    importer.write(importer.plan(HF), tmp_path / "jax")
    told: list[tuple[int, int]] = []
    exporter.write(exporter.plan(tmp_path / "jax"), tmp_path / "back", progress=lambda *now: told.append(now))
    total = sum(tensor.nbytes for tensor in checkpoints.golden_tensors().values())
    assert told[-1] == (total, total)
    assert len(told) == len(checkpoints.golden_tensors())


def test_mistakes_are_told_and_nothing_is_written(tmp_path: pathlib.Path) -> None:
    importer.write(importer.plan(HF), tmp_path / "jax")
    image = write(tmp_path / "image", checkpoints.without_speech, {"speech_encoder": None})
    importer.write(importer.plan(image), tmp_path / "run" / "0_tune" / "model")
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").touch()
    before = sorted(tmp_path.iterdir())
    for source, target, options, message in [
        ("jax", "occupied", {}, "is there already and is not overwritten"),
        ("jax", "back", {"max_shard_size": "many"}, "--max-shard-size many: not a size"),
        ("jax", "back", {"whisper": WHISPER_FILE}, "--whisper goes with --speech-encoder separate"),
        ("jax", "back", {"speech_encoder": "separate", "whisper": BEATS_FILE}, "no Whisper decoder"),
        ("run/0_tune", "back", {"speech_encoder": "separate"}, "has no speech encoder"),
        ("run", "back", {}, "a run of 1 stages; name one, such as --from .*0_tune"),
        ("unfinished", "back", {}, "has not ended"),
        ("none", "back", {}, "found nothing, expected a directory"),
        ("image", "back", {}, "not an ola_jax checkpoint"),
    ]:
        size = options.pop("max_shard_size", "5GB")
        with pytest.raises(OlaError, match=message):
            exporter.write(exporter.plan(tmp_path / source, **options), tmp_path / target, size)
        assert sorted(tmp_path.iterdir()) == before


def test_parameters_of_another_model_are_told(tmp_path: pathlib.Path) -> None:
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
        exporter.plan(tmp_path / "jax")
    checkpoint.save(
        tmp_path / "jax",
        config=found.config,
        processor_config=found.processor_config,
        params=llm,
        tokenizer_dir=HF,
        generation_config={},
    )
    with pytest.raises(OlaError, match=r"beats/encoder/layer_norm/bias is missing, expected \[32\]"):
        exporter.plan(tmp_path / "jax")
