# ruff: noqa: E501
"""lmms-eval with our adapter, on made-up questions about images, videos and audio: answers and scores equal ours.

    python -m tests.harnesses.run_lmms_eval FOLDER

in an environment with lmms-eval 0.7.3 and this package (make harnesses).
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.harnesses.made_up_task import (
    GOLDENS,
    QUESTIONS,
    ROOT,
    checkpoint,
    evaluate,
    report,
    some_right,
    transcripts,
)

TASKS = """
import io, soundfile
from lmms_eval.tasks.mmstar.utils import mmstar_aggregate_results, mmstar_doc_to_text, mmstar_doc_to_visual, mmstar_process_results
from lmms_eval.tasks.librispeech.utils import librispeech_doc_to_text, librispeech_process_result, librispeech_wer
from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

def read_audio(doc):
    array, rate = soundfile.read(io.BytesIO(doc["audio"]["bytes"]), dtype="float32")
    return [{"array": array, "sampling_rate": rate}]

def video(doc):
    return [doc["path"]]

def video_text(doc, lmms_eval_specific_kwargs=None):
    from lmms_eval.tasks.videomme.utils import videomme_doc_to_text
    return videomme_doc_to_text(doc, lmms_eval_specific_kwargs)

def video_results(doc, results):
    return {"score": 100 * float(extract_mcq_answer(results[0], choices=["A", "B", "C", "D"]) == doc["answer"])}
"""
YAML = """
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {file}}}}}
task: {task}
test_split: test
output_type: generate_until
generation_kwargs: {{max_new_tokens: {new_tokens}, temperature: 0, do_sample: false}}
doc_to_target: {target}
lmms_eval_specific_kwargs: {{default: {{pre_prompt: "", post_prompt: "{post}"}}}}
metadata: [{{version: 0.0}}]
"""
DIRECTLY = "\\nAnswer with the option's letter from the given choices directly"
KINDS = {
    "mmstar": (
        "doc_to_visual: !function utils.mmstar_doc_to_visual\ndoc_to_text: !function utils.mmstar_doc_to_text\n"
        "process_results: !function utils.mmstar_process_results\nmetric_list: [{metric: average, aggregation: "
        "!function utils.mmstar_aggregate_results, higher_is_better: true}]\n",
        DIRECTLY,
    ),
    "librispeech": (
        "doc_to_visual: !function utils.read_audio\ndoc_to_text: !function utils.librispeech_doc_to_text\n"
        "process_results: !function utils.librispeech_process_result\nmetric_list: [{metric: wer, aggregation: "
        "!function utils.librispeech_wer, higher_is_better: false}]\n",
        "",
    ),
    "videomme": (
        "doc_to_visual: !function utils.video\ndoc_to_text: !function utils.video_text\n"
        "process_results: !function utils.video_results\nmetric_list: [{metric: score, aggregation: mean, "
        "higher_is_better: true}]\n",
        f"{DIRECTLY}.",
    ),
}
METRICS = {"mmstar": "average", "librispeech": "wer", "videomme": "score"}
NEW_TOKENS = 48


def write_data(task: str, folder: pathlib.Path, answers: list[str]) -> pathlib.Path:
    """The questions of a task as the published files have them, in Hugging Face's parquet."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    options = ["cat", "dog", "bird", "fish"]
    rows: list[dict] = []
    for number in range(QUESTIONS):
        answer = answers[number] if answers else "A"
        if task == "mmstar":
            noise = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
            said = f"What is in picture {number}?\nOptions: A: cat, B: dog, C: bird, D: fish"
            rows.append(
                {
                    **{"index": number, "question": said, "image": Image.fromarray(noise), "answer": answer},
                    **{"category": "c", "l2_category": f"l{number % 2}", "meta_info": "{}"},
                }
            )
        elif task == "librispeech":
            wav = ("a_short.wav", "a_stereo.wav", "a_lowrate.wav")[number % 3]
            audio = {"bytes": (GOLDENS / "inputs" / wav).read_bytes(), "path": None}
            rows.append({"gt": answer, "task": "asr_en", "source": "made_up", "audio": audio})
        else:
            source = sorted((GOLDENS / "inputs").glob("*.mp4"))[0]
            (folder / "data").mkdir(exist_ok=True)
            video = folder / "data" / f"v{number % 2}.mp4"
            shutil.copyfile(source, video)
            rows.append(
                {
                    **{"video_id": "1", "videoID": video.stem, "path": str(video), "duration": "short"},
                    **{"domain": "d", "sub_category": "s", "task_type": "t", "question_id": f"q{number}"},
                    **{"question": f"What is shown, {number}?", "answer": answer},
                    "options": [f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True)],
                }
            )
    file = folder / "test-00000-of-00001.parquet"
    table = datasets.Dataset.from_list(rows)
    if task == "mmstar":
        table = table.cast_column("image", datasets.Image())
    table.to_parquet(str(file))
    return file


def run_harness(folder: pathlib.Path, model: pathlib.Path, files: dict[str, pathlib.Path]) -> dict:
    """Runs lmms-eval as its users do; returns for each task the score and the answers."""
    include = folder / "tasks"
    include.mkdir(exist_ok=True)
    (include / "utils.py").write_text(TASKS)
    for task, file in files.items():
        head, post = KINDS[task]
        target = "gt" if task == "librispeech" else "answer"
        text = (
            YAML.format(file=file, task=f"made_up_{task}", new_tokens=NEW_TOKENS, post=post, target=target)
            + head
        )
        (include / f"made_up_{task}.yaml").write_text(text)
    output = folder / "lmms_output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "lmms_eval", "--model", "ola_jax", "--batch_size", "1", "--log_samples"]
    command += ["--model_args", f"checkpoint={model},slots=4,length=6144", "--include_path", str(include)]
    command += ["--tasks", ",".join(f"made_up_{task}" for task in files), "--output_path", str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    (results,) = output.rglob("*_results.json")
    found = json.loads(results.read_text())["results"]
    answers: dict[str, dict[str, str]] = {}
    for task in files:
        (samples,) = output.rglob(f"*samples_made_up_{task}.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        answers[task] = {str(line["doc_id"]): line["filtered_resps"] for line in lines}
    return {task: (float(found[f"made_up_{task}"][f"{METRICS[task]},none"]), answers[task]) for task in files}


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint(folder)
    files, ours = {}, {}
    for task in KINDS:
        data = folder / task
        shutil.rmtree(data, ignore_errors=True)
        for name in ("first", "second"):
            shutil.rmtree(folder / f"{task}_{name}", ignore_errors=True)
        write_data(task, data, [])
        first = evaluate(model, task, data, folder / f"{task}_first", "lmms_eval", NEW_TOKENS)
        files[task] = write_data(
            task, data, transcripts(first) if task == "librispeech" else some_right(first)
        )
        ours[task] = evaluate(model, task, data, folder / f"{task}_second", "lmms_eval", NEW_TOKENS)
    theirs = run_harness(folder, model, files)
    failed = False
    for task, scores in ours.items():
        score, answers = theirs[task]
        names = [f for f in scores.figures if f.name in ("mean of categories", "accuracy", "WER")]
        mine = next((f for f in names if f.name == "mean of categories"), names[0]).value / 100
        score = score if task == "mmstar" else score / 100
        said = {str(number): each.answer for number, each in enumerate(scores.graded)}
        failed |= not report(task, said, answers, (mine, score))
    sys.exit(int(failed))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute())
