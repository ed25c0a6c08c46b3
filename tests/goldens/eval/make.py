"""Makes rules.json and prompts.json: what the harnesses' own functions say about made-up answers.

    python make.py LMMS_EVAL VLMEVALKIT

LMMS_EVAL and VLMEVALKIT: the unpacked wheels lmms_eval-0.7.3 and ms_vlmeval-0.0.20. The functions are taken out
of their files and run unchanged; where a harness chooses by chance or answers "A" because it found nothing,
the expected value is null.
"""

# ruff: noqa: B023, E501, RUF059, SIM105
import ast
import copy as cp
import json
import pathlib
import re
import string
import sys
import unicodedata
from collections import defaultdict

import numpy as np

LMMS, VLM = (pathlib.Path(arg) for arg in sys.argv[1:3])
TASKS, DATASET = LMMS / "lmms_eval/tasks", VLM / "vlmeval/dataset"


class Guessed(Exception):
    """Raised where a harness guesses."""


class NoChance:
    def choice(self, values):
        raise Guessed


class NoLog:
    def info(self, *_):
        pass


class NotMissing:
    """In place of pandas, for rows that are plain dicts."""

    @staticmethod
    def isna(value):
        return value is None

    notna = staticmethod(lambda value: value is not None)


def functions(file, *names, **given):
    """The functions, and all constants at the top of a file."""
    tree = ast.parse(file.read_text())
    space = {
        "re": re,
        "np": np,
        "random": NoChance(),
        "rd": NoChance(),
        "string": string,
        "cp": cp,
        "json": json,
        "ast": ast,
        "logger": NoLog(),
        "eval_logger": NoLog(),
        "pd": NotMissing,
        "defaultdict": defaultdict,
        "os": type("os", (), {"environ": {}}),
        "unicodedata": unicodedata,
        "istype": lambda s, t: s.isdigit(),
        "List": list,
        "Optional": __import__("typing").Optional,
        **given,
    }
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            try:
                exec(compile(ast.Module([node], []), str(file), "exec"), space)
            except Exception:
                pass
        elif isinstance(node, ast.FunctionDef) and node.name in names:
            node.decorator_list = []
            exec(compile(ast.Module([node], []), str(file), "exec"), space)
    return [space[name] for name in names]


def method(file, cls, name, **given):
    """A method of a class as a function, and the class's constants."""
    tree = ast.parse(file.read_text())
    (found,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls]
    body = [n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == name]
    constants = [n for n in found.body if isinstance(n, ast.Assign)]
    space = {
        "string": string,
        "pd": NotMissing,
        "os": type("os", (), {"path": pathlib.os.path}),
        "osp": pathlib.os.path,
        "eval": eval,
        **given,
    }
    for node in constants:
        try:
            exec(compile(ast.Module([node], []), str(file), "exec"), space)
        except Exception:
            pass
    body[0].decorator_list = []
    exec(compile(ast.Module(body, []), str(file), "exec"), space)
    return space[name], space


ANSWERS = [
    "A",
    "B.",
    "(C)",
    "D) a dog",
    "The answer is B",
    "The correct answer is (C).",
    "the best option is: D",
    "b",
    "a cat",
    "It is a cat, not a dog.",
    "A cat sits on the mat, so the answer is C",
    "C: a bird",
    "",
    " ",
    "?",
    "I do not know.",
    "Both A and B",
    "A or C? I choose C.",
    "(A) and (D)",
    "Option D",
    "E",
    "Answer: B",
    "Best answer: A",
    "Best option: C",
    "The best option is D",
    "Z",
    "Cannot determine the answer",
    "Sorry, I can't help with images of people yet.",
    "Because the animal barks, it must be a dog",
    "Because the animal barks and purrs it is a dog or a cat",
    "**B**",
    "A. a cat\nB. a dog",
    "The picture shows several things. A first look says nothing. In the end: B",
    "answer is c",
    "D.",
    "d. a fish",
    "'A'",
    '"B"',
    "None of the above",
    "Final answer: C.",
    "A!",
    "[D]",
    "{B}",
    "#C#",
    "B;",
    "B,C",
    "答案是C",
    "正解はB",
    "A bird",
    "a bird",
    "An animal. B",
    "Actually D",
    "I think it is B because it barks loudly today",
    "A B C D",
    "The cat is black. (B",
    "Failed to obtain answer via API",
    "yes",
    "Yes, it is.",
    "No",
    "no way, yes",
    "Not sure",
    "yes/no",
    "The answer is no.",
    "Know",
    "YES!",
    "no,no",
    "1,000 yes",
    "Bird",
    "fish or bird fish",
    "A.B",
    "(a)",
    "a)",
]
CHOICES = {"A": "a cat", "B": "a dog", "C": "a bird", "D": "a fish"}
OPEN = [
    ("3.14", "The value is 3.14."),
    ("3.14", "3.1400"),
    ("3.14", "about 3"),
    ("1000", "so it is 1,000 apples"),
    ("paris", "The capital is Paris"),
    ("x", "the variable x"),
    ("x", "x"),
    ("['a b', '12']", "Thus 12"),
    ("['a b', '12']", "it could be A B"),
    ("-5", "result = -5"),
    ("2e3", "final answer 2000"),
    ("7", "17"),
    ("5", "answer: 5.0\nso 6"),
    ("red", ""),
    ("12.5", "Therefore .5 or 12.50"),
    ("yes", "Is it? is "),
    ("4", "= 4"),
]
OCR = [
    (["CENTRE"], "the word is centre.", "Regular Text Recognition"),
    (["CENTRE"], "center", "Regular Text Recognition"),
    (["a b"], "A\nB c", "Scene Text-centric VQA"),
    (["$ 5", "5"], "5 dollars", "Key Information Extraction"),
    (["x ^ 2"], "x^2 + 1", "Handwritten Mathematical Expression Recognition"),
    (["X ^ 2"], "x^2", "Handwritten Mathematical Expression Recognition"),
    (["１２"], "12", "Digit String Recognition"),
    (["12"], "１２ ３", "Digit String Recognition"),
    (["ABC"], "", "Doc-oriented VQA"),
    (["  padded "], "padded", "Doc-oriented VQA"),
]


