"""A made-up benchmark on disk, and our own scores on it, for comparison with a harness.

The answers that count as right are chosen from what the model says, so that some are.
"""

import json
import pathlib
import subprocess
import sys

from ola_jax.eval.grading import Scores

ROOT = pathlib.Path(__file__).parents[2]
GOLDENS = ROOT / "tests/goldens/visible"
QUESTIONS = 16


def checkpoint(folder: pathlib.Path, python: str = sys.executable) -> pathlib.Path:
    """The tiny released checkpoint of the tests, imported."""
    target = folder / "model"
    if not target.exists():
        command = [python, "convert_weights.py", "import", "--from", GOLDENS / "hf", "--to", target]
        command += ["--whisper", GOLDENS / "whisper.pt", "--beats", GOLDENS / "beats.pt"]
        subprocess.run([str(part) for part in command], cwd=ROOT, check=True)
    return target


def evaluate(
    model: pathlib.Path, task: str, data: pathlib.Path, output: pathlib.Path, prompt: str, new_tokens: int
) -> Scores:
    """Our own scores of a task."""
    from ola_jax.eval.benchmarks import benchmark
    from ola_jax.eval.run import EvaluationJob
    from ola_jax.eval.run import evaluate as run
    from ola_jax.generate.engine import Engine, EngineConfig

    config = EngineConfig(slots=4, length=6144, queue=16, kept_features=0)
    named = benchmark(task)
    job = EvaluationJob(
        named, model, data, output, prompt=named.prompt_name(prompt), max_new_tokens=new_tokens, workers=2
    )
    return run(job, lambda: Engine.from_pretrained(model, config))


def some_right(scores: Scores) -> list[str]:
    """For answers that are read the letter that was, but for every third another one; for the others A."""
    letters, readable = [], 0
    for each in scores.graded:
        letter = each.reading.found or "A"
        readable += each.reading.found is not None
        wrong = each.reading.found is not None and readable % 3 == 2
        letters.append("ABCD"[("ABCD".index(letter) + 1) % 4] if wrong else letter)
    return letters


def transcripts(scores: Scores) -> list[str]:
    """What was said, for every second one with a word more."""
    said = [each.answer or "hello" for each in scores.graded]
    return [text if number % 2 else f"{text} hello" for number, text in enumerate(said)]


def report(name: str, ours: dict[str, str], theirs: dict[str, str], scores: tuple[float, float]) -> bool:
    """Prints the comparison; returns True if answers and scores are equal, and not all are right or wrong."""
    different = [key for key in ours if ours[key] != theirs.get(key)]
    mine, other = scores
    print(
        f"{name}: {len(ours)} answers, {len(different)} different; our score {mine:.4f}, theirs {other:.4f}"
    )
    for key in different[:3]:
        print(json.dumps({"question": key, "ours": ours[key], "theirs": theirs.get(key)}, ensure_ascii=False))
    return bool(ours) and not different and abs(scores[0] - scores[1]) < 1e-4 and 0 < scores[0] < 1
