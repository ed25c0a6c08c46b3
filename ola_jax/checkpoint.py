"""The ola_jax model checkpoint: one self-contained directory.

config.json             {"format": "ola_jax", "version": 1, "model": ..., "processor": ...,
                         "files": the files of params/ and their sizes in bytes}
generation_config.json  defaults of sampling, as Hugging Face names them
tokenizer/              the tokenizer's own files
params/                 the parameter tree, an Orbax PyTree
released.json           fields of the released checkpoint that it came from, for the export; may be absent
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util

from ola_jax import json_files
from ola_jax.config import OlaConfig, ProcessorConfig, from_dict, to_dict
from ola_jax.errors import OlaError, first_line
from ola_jax.storage import describe_unreadable, replace_directory, storage_failure
from ola_jax.typing import DTypeLike, Params

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
    *,
    config: OlaConfig,
    processor_config: ProcessorConfig,
    params: Params,
    tokenizer_dir: StrPath,
    generation_config: Mapping[str, Any],
    released: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint, completely or not at all: it is built beside its destination, then renamed.

    An existing checkpoint is replaced; any other directory with content is refused (OlaError). Leaves of
    `params` are jax or numpy arrays and keep their dtypes; of `tokenizer_dir` the TOKENIZER_FILES are
    copied. `released`: as `load_released` returns it for the checkpoint that training started from; its
    dtypes of single tensors are dropped, since training changes them. All processes call it; each writes
    its shards, the first everything else.
    """
    if released is not None:
        released = dict(released) | {"dtypes": {}}
    with create(
        directory,
        config=config,
        processor_config=processor_config,
        tokenizer_dir=tokenizer_dir,
        generation_config=generation_config,
        released=released,
    ) as params_directory:
        save_args = lambda leaf: (
            ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,))
            if getattr(leaf, "nbytes", 0) > CHUNK_BYTES
            else ocp.SaveArgs()
        )
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(params_directory, params, save_args=jax.tree.map(save_args, params))


@contextlib.contextmanager
def create(
    directory: StrPath,
    *,
    config: OlaConfig,
    processor_config: ProcessorConfig,
    tokenizer_dir: StrPath,
    generation_config: Mapping[str, Any],
    released: Mapping[str, Any] | None = None,
) -> Iterator[pathlib.Path]:
    """Writes a checkpoint without its parameters, which the block writes to the path that it gets.

    The checkpoint is moved to `directory` when the block succeeds; otherwise it is removed.
    """
    directory = check_destination(directory)
    tokenizer_files = _tokenizer_files(pathlib.Path(tokenizer_dir))
    with replace_directory(directory) as build:
        yield build / "params"
        if jax.process_index() != 0:
            return
        json_files.write_object(build / "generation_config.json", generation_config)
        if released is not None:
            json_files.write_object(build / "released.json", released)
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
        json_files.write_object(build / "config.json", values)


def load(
    directory: StrPath,
    dtype: DTypeLike | None = None,
    shardings: Params | None = None,
    *,
    only: Callable[[str], bool] | None = None,
) -> tuple[OlaConfig, Params]:
    """The model's config and its parameters, a nested dict of jax arrays on the default device.

    `dtype`: of all parameters; None keeps each as it is stored. `shardings`: the sharding of each
    parameter; no process then reads more than its shards. `only`: true for the paths of the parameters to
    read, such as "llm/norm/scale"; None reads all. Raises OlaError if `directory` is not a complete
    checkpoint.
    """
    directory = pathlib.Path(directory)
    config, _, _ = load_configs(directory)
    path = (directory / "params").absolute()
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path).item_metadata.tree
            if shardings is None:
                shardings = jax.tree.map(lambda _: sharding, stored)
            restore_args = jax.tree.map(
                lambda _, sharding: ocp.ArrayRestoreArgs(sharding=sharding, dtype=dtype), stored, shardings
            )
            if only is None:
                return config, checkpointer.restore(path, restore_args=restore_args)
            chosen, args = _chosen(stored, only), _chosen(restore_args, only)
            parts = ocp.args.PyTreeRestore(chosen, args, partial_restore=True)
            return config, checkpointer.restore(path, args=parts)
    except Exception as error:  # Orbax and tensorstore raise many types for a damaged store
        if reason := storage_failure(error):
            raise OlaError(describe_unreadable(path, reason)) from error
        raise OlaError(
            f"{path}: the parameters cannot be read ({first_line(error)}); expected an Orbax tree as "
            "ola_jax writes it: copy or convert the checkpoint again"
        ) from error


def _chosen(tree: Params, only: Callable[[str], bool]) -> Params:
    """The leaves with the paths that are wanted."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if only(path)}, sep="/")


def load_configs(directory: StrPath) -> tuple[OlaConfig, ProcessorConfig, dict[str, Any]]:
    """The model's config, the processor's config, and the defaults of generation."""
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
    values = json_files.read_object(file)
    if values.get("format") != FORMAT:
        raise OlaError(
            f'{file}: not an ola_jax checkpoint: found no "format": "{FORMAT}"; a released PyTorch '
            f"checkpoint is imported by `python convert_weights.py import --from {directory} --to DIR`"
        )
    if values.get("version") != VERSION:
        raise OlaError(
            f"{file}: found version {values.get('version')!r}, expected {VERSION}; update ola_jax "
            "or write the checkpoint again"
        )
    if missing := [key for key in ("model", "processor") if not isinstance(values.get(key), dict)]:
        raise OlaError(f"{file}: found no {missing[0]!r} section; write the checkpoint again")
    if not (directory / "tokenizer").is_dir():
        raise OlaError(f"{directory}: not a complete checkpoint: found no tokenizer/; copy it again")
    _check_files(directory, values.get("files"))
    generation_file = directory / "generation_config.json"
    generation = json_files.read_object(generation_file) if generation_file.is_file() else {}
    config = from_dict(OlaConfig, values["model"], f"{file}: model")
    return config, from_dict(ProcessorConfig, values["processor"], f"{file}: processor"), generation


def load_released(directory: StrPath) -> dict[str, Any] | None:
    """Fields of the released checkpoint, as given to `save`; None for a model trained from scratch."""
    file = pathlib.Path(directory) / "released.json"
    return json_files.read_object(file) if file.is_file() else None


def is_checkpoint(directory: StrPath) -> bool:
    """True if the directory's config.json has the format of an ola_jax checkpoint."""
    file = pathlib.Path(directory) / "config.json"
    try:
        return file.is_file() and json_files.read_object(file).get("format") == FORMAT
    except OlaError:
        return False


def check_destination(directory: StrPath) -> pathlib.Path:
    """Returns the path if a checkpoint may be written there: a new or empty directory, or a checkpoint."""
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


def _check_files(directory: pathlib.Path, files: object) -> None:
    """Raises OlaError unless all files of the parameters have their recorded sizes."""
    if not isinstance(files, dict) or not files:
        raise OlaError(f"{directory / 'config.json'}: found no 'files' section; write the checkpoint again")
    for name, size in files.items():
        file = directory / name
        found = f"{file.stat().st_size} bytes" if file.is_file() else "nothing"
        if found != f"{size} bytes":
            raise OlaError(
                f"{file}: not a complete checkpoint: found {found}, expected {size} bytes; copy it again"
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
