"""The ola_jax model checkpoint: one self-contained directory.

config.json             {"format": "ola_jax", "version": 1, "model": ..., "processor": ...,
                         "files": the files of params/ and their sizes in bytes}
generation_config.json  defaults of sampling, as Hugging Face names them
tokenizer/              the tokenizer's own files
params/                 the parameter tree, an Orbax PyTree
released.json           what the released checkpoint said that it came from, for the way back; may be absent
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from ola_jax.config import OlaConfig, ProcessorConfig, from_dict, to_dict
from ola_jax.errors import OlaError, first_line
from ola_jax.storage import replacing, storage_trouble
from ola_jax.typing import Params

FORMAT, VERSION = "ola_jax", 1
CHUNK_BYTES = 128 * 2**20  # larger arrays are stored in pieces of about this size, cut along the first axis
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
StrPath = str | os.PathLike[str]


def save(
    directory: StrPath,
    config: OlaConfig,
    processor_config: ProcessorConfig,
    params: Params,
    tokenizer_dir: StrPath,
    generation_config: Mapping[str, Any],
    released: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint: built beside its place, then renamed, so that it is there whole or not at all.

    A checkpoint that is already there is replaced; any other directory with content is refused
    (OlaError). Leaves of `params` are jax or numpy arrays and keep their dtypes; of
    `tokenizer_dir` the TOKENIZER_FILES are copied. `released`: of the checkpoint that training began
    with (`load_released`); what it says of single tensors' dtypes is dropped, since training changes them.
    All processes call it; each writes its shards, the first all else.
    """
    if released is not None:
        released = dict(released) | {"dtypes": {}}
    with writing(
        directory, config, processor_config, tokenizer_dir, generation_config, released
    ) as params_directory:
        how = lambda leaf: (
            ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,))
            if getattr(leaf, "nbytes", 0) > CHUNK_BYTES
            else ocp.SaveArgs()
        )
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(params_directory, params, save_args=jax.tree.map(how, params))


@contextlib.contextmanager
def writing(
    directory: StrPath,
    config: OlaConfig,
    processor_config: ProcessorConfig,
    tokenizer_dir: StrPath,
    generation_config: Mapping[str, Any],
    released: Mapping[str, Any] | None = None,
) -> Iterator[pathlib.Path]:
    """All of a checkpoint but the parameters, which the block writes into the path that it is given.

    When the block ends well the checkpoint takes its place; else nothing is left of it.
    """
    directory = check_destination(directory)
    tokenizer_files = _tokenizer_files(pathlib.Path(tokenizer_dir))
    with replacing(directory) as build:
        yield build / "params"
        if jax.process_index() != 0:
            return
        _write_json(build / "generation_config.json", dict(generation_config))
        if released is not None:
            _write_json(build / "released.json", dict(released))
        (build / "tokenizer").mkdir()
        for file in tokenizer_files:
            shutil.copyfile(file, build / "tokenizer" / file.name)
        values = {"format": FORMAT, "version": VERSION}
        values |= {"model": to_dict(config), "processor": to_dict(processor_config)}
        values["files"] = {
            file.relative_to(build).as_posix(): file.stat().st_size
            for file in sorted((build / "params").rglob("*"))
            if file.is_file()
        }
        _write_json(build / "config.json", values)


def load(directory: StrPath, dtype: Any = None, shardings: Params | None = None) -> tuple[OlaConfig, Params]:
    """The model's config and its parameters, a nested dict of jax arrays on the default device.

    `dtype`: of all parameters; None keeps each as it is stored. `shardings`: where each parameter
    goes; no process then reads more than its share. Raises OlaError if `directory` is not a whole
    checkpoint.
    """
    directory = pathlib.Path(directory)
    config, _, _ = load_configs(directory)
    path = (directory / "params").absolute()
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path).item_metadata.tree
            places = jax.tree.map(lambda _: sharding, stored) if shardings is None else shardings
            how = jax.tree.map(lambda _, to: ocp.ArrayRestoreArgs(sharding=to, dtype=dtype), stored, places)
            return config, checkpointer.restore(path, restore_args=how)
    except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged store
        if why := storage_trouble(error):
            raise OlaError(
                f"{path}: the parameters cannot be read now ({why}); they are not changed: see to that and "
                "start again"
            ) from error
        raise OlaError(
            f"{path}: the parameters cannot be read ({first_line(error)}); expected an Orbax tree as "
            "ola_jax writes it: copy or convert the checkpoint again"
        ) from error


