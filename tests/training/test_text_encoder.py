"""A published text encoder in a run: taken over once, left out of checkpoints, whole and merged in ``best/``."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))

from inference_toy import folder_config, model_node
from text_toy import published, word_tokenizer

from rec import model_folder
from rec.command_line import explained
from rec.config import ConfigError, LazyCall, to_native
from rec.data.subwords import Subwords
from rec.data.text import Vocabulary
from rec.errors import CheckpointError, InputError, UntrustedError
from rec.model_folder.text_encoder import whole
from rec.models import lora
from rec.models.language_encoders import LSTM_SA
from rec.models.pretrained_text import PretrainedText, borrowed_names
from rec.training import build
from rec.training.checkpoint import CheckpointWriter, load
from rec.training.checkpoint_format import AVERAGED, WEIGHTS, TrainerState, folder_of
from rec.training.ema import EMA, as_published
from rec.training.phrase_cache import PhraseCache
from rec.training.publish import Publisher
from rec.training.resume import differences
from rec.training.weights import load_matching

WORDS = Subwords(word_tokenizer())
BATCH = {"image": torch.zeros(2, 3, 64, 64), "tokens": torch.tensor([WORDS.encode(p, 6) for p in ("the dog", "red")])}


class Data:
    """What a run asks of its data set."""

    vocabulary, sources, max_token_length, targets = WORDS, ("toy",), 6, "one"

    def __len__(self):
        return 2


def run_config(folder, **options):
    """A run's config, and the published model it names."""
    if not (folder / "base").exists():
        published("bert", folder / "base")
    node = model_node()
    node.language_encoder = LazyCall(PretrainedText)(name=str(folder / "base"), hidden_size=16, **options)
    pixels = {"mean": [0.0] * 3, "std": [1.0] * 3}
    train = {
        "compile": {"enabled": False},
        "output_dir": str(folder / "run"),
        "data": pixels,
        "hub": {"push": "end", "repo_id": ""},
    }
    cfg = OmegaConf.create({"model": node, "dataset": {"dataset": "toy", "input_shape": [64, 64]}, "train": train})
    build.set_vocabulary_size(cfg, WORDS)
    return cfg


