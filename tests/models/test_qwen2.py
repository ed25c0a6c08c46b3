import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.models.qwen2 import Behind, Qwen2, empty_cache
from tests import golden
from tests.released import released

EXPECTED = golden.arrays("llm.npz")
TOLERANCE = golden.stage("llm")["tolerance"]
MASK = EXPECTED["attention_mask"].astype(np.int32)
IDS = EXPECTED["input_ids"].astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(IDS.shape[1], dtype=np.int32), IDS.shape)


@functools.cache
def compiled(model: Qwen2) -> Callable:
    def run(m: Qwen2, ids: jax.Array, positions: jax.Array, segments: jax.Array) -> tuple:
        x = m.embed(ids)
        hidden = m(x, positions, segments)
        return x, hidden, m.logits(hidden)

    return jax.jit(
        lambda p, *inputs: model.apply({"params": p}, *inputs, method=run, mutable="intermediates")
    )


def forward(model: Qwen2, ids: np.ndarray, positions: np.ndarray, segments: np.ndarray) -> dict:
    (x, hidden, logits), sown = compiled(model)(released().params["llm"], ids, positions, segments)
    blocks = sown["intermediates"]["layers"]["output"][0]
    return {"embedded": x, "blocks": blocks, "hidden": hidden, "logits": logits}


def test_every_layer_equals_the_original() -> None:
    out = forward(Qwen2(released().config.llm), IDS, POSITIONS, MASK)
    layers = [out["embedded"], *out["blocks"][:-1], out["hidden"]]
    for i, layer in enumerate(layers):
        name = f"hidden{i}"
        golden.assert_close(layer * MASK[..., None], EXPECTED[name], TOLERANCE[name], name)
    kept = EXPECTED["logits__idx"]
    logits = (np.asarray(out["logits"]) * MASK[..., None])[:, kept]
    golden.assert_close(logits, EXPECTED["logits"] * MASK[:, kept, None], TOLERANCE["logits"], "logits")


def test_two_samples_packed_in_a_row_have_the_logits_of_each_alone() -> None:
    model = Qwen2(released().config.llm)
    a, b = IDS[0, :13], IDS[1, :17]
    row = np.concatenate([a, b, np.zeros(2, np.int32)])[None]
    segments = np.repeat([1, 2, 0], [13, 17, 2])[None].astype(np.int32)
    positions = np.concatenate([np.arange(13), np.arange(17), np.zeros(2)])[None].astype(np.int32)
    packed = forward(model, row, positions, segments)["logits"][0]
    for part, ids in ((packed[:13], a), (packed[13:30], b)):
        n = len(ids)
        alone = forward(model, ids[None], np.arange(n, dtype=np.int32)[None], np.ones((1, n), np.int32))
        np.testing.assert_allclose(part, alone["logits"][0], atol=1e-5 * np.abs(alone["logits"]).max())

    changed = row.copy()
    changed[0, :13] = changed[0, :13][::-1]
    other = forward(model, changed, positions, segments)["logits"][0]
    np.testing.assert_array_equal(other[13:30], packed[13:30])


def test_a_cache_filled_in_pieces_has_the_hidden_states_of_one_pass() -> None:
    config, params = released().config.llm, released().params["llm"]
    model, ids = Qwen2(config), jnp.asarray(IDS[:1])
    complete = forward(model, ids, POSITIONS[:1], MASK[:1])["hidden"]
    cache = empty_cache(config, 3, 40, dtype=jnp.float32)
    extend = lambda m, i, where, c: m.extend(m.embed(i), where, c)
    pieces = []
    for start, stop in ((0, 9), (9, 10), (10, 33)):
        where = Behind(slot=jnp.int32(1), start=jnp.array([start]), kept=jnp.array([True]))
        args = ids[:, start:stop], where, cache
        hidden, cache = model.apply({"params": params}, *args, method=extend)
        pieces.append(hidden)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), complete, atol=2e-5)


def test_remat_changes_no_gradient() -> None:
    params = released().params["llm"]

    def grad(remat: str) -> dict:
        model = Qwen2(released().config.llm, remat=remat)
        run = lambda m, ids, *layout: m(m.embed(ids), *layout).sum()
        total = lambda p, *inputs: model.apply({"params": p}, *inputs, method=run)
        return jax.jit(jax.grad(total))(params, IDS, POSITIONS, MASK)

    plain = grad("none")
    for remat in ("full", "attention", "projections", "gate", "dots"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grad(remat), plain)
