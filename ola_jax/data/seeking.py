"""Decoding some frames of a video without those between them, where a keyframe allows it."""

import bisect
import dataclasses
import math
from collections.abc import Iterator, Sequence

import av

# Codecs whose frames, in order of time from a keyframe, depend on nothing before it.
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
HELD_BACK = 16  # packets after which a decoder returns the frame of an earlier one, at most
WORTH = 0.75  # of the packets: if more have to be decoded, all are, which also verifies their number


@dataclasses.dataclass(frozen=True)
class Packets:
    """The packets of a video in the order of decoding, each of one frame."""

    times: Sequence[int]  # when the frame is shown, in the stream's unit
    keyframes: Sequence[int]  # positions of packets that need none before them

    def frame_times(self) -> list[int]:
        """The time of each frame, in order of time."""
        return sorted(self.times)

    def runs(self, wanted: Sequence[int]) -> "list[Run]":
        """The packets that have to be decoded for frames shown at these times, which are in order."""
        starts = [self.times[key] for key in self.keyframes]
        position = {time: number for number, time in enumerate(self.times)}
        found: list[Run] = []
        for time in wanted:
            key = self.keyframes[max(bisect.bisect_right(starts, time) - 1, 0)]
            last = position[time]
            before = found[-1] if found else None
            if before and key <= before.last + HELD_BACK:
                found[-1] = Run(before.first, max(last, before.last), (*before.times, time))
            else:
                found.append(Run(key, last, (time,)))
        return found


@dataclasses.dataclass(frozen=True)
class Run:
    """Packets that follow each other, from a keyframe on, and the times of the frames wanted of them."""

    first: int
    last: int
    times: tuple[int, ...]


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Packets | None:
    """The packets of a stream; None where frames cannot be told from them, so that all must be decoded."""
    if stream.codec_context.codec.canonical_name not in CODECS:
        return None
    times: list[int] = []
    keyframes: list[int] = []
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            return None
        if packet.is_keyframe:
            keyframes.append(len(times))
        times.append(packet.pts)
    starts = [times[key] for key in keyframes]
    if not keyframes or keyframes[0] or len(set(times)) < len(times) or starts != sorted(starts):
        return None
    return Packets(times, keyframes)


def decode_runs(
    container: av.container.InputContainer, stream: av.VideoStream, runs: Sequence[Run]
) -> Iterator[av.VideoFrame]:
    """Yields the wanted frames of each run, in order of time; ends early if one does not come out."""
    packets = (packet for packet in container.demux(stream) if packet.size)
    number = 0
    for run in runs:
        missing = set(run.times)
        if run.first < number:  # its first frames may have been passed
            return
        stream.codec_context.flush_buffers()
        for packet in packets:
            number += 1
            if number <= run.first:
                continue
            for frame in packet.decode():
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    yield frame
            if not missing:
                break
        else:
            for frame in stream.codec_context.decode(None):
                if frame.pts in missing:
                    missing.remove(frame.pts)
                    yield frame
        if missing:
            return


def cost(runs: Sequence[Run], packets: Packets) -> float:
    """The share of the packets that is decoded, with those that a decoder holds back."""
    return math.fsum(run.last - run.first + 1 + HELD_BACK for run in runs) / max(len(packets.times), 1)