class Run:
    """The parts of ``scripts/train.py`` that deal with weights."""

    def __init__(self, cfg):
        torch.manual_seed(0)
        self.cfg, self.accelerator = cfg, Accelerator(cpu=True)
        self.model = build.build_model(cfg, Data())
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = self.accelerator.prepare(torch.optim.SGD(trained, 0.1))
        self.ema, self.folder = EMA(self.model, 0.5), Path(cfg.train.output_dir)
        self.writer = CheckpointWriter(self.folder, 2, print)
        self.publisher = Publisher(cfg, self.model, WORDS, Data(), True, print)

    def update(self):
        """Every trained tensor moves, as it would by its gradient."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
        self.ema.update(self.model)

    def save(self):
        state = TrainerState(update=1, ema_updates=self.ema.updates)
        publish = self.publisher.after_save(state, improved=True)
        self.writer.save(self.accelerator, self.model, self.optimizer, self.ema, state, publish)
        self.writer.wait()
        assert self.writer.failure is None
        return folder_of(self.folder, 1)

    def answers(self):
        with torch.no_grad(), as_published(self.model.eval(), self.ema):
            return self.model(BATCH)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rec"


OPTIONS = ({"freeze": "all"}, {"freeze": 1}, {"freeze": "none"}, {"lora": {"rank": 2, "targets": ["query", "expand"]}})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_checkpoint_leaves_out_what_stands_still_and_best_is_whole(options, tmp_path):
    run = Run(run_config(tmp_path, **options))
    run.update()
    checkpoint = run.save()
    left_out = borrowed_names(run.model)
    own = run.model.state_dict()
    assert {*load_file(checkpoint / WEIGHTS)} == {*load_file(checkpoint / AVERAGED)} == own.keys() - left_out
    assert bool(left_out) == (options.get("freeze") != "none")

    again = Run(run_config(tmp_path, **options))
    load(checkpoint, again.accelerator, again.model, again.ema)
    assert all(torch.equal(value, own[name]) for name, value in again.model.state_dict().items())
    assert all(torch.equal(value, run.ema.shadow[name]) for name, value in again.ema.shadow.items())

    shutil.rmtree(tmp_path / "base")
    best, config, words = model_folder.read(tmp_path / "run" / "best")
    assert words == WORDS and not any("lora" in name for name in best.state_dict())
    assert config["model"]["language_encoder"]["lora"] is None
    with torch.no_grad():
        for name, value in best(BATCH).items():
            assert torch.equal(value, run.answers()[name]), "what is evaluated is what is published"


def test_a_checkpoint_is_evaluated_with_the_base_it_names(tmp_path):
    run = Run(run_config(tmp_path, lora={"rank": 2}))
    run.update()
    checkpoint = run.save()
    best = load_file(tmp_path / "run" / "best" / WEIGHTS)
    with whole(to_native(run.cfg.model), checkpoint / AVERAGED) as (node, weights):
        assert node["language_encoder"]["lora"] is None
        found = load_file(weights)
    assert found.keys() == best.keys() and all(torch.equal(found[name], best[name]) for name in best)

    published("bert", tmp_path / "base", seed=1)
    with (
        pytest.raises(InputError, match=r"builds on model\.language_encoder\.name=.* with the digest"),
        whole(to_native(run.cfg.model), checkpoint / AVERAGED),
    ):
        pass
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(InputError, match=r"model\.language_encoder\.name='.*base'"):
        build.build_model(run.cfg, Data())


def test_a_run_notes_what_it_builds_on_and_is_continued_on_nothing_else(tmp_path):
    cfg = run_config(tmp_path)
    build.build_model(cfg, Data())
    assert cfg.model.language_encoder.config.hidden_size == 16 and len(cfg.model.language_encoder.digest) == 32
    published("bert", tmp_path / "moved")
    moved = run_config(tmp_path)
    moved.model.language_encoder.name = str(tmp_path / "moved")
    build.build_model(moved, Data())
    saved, current = (TrainerState(config=to_native(one)) for one in (cfg, moved))
    refused, warned = differences(saved, current)
    assert not refused and any("language_encoder.name" in line and "(the same weights)" in line for line in warned)

    published("bert", tmp_path / "moved", seed=1)
    build.build_model(moved, Data())
    refused, _ = differences(saved, TrainerState(config=to_native(moved)))
    assert any("language_encoder.digest" in line for line in refused)


def test_an_encoder_in_several_files_is_the_same_one(tmp_path):
    whole_one = Run(run_config(tmp_path)).model
    published("bert").save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 1
    cfg = run_config(tmp_path)
    cfg.model.language_encoder.name = str(tmp_path / "parts")
    in_parts = Run(cfg).model
    state = whole_one.language_encoder.text.state_dict()
    assert all(torch.equal(state[name], value) for name, value in in_parts.language_encoder.text.state_dict().items())
    index = tmp_path / "parts" / "model.safetensors.index.json"
    for listed in ("../base/model.safetensors", "/etc/model.safetensors", "a.bin", 3):
        index.write_text(json.dumps({"weight_map": {"x": listed}}), encoding="utf-8")
        with pytest.raises(UntrustedError, match=r"index\.json does not list files of weights"):
            build.build_model(cfg, Data())
    index.write_text(json.dumps({"weight_map": {"x": "model-9.safetensors"}}), encoding="utf-8")
    with pytest.raises(InputError, match=r"has no model-9\.safetensors"):
        build.build_model(cfg, Data())


def test_a_run_without_a_name_is_told_so(tmp_path):
    cfg = run_config(tmp_path)
    cfg.model.language_encoder.name = None
    with pytest.raises(InputError, match=r"model\.language_encoder\.name is not set"):
        build.build_model(cfg, Data())


@pytest.mark.parametrize("saved", ["padding", "[PAD]", {"content": "[PAD]"}])
@pytest.mark.parametrize("kind", ["siglip_text_model", "siglip2_text_model"])
def test_phrases_of_fixed_length_are_filled_up_as_the_tokenizer_says(kind, saved, tmp_path):
    """SigLIP 2's config.json leaves pad_token_id at 1, its tokenizer pads with 0; the last place is what answers. A tokenizer
    that was used without padding before it was saved says so beside its file alone."""
    theirs = published(kind, tmp_path / "base")
    data = Data()
    if saved != "padding":
        data.vocabulary = Subwords(json.dumps(json.loads(WORDS.text) | {"padding": None}))
        (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"pad_token": saved}), encoding="utf-8")
    model = build.build_model(run_config(tmp_path), data)
    assert json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))["pad_token_id"] == 1
    padded = torch.tensor([WORDS.encode("the dog", 16)])
    with torch.no_grad():
        expected = theirs(input_ids=(padded - 1).clamp(min=0)).pooler_output
        found = model.eval().language_encoder.tokens_and_vector(padded[:, :6])[1]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_words_that_are_not_the_encoders_are_refused(tmp_path):
    cfg = run_config(tmp_path)
    data = Data()
    data.vocabulary = Vocabulary.build(["a dog"])
    with pytest.raises(InputError, match=r"the data have words \(simrec\): set dataset\.tokenizer=transformers:.*base"):
        build.build_model(cfg, data)
    (tmp_path / "base" / "tokenizer.json").write_text(word_tokenizer(), encoding="utf-8")
    build.build_model(cfg, Data())
    data.vocabulary = Subwords(word_tokenizer(words=("a", "the")))
    with pytest.raises(
        InputError, match=r"has 'the' as piece 4 of its tokenizer, the data have 'a' .*: set dataset\.tokenizer="
    ):
        build.build_model(cfg, data)
    cfg.dataset.use_glove = True
    with pytest.raises(ConfigError, match=r"a PretrainedText, takes no word vectors: set dataset\.use_glove=false"):
        build.build_model(cfg, Data())
    cfg.dataset.use_glove = False
    data = Data()
    data.max_token_length = 21
    with pytest.raises(ConfigError, match=r"max_token_length is 21, .* 20 tokens: set dataset\.max_token_length=20"):
        build.build_model(cfg, data)


def test_evaluation_merges_for_its_time_only(tmp_path):
    run = Run(run_config(tmp_path, lora={"rank": 2}))
    run.update()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.answers()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert not any(module.is_merged for module in run.model.modules() if isinstance(module, lora.AdaptedLinear))
    assert folder_config()["preprocess"]["max_token_length"] == Data.max_token_length


def test_a_run_starts_from_a_trained_encoder_only_where_it_is_trained_on(tmp_path):
    """What stands still comes from its name again when the run is continued, and its phrases' features are kept for it."""
    run = Run(run_config(tmp_path, lora={"rank": 2}))
    run.update()
    checkpoint, best = run.save(), tmp_path / "run" / "best"
    for options in ({"freeze": "all"}, {"freeze": 1}, {"lora": {"rank": 2}}):
        model = build.build_model(run_config(tmp_path, **options), Data())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"text\.blocks\.\d\..*set model\.language_encoder\.freeze=none"):
            load_matching(model, best, WORDS.words)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for options in ({"freeze": "all"}, {"freeze": "none"}, {"lora": {"rank": 3}}):
        with pytest.raises(CheckpointError, match=r"has adapters .*query\.lora_a: take best/"):
            load_matching(build.build_model(run_config(tmp_path, **options), Data()), checkpoint, WORDS.words)
    assert "not used" not in load_matching(run.model, checkpoint, WORDS.words)
    model = build.build_model(run_config(tmp_path, freeze="none"), Data())
    load_matching(model, best, WORDS.words)
    expected = load_file(best / WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())

    cfg = run_config(tmp_path)
    cfg.train.output_dir = str(tmp_path / "still")
    Run(cfg).save()
    model = build.build_model(run_config(tmp_path), Data())
    assert "initial" not in load_matching(model, tmp_path / "still" / "best", WORDS.words)


