import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import traverse_util

from ola_jax.convert.export_config import make_config_json
from ola_jax.convert.names import to_torch
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import (
    BEATS,
    BEATS_FILE,
    HF,
    SPEECH,
    WHISPER,
    WHISPER_FILE,
    Tensors,
    read_released,
    write,
)

BIAS = f"{BEATS}encoder.layers.{{}}.self_attn.relative_attention_bias.weight"


def torch_key(path: str, layer: int) -> str:
    """The released key of a path in our tree, derived without the table."""
    part, _, rest = path.partition("/")
    name = (
        rest.replace("layers/", f"layers/{layer}/").replace("blocks/", f"blocks/{layer}/").replace("/", ".")
    )
    name = name.replace(".kernel", ".weight").replace(".scale", ".weight").replace(".embedding", ".weight")
    if part == "llm":
        return name if name.startswith("lm_head") else f"model.{name}"
    if part == "vision":
        name = name.replace("patch_embed.", "patch_embed.proj.").replace("position_embedding", "pos_embed")
        return f"model.vision_tower.vision_tower.{name}"
    if part == "whisper":
        return WHISPER + name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
    if part == "beats":
        name = name.replace("pos_conv.", "pos_conv.0.")
        if name.endswith("relative_attention_bias"):
            return BIAS.format(layer)
        return BEATS + name
    return f"model.{part.replace('vision_', 'mm_')}.{name}".replace("predictor_", "predictor.")


def in_our_axes(path: str, tensor: torch.Tensor) -> np.ndarray:
    """A torch tensor in the model's layout: matrices [in, out], convolutions [taps, in, out]."""
    if path.endswith(("patch_embed/kernel", "patch_embedding/kernel")):
        out = tensor.shape[0]
        tensor = torch.stack(
            [tensor[:, :, i, j] for i in range(16) for j in range(16)]
        )  # [256, out, channels]
        tensor = tensor.swapaxes(1, 2).reshape(-1, out)
    elif path.endswith(("kernel", "weight_v")):
        tensor = tensor.permute(*reversed(range(tensor.dim())))
    elif path.endswith(("position_embedding", "weight_g", "grep_a")):
        tensor = tensor.reshape([n for n in tensor.shape if n > 1])
    return tensor.float().numpy()


def expected_tensors(separate: bool) -> Tensors:
    tensors = checkpoints.golden_tensors()
    if separate:
        checkpoints.without_speech_encoder(tensors)
        for key, value in checkpoints.whisper_content()["model_state_dict"].items():
            if key.startswith("encoder."):
                tensors[WHISPER + key.removeprefix("encoder.")] = value
        tensors |= {BEATS + key: value for key, value in checkpoints.beats_content()["model"].items()}
    return tensors


@pytest.mark.parametrize("separate", [True, False])
def test_every_leaf_is_its_torch_tensor(separate: bool) -> None:
    files = SPEECH if separate else {}
    released = read_released(HF, **files, vision_heads=4, whisper_heads=2)
    tensors, used = expected_tensors(separate), set()
    for path, leaf in traverse_util.flatten_dict(released.params, sep="/").items():
        stacked = "/layers/" in path or "/blocks/" in path
        for layer in range(leaf.shape[0] if stacked else 1):
            key = torch_key(path, layer)
            used.add(key)
            assert str(tensors[key].dtype) == f"torch.{leaf.dtype}", key
            actual = leaf[layer] if stacked else leaf
            expected = in_our_axes(path, tensors[key])
            np.testing.assert_array_equal(actual.astype(np.float32), expected, err_msg=key)
    assert tensors.keys() - used == {BIAS.format(1)}  # the copy of the shared tensor


def test_to_torch_gives_the_released_tensors() -> None:
    released = read_released(HF)
    exported, expected = dict(to_torch(released.config, released.params)), checkpoints.golden_tensors()
    assert exported.keys() == expected.keys()
    for key, tensor in expected.items():
        assert exported[key].dtype == ml_dtypes.bfloat16
        assert exported[key].shape == tuple(tensor.shape)
        assert exported[key].tobytes() == tensor.view(torch.int16).numpy().tobytes(), key


