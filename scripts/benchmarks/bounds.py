"""What the measured numbers are to reach: on two CPU cores, and on a GPU (H100 class, bf16).

A row is bound by its name, :attr:`benchmarks.timing.Row.what`, where model and size are the benchmark's own; a name without
a bound is information.
"""

BOUNDS: dict[str, dict[str, str]] = {
    "cpu": {
        "training step, batch 8, float32": ">= 1.35",
        "training step, batch 8, bf16": ">= 2.4",
        "training step, batch 32, float32": ">= 1.45",
        "training step, batch 32, bf16": ">= 2.4",
        "prediction latency, batch 1, float32": ">= 1.25",
        "prediction latency, batch 1, bf16": ">= 2.0",
        "loss with assignment alone, batch 32": ">= 20",
        "one sample over bare JPEG decode + resize": "<= 1.15",
        "masks on adds, per sample": "<= 0.25",
        "samples/s over plain, --store letterboxed": ">= 2.5",
        "samples/s over plain, --store raw": ">= 8",
        "bytes of dense masks over run-length encoded ones": ">= 100",
        "preparing 50,000 refs, without masks": "<= 60",
        "preparing 50,000 refs, masks from polygons": "<= 300",
        "anonymous memory of a loader worker, 10,000 to 1,000,000 rows": "<= 100",
        "first batch after imports, 1,000,000 rows, vocabulary cached": "<= 3",
        "whole loop over bare forward + backward + optimizer, batch 8, 0 workers, store letterboxed": "<= 1.03",
        "whole loop over bare forward + backward + optimizer, batch 8, 0 workers, store plain": "<= 1.03",
        "share of the loop outside forward, backward and optimizer, batch 8, 0 workers, store letterboxed": "<= 0.03",
        "share of the loop outside forward, backward and optimizer, batch 8, 0 workers, store plain": "<= 0.03",
        "evaluation end to end, 7.2 sentences per image, batch 32, float32": ">= 3.5",
        "evaluation end to end, 7.2 sentences per image, batch 32, bf16": ">= 7",
        "Acc@0.5, ours minus plain": "<= 0",
        "import rec": "<= 0.3",
        "scripts/train.py --help": "<= 1",
        "scripts/benchmark.py --help": "<= 1",
        "batch prediction from 64 JPEG files, images/s, over the bare forward pass, batches of 8": ">= 0.9",
        "cold start of predict.py, quickstart model, beyond importing torch": "<= 3",
    },
    "cuda": {
        "training step, batch 8, bf16, CUDA graphs": ">= 4",
        "training step, batch 32, bf16, CUDA graphs": ">= 4",
        "training step, batch 64, bf16, the published backbone trained, share of the layer-wise floor": ">= 0.5",
        "prediction latency in ms, batch 1, bf16, compiled": "<= 4",
        "loss with assignment alone, batch 32": ">= 50",
        "host synchronisations of loss and assignment": "<= 0",
        "whole loop over bare forward + backward + optimizer, batch 8, 8 workers, store letterboxed": "<= 1.05",
        "whole loop over bare forward + backward + optimizer, batch 8, 8 workers, store plain": "<= 1.05",
        "evaluation over its loader alone, 7.2 sentences per image, batch 32, bf16": ">= 0.9",
    },
}
