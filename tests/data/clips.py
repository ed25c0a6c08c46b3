"""Small videos made on the spot."""

import av
import numpy as np


def write_video(path, frames, size=(96, 64), sound_seconds=0.0, rate=10):
    """A video whose frame i is all of grey level 10 * i (mod 250), with a 440 Hz sound track if asked."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "0"})
        video.width, video.height = size
        video.pix_fmt = "yuv444p"
        audio = container.add_stream("aac", rate=44_100, layout="mono") if sound_seconds else None
        for i in range(frames):
            pixels = np.full((size[1], size[0], 3), 10 * i % 250, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        if audio:
            wave = np.sin(2 * np.pi * 440 * np.arange(int(44_100 * sound_seconds)) / 44_100)
            frame = av.AudioFrame.from_ndarray(
                wave[None].astype(np.float32) / 2, format="fltp", layout="mono"
            )
            frame.sample_rate = 44_100
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
