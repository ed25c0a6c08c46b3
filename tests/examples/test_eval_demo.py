"""The real media of examples/eval_demo.py that need no network."""

import pathlib

from examples.eval_demo import photographs
from ola_jax.eval.benchmarks import benchmark
from tests.data.golden_processor import golden_processor


def test_the_photographs_are_read_as_questions_and_as_patches(tmp_path: pathlib.Path) -> None:
    folder = photographs(tmp_path / "photographs")
    assert photographs(folder) == folder  # again
    source = benchmark("records").read(folder)
    assert [item.answers for item in source.items] == [("flower",), ("building",)]
    for item in source.items:
        sample = golden_processor("infer").sample(item.fields["record"], str(folder))
        low, high = sample.images
        assert high.grid == (28, 40)  # 427x640 pixels, padded to multiples of 32
        assert low.patches.std() > 20  # a picture, not padding