def quiet(call):
    try:
        return call()
    except Guessed:
        return None


def with_contained(text, letters=("A", "B", "C", "D")):
    return any(letter in text for letter in letters)


def rules():
    out = {}
    option, text = functions(VLM / "vlmeval/utils/matching_util.py", "can_infer_option", "can_infer_text")

    def can_infer(answer):
        found = option(answer, dict(CHOICES)) or text(answer, dict(CHOICES))
        return None if found in (False, "Z") else found

    out["inferred"] = {a: can_infer(a) for a in ANSWERS}
    (mmmu,) = functions(TASKS / "_task_utils/mmmu_mcq_utils.py", "parse_mmmu_multi_choice_response")
    out["mmmu"] = {a: quiet(lambda: mmmu(a, list(CHOICES), CHOICES)) for a in ANSWERS}
    for name in ("worldsense", "av_odyssey"):
        (parse,) = functions(TASKS / name / "utils.py", "parse_multi_choice_response")
        lowest = lambda a: (
            with_contained(a.strip(",").strip("."))
            or (len(f" {a} ".split()) > 5 and any(o in a.lower() for o in CHOICES.values()))
        )
        out[name] = {a: parse(a, list(CHOICES), CHOICES) if lowest(a) else None for a in ANSWERS}
    for name in ("air_bench", "mmau"):
        (parse,) = functions(TASKS / name / "utils.py", "parse_multi_choice_response")
        out[name] = {a: quiet(lambda: parse(a, list(CHOICES))) for a in ANSWERS}
    (parse,) = functions(TASKS / "omni_bench/utils.py", "parse_multi_choice_response")
    out["omni_bench"] = {a: parse(a, list(CHOICES)) for a in ANSWERS}
    (parse,) = functions(TASKS / "_task_utils/mcq_extract.py", "extract_mcq_answer")
    out["ranked"] = {a: parse(a, choices=list(CHOICES)) or None for a in ANSWERS}
    (parse,) = functions(DATASET / "utils/videomme.py", "extract_characters_regex")
    out["videomme_vlmevalkit"] = {a: parse(a) or None for a in ANSWERS}
    (parse,) = functions(DATASET / "utils/longvideobench.py", "extract_characters_regex")
    out["longvideobench_vlmevalkit"] = {a: parse(a) or None for a in ANSWERS}
    (parse,) = functions(TASKS / "longvideobench/utils.py", "parse_multi_choice_response")
    out["longvideobench_lmms"] = {a: quiet(lambda: parse(a, list(CHOICES), CHOICES)) for a in ANSWERS}
    (accuracy,) = functions(TASKS / "mvbench/utils.py", "mcq_acc")
    out["mvbench_lmms"] = {a: next((x for x in "ABCDE" if accuracy(x, a)), None) for a in ANSWERS}
    (punctuation,) = functions(VLM / "vlmeval/smp/misc.py", "process_punctuation")
    (yes_no,) = functions(DATASET / "utils/yorn.py", "YOrN_Extraction", process_punctuation=punctuation)
    out["yes_or_no"] = {a: {"Unknown": None}.get(yes_no(a), yes_no(a)) for a in ANSWERS}
    parse_open, evaluate, _, _, _ = functions(
        TASKS / "mmmu/utils.py",
        "parse_open_response",
        "eval_open",
        "normalize_str",
        "extract_numbers",
        "check_is_number",
    )
    literal = lambda t: ast.literal_eval(t) if t.startswith("[") else t
    out["mmmu_open"] = [
        [literal(gold), said, evaluate(literal(gold), parse_open(said))] for gold, said in OPEN
    ]
    fold, process = functions(
        TASKS / "ocrbench/utils.py", "_fold_fullwidth_ascii", "ocrbench_process_results"
    )
    doc = lambda gold, kind: {
        "answer": gold,
        "question_type": kind,
        "dataset": "HME100k" if kind.startswith("Handwritten Math") else "x",
    }
    out["ocr_lmms"] = [[g, s, k, process(doc(g, k), [s])["ocrbench_accuracy"]["score"]] for g, s, k in OCR]
    return out