def test_configs_are_read_off_the_checkpoint() -> None:
    released = read_released(HF, **SPEECH)
    llm, vision = released.config.llm, released.config.vision
    whisper, beats = released.config.whisper, released.config.beats
    assert (llm.hidden_size, llm.num_layers, llm.num_heads, llm.num_kv_heads) == (64, 3, 4, 2)
    assert (llm.vocab_size, llm.intermediate_size, llm.rope_theta) == (768, 144, 1e6)
    assert (vision.hidden_size, vision.num_layers, vision.num_heads) == (48, 2, 4)
    assert (vision.intermediate_size, vision.patch_size, vision.position_grid) == (179, 16, 128)
    assert (whisper.num_mels, whisper.num_positions, whisper.hidden_size) == (128, 1500, 16)
    assert (whisper.num_layers, whisper.num_heads) == (2, 2)
    assert (beats.embed_dim, beats.hidden_size, beats.num_layers, beats.num_heads) == (20, 32, 2, 4)
    assert (beats.intermediate_size, beats.conv_positions, beats.conv_groups) == (56, 128, 16)
    assert (beats.num_buckets, beats.max_distance, beats.predictor_classes) == (320, 800, 527)
    assert (released.config.speech_stack, released.config.speech_hidden_size) == (10, 2048)
    assert released.processor_config.max_length == 16384
    assert released.generation_config["top_k"] == 20


def test_maximum_length_comes_from_the_checkpoint(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", config={"tokenizer_model_max_length": 120})
    assert read_released(source).processor_config.max_length == 120


def test_a_length_without_limit_stays_one(tmp_path: pathlib.Path) -> None:
    limit = int(1e30)  # as transformers writes it
    source = write(tmp_path / "hf", config={"tokenizer_model_max_length": limit})
    released = read_released(source)
    assert released.processor_config.max_length == 2**31 - 1
    values = {"tokenizer_model_max_length": limit}
    exported = make_config_json(
        released.config, released.processor_config, {}, stored=values, dtype="float32", tied=False
    )
    assert exported["tokenizer_model_max_length"] == limit


def test_rope_theta_is_found_where_newer_configs_put_it(tmp_path: pathlib.Path) -> None:
    nested = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5000}}
    assert read_released(write(tmp_path / "hf", config=nested)).config.llm.rope_theta == 5000.0


