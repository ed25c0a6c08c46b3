import pathlib

import numpy as np
import pytest
import torch

from ola_jax.convert import importer
from ola_jax.convert.import_job import ImportJob, prepare_import
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


def embeddings(job: ImportJob) -> tuple[np.ndarray, np.ndarray]:
    found = {leaf.entry.path: piece for leaf, _, piece in importer.read_pieces(job)}
    return found["llm/embed_tokens/embedding"], found["llm/lm_head/kernel"]


def test_rows_are_kept_by_default() -> None:
    assert prepare_import(HF).config.llm.vocab_size == 768


def test_rows_beyond_the_tokenizer_are_cut_off() -> None:
    job = prepare_import(HF, resize_vocabulary=True)
    assert job.config.llm.vocab_size == TOKENS
    assert job.origin.config["vocab_size"] == TOKENS
    assert "vocabulary: resized from 768 rows to 728, the tokenizer's size" in job.notes
    embedding, head = embeddings(job)
    bits = lambda key: checkpoints.golden_tensors()[key][:TOKENS].view(torch.int16).numpy()
    np.testing.assert_array_equal(embedding.view(np.int16), bits(EMBEDDING))
    np.testing.assert_array_equal(head.view(np.int16), bits(HEAD).T)


def test_missing_rows_are_drawn_at_random_and_reported(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", rows(500), {"vocab_size": 500, "initializer_range": 0.05})
    job = prepare_import(source, resize_vocabulary=True)
    note = "vocabulary: resized from 500 rows to 728, the tokenizer's size; the 228 new ones are random"
    assert f"{note}, N(0, 0.05)" in job.notes
    embedding, head = (values.astype(np.float32) for values in embeddings(job))
    np.testing.assert_array_equal(
        embedding[:500], checkpoints.golden_tensors()[EMBEDDING][:500].float().numpy()
    )
    for new in (embedding[500:], head[:, 500:]):
        assert abs(new.std() - 0.05) < 0.002
        assert abs(new.mean()) < 0.002
    assert not np.allclose(embedding[500:], head[:, 500:].T)
    again = embeddings(prepare_import(source, resize_vocabulary=True))
    np.testing.assert_array_equal(again[0].astype(np.float32), embedding)


def test_tied_embeddings_get_the_same_new_rows(tmp_path: pathlib.Path) -> None:
    def tie(tensors: Tensors) -> None:
        tensors[EMBEDDING] = tensors[EMBEDDING][:500].clone()
        del tensors[HEAD]

    source = write(tmp_path / "hf", tie, {"vocab_size": 500, "tie_word_embeddings": True})
    embedding, head = embeddings(prepare_import(source, resize_vocabulary=True))
    np.testing.assert_array_equal(embedding.view(np.int16), head.T.view(np.int16))


def test_tokens_without_a_row_are_refused(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", rows(700), {"vocab_size": 700})
    message = r"the tokenizer has 728 tokens, the embeddings 700 rows; --vocabulary tokenizer resizes"
    with pytest.raises(OlaError, match=message):
        prepare_import(source)


def test_size_is_found_without_tokenizer_json(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf")
    (source / "tokenizer.json").unlink()
    assert prepare_import(source, resize_vocabulary=True).config.llm.vocab_size == TOKENS
    for name in ("vocab.json", "merges.txt"):
        (source / name).unlink()
    with pytest.raises(OlaError, match="no tokenizer, which --vocabulary tokenizer takes the size from"):
        prepare_import(source, resize_vocabulary=True)


@pytest.mark.parametrize("value", ["0.02", -1.0, float("nan"), float("inf")])
def test_invalid_initializer_range_is_refused(value: object, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", rows(500), {"vocab_size": 500, "initializer_range": value})
    with pytest.raises(OlaError, match=r"config\.json: initializer_range: found"):
        prepare_import(source, resize_vocabulary=True)


def test_damaged_tokenizer_is_refused(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf")
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(OlaError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        prepare_import(source)
