"""Reading configs/*.py and overriding their fields from the command line."""

import contextlib
import dataclasses
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence

import tyro

from ola_jax.errors import OlaError
from ola_jax.training import settings
from ola_jax.training.config import TrainConfig
from ola_jax.training.renamed import RENAMED
from ola_jax.training.settings import short


@dataclasses.dataclass(frozen=True)
class LoadedConfig:
    """A config, and the file it came from: a module that may have a `prepare(config)`."""

    config: TrainConfig
    module: types.ModuleType

    @property
    def prepare(self) -> Callable[[TrainConfig], TrainConfig] | None:
        """The function of the module that builds missing data, if it has one."""
        function = getattr(self.module, "prepare", None)
        if function is None:
            return None

        def prepare(config: TrainConfig) -> TrainConfig:
            with importing_from(os.getcwd()):
                return function(config)

        return prepare


def usage(prog: str = "train.py") -> str:
    """The help text of the command `prog`."""
    return f"""usage: {prog} --config=FILE[:ARGUMENT] [--config.PATH.TO.FIELD=VALUE ...]
       {prog} --config=FILE[:ARGUMENT] --compile_only|--search --topology=NAME [--config.FIELD=VALUE ...]

Trains the stages of a config, for example --config=configs/digits_omni.py; the same command resumes a run
that was stopped. FILE may import modules of the current folder, and defines get_config(); ARGUMENT, which
begins after the first colon, is passed to it. All fields of a config with their values:
{prog} --config=FILE --help"""


def is_help(arguments: Sequence[str]) -> bool:
    """True if only the usage is asked for, without a config."""
    return not _split(arguments)[0] and bool({"-h", "--help"} & set(arguments))


def load_config(arguments: Sequence[str], prog: str = "train.py") -> LoadedConfig:
    """Loads `--config=FILE[:ARGUMENT] [--config.PATH.TO.FIELD=VALUE]...`; a blank may replace each "=".

    FILE defines `get_config()`, which takes ARGUMENT if one is given; it may import modules of the current
    folder. A wrong type or an unknown name ends the program `prog` with the field that was probably meant, as
    tyro does. Raises OlaError if FILE is not a config, and for the former name of a field.
    """
    named, overrides = _split(arguments)
    if len(named) != 1 or not named[0]:
        raise OlaError("give one --config=FILE, for example --config=configs/digits_omni.py")
    file, _, argument = named[0].partition(":")
    for override in overrides:
        field = re.split("[= ]", override.removeprefix("--config."), maxsplit=1)[0].replace("-", "_")
        if override.startswith("--config.") and field in RENAMED:
            raise OlaError(f"--config.{field}: is now --config.{RENAMED[field]}")
        if re.match(r"-(?![0-9.])", override) and not override.startswith(("--config.", "--help", "-h")):
            raise OlaError(f"{override}: fields are overridden as --config.FIELD=VALUE")
    with importing_from(os.getcwd()), _explaining_renamed(file):
        module, config = _get_config(file, argument)
    if wrong := next(settings.find_broken(config, {}), None):  # before tyro, whose message has many lines
        raise OlaError(f"{file}: {wrong}")
    config = tyro.cli(
        TrainConfig,
        default=config,
        args=[a.replace("--config.", "--", 1) for a in overrides],
        config=(tyro.conf.FlagConversionOff,),
        prog=f"{prog} --config={named[0]}",
        description="Fields of this config; each is overridden as --config.FIELD=VALUE.",
    )
    return LoadedConfig(config, module)


@contextlib.contextmanager
def importing_from(folder: str) -> Iterator[None]:
    """Puts `folder` first on the import path within the block, as `python -m` does."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # other changes in the block are kept
            sys.path.remove(folder)


@contextlib.contextmanager
def _explaining_renamed(file: str) -> Iterator[None]:
    """Raises OlaError if the block builds a TrainConfig with the former name of a field."""
    try:
        yield
    except TypeError as error:
        name = re.search(r"TrainConfig.* unexpected keyword argument '(\w+)'", str(error))
        if name is None or name[1] not in RENAMED:
            raise
        group, _, field = RENAMED[name[1]].partition(".")
        raise OlaError(f"{file}: {name[1]} is now {field} of TrainConfig.{group}") from error


def _get_config(file: str, argument: str) -> tuple[types.ModuleType, TrainConfig]:
    """The module in `file`, and what its `get_config` returns."""
    module = _module(pathlib.Path(file))
    parameters = inspect.signature(module.get_config).parameters.values()
    if argument and not parameters:
        raise OlaError(f"{file}: takes no argument, found {argument!r}")
    if not argument and any(parameter.default is parameter.empty for parameter in parameters):
        raise OlaError(f"{file}: takes an argument, given as --config={file}:ARGUMENT")
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, TrainConfig):
        raise OlaError(f"{file}: get_config() returned {short(config)}, expected a TrainConfig")
    return module, config


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Values of --config, and all other arguments."""
    named, others = [], []
    left = iter(arguments)
    for argument in left:
        if argument == "--config":
            named.append(next(left, ""))
        elif argument.startswith("--config="):
            named.append(argument.removeprefix("--config="))
        else:
            others.append(argument)
    return named, others


def _module(file: pathlib.Path) -> types.ModuleType:
    if not file.is_file():
        raise OlaError(f"{file}: no such config file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise OlaError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise OlaError(f"{file}: defines no get_config()")
    return module