def ids(*phrases, length=6):
    return torch.tensor([WORDS.encode(phrase, length) for phrase in phrases])


def test_features_of_phrases_are_computed_once_and_kept_for_the_next_run(tmp_path, own_cache):
    encoder = Run(run_config(tmp_path)).model.language_encoder.train()
    plain = build.build_model(run_config(tmp_path, freeze="none"), Data()).language_encoder.eval()
    plain.load_state_dict(encoder.state_dict())
    tokens = ids("the dog", "red", "the dog", "left man")
    assert torch.allclose(encoder(tokens), plain(tokens), atol=1e-6) and encoder.cache.computed == 3
    assert torch.allclose(encoder(ids("red", "blue", length=9)), plain(ids("red", "blue")), atol=1e-6)
    assert encoder.cache.computed == 4, "padding makes no new phrase"
    encoder(tokens).sum().backward()
    assert encoder.project.weight.grad is not None and encoder.cache.computed == 4

    (file,) = own_cache.glob("phrases-*-0.bin")
    assert file.stat().st_size == 4 * (16 + 4 * 16) and "4 phrases, 0.0 MB" in str(encoder.cache)
    first = encoder(tokens)
    encoder.cache = None  # the run ends, and with it its lock
    with file.open("ab") as cut:
        cut.write(b"cut short")
    again = Run(run_config(tmp_path)).model.language_encoder
    again.load_state_dict(encoder.state_dict())
    assert len(again.cache) == 4 and torch.equal(again(tokens), first) and again.cache.computed == 0
    again(ids("big"))
    assert file.stat().st_size == 5 * (16 + 4 * 16)


def test_two_runs_at_once_and_two_encoders_do_not_meet(tmp_path, own_cache):
    one, two = (Run(run_config(tmp_path)).model.language_encoder for _ in range(2))
    one(ids("red")), two(ids("red", "blue"))
    assert (one.cache.computed, two.cache.computed) == (1, 2)
    assert sum(file.stat().st_size for file in own_cache.iterdir()) == 16 + 4 * 16, "the second kept its own to itself"
    Run(run_config(tmp_path, pool="cls"))
    Run(run_config(tmp_path, layers=1))
    assert len(list(own_cache.iterdir())) == 3
    content = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "base" / "config.json").write_text(json.dumps(content | {"hidden_act": "relu"}), encoding="utf-8")
    Run(run_config(tmp_path))
    assert len(list(own_cache.iterdir())) == 4, "the same weights in another encoder"


