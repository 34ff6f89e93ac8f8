"""The page "train on your own images" does what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from data_toys import write_image

ROOT = Path(__file__).parents[2]


def test_the_page_runs_from_a_folder_of_images_to_a_marked_picture(tmp_path):
    page = (ROOT / "docs" / "train_on_your_images.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 20
    rng = np.random.default_rng(0)
    lines = [json.loads(line) for line in re.search(r"```json\n(.*?)```", page, re.S).group(1).splitlines()]
    write_image(tmp_path / "photos" / "desk.jpg", 640, 480, lines[0]["bbox"])
    for number in range(30):
        box = [int(value) for value in (*rng.integers(5, 50, 2), 30, 25)]
        write_image(tmp_path / "photos" / f"{number}.jpg", 120, 90, box, seed=number)
        split = "train" if number % 4 else "val"
        lines.append({"image": f"{number}.jpg", "phrase": "the red box", "bbox": box, "split": split})
    (tmp_path / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = tmp_path / "bin" / "rec"  # as an installation has it
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rec "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")}
    for block in re.findall(r"```bash\n(.*?)```", page, re.S):
        block = block.replace("own_photos.py\n", "own_photos.py train.train_iter=4\n")  # in place of its 300 updates
        done = subprocess.run(
            ["bash", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert cv2.imread(str(tmp_path / "marked.png")).shape == (480, 640, 3)
    metrics = (tmp_path / "outputs" / "mine" / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"Acc@0.5"' in metrics
