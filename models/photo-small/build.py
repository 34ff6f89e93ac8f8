"""Makes the model folder refexp_photo_small of a trained run: weights in float16, with its figures in the card.

rec train configs/simrec_photos.py train.output_dir=outputs/photos
rec evaluate outputs/photos --splits val test --out outputs/photos_figures
python models/photo-small/build.py outputs/photos --figures outputs/photos_figures
"""

import argparse
import json
from pathlib import Path

from rec.files import user_path, write_text
from rec.model_folder.find import find_trained
from rec.model_folder.format import CARD
from rec.model_folder.reader import read
from rec.model_folder.writer import write

FOLDER = Path(__file__).parent / "refexp_photo_small"
PACKAGE = '"""A model folder: ``rec.from_pretrained("photo-small")``. Nothing is imported from here."""\n'
NOTES = """
## What it is for

Trying `rec` out on photographs, and a start for one's own (`configs/simrec_own_photos.py`). It is small
({million:.1f} million numbers, {size:.1f} MB) and often wrong. Its phrases are those of five captions of everyday
scenes with people and dogs; sides ("on the left"), counts and comparisons are rare in them.

{figures}

Floors on the same phrases (val / test, Acc@0.5): the whole image 24.0 / 25.1; the best fixed box 28.5 / 29.7; the
best box of a phrase's last word, without the image, 32.4 / 33.6.

## What it is made of, and on which terms

- Trained by `configs/simrec_photos.py` on Flickr30k Entities (Plummer et al., 2015; Young et al., 2014), on the 7,298
  of its training photographs that are also in Flickr8k (Hodosh et al., 2013). The photographs are Flickr users',
  given for **non-commercial research and education**; so are these weights. No photograph is contained.
- Image backbone and neck: YOLOX-Nano (Ge et al., 2021; Megvii), trained on COCO train2017, Apache-2.0. COCO's
  photographs hold those of RefCOCO, RefCOCO+ and RefCOCOg, evaluation splits included: figures on these are not those
  of a model that never saw them.
- Word vectors: GloVe 6B, 50 dimensions (Pennington et al., 2014), public domain (PDDL 1.0), not trained further, for
  {words:,} words of it and of the training phrases.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=user_path, help="run folder of configs/simrec_photos.py")
    parser.add_argument("--figures", type=user_path, required=True, help="what rec evaluate wrote for it")
    args = parser.parse_args()
    metrics, intervals = (
        json.loads((args.figures / name).read_text(encoding="utf-8")) for name in ("metrics.json", "intervals.json")
    )
    metrics = {split: metrics[split] for split in intervals}
    model, config, vocabulary = read(find_trained(args.run).folder)
    weights = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    config["about"]["licence"] = "other"
    (FOLDER / "__init__.py").unlink(missing_ok=True)
    write(FOLDER, weights, config, vocabulary, metrics)  # replaces the folder as a whole
    write_text(FOLDER / "__init__.py", PACKAGE)
    figures = "\n".join(
        f"- {split}: Acc@0.5 {100 * values['Acc@0.5']:.1f} (95 % interval over photographs {100 * low:.1f} to {100 * high:.1f}), "
        f"{int(values['count']):,} phrases"
        for split, values in metrics.items()
        for low, high in [intervals[split]["Acc@0.5"]]
    )
    size = sum(path.stat().st_size for path in FOLDER.iterdir()) / 1e6
    notes = NOTES.format(
        million=sum(value.numel() for value in weights.values()) / 1e6,
        size=size,
        figures=figures,
        words=len(vocabulary or ()) - 3,
    )
    card = (FOLDER / CARD).read_text(encoding="utf-8").replace(FOLDER.name, "photo-small")
    write_text(FOLDER / CARD, card + notes)
    print(f"{FOLDER}: {size:.2f} MB")


if __name__ == "__main__":
    main()
