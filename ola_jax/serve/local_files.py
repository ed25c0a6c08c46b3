"""Media in files of the server's machine, below one folder that the operator names."""

import os
import pathlib
import stat
import urllib.parse

from ola_jax.serve.api_error import ApiError, invalid


def is_file_url(url: str) -> bool:
    """True for a URL of a file of this machine."""
    return url[:5].lower() == "file:"


def read_local_file(url: str, folder: pathlib.Path | None, where: str, most: int) -> bytes:
    """The bytes of the file, at most so many.

    Raises ApiError for a file that is not below the folder when all links are followed, the same one as for a
    file that is not there.
    """
    if folder is None:
        raise invalid("this server reads no local files; send a data URL in base64", where)
    if not url[5:].startswith("///") or "\\" in url:
        raise invalid('expected "file:///" and the path of a file', where)
    refused = invalid("no such file below the folder that this server reads from", where)
    try:
        path = os.path.realpath(urllib.parse.unquote(url[7:], errors="strict"), strict=True)
        root = os.path.realpath(folder, strict=True)
        if os.path.commonpath([path, root]) != root:
            raise refused
        with open(path, "rb", opener=_open) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or not found.st_size:
                raise refused
            if found.st_size > most:
                raise ApiError(413, f"{where}: more than {most} bytes", param=where)
            return file.read(most)
    except (OSError, ValueError):
        raise refused from None


def _open(path: str, flags: int) -> int:
    """Not through a link that has come between; not blocking, for there may be a pipe of that name."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
