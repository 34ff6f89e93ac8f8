"""LiBai's page on its config system."""

from promises import ROOT, book

from rec.config import get_config, instantiate, solve_batch_size, to_native, try_get_key

promise = book("LiBai")
BERT = """
from rec.config import LazyCall
bert_model = LazyCall("libai.models.BertModel")(
    vocab_size=30522,
    hidden_size=768,
    hidden_layers=24,
    layernorm_eps=1e-5,
    amp_enabled=False,
)
"""


@promise("namespace `model, graph, train, optim, dataloader, tokenization(optional)`", "LiBai's namespaces")
def our_namespaces_are_told(place):
    said = place.refused("graph = dict(enabled=True, debug=-1)\ntokenization = dict()\ndataloader = dict()")
    for instead in ("train.compile.enabled", "dataset.vocabulary", "train.batch_size"):
        assert instead in said


@promise("A model config file can be loaded like this: bert_model = LazyCall(BertModel)(vocab_size=30522, ...)")
def a_model_file(place):
    assert place.load(BERT).bert_model.vocab_size == 30522


@promise("from bert import bert_model as model; assert model.hidden_size == 768; model.hidden_layers = 12")
def a_file_beside_is_imported(place):
    text = "from bert import bert_model as model\nassert model.hidden_size == 768\nmodel.hidden_layers = 12\n"
    assert place.load(text, bert=BERT).model.hidden_layers == 12


@promise("you need to rename it as `model` regardless of the name used in model config.")
def another_name_is_told(place):
    assert "cfg.modle: nothing reads this; did you mean `model`" in place.refused(
        "modle = LazyCall('targets.Trainer')()"
    )


@promise("You can access and change all keys in the model config after import.")
def keys_are_changed(place):
    cfg = place.load(
        "from .bert import bert_model as model\nmodel.vocab_size += 1\nmodel.new_argument = 2\n", bert=BERT
    )
    assert (cfg.model.vocab_size, cfg.model.new_argument) == (30523, 2)


# Keys of the train block that are ours too: path, value there, its comment.
KEYS = [
    ("output_dir", "./output", "Directory where output files are written"),
    ("num_accumulation_steps", 4, "num_accumulation_steps = 4"),
    ("train_iter", 10000, "The total training iteration"),
    ("warmup_ratio", 0, "Fraction of lr-warmup-iters to use for warmup (as a float)"),
    ("amp.enabled", False, "Enable automatic mixed precision for training"),
    (
        "activation_checkpoint.enabled",
        False,
        "Enable activation checkpointing to allow for training with larger models",
    ),
    ("checkpointer.period", 5000, "Save a checkpoint after every this number of iterations,"),
    ("checkpointer.max_to_keep", 100, "and maximum number of checkpoint will be kept."),
    ("evaluation.enabled", True, "Enabled evaluation during training"),
    ("evaluation.eval_iter", 1e9, "running steps for validation/test"),
    ("evaluation.eval_mode", "max", "Metrics to be used for best model checkpoint."),
    ("load_weight", "", "Path to a checkpoint file to be loaded to the model."),
    ("log_period", 20, "Output log to console after every this number of iterations."),
    ("seed", 1234, "Set seed to positive to use a fixed seed."),
]
for _path, _value, _sentence in KEYS:

    def _key(place, path=f"train.{_path}", value=_value):
        assert try_get_key(place.run(f"{path} = {value!r}"), path) == value
        assert f"cfg.{path} is -7.5" in place.refused(f"{path} = -7.5")

    promise(f"train.{_path}: {_sentence}")(_key)


@promise("evaluator=LazyCall(ClsEvaluator)(topk=(1, 5)): You can also set a customized evaluator for use.")
def an_evaluator(place):
    text = "from targets import Evaluator\ntrain.evaluation.evaluator = LazyCall(Evaluator)(topk=(1, 5))\n"
    cfg = place.run(text + 'train.evaluation.eval_metric = "Acc@1"')
    assert instantiate(cfg.train.evaluation.evaluator).topk == (1, 5)


@promise('eval_metric="Acc@1": Metrics to be used for best model checkpoint.')
def the_metric_is_checked(place):
    assert "Acc@0.5" in place.refused('train.evaluation.eval_metric = "Acc@1"')
    assert place.run('train.evaluation.eval_metric = "mIoU"').train.evaluation.eval_metric == "mIoU"


@promise("global_batch_size = micro_batch_size * num_grad_acc * data_parallel_groups")
def the_arithmetic_of_batches(_):
    assert solve_batch_size(None, 2, 8, 4) == (64, 2, 4)
    assert solve_batch_size(64, None, 8, 4)[1] == 2


DIFFERENT = [
    ("train_micro_batch_size=32, global_batch_size=None, test_micro_batch_size=32: images per batch on each GPU", "batch sizes",
     {"train_micro_batch_size": "train.batch_size", "global_batch_size": "train.batch_size",
      "test_micro_batch_size": "train.evaluation.eval_batch_size"}),
    ("train_epoch=0: We will choose by `max(train_iter, train_epoch * iter_per_epoch)`.", "train_epoch",
     {"train_epoch": "train.epochs"}),
    ("consumed_train_samples=0, train_samples=None, start_iter=0: can be computed automatically when resuming", "consumed samples",
     {"consumed_train_samples": "the checkpoint carries it", "consumed_valid_samples": "the checkpoint carries it",
      "train_samples": "train.epochs", "start_iter": "the checkpoint carries it"}),
    ("nccl_fusion_threshold_mb=16, nccl_fusion_max_ops=24: NCCL fusion", "NCCL fusion",
     {"nccl_fusion_threshold_mb": "train.communication", "nccl_fusion_max_ops": "train.communication"}),
    ("zero_optimization=dict(enabled=False, stage=1)", "ZeRO", {"zero_optimization": "fsdp2.yaml"}),
    ("dist=dict(data_parallel_size=1, tensor_parallel_size=1, pipeline_parallel_size=1)", "parallelism",
     {"dist": "the models fit on one device"}),
]  # fmt: skip
for _sentence, _name, _keys in DIFFERENT:

    def _refused(place, keys=_keys):
        for key, instead in keys.items():
            assert instead in place.refused(f"train = dict(train, {key}=1)"), key

    promise(_sentence, _name)(_refused)


@promise("eval_period=5000: evaluation during training every `eval_period` number of iterations", "eval_period")
def eval_period_is_in_epochs(_):
    from rec.training.keys import KEYS as OURS

    assert OURS["train.evaluation.eval_period"].meaning.startswith("epochs")


@promise("scheduler=LazyCall(WarmupCosineLR)(warmup_factor=0.001, alpha=0.01, warmup_method='linear')", "schedules")
def a_schedule_is_a_function_of_the_update(place):
    text = "from targets import WarmupCosineLR\ntrain.scheduler = LazyCall(WarmupCosineLR)(warmup_factor=0.001, alpha=0.01)"
    said = place.refused(text)
    assert (
        "missing argument 'optimizer'" in said
        and "factor = schedule(update)" in said
        and "LazyCall(build_schedule)" in said
    )


@promise("graph.enabled = True: use this option converting eager mode to graph mode", "LiBai's namespaces")
def graph_mode_is_compile(place):
    assert "train.compile.enabled" in place.refused("graph = dict(enabled=True)")
    assert place.run("train.compile.enabled = True").train.compile.enabled


@promise("You do not need to rewrite all contents in a config file every time: Get the Default Config")
def defaults_are_found(_):
    assert to_native(get_config("common/optim.py").optim)["lr"] == 1e-4 and (ROOT / "configs/common/optim.py").is_file()
