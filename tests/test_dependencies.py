"""pyproject.toml declares what is imported, where it is imported, and nothing else."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from ola_jax.errors import MissingLibraryError, OlaError, require

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {
    "espeakng_loader": "espeakng-loader",
    "hibari": "hibari-tts",
    "PIL": "pillow",
    "orbax": "orbax-checkpoint",
    "apache_beam": "apache-beam",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "whisper_normalizer": "whisper-normalizer",
}  # others: the same
DEVICES = {"tpu", "cuda", "aot-cuda"}  # compilers and drivers, which jax loads
BY_NAME = {"tensorboardx", "wandb"}  # imported by importlib, with a message of their own
NEEDED_BY_OTHERS = {"importlib-resources"}  # for which one stands in pyproject.toml
# Harnesses of others, each in an environment of its own: `ola_jax/eval/adapters` runs inside them.
HARNESSES = {"lmms-eval", "vlmeval"}
TOOLS = {"beartype", "jinja2", "pytest-xdist", "mypy", "ruff"}  # of the tests, which import none of them
# Which extra (with the core) a part of the package may need; all others: the core alone.
PARTS = {
    "data": "beam",
    "generate": "train",
    "convert": "convert",
    "speech": "espeak",
    "eval": "all",
    "serve": "serve",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """The distributions of the core and of these extras, and of the extras that they name."""
    found, lines = set(), [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    for line in lines:
        if inner := re.fullmatch(r"ola_jax\[([\w,-]+)\]", line):
            found |= declared(*inner[1].split(","))
        else:
            found.add(normal(re.match(r"[\w.-]+", line)[0]))
    return found


def imported(*paths: pathlib.Path) -> set[str]:
    """The distributions that these files import, at their top or later."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    ours = {file.stem for file in ROOT.glob("*.py")} | {
        "ola_jax",
        "examples",
        "tests",
        "configs",
        "benchmarks",
    }
    return {normal(DISTRIBUTIONS.get(name, name)) for name in names - sys.stdlib_module_names - ours}


def below(*folders: str) -> list[pathlib.Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", below("ola_jax"), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_what_its_part_declares(file: pathlib.Path) -> None:
    part, *inside = file.relative_to(ROOT / "ola_jax").parts
    extras = [PARTS[part]] if part in PARTS else []
    assert imported(file) <= declared(*extras) | (HARNESSES if "adapters" in inside else set())


def test_everything_declared_is_imported() -> None:
    used = imported(*below("ola_jax", "examples", "configs"), *ROOT.glob("*.py"))
    assert declared("all") - (used - HARNESSES) == BY_NAME | NEEDED_BY_OTHERS
    text = "".join(file.read_text() for file in below("ola_jax")).lower()
    assert all(f'"{name}"' in text for name in BY_NAME)


def test_tests_import_what_they_declare_and_declare_what_they_import() -> None:
    inside = {
        *below("tests/harnesses"),
        ROOT / "tests/goldens/eval/make_wer.py",
    }  # of harnesses' environments
    used = imported(*(file for file in below("tests", "examples", "configs") if file not in inside))
    assert used <= declared("test")
    others = declared("convert", "data", "demo", "eval", "serve", "speech", "watch")
    assert declared("test") - others - used == TOOLS


def test_every_extra_is_in_all_or_for_devices_or_tests() -> None:
    inner = declared("all")
    assert all(declared(extra) <= inner for extra in EXTRAS.keys() - DEVICES - {"test", "espeak", "beam"})


def test_the_packages_that_the_project_is_built_on_are_declared() -> None:
    wanted = {"jax", "flax", "optax", "orbax-checkpoint", "transformers", "grain", "librosa"}
    wanted.add("tensorflow-datasets")
    assert wanted <= declared("all")


def test_constraints_pin_what_the_tests_install() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normal(line.split("==")[0]) for line in lines if line and not line.startswith("#")}
    assert declared("test") <= pinned


def test_the_hook_before_a_commit_runs_the_pinned_ruff() -> None:
    (version,) = re.findall(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"rev: v{version} #" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_a_missing_library_is_an_error_that_names_the_extra() -> None:
    with pytest.raises(
        MissingLibraryError, match=r"^no_such: not installed; run: pip install 'ola_jax\[x\]'$"
    ):
        require("x", "json", "no_such")
    assert issubclass(MissingLibraryError, OlaError)
    assert issubclass(MissingLibraryError, ImportError)


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("av", "import ola_jax; ola_jax.Processor", "train"),
        ("grain", "from ola_jax.data.pipeline import make_train_iterator", "train"),
        ("huggingface_hub", "from ola_jax.convert import importer", "convert"),
    ],
)
def test_parts_whose_libraries_are_missing_say_what_to_install(missing: str, code: str, extra: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"ola_jax.errors.MissingLibraryError: {missing}: not installed; run: pip install 'ola_jax[{extra}]'"
    )
