"""Digests of the content of files, which do not change when a file moves."""

import hashlib
import pathlib


def tokenizer_digest(folder: pathlib.Path) -> str | None:
    """SHA-256 of the files that make up the tokenizer; None where there are none."""
    names = ["tokenizer.json"]
    if not (folder / names[0]).is_file():
        names = ["vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"]
    digests = [digest(folder / name) for name in names]
    return (
        hashlib.sha256("".join(each or "-" for each in digests).encode()).hexdigest()
        if any(digests)
        else None
    )


def digest(path: pathlib.Path) -> str | None:
    """SHA-256 of a file, or of all files in a folder with their names; None where there is none."""
    try:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file())
            lines = [f"{file.relative_to(path)}\0{digest(file)}\n" for file in inside]
            return hashlib.sha256("".join(lines).encode()).hexdigest()
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # in blocks
    except OSError:
        return None
