"""The console command `ola`: trains, converts weights, asks, serves. Commands are imported when called."""

import importlib
import sys
from collections.abc import Sequence

from ola_jax.errors import OlaError, quote, run

COMMANDS = {
    "train": "trains a model, stage after stage, by a config",
    "data": "checks data sets, and prepares them for training at scale",
    "convert": "imports and exports released PyTorch checkpoints, and verifies imports",
    "ask": "answers a question about images, a video or audio, or a plain text",
    "serve": "answers over HTTP, as OpenAI's API does",
    "eval": "scores a model on public benchmarks, and compares runs",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    given = sys.argv[1:] if arguments is None else arguments
    run(lambda: _choose(*given))


def _choose(name: str = "", *rest: str) -> None:
    if name in ("-h", "--help"):
        print(usage())
    elif name in COMMANDS:
        importlib.import_module(f"ola_jax.cli.{name}").main(rest, f"ola {name}")
    else:
        found = f"no command {quote(name)}" if name else "no command given"
        raise OlaError(f"{found}; expected one of {', '.join(COMMANDS)}: see `ola --help`")


def usage() -> str:
    """The help text of `ola`."""
    commands = "\n".join(f"  {name:<9}{description}" for name, description in COMMANDS.items())
    return f"usage: ola COMMAND ...\n\n{commands}\n\nOptions of a command: ola COMMAND --help"


if __name__ == "__main__":
    main()
