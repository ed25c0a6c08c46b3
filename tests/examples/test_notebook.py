"""The notebook runs from its first cell to its last, and its model learns the answer."""

import json
import os
import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
RUN = """
import json, sys
cells = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
for number, source in enumerate(cells):
    exec(compile(source, f"cell {number}", "exec"), namespace)
"""


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_no_outputs_are_committed() -> None:
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code_cells())


def test_the_trained_model_gives_the_answer_of_its_record(tmp_path: pathlib.Path) -> None:
    sources = ["".join(cell["source"]) for cell in code_cells()]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(sources),
        cwd=EXAMPLES,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a gray image"
    assert "Exception ignored" not in done.stderr
