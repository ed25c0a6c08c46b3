"""MVBench: twenty kinds of questions about short clips; the score is the mean of the kinds."""

import pathlib

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import Benchmark, Source
from ola_jax.eval.benchmarks.common import inferred, letter_of
from ola_jax.eval.counting import mean_of_categories
from ola_jax.eval.items import Clip, Item, MediaSlot, Prompt, after_media
from ola_jax.eval.judging import match_option
from ola_jax.eval.published import read_json
from ola_jax.eval.rules.letters import mvbench_letter
from ola_jax.eval.rules.reading import Reading, of_letter

FOLDERS = {  # of the videos of each kind, below video/ or the folder itself
    "action_antonym": "ssv2_video",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video",
    "action_prediction": "star/Charades_v1_480",
    "action_sequence": "star/Charades_v1_480",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}
CUT = frozenset(  # kinds whose rows have `start` and `end`, in seconds
    (
        "action_localization",
        "action_prediction",
        "action_sequence",
        "episodic_reasoning",
        "object_interaction",
    )
)
FRAMES_PER_SECOND = 3.0  # of the folders of frames
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and "
    "movement of objects, and the action and pose of persons. Based on your observations, select the best "
    "option that accurately addresses the question.\n"
)


def read(folder: pathlib.Path) -> Source:
    """Reads json/KIND.json for each kind that is there."""
    below = folder / "json" if (folder / "json").is_dir() else folder
    files = [below / f"{kind}.json" for kind in FOLDERS if (below / f"{kind}.json").is_file()]
    if not files:
        raise OlaError(
            f"{folder}: none of MVBench's files is there; expected json/{next(iter(FOLDERS))}.json ..."
        )
    items = []
    for file in files:
        kind = file.stem
        for number, row in enumerate(read_json(file, ["video", "question", "candidates", "answer"])):
            options = tuple(map(str, row["candidates"]))
            items.append(
                Item(
                    f"{kind}_{number}",
                    row["question"],
                    (letter_of(str(row["answer"]), options, f"{file}: question {number}"),),
                    options,
                    video=_video(folder, kind, row),
                    category=kind,
                    groups={"video": f"{FOLDERS[kind]}/{row['video']}"},
                )
            )
    return Source(items, files)


def _video(folder: pathlib.Path, kind: str, row: dict) -> pathlib.Path | Clip:
    place = folder / "video" if (folder / "video").is_dir() else folder
    path = place / FOLDERS[kind] / row["video"]
    if kind in CUT:
        rate = FRAMES_PER_SECOND if kind == "episodic_reasoning" else None
        return Clip(path, row.get("start"), row.get("end"), rate)
    return Clip(path, frames_per_second=FRAMES_PER_SECOND) if path.is_dir() else path


def _options(item: Item) -> str:
    return "".join(f"({letter}) {text}\n" for letter, text in item.choices.items())


def _vlmevalkit(item: Item) -> Prompt:
    """VLMEvalKit, dataset/mvbench.py; a model without roles gets its texts one after the other."""
    question = f"Question: {item.question}\nOptions:\n{_options(item)}".rstrip()
    return (SYSTEM, MediaSlot(), f"{question}\nOnly give the best option.Best option:(")


def _lmms(item: Item) -> Prompt:
    return after_media(f"Question:{item.question}\nOption:\n{_options(item)}Only give the best option.\n")


def _lmms_rule(item: Item, answer: str) -> Reading:
    return of_letter(item, mvbench_letter(answer))


def _vlmevalkit_rule(item: Item, answer: str) -> Reading:
    """The first word has the right letter or is part of it. VLMEvalKit, `check_ans` of utils/mvbench.py.

    It takes an empty answer and "(" for right; here the letter must be there. Where that does not hold, it is
    looked for as in its other tasks, which VLMEvalKit does with a judge.
    """
    first = answer.lower().strip().split(" ")[0]
    right = f"({item.answers[0].lower()})"
    letter = item.answers[0].lower()
    if letter in first and (first.replace(".", "") in right or right in first):
        return Reading(1.0, item.answers[0])
    return inferred(item, answer)


MVBENCH = Benchmark(
    name="mvbench",
    title="MVBench",
    modality="video",
    expects="json/KIND.json, video/",
    read=read,
    wordings={"lmms_eval": _lmms, "vlmevalkit": _vlmevalkit},
    rules={"lmms_eval": _lmms_rule, "vlmevalkit": _vlmevalkit_rule},
    measures=mean_of_categories("video"),
    max_new_tokens=64,
    judge=match_option,
    judged="unreadable",
    note="66.3 is remembered as the paper's figure, and was found in no source",
)
