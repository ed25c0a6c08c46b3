"""Scores the demo's model through `ola eval`: its held-out tasks, their perplexity, and real media.

    python -m examples.eval_demo

`make eval-demo` trains the model first if it is not there. The photographs are the two of scikit-learn, which
the demo needs anyway. The recording is beckett.wav of the package
useful-moonshine-onnx (MIT), downloaded once without its dependencies; without a network this part is left
out, and the output says so. The model was trained on drawn digits, and single ones spoken by synthetic
voices: the scores of real media are a test of the path from the file to the figure, not of the model.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

from ola_jax.cli import eval as command

RUN, OUTPUT = pathlib.Path("runs/digits_omni"), pathlib.Path("runs/eval_demo")
PACKAGE, RECORDING = "useful-moonshine-onnx==20251121", "beckett.wav"
SAID = "EVER TRIED EVER FAILED NO MATTER TRY AGAIN FAIL AGAIN FAIL BETTER"


def main() -> None:
    """Runs all parts; what was answered by an earlier run is not asked again."""
    (model,) = RUN.glob("*_omni/model")
    evaluate(model, "records", RUN / "data/heldout", "heldout")
    evaluate(model, "perplexity", RUN / "data/heldout", "perplexity")
    evaluate(model, "records", photographs(OUTPUT / "photographs"), "photographs_scored")
    if (speech := human_speech()) is None:
        print(f"note: {PACKAGE} could not be downloaded: human speech is left out")
    else:
        evaluate(model, "librispeech", speech, "human_speech", "--max-new-tokens", "32")


def evaluate(model: pathlib.Path, task: str, data: pathlib.Path, output: str, *options: str) -> None:
    """One call of `ola eval`."""
    given = ["--checkpoint", model, "--task", task, "--data", data, "--output", OUTPUT / output]
    command.main([*map(str, given), "--length", "768", "--prefill-chunk", "64", *options])


def photographs(folder: pathlib.Path) -> pathlib.Path:
    """A folder with scikit-learn's two photographs and a question about each."""
    import sklearn.datasets

    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name, answer in (("flower", "flower"), ("china", "building")):
        shutil.copy(pathlib.Path(sklearn.datasets.__file__).parent / f"images/{name}.jpg", folder)
        turns = {"human": "<image>\nIs it a flower or a building?", "gpt": answer}
        conversation = [{"from": speaker, "value": text} for speaker, text in turns.items()]
        records.append({"id": name, "image": f"{name}.jpg", "conversations": conversation})
    (folder / "photographs.json").write_text(json.dumps(records, indent=1) + "\n")
    return folder


def human_speech() -> pathlib.Path | None:
    """A folder in LibriSpeech's layout with one human recording; None if it cannot be had."""
    import soundfile

    folder = OUTPUT / "human/1/1"
    if not (folder / "1-1.trans.txt").exists():
        wheels = OUTPUT / "wheels"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(wheels),
            PACKAGE,
        ]
        if subprocess.run(pip, check=False).returncode:
            return None
        (wheel,) = wheels.glob("useful_moonshine_onnx-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(RECORDING)]
            with archive.open(name) as stream:
                samples, rate = soundfile.read(stream)
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "1-1-0000.flac", samples, rate)
        (folder / "1-1.trans.txt").write_text(f"1-1-0000 {SAID}\n")
    return OUTPUT / "human"


if __name__ == "__main__":
    main()
