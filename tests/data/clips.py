"""Small videos and audio files, generated for tests."""

import struct

import av
import numpy as np


def write_video(path, frames, size=(96, 64), sound_seconds=0.0, rate=10, title="", track=None):
    """A video whose frame i is all of grey level 10 * i (mod 250), with a sound track of a 440 Hz tone.

    `track` is an uncompressed sound track at 16 kHz, float32 [1, samples].
    """
    with av.open(str(path), "w") as container:
        if title:
            container.metadata["title"] = title
        video = container.add_stream("libx264", rate=rate, options={"crf": "0"})
        video.width, video.height = size
        video.pix_fmt = "yuv444p"
        audio = container.add_stream("aac", rate=44_100, layout="mono") if sound_seconds else None
        uncompressed = (
            None if track is None else container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        )
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
        if uncompressed:
            frame = av.AudioFrame.from_ndarray(track, format="flt", layout="mono")
            frame.sample_rate = 16_000
            container.mux(uncompressed.encode(frame))
            container.mux(uncompressed.encode())


def tone(rate, seconds, channels=1, pitch=440):
    """A sine, float32 [channels, samples]."""
    wave = np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate) / 2
    return np.repeat(wave[None].astype(np.float32), channels, 0)


def write_tracks(path, tracks, form, codec, rates):
    """A container of audio alone, one track for each float32 array [channels, samples]."""
    with av.open(str(path), "w", format=form) as container:
        layouts = ["mono" if len(samples) == 1 else "stereo" for samples in tracks]
        streams = [
            container.add_stream(codec, rate=rate, layout=layout)
            for rate, layout in zip(rates, layouts, strict=True)
        ]
        for samples, rate, stream, layout in zip(tracks, rates, streams, layouts, strict=True):
            resampler = av.AudioResampler(stream.format.name, layout, rate)
            for start in range(0, samples.shape[1], 1024):
                block = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate = rate
                for part in resampler.resample(frame):
                    container.mux(stream.encode(part))
            container.mux(stream.encode())


def damage(data, start, end):
    """The bytes, with every seventh inverted between two fractions of the length."""
    data = bytearray(data)
    for place in range(int(len(data) * start), int(len(data) * end), 7):
        data[place] ^= 0xFF
    return bytes(data)


def display_matrix(data, turn):
    """The bytes of an mp4 file whose first track has (a, b, c, d) as its display matrix."""
    a, b, c, d = (round(65_536 * value) for value in turn)
    place = data.index(b"tkhd") + 44
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return data[:place] + matrix + data[place + len(matrix) :]
