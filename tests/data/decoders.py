"""Functions to be called in a decoding process: good and bad ones. They import next to nothing."""

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
    """Busy in C for ages, with no other Python thread allowed to run."""
    pathlib.Path(file).write_text(str(os.getpid()))
    re.match(r"(a+)+$", "a" * 60 + "b")


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
