"""The model card (``README.md`` of a model folder), generated from what was measured.

Format: https://huggingface.co/docs/hub/model-cards (YAML front matter, Markdown body).
"""

import functools
import json
import shlex
from collections.abc import Mapping
from typing import Any

from rec.contracts import Answer
from rec.metric_cells import metric_cells
from rec.model_folder.text_encoder import encoder_of

_USE = """\
```python
import rec

grounder = rec.from_pretrained({python})  # this folder, or the id of the repository it was pushed to
result = grounder("photo.jpg", "the man on the left")
print(result.box, result.score)  # xyxy in pixels of the image
result.draw().save("marked.png")
```

```bash
rec predict {shell} photo.jpg "the man on the left" --out marked.png
```
"""

# By whether phrases may name any number of objects.
_GIVES = ("the box of the object the phrase names", "the boxes of the objects the phrase names, none or several too,")
_RULE = (
    "A box counts as right when its IoU with the true one, in pixels of the original image, is above the threshold.",
    "A phrase counts as right (`Pr@F1`) when every box has a true one to itself, with an IoU of at least 0.5 in pixels of the "
    "original image, and none is left; a phrase that names nothing, when nothing is found.",
)


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]], origin: str, name: str) -> str:
    """A hub-ready card: front matter with tags and results; origin, measured metrics, how to use it.

    Args:
        config: Of the model folder, native containers.
        metrics: ``{split: metrics}``, fractions 0-1.
        origin: One line on what the model was trained on.
        name: Of the model folder.
    """
    from huggingface_hub import EvalResult, ModelCardData

    about = dict(config.get("about") or {})
    architecture = str(config["model"]["_target_"]).rsplit(".", 1)[-1]
    dataset = str(about.get("dataset") or "unknown")
    result = functools.partial(
        EvalResult,
        task_type="object-detection",
        task_name="Referring expression comprehension",
        dataset_type=dataset,
        dataset_name=dataset,
    )
    front = ModelCardData(
        license=about.get("licence", "apache-2.0"),
        library_name="rec",
        pipeline_tag="object-detection",
        tags=["referring-expression-comprehension", "visual-grounding", architecture.lower()],
        datasets=[dataset],
        model_name=name,
        eval_results=[
            result(dataset_split=split, metric_type=key, metric_value=round(value, 6))
            for split, values in metrics.items()
            for key, value in values.items()
            if key not in ("count", "threshold") and value == value
        ],
    )
    any_number = config.get("answer") is not None
    frozen = "".join(f"\nFrozen and random, never trained: {part}.\n" for part in about.get("frozen_and_random") or ())
    measured = _metrics_table(metrics) if metrics else "Not measured.\n"
    return f"""---
{front.to_yaml()}
---

# {architecture}, {dataset}

Referring expression comprehension: an image and a phrase in, {_GIVES[any_number]} out.

This model was {origin}.
{frozen}
## Measured

{measured}
{_RULE[any_number]}

## Use

{_USE.format(python=json.dumps(name, ensure_ascii=False), shell=shlex.quote(name))}
## Config

{_answer(config, metrics)}Input {config["preprocess"]["input_shape"]} pixels, letterboxed; phrases of up to \
{config["preprocess"]["max_token_length"]} {"words" if encoder_of(config["model"]) is None else "subwords, their ends included"}.

```json
{json.dumps(about, indent=2, ensure_ascii=False)}
```

The model itself is described in `config.yaml`, its words in `vocab.json`{_encoder_line(config)}.
"""


def _answer(config: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """What a model that answers with none, one or several objects calls an answer; "" for one that always gives one."""
    answer = Answer.of_folder(config)
    if answer is None:
        return ""
    chosen = next((f" (chosen on the split {split})" for split in metrics if "threshold" in metrics[split]), "")
    return (
        f"It answers with every object whose score is at least {answer.threshold:g}{chosen}, and with "
        f"nothing where there is none; boxes that overlap a better one by more than {answer.suppress_iou:g} are left out.\n\n"
    )


def _encoder_line(config: Mapping[str, Any]) -> str:
    node = encoder_of(config["model"])
    if node is None:
        return ""
    kind, name = (
        node["config"]["model_type"],
        " ".join(str(node.get("name") or "unknown").split()).replace("`", "")[:200],
    )
    return f" and `tokenizer.json`; its text encoder, of the kind `{kind}`, comes from `{name}` and is described in `encoder.json`"


def _metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    head, *lines = metric_cells(metrics, percent=False)
    rows = [["split", *head[1:]], ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
