"""Functions for a decoding process to call, good and bad ones; they import no more than it does."""

import ctypes
import os
import pathlib
import re
import time

from ola_jax.data.media import MissingFileError


def give(value):
    return value


def pid(value):
    return os.getpid()


def modules(value):
    import sys

    return set(sys.modules)


def hang(value):
    time.sleep(1000)


def hang_noting_pid(file):
    pathlib.Path(file).write_text(str(os.getpid()))
    time.sleep(1000)


def hang_with_the_lock(file):
    """Keeps C code busy with the GIL held."""
    pathlib.Path(file).write_text(str(os.getpid()))
    re.match(r"(a+)+$", "a" * 60 + "b")


def hang_at_image_3(function, refs, *arguments):
    """Decodes, but hangs at one image of `made_up.write_records`."""
    if refs == ("records.json3.png",):
        hang(refs)
    return function(refs, *arguments)


def leave_at_image_3(function, refs, *arguments):
    if refs == ("records.json3.png",):
        leave(refs)
    return function(refs, *arguments)


def hang_if_armed(function, refs, root, settings):
    """Decodes, until there is a file `armed` in the folder of the media."""
    if (pathlib.Path(root) / "armed").exists():
        (pathlib.Path(root) / "hanging").touch()
        hang(refs)
    return function(refs, root, settings)


def leave_at_image_3_if_armed(function, refs, root, settings):
    if (pathlib.Path(root) / "armed").exists():
        leave_at_image_3(function, refs, root, settings)
    return function(refs, root, settings)


def hang_at_image_3_if_armed(function, refs, root, settings):
    if (pathlib.Path(root) / "armed").exists():
        hang_at_image_3(function, refs, root, settings)
    return function(refs, root, settings)


def crash(value):
    ctypes.string_at(0)


def leave(value):
    os._exit(7)


def write_to_stdout(value):
    os.write(1, b"noise from a library\n" * 1000)
    return value


def fail(value):
    raise KeyError(f"two\nlines of {value}")


def refuse(value):
    raise MissingFileError(f"{value}: no such file")


def return_what_cannot_be_pickled(value):
    return lambda: value
