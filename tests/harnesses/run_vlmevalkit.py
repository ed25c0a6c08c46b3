"""VLMEvalKit with our adapter, on made-up questions about images: answers and scores equal ours.

    python -m tests.harnesses.run_vlmevalkit FOLDER

in an environment with ms-vlmeval 0.0.20 and this package (make harnesses).
"""

import base64
import io
import os
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

from ola_jax.eval.grading import Scores
from tests.harnesses.made_up_task import QUESTIONS, checkpoint, evaluate, report

NEW_TOKENS = 24
COLUMNS = ("index", "question", "answer", "category", "image")
CATEGORY = "Regular Text Recognition"


def write_data(file: pathlib.Path, answers: list[str]) -> None:
    """A TSV file in the columns of OCRBench's, whose answers do not change the prompt."""
    lines = ["\t".join(COLUMNS)]
    for number in range(QUESTIONS):
        stream = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "PNG")
        row = {
            **{"index": number, "question": f"What is in picture {number}?", "category": CATEGORY},
            **{"answer": repr([answers[number]]), "image": base64.b64encode(stream.getvalue()).decode()},
        }
        lines.append("\t".join(str(row[name]) for name in COLUMNS))
    file.write_text("\n".join(lines) + "\n")


def accepted(scores: Scores) -> list[str]:
    """For every second answer a part of it, for the others something else."""
    words = [max(each.answer.split() or ["x"], key=len) for each in scores.graded]
    return [word if number % 2 else "zzzzzz" for number, word in enumerate(words)]


def run_harness(
    folder: pathlib.Path, model: pathlib.Path, table: pathlib.Path
) -> tuple[float, dict[str, str]]:
    """Runs VLMEvalKit; returns the score and the answers."""
    import torch

    # Its torchvision may be built for another device than torch: the operators that it asks for at import.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        try:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:
            break  # they are there
    from vlmeval.config import supported_VLM
    from vlmeval.dataset.image_vqa import OCRBench
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import load

    from ola_jax.eval.adapters.vlmevalkit import register

    register("ola_jax", checkpoint=str(model), max_new_tokens=NEW_TOKENS, length=2048)
    OCRBench.load_data = lambda self, dataset: load(str(table))  # it would ask for the published checksum
    dataset = OCRBench("OCRBench")
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    infer_data_job(supported_VLM["ola_jax"](), str(work), "ola_jax", dataset)
    (file,) = work.glob("ola_jax_OCRBench.*")
    data = load(str(file))
    answers = {str(index): str(said) for index, said in zip(data["index"], data["prediction"], strict=True)}
    return float(dataset.evaluate(str(file))["Final Score"]) / QUESTIONS, answers


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint(folder)
    data = folder / "LMUData"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    os.environ["PRED_FORMAT"] = "tsv"  # the default, Excel's, changes control characters
    os.environ["LMUData"] = str(data)  # noqa: SIM112 - its name there
    for name in ("first", "second"):
        shutil.rmtree(folder / name, ignore_errors=True)
    file = data / "OCRBench.tsv"
    write_data(file, ["zzzzzz"] * QUESTIONS)
    first = evaluate(model, "ocrbench", file, folder / "first", "vlmevalkit", NEW_TOKENS)
    write_data(file, accepted(first))
    ours = evaluate(model, "ocrbench", file, folder / "second", "vlmevalkit", NEW_TOKENS)
    score, answers = run_harness(folder, model, file)
    said = {each.item.id: each.answer for each in ours.graded}
    mine = ours.figures[0].value / 1000
    sys.exit(int(not report("vlmevalkit", said, answers, (mine, score))))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute())
