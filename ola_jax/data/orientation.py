"""How a decoded video frame is turned and mirrored before it is shown."""

import struct

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from PIL import Image

Transpose = Image.Transpose

# By where a pixel goes: x' = a x + c y and y' = b x + d y, with y downwards, for (a, b, c, d).
_TURNS = {
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, 1, -1, 0): Transpose.ROTATE_270,  # Pillow counts against the clock
    (0, -1, 1, 0): Transpose.ROTATE_90,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
# Angles that are off by more than a degree are left alone, as by the original's decoder.
TOLERANCE = np.sin(np.deg2rad(1.0))


def orientation(frame: av.VideoFrame) -> Transpose | None:
    """The turn, or mirroring, that the frame's display matrix asks for; None: shown as it is."""
    try:
        data = frame.side_data.get(SideData.DISPLAYMATRIX)
    except ValueError:  # side data of a kind that PyAV does not know: it then lists none
        return _TURNS.get(_from_angle(frame.rotation))
    return from_matrix(bytes(data)) if data is not None else None


def from_matrix(data: bytes) -> Transpose | None:
    """The turn of a display matrix: nine integers of 32 bits in row order, FFmpeg's libavutil/display.h."""
    if len(data) != 36:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", data)
    first, second = np.hypot(a, b), np.hypot(c, d)
    if not first or not second:
        return None
    found = np.array([a / first, b / first, c / second, d / second])
    nearest = np.rint(found)
    return _TURNS.get(tuple(nearest.astype(int).tolist())) if abs(found - nearest).max() < TOLERANCE else None


def _from_angle(degrees: int) -> tuple[int, int, int, int]:
    """The matrix of a turn against the clock by a multiple of 90 degrees."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(degrees % 360, (1, 0))
    return cos, -sin, sin, cos
