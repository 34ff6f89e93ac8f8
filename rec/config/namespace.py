"""The ``train`` namespace: which name is canonical where SimREC, LiBai and mmdetection say the same thing differently."""

REFUSED: dict[str, str] = {
    "train.train_epoch": "use train.epochs",
}
