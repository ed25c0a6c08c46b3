"""The house's own rules: which module may import which, file sizes, annotations."""

import ast
import functools
import pathlib
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "ola_jax").rglob("*.py"))
TIERS = (  # a part imports itself and parts of tiers before its own
    {"errors", "typing"},
    {"config", "json_files", "speech"},
    {"row"},
    {"batch"},
    {"sharding", "hardware", "compilation_cache"},
    {"kernels"},
    {"models"},
    {"storage"},
    {"checkpoint"},
    {"data", "convert"},
    {"generate"},
    {"training"},
    {"aot", "eval"},
    {"run", "serve"},
    {"cli"},
    {"infer"},
)
MODEL_SIDE = {"errors", "typing", "config", "row", "batch", "sharding", "kernels", "models"}
# With the standard library, all that the model side and the training step may need.
ACCELERATOR_LIBRARIES = {"jax", "flax", "numpy", "jaxtyping", "optax"}
MAX_LINES = 600


def name(file: pathlib.Path) -> str:
    """The name of the module, such as "ola_jax.data.image"; a package's own file has the package's name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part(module: str) -> str:
    return module.split(".")[1]


def statements(tree: ast.AST, lazy: bool) -> Iterator[ast.stmt]:
    """All import statements; without `lazy`, those only that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif lazy or not isinstance(node, ast.FunctionDef):
            yield from statements(node, lazy)


@functools.cache
def imports(file: pathlib.Path, lazy: bool) -> set[str]:
    found = set()
    for node in statements(ast.parse(file.read_text()), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{name(file)}: a relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | (submodules & MODULES.keys())
    return found


MODULES = {name(file): file for file in FILES}
PARTS = {module: file for module, file in MODULES.items() if module != "ola_jax"}


def test_every_part_has_its_tier() -> None:
    assert {part(module) for module in PARTS} == set().union(*TIERS)


@pytest.mark.parametrize("module", PARTS)
def test_imports_run_downwards(module: str) -> None:
    tier = {p: number for number, parts in enumerate(TIERS) for p in parts}
    own = part(module)
    for imported in imports(PARTS[module], lazy=True) - {"ola_jax"}:
        if imported.startswith("ola_jax."):
            other = part(imported)
            assert other == own or tier[other] < tier[own], f"{module} imports {imported}"


@pytest.mark.parametrize("module", [m for m in PARTS if part(m) in MODEL_SIDE])
def test_the_model_side_needs_accelerator_libraries_only(module: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(PARTS[module], lazy=True)}
    assert roots - sys.stdlib_module_names <= ACCELERATOR_LIBRARIES | {"ola_jax"}


def test_the_training_step_needs_no_library_of_data_or_media() -> None:
    seen, todo = set(), ["ola_jax.training.step"]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [m for m in imports(MODULES[module], lazy=False) if m in MODULES]
    assert "ola_jax.models.ola" in seen
    roots = {imported.split(".")[0] for module in seen for imported in imports(MODULES[module], lazy=False)}
    assert roots - sys.stdlib_module_names <= ACCELERATOR_LIBRARIES | {"ola_jax"}


@pytest.mark.parametrize("module", MODULES)
def test_files_are_short(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (
                    not method.name.startswith("_") or method.name == "__call__"
                ):
                    yield method


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_annotated(module: str) -> None:
    for function in public_functions(ast.parse(MODULES[module].read_text())):
        arguments = [
            *function.args.posonlyargs,
            *function.args.args,
            *function.args.kwonlyargs,
            *filter(None, (function.args.vararg, function.args.kwarg)),
        ]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{function.name}: {bare} without annotation"
        assert function.returns is not None, f"{function.name}: no annotation of what it returns"
