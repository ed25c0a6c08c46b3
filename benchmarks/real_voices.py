"""Digits spoken by people, which the demo's model has never heard: its training has synthetic speech only.

    python benchmarks/real_voices.py --checkpoint runs/digits_omni/5_omni/model --recordings DIR

asks the model which digit it hears in each audio file of DIR; names begin with the digit, as in the Free
Spoken Digit Dataset (7_jackson_32.wav). Without such a set, a few digits are in the tests of pocketsphinx:

    pip install pocketsphinx
    pip download --no-deps --no-binary :all: pocketsphinx==5.1.1, and unpack it
    python benchmarks/real_voices.py --checkpoint ... --pocketsphinx pocketsphinx-5.1.1/test/data

cuts them out where its own aligner finds them (19 digits of six recordings).
"""

import argparse
import collections
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import soundfile

import ola_jax
from examples.digits_omni.questions import WORDS
from ola_jax.eval.intervals import wilson

RATE = 16_000
MARGIN = RATE * 3 // 100  # samples kept on either side of a word
QUESTION = "Which digit do you hear?"
SPOKEN = {  # in the tests of pocketsphinx: what is said
    "tidigits/dhd.2934z.raw": "two nine three four zero",
    "cards/002.wav": "four queen of clubs",
    "cards/003.wav": "seven of clubs",
    "cards/004.wav": "five five",
    "cards/005.wav": "eight of spades four of clubs seven of hearts",
    "numbers.raw": "three three four six nine two two",
}


def cut_digits(tests: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes each digit of the recordings of pocketsphinx's tests to a file of its own."""
    from pocketsphinx import Decoder

    for name, text in SPOKEN.items():
        raw = {"samplerate": RATE, "channels": 1, "subtype": "PCM_16"} if name.endswith(".raw") else {}
        samples, _ = soundfile.read(tests / name, dtype="int16", **raw)
        decoder = Decoder(lm=None, loglevel="FATAL")
        decoder.set_align_text(text)
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        for number, found in enumerate(decoder.seg()):
            word = found.word.partition("(")[0]
            if word in WORDS:
                first, last = found.start_frame * RATE // 100, (found.end_frame + 1) * RATE // 100
                part = samples[max(0, first - MARGIN) : last + MARGIN]
                speaker = pathlib.Path(name).stem
                soundfile.write(folder / f"{WORDS.index(word)}_{speaker}_{number}.wav", part, RATE)


def score(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
    """Asks about each recording, and prints the share of right answers for each digit and in all."""
    files = sorted(file for file in folder.iterdir() if file.name[:1].isdigit())
    if not files:
        sys.exit(f"{folder}: no files whose names begin with a digit")
    right: dict[str, list[bool]] = collections.defaultdict(list)
    assistant = ola_jax.Assistant.from_pretrained(checkpoint)
    for file in files:
        answer = assistant.ask(QUESTION, audio=str(file), temperature=0.0, max_new_tokens=12)
        right[file.name[0]].append(str(answer).strip() == file.name[0])
    assistant.close()
    for digit, found in sorted(right.items()):
        print(f"{digit}: {sum(found)} of {len(found)}")
    every = [each for found in right.values() for each in found]
    interval = wilson(sum(every), len(every))
    share = f"{sum(every) / len(every):.0%}"
    print(f"all: {sum(every)} of {len(every)}, {share} ({interval.low:.0%} to {interval.high:.0%})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy on digits spoken by people.")
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--recordings", type=pathlib.Path)
    source.add_argument("--pocketsphinx", type=pathlib.Path, help="test/data of its source package")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.recordings or pathlib.Path(temporary)
        if args.pocketsphinx:
            cut_digits(args.pocketsphinx, folder)
        score(args.checkpoint, folder)


if __name__ == "__main__":
    main()
