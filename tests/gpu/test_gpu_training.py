"""Training on a GPU: nothing waits, every precision learns, few graphs, less memory, exact resume, a clear end of memory."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import small
import torch
from gpu_checks import QUICKSTART, ROOT, asked_apart, graphs, loaded, no_waiting, on, overlaps, train_script, training
from safetensors.torch import load_file

from rec.config import LazyConfig
from rec.data.batch import model_input
from rec.errors import TrainingError
from rec.models import layers
from rec.models.backbones import SmallResNet
from rec.models.language_encoders import LSTM
from rec.training.ema import EMA
from rec.training.memory import explained_memory
from rec.training.run_log import Window


@pytest.mark.parametrize("kind", ["boxes", "masks", "mcn", "lstm"])
def test_nothing_waits_for_the_device(device, kind):
    """Normalising, losses with their assignment, backward pass, clipping, optimizer, averages, sums, prediction."""
    torch.manual_seed(0)
    model = (small.mcn() if kind == "mcn" else small.simrec(masks=kind == "masks")).to(device)
    if kind == "lstm":
        model.language_encoder = LSTM(
            hidden_size=small.WIDTH, word_embed_size=16, token_size=20, freeze_embedding=False
        )
        model.to(device)
        if device.type == "cpu":  # as on a GPU: there it packs phrases, by lengths that the host reads
            unpacked = model.language_encoder.encode_unpacked
            model.language_encoder.encode = lambda words, padding: unpacked(words, (~padding).sum(1).clamp(min=1))
    batch = small.batch(4, 64, masks=kind in ("masks", "mcn"))
    batch = on(device, batch | {"image": (batch["image"] * 255).to(torch.uint8)})
    optimizer, ema, window = torch.optim.Adam(model.parameters(), fused=True), EMA(model), Window()

    def everything():
        losses = model.train()(model_input(batch, [0.5] * 3, [0.2] * 3, size=96 if kind != "mcn" else None))
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.15)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
        window.add(losses, 4)
        with torch.inference_mode():
            return model.eval()(model_input(batch, [0.5] * 3, [0.2] * 3))

    everything()  # libraries, workspaces and constants of the first call
    with no_waiting(device):
        everything()


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x + torch.tensor([1.0], device=x.device)]
)
def test_waiting_would_be_noticed(device, wait):
    x = torch.ones(3, device=device)
    with pytest.raises(RuntimeError), no_waiting(device):
        wait(x)


@pytest.mark.parametrize(
    "switches",
    [
        (),
        ("train.num_accumulation_steps=2",),
        ("train.activation_checkpoint.enabled=true",),
        ("train.cuda_graphs.enabled=true",),
    ],
)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_every_precision_learns(device, precision, switches):
    if device.type == "cpu" and (precision == "fp16" or switches):
        pytest.skip("the scaler of float16 is a GPU's; the switches are tested on the CPU in tests/training")
    if precision == "fp16" and "train.cuda_graphs.enabled=true" in switches:
        pytest.skip("refused: the scaler decides on the host")
    losses = list(training(device, precision, *switches, updates=16 if precision == "fp16" else 8))
    assert losses[-1] < 0.9 * losses[0] and losses[-1] == losses[-1]


@pytest.mark.parametrize(("backend", "sizes"), [("inductor", (64,)), ("aot_eager", (64, 96))])
def test_compiled_training_stops_compiling(rehearsed, backend, sizes):
    """Of several sizes each has its graphs, and none is made for a size that was seen."""
    if backend == "inductor" and rehearsed.type == "cpu":
        pytest.skip("compiling for a CPU takes a compiler and minutes")
    switches = "train.compile.enabled=true", "train.compile.dynamic=false", f"train.compile.backend={backend}"
    torch._dynamo.reset()
    before = graphs()
    model = small.simrec(
        SmallResNet(channels=(8, 8, 16, 16, 16), out_strides=(8, 16, 32))
    )  # what takes least to compile
    losses = training(rehearsed, "bf16", *switches, updates=6, sizes=sizes, model=model)
    warm = [next(losses) for _ in sizes]
    made = graphs() - before
    rest = list(losses)
    assert graphs() - before == made, "a graph was made anew for work that was seen before"
    assert made <= 3 + 3 * len(sizes), "the recurrent layer divides the model into parts, of which three see the size"
    assert all(value == value for value in warm + rest)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_cuda_graphs_train_as_without(gpu, precision, monkeypatch):
    """Of each of two image sizes the first update is an ordinary one, the second recorded, the others replayed. So are the steps;
    their rates change, and one is skipped."""
    monkeypatch.setattr(
        layers, "recording", lambda: False
    )  # kernels of our own round otherwise, and training amplifies that
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    found, ends, averages = [], [], []
    for switch in ("train.cuda_graphs.enabled=false", "train.cuda_graphs.enabled=true"):
        torch.manual_seed(0)
        model = small.simrec()
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0  # random numbers are drawn in another order
        how = {"updates": 8, "sizes": (64, 96), "model": model, "rates": (5e-5, 1e-4, 1.5e-4), "spoilt": 4}
        found.append(list(training(gpu, precision, "train.num_accumulation_steps=2", switch, averages=averages, **how)))
        each = (*model.state_dict().values(), *averages[-1].shadow.values())
        ends.append(torch.cat([value.flatten().float() for value in each]))
    tolerance = 1e-3 if precision == "no" else 2e-2
    assert found[1] == pytest.approx(found[0], rel=tolerance)
    assert found[1][-1] < found[1][1], "of one size"
    assert (ends[1] - ends[0]).norm() < tolerance * ends[0].norm()
    assert [ema.updates for ema in averages] == [7, 7]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_recorded_training_learns_what_phrases_say(rehearsed, precision):
    """New pictures and phrases in every update: what a recording reads or writes in the wrong place, a single batch learnt by heart
    does not show. A model that makes nothing of the phrase ends at 1.7."""
    batches, trunk = asked_apart(), SmallResNet(channels=(8, 16, 16, 32, 32), out_strides=(8, 16, 32))
    torch.manual_seed(0)
    model = small.simrec(trunk, stride=8, box_loss="giou", box_loss_weight=2.0, prior_probability=0.01)
    how = {"updates": 100, "rates": (4e-3,), "batch": next(batches), "batches": batches, "model": model}
    graphs = f"train.cuda_graphs.enabled={rehearsed.type == 'cuda'}".lower()
    losses = list(training(rehearsed, precision, graphs, **how))
    assert sum(losses[-10:]) / 10 < 1.2


def test_activation_checkpointing_takes_less_memory(gpu):
    def most(*switches):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        trunk = small.backbone(width=0.5, depth=1.0)
        list(training(gpu, "bf16", *switches, updates=2, batch=loaded(16, 256), model=small.simrec(trunk)))
        return torch.cuda.max_memory_allocated()

    plain, less = most(), most("train.activation_checkpoint.enabled=true")
    print(f"memory {plain / 2**20:.0f} MiB, with activation checkpointing {less / 2**20:.0f} MiB")
    assert less < 0.8 * plain


def test_one_process_of_a_distributed_run_trains_as_alone(rehearsed, tmp_path):
    """DDP over NCCL with SyncBatchNorm; over gloo, without, on a CPU."""
    from torch.nn.parallel import DistributedDataParallel

    on_gpu = rehearsed.type == "cuda"
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        found = []
        for together in (False, True):
            torch.manual_seed(0)
            model = small.simrec().to(rehearsed)
            if together and on_gpu:
                model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
            network = DistributedDataParallel(model, gradient_as_bucket_view=True) if together else model
            network(on(rehearsed, small.batch(4, 64)))["loss"].backward()
            found.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
        assert torch.allclose(*found, rtol=1e-3, atol=1e-4 * found[0].abs().max().item())
    finally:
        torch.distributed.destroy_process_group()


# Bit for bit where torch has deterministic kernels for everything; it warns where it has none.
DETERMINISTIC = (
    "import runpy, sys, torch; torch.use_deterministic_algorithms(True, warn_only=True); sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)
KILLED_AT, UPDATES = 6, 12
SAME_WITHIN = 0.02  # of the losses, where some kernel is not deterministic


def test_a_killed_run_continues_as_if_it_had_not_been(rehearsed, tmp_path):
    quick = (
        "dataset.ann_path.scenes={path: scenes, count: 40}", "dataset.vocabulary_from=train", "train.batch_size=8",
        f"train.train_iter={UPDATES}", "train.log_period=1", "train.checkpointer.period=2", "train.trackers=[]",
        "train.evaluation.enabled=false", "train.data.share_images=false",
    )  # fmt: skip
    found_in = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": found_in}

    def start(run, *more):
        words = [str(ROOT / "scripts/train.py"), str(QUICKSTART), *quick, f"train.output_dir={tmp_path / run}", *more]
        return subprocess.Popen(
            [sys.executable, "-c", DETERMINISTIC, *words], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    whole, killed = start("whole"), start("killed")
    checkpoint = tmp_path / "killed" / "checkpoints" / f"step_{KILLED_AT:08d}"
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for process in (whole, start("killed")):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    records = [
        {record["update"]: record["loss"] for record in map(json.loads, (tmp_path / run / "metrics.jsonl").open())}
        for run in ("whole", "killed")
    ]
    assert list(records[0]) == list(records[1]) == list(range(1, UPDATES + 1))
    weights = [
        load_file(tmp_path / run / f"checkpoints/step_{UPDATES:08d}/model.safetensors") for run in ("whole", "killed")
    ]
    same = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    print(f"after a kill at update {KILLED_AT} the weights are {'' if same else 'not '}bit-identical on {rehearsed}")
    if rehearsed.type == "cpu":
        assert same
    assert list(records[1].values()) == pytest.approx(list(records[0].values()), rel=0 if same else SAME_WITHIN)


def test_batches_are_copied_while_the_device_computes(gpu, tmp_path):
    # Work that is handed over sooner than it is done: else there is nothing to copy beside.
    switches, trunk = ("train.cuda_graphs.enabled=true",), small.backbone(width=1.0, depth=1.0)
    losses = training(gpu, "bf16", *switches, updates=8, batch=loaded(32, 256, pinned=True), model=small.simrec(trunk))
    for _ in range(3):
        next(losses)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(4):
            next(losses)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    assert overlaps(json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))) >= 3


def test_copies_beside_a_kernel_of_another_stream_are_counted():
    def event(kind, name, begin, stream):
        return {"ph": "X", "cat": kind, "name": name, "ts": begin, "dur": 10, "args": {"stream": stream}}

    kernel = event("kernel", "conv", 100, 7)
    copies = [event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", begin, stream) for begin, stream in
              ((95, 13), (105, 13), (105, 7), (120, 13))]  # fmt: skip
    assert overlaps({"traceEvents": [kernel, *copies, event("gpu_memcpy", "Memcpy DtoH", 100, 13), {"ph": "M"}]}) == 2


def test_a_full_gpu_is_one_paragraph_with_what_to_lower(gpu):
    cfg = LazyConfig.load(str(QUICKSTART))
    list(training(gpu, "no", updates=1))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        with pytest.raises(TrainingError) as caught, explained_memory(cfg):
            list(training(gpu, "no", updates=1, batch=loaded(64, 608), model=small.simrec(small.backbone(width=1.0))))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    text = str(caught.value)
    assert torch.cuda.get_device_name() in text and "GiB" in text and "lower train.batch_size=48" in text, text


def test_the_step_is_the_scripts_own():
    assert train_script().one_update.__module__ == "train_script"