ROW = {
    "index": 1,
    "question": "What is it?",
    "hint": "Look closely.",
    "category": "c",
    "L2-category": "l",
    "l2_category": "l",
    "source": "s",
    "split": "dev",
    "answer": "B",
    **CHOICES,
}
PLAIN = {k: v for k, v in ROW.items() if k != "hint"}


def prompts():
    out = {}
    fake = type(
        "Self",
        (),
        {
            "meta_only": False,
            "dump_image": lambda self, *_: ["image"],
            "use_custom_prompt": lambda self, d: True,
        },
    )()
    vlm_build, _ = method(DATASET / "image_mcq.py", "ImageMCQDataset", "build_prompt")
    ola_build, _ = method(VLM / "vlmeval/vlm/ola/ola_model.py", "Ola", "build_prompt")
    for name, row in (("hint", ROW), ("plain", PLAIN)):
        out[f"vlmevalkit_choice_{name}"] = vlm_build(fake, row)[-1]["value"]
        out[f"ola_choice_{name}"] = ola_build(fake, row)[-1]["value"]
    split, _ = method(DATASET / "image_mcq.py", "MMMUDataset", "split_MMMU", istype=lambda s, t: s.isdigit())
    question = {**PLAIN, "question": "Compare <image 2> with <image 1> now."}
    messages = [
        {"type": "image", "value": "one"},
        {"type": "image", "value": "two"},
        vlm_build(fake, question)[-1],
    ]
    out["mmmu_vlmevalkit"] = [m["value"] for m in split(messages)]
    construct, options, replace = functions(
        TASKS / "mmmu/utils.py", "construct_prompt", "parse_options", "replace_images_tokens"
    )
    doc = {
        "question": question["question"],
        "question_type": "multiple-choice",
        "options": str(list(CHOICES.values())),
    }
    said = construct(
        doc,
        "Answer with the option's letter from the given choices directly.",
        "Answer the question using a single word or phrase.",
    )
    parts = replace(said).split("<image>")
    out["mmmu_lmms"] = [parts[0].strip(), "one", parts[1].strip(), "two", parts[2].strip()]
    open_doc = {"question": "How many?", "question_type": "open", "options": "[]"}
    out["mmmu_lmms_open"] = construct(open_doc, "", "Answer the question using a single word or phrase.")
    for task, call in {
        "videomme": lambda f: f(
            {"question": "What?", "options": ["A. x", "B. y"]},
            {"post_prompt": "\nAnswer with the option's letter from the given choices directly."},
        ),
    }.items():
        (text,) = functions(TASKS / task / "utils.py", "videomme_doc_to_text")
        out["videomme_lmms"] = call(text)
    (text,) = functions(TASKS / "mvbench/utils.py", "mvbench_doc_to_text")
    out["mvbench_lmms"] = text(
        {"question": "What?", "candidates": ["x", "y"]}, {"post_prompt": "Only give the best option.\n"}
    )
    template, space = method(DATASET / "mvbench.py", "MVBench", "qa_template")
    out["mvbench_vlmevalkit"] = [
        space["SYS"],
        template(None, {"question": "What?", "answer": "y", "candidates": "['x', 'y']"})[0]
        + "\nOnly give the best option."
        + "Best option:(",
    ]
    _, space = method(DATASET / "videomme.py", "VideoMME", "build_prompt")
    out["videomme_vlmevalkit"] = space["FRAMES_TMPL_NOSUB"] + "Question: What?\nA. x\nB. y\nAnswer: "
    out["videomme_vlmevalkit_subtitles"] = (
        space["FRAMES_TMPL_SUB"].format("one\ntwo") + "Question: What?\nA. x\nB. y\nAnswer: "
    )
    (text,) = functions(TASKS / "longvideobench/utils.py", "longvideobench_doc_to_text")
    doc = {"question": "What?", **{f"option{i}": v for i, v in enumerate(["x", "y", "N/A", "N/A", "N/A"])}}
    out["longvideobench_lmms"] = text(
        doc,
        {
            "pre_prompt": "",
            "post_prompt": "Answer with the option's letter from the given choices directly.\n",
        },
    )
    (text,) = functions(TASKS / "omni_bench/utils.py", "omni_bench_original_doc_to_text")
    last = "Answer with the option's letter from the given choices directly."
    out["omni_bench"] = text(
        {"question": "What?", "options": ["x", "y", "z", "w"]}, {"pre_prompt": "", "post_prompt": last}
    )
    (text,) = functions(TASKS / "worldsense/utils.py", "worldsense_doc_to_text")
    out["worldsense"] = text({"question": "What?", "candidates": ["A. x", "B. y"]})
    split_tags, get, text = functions(
        TASKS / "av_odyssey/utils.py", "split_media_tags", "get_text", "av_odyssey_doc_to_text"
    )
    out["av_odyssey"] = "".join(
        p if isinstance(p, str) else f"[{p[0]}{p[1]}]"
        for p in get({"question": "What is [audio1]?", "options": ["A. x", "B. y", "C. z", "D. w"]})
    )
    (text,) = functions(TASKS / "mmau/utils.py", "doc_to_text")
    out["mmau"] = text(
        {"question": "What?", "choices": '["x", "y"]'}, {"pre_prompt": "", "post_prompt": "\n" + last}
    )
    chat, foundation = functions(
        TASKS / "air_bench/utils.py", "air_bench_doc_to_text_chat", "air_bench_doc_to_text_foundation"
    )
    out["air_bench_chat"] = chat(
        {"question": "What?"},
        {"pre_prompt": "", "post_prompt": "Give a detail answer to the question in English."},
    )
    out["air_bench_foundation"] = foundation(
        {"question": "What?", "choice_a": "x", "choice_b": "y"},
        {"pre_prompt": "", "post_prompt": "\n" + last},
    )
    query, _ = method(
        TASKS / "mathvista/mathvista_evals.py", "MathVistaEvaluator", "create_one_query", shot_examples=[]
    )
    problem = {
        "question": "How long?",
        "unit": "cm",
        "choices": None,
        "caption": "",
        "ocr": "",
        "precision": 1,
        "question_type": "free_form",
        "answer_type": "float",
    }
    out["mathvista_float"] = query(None, problem, "format-prompt")
    out["mathvista_choice"] = query(
        None,
        {
            **problem,
            "unit": "",
            "choices": ["x", "y"],
            "question_type": "multi_choice",
            "answer_type": "text",
        },
        "format-prompt",
    )
    (ai2d,) = functions(TASKS / "ai2d/utils.py", "ai2d_doc_to_text")
    out["ai2d_lmms"] = ai2d(
        {"question": "What?", "options": ["x", "y"]},
        {"pre_prompt": "", "post_prompt": "\n" + last, "prompt_format": "mcq"},
    )
    create, _ = method(TASKS / "mmbench/mmbench_evals.py", "MMBench_Evaluator", "create_options_prompt")
    options, _ = create(
        type("S", (), {"sys_prompt": "There are several options:"})(), ROW, ["A", "B", "C", "D", "E"]
    )
    out["mmbench_lmms"] = f"{ROW['hint']} {ROW['question']} {options}\n{last}"
    # Judges
    (build,) = functions(DATASET / "utils/multiple_choice.py", "build_prompt")
    (strings,) = functions(VLM / "vlmeval/smp/vlm.py", "build_option_str")
    out["judge_option"] = build("What?", strings({"A": "x", "B": "y"}), "an x")
    (build,) = functions(DATASET / "utils/yorn.py", "YOrN_match_prompt")
    out["judge_yes_no"] = build({"question": "Is it?", "prediction": "surely"})
    (build,) = functions(DATASET / "utils/mmvet.py", "build_mmvet_gpt4_prompt")
    out["judge_mmvet"] = build({"question": "What?", "answer": "a<AND>b", "prediction": "said"})
    examples, build = functions(DATASET / "utils/mathvista.py", "get_gpt4_ICE", "build_mathvista_gpt4_prompt")
    out["judge_mathvista"] = build({"question": "How?", "prediction": "said"})
    space = {}
    tree = ast.parse((TASKS / "air_bench/utils.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "eval_prompt":
            exec(compile(ast.Module([node], []), "x", "exec"), space)
    out["judge_air_bench"] = space["eval_prompt"]
    return out


here = pathlib.Path(__file__).parent
for name, values in (("rules", rules()), ("prompts", prompts())):
    (here / f"{name}.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
