"""Makes wer.json: errors that lmms-eval 0.7.3 counts in made-up transcripts, each alone and all together.

Run it in an environment with lmms-eval, editdistance, more-itertools and zhconv.
"""

import contextlib
import io
import json
import pathlib

from lmms_eval.tasks.librispeech.utils import compute_wer, remove_sp

ENGLISH = [
    (
        "MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES",
        "Mr. Quilter is the apostle of the middle classes.",
    ),
    ("he's got twenty one dollars", "He has got $21"),
    ("the colour of the programme", "the color of the program"),
    ("I DON'T KNOW", "I do not know!"),
    ("a b c d e", "a x c e f g"),
    ("hello world", ""),
    ("one", "one one one"),
    ("well um you know it is [noise] fine", "Well, you know, it is fine"),
    ("the twenty first of may nineteen ninety", "the 21st of May 1990"),
    ("<|en|> we shall see", "we shall see"),
    ("café naïve", "cafe naive"),
    ("o'clock at the king's cross", "oclock at the kings cross"),
    ("ten per cent of them", "10% of them"),
    ("e-mail me at noon", "email me at noon"),
    ("hello , world", "Hello,world"),
]
CHINESE = [
    ("今天天气很好", "今天天气很好"),
    ("今天天气很好", "今天 天气好"),
    ("你好世界", "你们好"),
    ("ＡＢ测试", "ab测试"),
    ("好的。", "好的"),
]


def wer(pairs, language):
    with contextlib.redirect_stdout(io.StringIO()):
        return compute_wer(*([remove_sp(pair[i], language) for pair in pairs] for i in (0, 1)), language)


found = {
    "en": [[*pair, wer([pair], "en")] for pair in ENGLISH],
    "en_all": wer(ENGLISH, "en"),
    "zh": [[*pair, wer([pair], "zh")] for pair in CHINESE],
}
file = pathlib.Path(__file__).with_name("wer.json")
file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