def test_number_of_vision_heads_is_given_or_stored_or_assumed_with_a_note(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", config={"mm_vision_num_heads": 6})
    heads = lambda released: released.config.vision.num_heads
    assert heads(read_released(source)) == 6
    assert heads(read_released(source, vision_heads=3)) == 3
    assumed = read_released(HF, **SPEECH)
    assert heads(assumed) == 4
    assert "assumed 4 attention heads" in assumed.notes[0]
    assert not read_released(HF, **SPEECH, vision_heads=4).notes


def assert_same_params(a: checkpoints.Released, b: checkpoints.Released) -> None:
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


def test_shards_read_as_a_single_file(tmp_path: pathlib.Path) -> None:
    sharded = write(tmp_path / "hf", shards=3)
    assert_same_params(read_released(sharded), read_released(HF))


def test_separate_speech_files_win_over_copies_inside(tmp_path: pathlib.Path) -> None:
    def spoil(tensors: Tensors) -> None:
        for key in tensors:
            if key.startswith(checkpoints.SPEECH_ENCODER):
                tensors[key] = tensors[key] + 1

    spoiled = write(tmp_path / "spoiled", spoil)
    absent = write(tmp_path / "absent", checkpoints.without_speech_encoder)
    assert_same_params(read_released(spoiled, **SPEECH), read_released(absent, **SPEECH))
    only_whisper = read_released(spoiled, whisper=WHISPER_FILE)
    kept, given = only_whisper.params["beats"], only_whisper.params["whisper"]
    assert kept["layer_norm"]["bias"].dtype == ml_dtypes.bfloat16
    assert given["ln_post"]["bias"].dtype == np.float16


def test_one_copy_of_the_shared_bias_is_enough(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", lambda tensors: tensors.pop(BIAS.format(1)))
    assert_same_params(read_released(source), read_released(HF))


def test_checkpoint_without_speech_parts(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", checkpoints.without_speech, config={"speech_encoder": None})
    released = read_released(source)
    assert released.config.whisper is None
    assert released.config.beats is None
    assert set(released.params) == {"llm", "vision", "vision_projector"}
    with pytest.raises(OlaError, match=r"names no speech_encoder.*leave them out"):
        read_released(source, whisper=WHISPER_FILE)


def test_tied_embeddings_are_copied_with_a_note(tmp_path: pathlib.Path) -> None:
    source = write(
        tmp_path / "hf", lambda tensors: tensors.pop("lm_head.weight"), {"tie_word_embeddings": True}
    )
    released = read_released(source)
    llm = released.params["llm"]
    np.testing.assert_array_equal(llm["lm_head"]["kernel"].T, llm["embed_tokens"]["embedding"])
    assert released.notes[0].startswith("lm_head: a copy of the embeddings")


def test_tied_head_that_differs_is_refused(tmp_path: pathlib.Path) -> None:
    tied = {"tie_word_embeddings": True}
    source = write(tmp_path / "hf", config=tied)
    with pytest.raises(OlaError, match=r"tie_word_embeddings is true, but lm_head\.weight differs"):
        read_released(source)
    same = lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    llm = read_released(write(tmp_path / "same", same, tied)).params["llm"]
    np.testing.assert_array_equal(llm["lm_head"]["kernel"].T, llm["embed_tokens"]["embedding"])


LARGE = {
    "stacked": ("model.layers.1.mlp.up_proj.weight", torch.full([144, 64], 3.4e38)),
    "not stacked": ("model.norm.weight", torch.full([64], -3.4e38)),
    "a few values": ("lm_head.weight", torch.eye(768, 64) * 3.4e38),
}


@pytest.mark.parametrize("name", LARGE)
def test_values_that_the_dtype_cannot_hold_are_refused(name: str, tmp_path: pathlib.Path) -> None:
    key, value = LARGE[name]
    source = write(tmp_path / "hf", lambda tensors: tensors.__setitem__(key, value))
    for check_finite in (False, True):
        message = rf"{key} has values beyond the range of bfloat16; choose another --dtype"
        with pytest.raises(OlaError, match=message):
            read_released(source, dtype="bfloat16", check_finite=check_finite)
    read_released(source, dtype="float32", check_finite=True)
    read_released(source, check_finite=True)


def test_infinities_are_refused_in_memory_too(tmp_path: pathlib.Path) -> None:
    spoil = put("model.norm.weight", torch.full([64], torch.inf))
    source = write(tmp_path / "hf", spoil)
    assert np.isinf(read_released(source, dtype="bfloat16").params["llm"]["norm"]["scale"]).all()
    with pytest.raises(OlaError, match=r"model\.norm\.weight holds 64 values that are NaN or infinite"):
        read_released(source, dtype="bfloat16", check_finite=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_of_all_parameters_can_be_set(dtype: str) -> None:
    released, kept = (read_released(HF, **SPEECH, dtype=d) for d in (dtype, "keep"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(released.params)} == {dtype}
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype), kept.params)
    jax.tree.map(np.testing.assert_array_equal, released.params, expected)


def test_progress_counts_every_byte() -> None:
    calls = []
    read_released(HF, progress=lambda done, total: calls.append((done, total)))
    copy = checkpoints.golden_tensors()[BIAS.format(1)]
    total = sum(t.nbytes for t in checkpoints.golden_tensors().values()) - copy.nbytes
    assert calls[-1] == (total, total)
    assert len(calls) > 100


def rename(tensors: Tensors, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


def put(key: str, value: torch.Tensor) -> object:
    return lambda tensors: tensors.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight \[144, 64\]$",
        ),
        (put("model.extra.weight", torch.zeros(2, 3)), r"1 unused: model\.extra\.weight \[2, 3\]$"),
        (
            put("model.norm.weight", torch.zeros(63)),
            r"1 mis-shaped: model\.norm\.weight \[63\], expected \[64\]$",
        ),
        (
            lambda t: rename(t, "model.mm_projector.proj1.bias", "model.mm_projector.proj.bias"),
            r"1 missing: .*mm_projector\.proj1\.bias \[64\] \| 1 unused: .*mm_projector\.proj\.bias \[64\]$",
        ),
        (
            put("model.layers.3.input_layernorm.weight", torch.zeros(64)),
            r"1 unused: model\.layers\.3\.input_layernorm\.weight",
        ),
        (
            lambda t: t.pop(f"{WHISPER}blocks.0.attn.key.weight"),
            r"1 missing: .*whisper_model\.blocks\.0\.attn\.key\.weight \[16, 16\]$",
        ),
        (
            lambda t: [t.pop(BIAS.format(i)) for i in range(2)],
            r"relative_attention_bias\.weight is missing",
        ),
        (
            lambda t: t.pop("model.vision_tower.vision_tower.pos_embed"),
            r"vision_tower\.pos_embed is missing, so the model's sizes are unknown",
        ),
        (
            put("model.vision_tower.vision_tower.pos_embed", torch.zeros(1, 15, 48)),
            r"15 positions, expected a square grid",
        ),
        (put("model.vision_tower.vision_tower.pos_embed", torch.zeros(16, 48)), r"expected 3 axes"),
        (
            put("model.norm.weight", torch.zeros(64, dtype=torch.int8)),
            r"model\.norm\.weight has dtype I8; expected float32, float16 or bfloat16",
        ),
        (put(BIAS.format(1), torch.zeros(320, 4)), r"layers\.1\..* differs from .*layers\.0\."),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: object, message: str, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", change)
    with pytest.raises(OlaError, match=message):
        read_released(source)


def test_many_missing_tensors_are_counted(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", config={"num_hidden_layers": 5})
    with pytest.raises(OlaError, match=r"24 missing: model\.layers\.3\..* \.\.\.$"):
        read_released(source)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 10**30}, r"hidden_size: found 1000.*, expected a positive number of at most"),
        ({"hidden_size": -64}, r"hidden_size: found -64"),
        ({"hidden_size": 64.0}, r"hidden_size: found 64\.0"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers: found 1000000000, .* of at most 10000"),
        ({"vocab_size": True}, r"vocab_size: found True"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps: found nan"),
        ({"rms_norm_eps": float("inf")}, r"rms_norm_eps: found inf"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_scaling: rope type 'linear'"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config is {'bits': 4}"),
        ({"mm_projector_type": "linear"}, r"mm_projector_type is 'linear'"),
        ({"hidden_size": None}, r"config\.json: hidden_size: found nothing, expected a positive number"),
        ({"num_attention_heads": "4"}, r"num_attention_heads: found '4'"),
        ({"num_attention_heads": 5}, r"64 is not a multiple of 5"),
        ({"num_attention_heads": 64}, r"heads are 1 wide; rotary positions need an even width"),
        ({"num_key_value_heads": 3}, r"4 is not a multiple of 3"),
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'"),
        ({"use_sliding_window": True}, r"use_sliding_window is True"),
        ({"speech_encoder_type": "whisper"}, r"speech_encoder_type is 'whisper'"),
        ({"speech_encoder_ds_rate": None}, r"speech_encoder_ds_rate: found nothing"),
        ({"speech_encoder_ds_rate": 9}, r"mis-shaped: model\.speech_projector\.linear1\.weight"),
        ({"tokenizer_model_max_length": 0}, r"tokenizer_model_max_length: found 0"),
        ({"mm_vision_num_heads": 5}, r"--vision-heads.*48 is not a multiple of 5"),
    ],
)
def test_config_that_does_not_fit_is_refused(config: dict, message: str, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", config=config)
    with pytest.raises(OlaError, match=message):
        read_released(source)


@pytest.mark.parametrize(
    ("gone", "flags"),
    [
        ((WHISPER,), r"give --whisper large-v3\.pt$"),
        ((BEATS,), r"give --beats BEATs\.pt$"),
        ((WHISPER, BEATS), r"give --whisper large-v3\.pt and --beats BEATs\.pt$"),
    ],
)
def test_missing_speech_encoder_asks_for_its_flag(
    gone: tuple[str, ...], flags: str, tmp_path: pathlib.Path
) -> None:
    def drop(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(gone)]:
            del tensors[key]

    source = write(tmp_path / "hf", drop)
    with pytest.raises(OlaError, match=flags):
        read_released(source)


def test_beats_with_another_architecture_is_refused(tmp_path: pathlib.Path) -> None:
    content = checkpoints.beats_content()
    file = tmp_path / "beats.pt"
    torch.save(content | {"cfg": content["cfg"] | {"deep_norm": False}}, file)
    with pytest.raises(OlaError, match=r"deep_norm is False; Ola's BEATs has True"):
        read_released(HF, whisper=WHISPER_FILE, beats=file)


def test_whisper_of_another_size_than_its_dims_is_refused(tmp_path: pathlib.Path) -> None:
    content = checkpoints.whisper_content()
    file = tmp_path / "whisper.pt"
    torch.save(content | {"dims": content["dims"] | {"n_mels": 80}}, file)
    with pytest.raises(OlaError, match=r"conv1\.weight \[16, 128, 3\], expected \[16, 80, 3\]"):
        read_released(HF, whisper=file, beats=BEATS_FILE)