def load_configs(directory: StrPath) -> tuple[OlaConfig, ProcessorConfig, dict[str, Any]]:
    """The model's config, the processor's, and the defaults of generation."""
    directory = pathlib.Path(directory)
    file = directory / "config.json"
    if not directory.is_dir():
        found = "a file" if directory.exists() else "nothing"
        raise OlaError(f"{directory}: not an ola_jax checkpoint: found {found}, expected a directory")
    if not file.is_file():
        raise OlaError(
            f"{directory}: not an ola_jax checkpoint: found {_listing(directory)}, expected config.json; "
            "give the directory that train.py or convert_weights.py wrote"
        )
    values = _read_json(file)
    if values.get("format") != FORMAT:
        raise OlaError(
            f'{file}: not an ola_jax checkpoint: found no "format": "{FORMAT}"; a released PyTorch '
            f"checkpoint is read in by `python convert_weights.py import --from {directory} --to DIR`"
        )
    if values.get("version") != VERSION:
        raise OlaError(
            f"{file}: found version {values.get('version')!r}, expected {VERSION}; update ola_jax "
            "or write the checkpoint again"
        )
    if missing := [key for key in ("model", "processor") if not isinstance(values.get(key), dict)]:
        raise OlaError(f"{file}: found no {missing[0]!r} section; write the checkpoint again")
    if not (directory / "tokenizer").is_dir():
        raise OlaError(f"{directory}: not a whole checkpoint: found no tokenizer/; copy it again")
    _check_files(directory, values.get("files"))
    generation_file = directory / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.is_file() else {}
    config = from_dict(OlaConfig, values["model"], f"{file}: model")
    return config, from_dict(ProcessorConfig, values["processor"], f"{file}: processor"), generation


def load_released(directory: StrPath) -> dict[str, Any] | None:
    """What `save` was given as `released`: None for a model that was trained from scratch."""
    file = pathlib.Path(directory) / "released.json"
    return _read_json(file) if file.is_file() else None


def is_checkpoint(directory: StrPath) -> bool:
    """Whether a directory says of itself that it is an ola_jax checkpoint."""
    file = pathlib.Path(directory) / "config.json"
    try:
        return file.is_file() and _read_json(file).get("format") == FORMAT
    except OlaError:
        return False


def check_destination(directory: StrPath) -> pathlib.Path:
    """The path, if a checkpoint may be written there: nothing, an empty directory, or a checkpoint."""
    directory = pathlib.Path(directory)
    try:
        if directory.exists() and not directory.is_dir():
            raise OlaError(f"{directory}: found a file, expected a directory to write; choose another name")
        if directory.is_dir() and any(directory.iterdir()) and not is_checkpoint(directory):
            raise OlaError(
                f"{directory}: holds {_listing(directory)}, not an ola_jax checkpoint, and is not "
                "overwritten; choose another directory"
            )
    except OSError as error:  # a name too long, a folder that may not be read
        raise OlaError(f"{directory}: cannot be written ({error.strerror}); choose another name") from error
    return directory


def _check_files(directory: pathlib.Path, files: Any) -> None:
    """The parameters' files are there in their sizes: an unfinished copy is told before it is read."""
    if not isinstance(files, dict) or not files:
        raise OlaError(f"{directory / 'config.json'}: found no 'files' section; write the checkpoint again")
    for name, size in files.items():
        file = directory / name
        found = f"{file.stat().st_size} bytes" if file.is_file() else "nothing"
        if found != f"{size} bytes":
            raise OlaError(
                f"{file}: not a whole checkpoint: found {found}, expected {size} bytes; copy it again"
            )


def _tokenizer_files(directory: pathlib.Path) -> list[pathlib.Path]:
    files = [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
    names = {file.name for file in files}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise OlaError(
            f"{directory}: no tokenizer: found {', '.join(sorted(names)) or 'none of its files'}, expected "
            "tokenizer.json, or vocab.json and merges.txt"
        )
    return files


def _listing(directory: pathlib.Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _write_json(file: pathlib.Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise OlaError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise OlaError(f"{file}: expected a JSON object, found a {type(values).__name__}")
    return values
