import pathlib

import numpy as np
import pytest
import torch

from ola_jax.convert import importer
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import HF, Tensors, write

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOKENS = 728  # of the golden's tokenizer; its embeddings have 768 rows


def rows(count: int) -> object:
    def change(tensors: Tensors) -> None:
        for key in (EMBEDDING, HEAD):
            tensors[key] = tensors[key][:count].clone()

    return change


def embeddings(plan: importer.Plan) -> tuple[np.ndarray, np.ndarray]:
    found = {leaf.entry.path: piece for leaf, _, piece in importer.pieces(plan)}
    return found["llm/embed_tokens/embedding"], found["llm/lm_head/kernel"]


def test_rows_stay_unless_asked() -> None:
    assert importer.plan(HF).config.llm.vocab_size == 768


def test_rows_beyond_the_tokenizer_are_cut_off() -> None:
    plan = importer.plan(HF, vocabulary="tokenizer")
    assert plan.config.llm.vocab_size == TOKENS
    assert plan.released["config"]["vocab_size"] == TOKENS
    assert "vocabulary: 768 rows made 728, the tokenizer's size" in plan.notes
    embedding, head = embeddings(plan)
    bits = lambda key: checkpoints.golden_tensors()[key][:TOKENS].view(torch.int16).numpy()
    np.testing.assert_array_equal(embedding.view(np.int16), bits(EMBEDDING))
    np.testing.assert_array_equal(head.view(np.int16), bits(HEAD).T)


def test_rows_that_lack_are_drawn_at_random_and_said(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", rows(500), {"vocab_size": 500, "initializer_range": 0.05})
    plan = importer.plan(source, vocabulary="tokenizer")
    assert (
        "vocabulary: 500 rows made 728, the tokenizer's size; the 228 new ones are random, N(0, 0.05)"
        in plan.notes
    )
    embedding, head = (values.astype(np.float32) for values in embeddings(plan))
    np.testing.assert_array_equal(
        embedding[:500], checkpoints.golden_tensors()[EMBEDDING][:500].float().numpy()
    )
    for new in (embedding[500:], head[:, 500:]):
        assert abs(new.std() - 0.05) < 0.002
        assert abs(new.mean()) < 0.002
    assert not np.allclose(embedding[500:], head[:, 500:].T)
    again = embeddings(importer.plan(source, vocabulary="tokenizer"))
    np.testing.assert_array_equal(again[0].astype(np.float32), embedding)


def test_tied_embeddings_get_the_same_new_rows(tmp_path: pathlib.Path) -> None:
    def tie(tensors: Tensors) -> None:
        tensors[EMBEDDING] = tensors[EMBEDDING][:500].clone()
        del tensors[HEAD]

    source = write(tmp_path / "hf", tie, {"vocab_size": 500, "tie_word_embeddings": True})
    embedding, head = embeddings(importer.plan(source, vocabulary="tokenizer"))
    np.testing.assert_array_equal(embedding.view(np.int16), head.T.view(np.int16))


def test_tokens_without_a_row_are_told(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", rows(700), {"vocab_size": 700})
    message = r"the tokenizer has 728 tokens, the embeddings 700 rows; --vocabulary tokenizer resizes"
    with pytest.raises(OlaError, match=message):
        importer.plan(source)


def test_size_is_found_without_tokenizer_json(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf")
    (source / "tokenizer.json").unlink()
    assert importer.plan(source, vocabulary="tokenizer").config.llm.vocab_size == TOKENS
    for name in ("vocab.json", "merges.txt"):
        (source / name).unlink()
    with pytest.raises(OlaError, match="no tokenizer, so --vocabulary tokenizer has no size to go by"):
        importer.plan(source, vocabulary="tokenizer")


@pytest.mark.parametrize("value", ["0.02", -1.0, float("nan"), float("inf")])
def test_spread_of_new_rows_that_is_no_number_is_refused(value: object, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", rows(500), {"vocab_size": 500, "initializer_range": value})
    with pytest.raises(OlaError, match=r"config\.json: initializer_range: found"):
        importer.plan(source, vocabulary="tokenizer")


def test_tokenizer_that_is_damaged_is_told(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf")
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(OlaError, match=r"tokenizer\.json: not a tokenizer that can be read"):
        importer.plan(source)
