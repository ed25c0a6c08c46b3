import dataclasses

import pytest

from ola_jax.generate.answer import answer
from ola_jax.generate.sampling import from_generation_config
from ola_jax.models.ola import Ola
from tests import golden, parity
from tests.released import released

GREEDY = dataclasses.replace(
    from_generation_config(
        released().generation_config, parity.processor("infer").tokenizer.get_vocab_size()
    ),
    temperature=0.0,
)


@pytest.mark.parametrize("name", parity.INFER)
def test_greedy_tokens_are_the_originals(name: str) -> None:
    case, processor = golden.case(name), parity.processor("infer")
    batch = processor(parity.records(name), root=str(golden.VISIBLE))
    for key, penalty in (("generated_ids", 1.0), ("generated_ids_gencfg", 1.05)):
        sampling = dataclasses.replace(GREEDY, repetition_penalty=penalty)
        out = answer(Ola(parity.config()), released().params, batch, processor.tokenizer, sampling, 24)
        assert out.ids[0] == case[key]
        if key == "generated_ids":
            # The golden's text was stripped of outer space, after special tokens were kept.
            assert out.texts[0] == processor.tokenizer.decode(case[key]).strip()


def test_rows_of_different_lengths_get_the_answers_they_get_alone() -> None:
    names, processor = ["infer_text", "infer_audio", "infer_image"], parity.processor("infer")
    together = processor([parity.records(name)[0] for name in names], root=str(golden.VISIBLE))
    sampling = dataclasses.replace(GREEDY, repetition_penalty=1.0)
    out = answer(Ola(parity.config()), released().params, together, processor.tokenizer, sampling, 24)
    assert out.ids == [golden.case(name)["generated_ids"] for name in names]


def test_text_is_handed_on_as_it_comes() -> None:
    processor = parity.processor("infer")
    batch = processor(parity.records("infer_two_images"), root=str(golden.VISIBLE))
    pieces: list[str] = []
    model, sampling = Ola(parity.config()), dataclasses.replace(GREEDY, repetition_penalty=1.0)
    out = answer(model, released().params, batch, processor.tokenizer, sampling, 24, write=pieces.append)
    assert len(pieces) > 3
    assert "".join(pieces).strip() == out.texts[0]
