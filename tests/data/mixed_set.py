"""A small set of records of every kind, with files of their media, and bad records among them."""

import numpy as np
import soundfile
from PIL import Image

from tests.data.clips import tone, write_video
from tests.data.made_up import conversation, write_json


def write_mixed_set(folder, name="mixed.json"):
    """Returns the path of the records: 12 good ones and 3 bad ones (numbers 3, 7 and 11)."""
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (12 + number, 18, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    samples = (rng.uniform(-0.5, 0.5, 3000) * 2**15).astype(np.int16)
    soundfile.write(folder / "exact.wav", samples, 16_000)
    soundfile.write(folder / "resampled.wav", tone(44_100, 0.1)[0], 44_100)
    write_video(folder / "silent.mp4", 9)
    write_video(folder / "sounding.mp4", 7, sound_seconds=0.3)
    data = [(folder / f"{number}.jpg").read_bytes() for number in range(2)]
    (folder / "patch").write_bytes(b"".join(data))
    patch = {"patch": "patch", "start_num": 0, "size": [len(item) for item in data]}
    Image.new("RGB", (12, 12)).save(folder / "square.png")
    talk = conversation
    records = [
        talk("Hi?", "Yes.", id=0),
        talk("<image>\nWhat?", "It é.", id="1", image="0.png"),
        talk("<image>\n<image>\nBoth?", "They.", image=["1.jpg", {"img_path": "2.png"}]),
        talk("<image>\nGone?", "It.", id="bad0", image="gone.png"),
        talk("<speech>\nSay?", "So.", audio="exact.wav"),
        talk("<speech>\nSay?", "So.", audio="resampled.wav", data_source="made up"),
        talk("<image>\nSee?", "It.", video="silent.mp4"),
        {"id": "bad1", "conversations": []},
        talk("<speech><image>\nSee?", "It.", video="silent.mp4"),
        talk("<speech><image>\nSee?", "It.", video="sounding.mp4"),
        talk("<image>\nSee?", "It.", video=["square.png", "square.png"]),
        "no record",
        talk("<image>\nSee?", "It.", video={"patch": "patch", "start_num": 0, "size": [len(data[0])]}),
        talk("<image>\n<image>\nSee?", "It.", image=[patch]),
        talk("x", "It.", text_q="<speech>\n<image>\nWhat?", audio_q="exact.wav", image="0.png"),
    ]
    return write_json(folder, name, records)
