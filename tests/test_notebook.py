"""The notebook docs/first_model.ipynb: its cells, run one after another, lead from a photograph to a model of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / "docs" / "first_model.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = os.environ | {"REC_NOTEBOOK": str(tmp_path), "REC_NOTEBOOK_UPDATES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs" / "mine" / "best" / "model.safetensors").exists()
    assert "the spoon (" in done.stdout
    assert not any(cell.get("outputs") for cell in cells)
