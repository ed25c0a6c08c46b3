"""The orientation of video frames: how a decoded frame is rotated and mirrored to be shown."""

import struct

import av
import numpy as np
from av.sidedata.sidedata import SideData
from PIL import Image

Transpose = Image.Transpose

# A matrix (a, b, c, d) moves a pixel to x' = a x + c y and y' = b x + d y, with y downwards.
_TRANSPOSES = {
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, 1, -1, 0): Transpose.ROTATE_270,  # counterclockwise in Pillow
    (0, -1, 1, 0): Transpose.ROTATE_90,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
# Those that exchange width and height.
SIDEWAYS = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.ROTATE_90, Transpose.TRANSVERSE)
# Angles more than a degree off are ignored, as the original's decoder does.
TOLERANCE = np.sin(np.deg2rad(1.0))


def orientation(frame: av.VideoFrame) -> Transpose | None:
    """The rotation or mirroring that the frame's display matrix asks for; None: as it is."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind that PyAV does not know: it then lists none
        return _TRANSPOSES.get(_from_angle(frame.rotation))
    return from_matrix(bytes(data)) if isinstance(data, SideData) else None


def from_matrix(data: bytes) -> Transpose | None:
    """The orientation of a display matrix: nine 32-bit integers by rows (libavutil/display.h of FFmpeg)."""
    if len(data) != 36:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", data)
    first, second = np.hypot(a, b), np.hypot(c, d)
    if not first or not second:
        return None
    found = np.array([a / first, b / first, c / second, d / second])
    nearest = np.rint(found)
    if abs(found - nearest).max() >= TOLERANCE:
        return None
    return _TRANSPOSES.get(tuple(nearest.astype(int).tolist()))


def _from_angle(degrees: int) -> tuple[int, int, int, int]:
    """The matrix of a counterclockwise rotation by a multiple of 90 degrees."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(degrees % 360, (1, 0))
    return cos, -sin, sin, cos
