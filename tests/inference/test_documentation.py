"""The Python examples of the pages on using a model run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

from inference_toy import write_folder
from PIL import Image

import rec

ROOT = Path(__file__).parents[2]
TRAINING_STACK = ("accelerate", "datasets", "albumentations", "spacy", "cv2", "pyarrow", "tensorboard", "rec.training")


def examples(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_weights_load_into_the_plain_module_without_the_training_stack(tmp_path):
    write_folder(tmp_path / "best")
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in TRAINING_STACK)
    code = f"import sys\n{blocked}{examples('use_weights.md')[0]}"
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 4]) torch.Size([1])"


def test_your_own_model_folder_is_written_and_read(tmp_path, monkeypatch):
    write_folder(tmp_path / "best")
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(examples("use_weights.md")[0], space)
    space["vocabulary"] = rec.from_pretrained("best").vocabulary
    exec(examples("use_weights.md")[1], space)
    assert "0.9000" in (tmp_path / "my_model" / "README.md").read_text(encoding="utf-8")


def test_the_page_on_prediction(tmp_path, monkeypatch):
    write_folder(tmp_path / "outputs" / "run" / "best")
    Image.new("RGB", (80, 60)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(examples("predict.md")[0], {})
    assert Image.open(tmp_path / "marked.png").size == (80, 60)


def test_the_page_on_evaluation(tmp_path, monkeypatch, capsys):
    (tmp_path / "outputs" / "evaluation").mkdir(parents=True)
    lines = '{"sentence": "left one", "iou": 0.9}\n{"sentence": "the other", "iou": 0.1}\n'
    (tmp_path / "outputs" / "evaluation" / "predictions.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(examples("evaluate.md")[0], {})
    assert capsys.readouterr().out.split().count("100.00") >= 1
