"""Section ``eval``: sentences per second on a RefCOCO-val-like set, from files to metrics."""

from collections import deque
from collections.abc import Callable
from typing import Any

from benchmarks.generated import our_dataset, plain_dataset, prepared, refer_files
from benchmarks.inputs import Options, build
from benchmarks.timing import Row, interleave, ratio, single


def run(options: Options) -> list[Row]:
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.plain_loop import plain_evaluate
    from benchmarks.plain_model import PlainSimREC
    from benchmarks.section_model import as_the_original_runs, bfloat16_is_fast
    from rec.data.loader import evaluation_loader
    from rec.evaluation import evaluate

    device = torch.device(options.device)
    images = max(2, options.images // 8)
    work = options.work / f"eval_{images}"
    source = refer_files(work, images, 3 * images)
    table = prepared(source, work / "plain")
    dataset = our_dataset(table, options.size, training=False)
    plain_set = plain_dataset(table, source, options.size, training=False)
    batch = max(options.batches)
    model = build(options).eval()
    plain = PlainSimREC(model).to(device)
    results: dict[str, dict[str, float]] = {}

    workers = 0 if device.type == "cpu" else 8  # on a CPU they take their time from the cores that compute

    def ours(bf16: bool) -> None:
        loader = evaluation_loader(dataset, batch, num_workers=workers)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            results["ours bf16" if bf16 else "ours"], _ = evaluate(
                model, loader, dataset, mean=[0.0] * 3, std=[1.0] * 3
            )

    def theirs() -> None:
        loader = DataLoader(plain_set, batch)
        with as_the_original_runs(device):
            results["plain"] = plain_evaluate(plain, loader, source.parent / "masks")

    sides: dict[str, Callable[[], Any]] = {"ours": lambda: ours(False), "plain": theirs}
    if bfloat16_is_fast(device):
        sides["ours bf16"] = lambda: ours(True)
    if device.type == "cuda":
        sides["loader"] = lambda: deque(evaluation_loader(dataset, batch, num_workers=workers), maxlen=0)
    times = interleave(sides, max(1, options.rounds // 2), device)
    of = f"{len(dataset) / images:.1f} sentences per image, batch {batch}"
    name = f"evaluation end to end, {of}"
    rows = [ratio(f"{name}, float32", times, "plain", "ours")]
    if "ours bf16" in times:
        rows.append(ratio(f"{name}, bf16", times, "plain", "ours bf16"))
    if device.type == "cuda":
        rows.append(ratio(f"evaluation over its loader alone, {of}, bf16", times, "loader", "ours bf16"))
    for side, seconds in times.items():
        rows.append(single(f"sentences/s, {side}", len(dataset) / sorted(seconds)[len(seconds) // 2], "sentences/s"))
    difference = abs(results["ours"]["Acc@0.5"] - results["plain"]["Acc@0.5"])
    rows.append(single("Acc@0.5, ours minus plain", difference, ""))
    return rows
