import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError
from ola_jax.generate import streaming
from ola_jax.generate.streaming import TextStream, token_bytes
from tests import golden

TOKENIZER = load_tokenizer(golden.VISIBLE / "hf")
SIZE = TOKENIZER.get_vocab_size()


def pieces(ids: list[int], tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    """What each id hands on, and then the end."""
    written: list[str] = []
    stream, out = TextStream(tokenizer, written.append), []
    for step in (*[lambda i=i: stream.add(i) for i in ids], stream.close):
        written.clear()
        step()
        out.append("".join(written))
    return out


ITSELF = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [b for b in range(256) if b not in ITSELF]
ALPHABET = {b: chr(b) for b in ITSELF} | {b: chr(256 + i) for i, b in enumerate(OTHERS)}
SINGLES = [TOKENIZER.token_to_id(ALPHABET[b]) for b in range(256)]


def bytes_as_ids(data: bytes) -> list[int]:
    """One token for each byte."""
    return [SINGLES[b] for b in data]


@given(st.lists(st.integers(0, SIZE - 1), max_size=30))
def test_the_pieces_of_any_ids_are_their_text(ids: list[int]) -> None:
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


@given(st.binary(max_size=30) | st.text(max_size=10).map(str.encode))
def test_the_pieces_of_any_bytes_are_their_text(data: bytes) -> None:
    ids = bytes_as_ids(data)
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids) == data.decode(errors="replace")


def test_a_character_of_several_tokens_comes_with_its_last() -> None:
    assert pieces(bytes_as_ids("aé中😀".encode())) == ["a", "", "é", "", "", "中", "", "", "", "😀", ""]


def test_a_replacement_character_is_not_held_back() -> None:
    assert pieces(bytes_as_ids("\ufffdb\ufffd".encode())) == ["", "", "\ufffd", "b", "", "", "\ufffd", ""]
    assert pieces(bytes_as_ids(b"\xff\xffa\xe4")) == ["\ufffd", "\ufffd", "a", "", "\ufffd"]


def test_tokens_added_to_the_vocabulary_are_written_unless_special() -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_tokens(["né <b>"])
    ids = [*bytes_as_ids(b"a"), tokenizer.token_to_id("né <b>"), tokenizer.token_to_id("<|im_end|>")]
    assert pieces(ids, tokenizer) == ["a", "né <b>", "", ""]
    assert "".join(pieces(ids, tokenizer)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_token_costs_the_same_late_as_early(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    look = lambda tokenizer, token: asked.append(token) or token_bytes(tokenizer, token)
    monkeypatch.setattr(streaming, "token_bytes", look)
    ids = np.random.default_rng(0).integers(0, 256, 500).tolist()
    pieces(ids)
    assert asked == ids


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    with pytest.raises(OlaError, match="expected ByteLevel"):
        TextStream(Tokenizer(models.BPE()), print)