def test_features_of_the_last_place_are_not_kept_where_it_is_padding(tmp_path, own_cache):
    encoder = Run(run_config(tmp_path, pool="last")).model.language_encoder.eval()
    assert encoder.cache is None and not torch.allclose(encoder(ids("red")), encoder(ids("red", length=9)), atol=1e-4)


def test_a_cache_that_another_run_has_just_made_is_not_emptied(tmp_path, monkeypatch):
    file = tmp_path / "phrases.bin"
    first = PhraseCache(file, 2)
    first(ids("red"), lambda tokens: torch.ones(len(tokens), 2))
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as it was a moment ago
    assert len(PhraseCache(file, 2)) == 0 and os.path.getsize(file) == 16 + 4 * 2
    assert first(ids("red"), torch.zeros_like).tolist() == [[1, 1]]


def test_a_full_disk_is_told_with_the_name_of_the_cache(tmp_path):
    cache = PhraseCache(tmp_path / "phrases.bin", 2)
    with open("/dev/full", "wb", buffering=0) as cache._file, pytest.raises(OSError, match="No space left") as caught:
        cache(ids("red"), lambda tokens: torch.ones(len(tokens), 2))
    assert explained(caught.value).startswith(f"{tmp_path / 'phrases.bin'}: No space left on device; free some space")


@pytest.mark.parametrize("options", [{"freeze": "none"}, {"lora": {"rank": 2, "targets": ["query"]}}])
def test_a_published_encoder_learns_at_its_own_rate(options, tmp_path):
    cfg = run_config(tmp_path, **options)
    model = build.build_model(cfg, Data())
    groups = build.parameter_groups(model, 0.1, text_lr_factor=0.02)
    rates = {id(weight): group.get("lr", 0.1) for group in groups for weight in group["params"]}
    trained = {name: rates[id(weight)] for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == len(rates) and any(name.startswith("language_encoder.project") for name in trained)
    for name, rate in trained.items():
        assert rate == pytest.approx(0.002 if name.startswith("language_encoder.text.") else 0.1), name
    assert len(build.parameter_groups(model, 0.1)) == 1


def test_without_a_rate_in_the_config_the_optimizers_own_is_the_one_that_factors_multiply():
    model = torch.nn.ModuleDict({"visual_backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    train = {"parameter_groups": {"backbone_lr_factor": 0.5}}
    cfg = OmegaConf.create({"optim": {"_target_": "torch.optim.AdamW", "weight_decay": 0.1}, "train": train})
    assert [group["lr"] for group in build.build_optimizer(cfg, model).param_groups] == [0.001, 0.0005]


def test_an_encoder_of_ours_learns_at_its_own_rate_as_a_whole():
    model = torch.nn.ModuleDict(
        {"language_encoder": LSTM_SA(1, 8, 2, 8, word_embed_size=8, token_size=5, freeze_embedding=False)}
    )
    model["head"] = torch.nn.Linear(2, 2)
    rest, text = build.parameter_groups(model, 0.1, text_lr_factor=0.5)
    assert text["lr"] == 0.05 and len(text["params"]) == len(list(model["language_encoder"].parameters()))
    assert "lr" not in rest and len(rest["params"]) == 2


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_what_is_trained_is_computed_every_time(options, tmp_path, own_cache):
    assert Run(run_config(tmp_path, **options)).model.language_encoder.cache is None and not own_cache.exists()


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (LazyCall(LSTM_SA)(depth=1), len(WORDS)),
        (LazyCall(torch.nn.Embedding)(num_embeddings=9, embedding_dim=2), None),
        ({"kind": "mine"}, len(WORDS)),
        ("mine", None),
        (None, None),
    ],
)
def test_an_encoder_from_elsewhere_is_told_the_size_of_the_vocabulary_only_where_it_takes_it(encoder, size):
    cfg = OmegaConf.create({"model": {}}, flags={"allow_objects": True})
    cfg.model.language_encoder = encoder
    build.set_vocabulary_size(cfg, WORDS)
    found = cfg.model.language_encoder
    assert (found.get("token_size") if isinstance(found, dict | DictConfig) else None) == size


def test_word_vectors_for_an_encoder_that_takes_none_are_told(tmp_path):
    class Vectors(Data):
        pretrained_emb = torch.zeros(len(WORDS), 4).numpy()

    cfg = run_config(tmp_path)
    cfg.model = LazyCall(torch.nn.Linear)(in_features=1, out_features=1)
    with pytest.raises(ConfigError, match=r"takes no word vectors.*or give it load_word_vectors"):
        build.build_model(cfg, Vectors())
