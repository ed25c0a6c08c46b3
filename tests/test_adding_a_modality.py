"""docs/adding_a_modality.md, followed literally in a copy of the package: it trains and answers."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "adding_a_modality.md"
MOST_FILES = 11

STEP = """
import json, pathlib, sys
import jax, jaxtyping
import numpy as np
jaxtyping.install_import_hook("ola_jax", "beartype.beartype")

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, PointsConfig, ProcessorConfig, Qwen2Config
from ola_jax.data import Processor
from ola_jax.data.pipeline import Source, make_train_iterator
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.eval.accuracy import TaskQuestion, score_questions
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models import ola
from ola_jax.training import flops, optimizer, state
from ola_jax.training.check_config import check_config
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step

folder, tokenizer = pathlib.Path(sys.argv[1]), load_tokenizer(sys.argv[2])
rng = np.random.default_rng(0)
shapes = {"flat": rng.normal(size=(200, 3)) * (1, 1, 0), "tall": rng.normal(size=(90, 3)) * (0, 0, 5)}
ask = {"from": "human", "value": "<image>\\nWhat is this?"}
records = []
for name, cloud in shapes.items():
    np.save(folder / f"{name}.npy", cloud)
    conversation = [ask, {"from": "gpt", "value": name}]
    records.append({"id": name, "points": f"{name}.npy", "conversations": conversation})
(folder / "records.json").write_text(json.dumps(records))

llm = Qwen2Config(728, 32, 1, 2, 2, 64)
config = OlaConfig(llm, vision=None, whisper=None, beats=None, points=PointsConfig())
processor = Processor(config, ProcessorConfig(system_prompt=""), tokenizer)
budget = Budget(tokens=128, clouds=2)
source = Source(str(folder / "records.json"), str(folder))
trainable = ("points/", "points_projector/", "llm/")
stage = Stage("align", trainable, (source,), steps=1, rows=1, budget=budget)
check_config(TrainConfig("runs/none", config, ProcessorConfig(), (stage,)), to_train=False)

# Both records share a row.
(batch,) = make_train_iterator(
    [source], processor, budget, batch_rows=1, seed=0, epochs=1, workers=0
)
assert batch.utilization["clouds"] == 1 and batch.batch.segments.max() == 2
assert batch.batch.points.shape == (1, 2, 4, 16, 3)
params = ola.init_params(config, seed=0)
tx = optimizer.build(OptimizerConfig(learning_rate=1e-2, warmup_ratio=0.0), steps=30)
step = make_train_step(ola.Ola(config), tx)
now, losses = state.create(params, trainable, tx), []
for _ in range(30):
    now, metrics = step(now, batch.batch)
    losses.append(float(metrics["loss"]))
counted = flops.count_step(config, budget, rows=1, trainable=trainable)

questions = []
for name in shapes:
    sample = processor.sample({"points": f"{name}.npy", "conversations": [ask]}, str(folder))
    questions.append(TaskQuestion(sample, name, 12))
scores = score_questions(
    ola.Ola(config), now.params, processor, questions=questions, sampling=SamplingConfig(), rows=2
)
print(json.dumps({
    "losses": losses,
    "gradients": {name: float(value) for name, value in metrics.items() if name.startswith("grad_norm/")},
    "flops": counted,
    "scores": scores,
    "counts": sample.counts,
}))
"""


def steps() -> list[tuple[str, str]]:
    """The sections of the page, each with the file that it is about."""
    found = re.split(r"^## \d+\. `([^`]+)`$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return list(zip(found[::2], found[1::2], strict=True))


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def follow(folder: pathlib.Path) -> None:
    """Make the changes of the page in the copy of the package within `folder`."""
    for path, section in steps():
        file = folder / path
        for code in blocks(section, "python"):
            assert not file.exists(), f"{path} is there already"
            file.write_text(code)
        for change in blocks(section, "diff"):
            lines = change.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            text = file.read_text()
            assert text.count(before) == 1, f"{path}: {text.count(before)} times in the file:\n{before}"
            file.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(REPOSITORY / "ola_jax", folder / "ola_jax", ignore=shutil.ignore_patterns("__pycache__"))
    follow(folder)
    return folder


def test_few_files_are_touched_and_the_page_lists_them_in_order() -> None:
    files = [path for path, _ in steps()]
    assert re.findall(r"^\| \d+ \| `([^`]+)` \|", PAGE.read_text(), flags=re.MULTILINE) == files
    assert len(set(files)) == len(files) <= MOST_FILES


def test_the_files_that_the_page_leaves_out_are_where_it_says() -> None:
    extra = re.findall(r"`((?:data|generate|cli|training|convert)/\w+\.py)`", PAGE.read_text())
    assert extra
    assert [path for path in extra if not (REPOSITORY / "ola_jax" / path).exists()] == []


def test_the_new_modality_trains_and_answers(package: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "step.py").write_text(STEP)
    command = [sys.executable, "-W", "error", tmp_path / "step.py", tmp_path]
    command.append(REPOSITORY / "tests" / "goldens" / "visible" / "hf")
    environment = {"PYTHONPATH": str(package), "JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-3000:]
    result = json.loads(out.stdout.splitlines()[-1])
    assert result["scores"]["accuracy"] == 1, result  # the two records differ only in their clouds
    assert result["losses"][-1] < 0.1 * result["losses"][0]
    assert set(result["gradients"]) == {f"grad_norm/{part}" for part in result["flops"]}
    assert min(result["gradients"].values()) > 0
    assert set(result["flops"]) == {"llm", "points", "points_projector"}
    assert result["counts"]["points"] == 4 + 2  # tokens, and the marks around them
