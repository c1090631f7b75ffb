"""The notebook runs from top to bottom, on any run of pictures, and is stored as it ran."""

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "docs/quickstart.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs(cells, trained_run):
    """As Jupyter runs them: one after the other in one namespace, the last expression shown."""
    names: dict = {}
    shown = []
    for cell in cells:
        tree = ast.parse("".join(cell["source"]).replace("runs/quickstart", str(trained_run)))
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if last is not None:
            shown.append(eval(compile(last, str(NOTEBOOK), "eval"), names))
    assert [type(value) for value in shown if not isinstance(value, (tuple, type(None)))] == [Image.Image] * 2
    assert names["indices"].shape == (6, 8, 8) and names["sequences"].shape == (6, 64)


def test_what_is_stored_is_of_one_run_from_the_top(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    text = "".join(line for cell in cells for output in cell["outputs"] for line in output.get("text", []))
    assert "8,192 codes of 64 dimensions" in text and re.search(r"PSNR( \d\d\.\d\d){6} dB", text)
