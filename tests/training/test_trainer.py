from __future__ import annotations

import csv
import json
import math
import signal
from itertools import pairwise

import pytest
import safetensors.torch
import torch

from wordkiln import Tokenizer
from wordkiln.data import TokenDataset
from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.models import CausalLM
from wordkiln.training import DivergedError, Trainer, evaluate


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr("wordkiln.training.trainer.draw_loss", lambda path, rows: None)


class KilledError(BaseException):
    """Stands for a kill: nothing after it runs."""


def stop_in_step(trainer, step, action):
    """Do `action` right after the model's step `step`."""
    train_step = trainer._train_step

    def stepping():
        train_step()
        if trainer._state.counters.step == step:
            action()

    trainer._train_step = stepping


def kill():
    raise KilledError


def interrupt():
    signal.raise_signal(signal.SIGINT)


# Kill between two validations and right at one; Ctrl-C likewise.
RUNS = [
    ("lstm", "contiguous", kill, 6),
    ("lstm", "contiguous", kill, 8),
    ("lstm", "contiguous", interrupt, 7),
    ("lstm", "contiguous", interrupt, 8),
    ("lstm", "random", interrupt, 5),
    ("gru", "contiguous", interrupt, 7),
    ("transformer", "random", kill, 6),
    ("transformer", "random", interrupt, 7),
]
RUNS = [(*run, "float32") for run in RUNS] + [
    ("lstm", "contiguous", interrupt, 7, "bfloat16"),
    ("transformer", "random", kill, 6, "bfloat16"),
]


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_bfloat16_learns_as_float32_does(build_trainer, build_model, no_picture, kind):
    """Every loss of the way: rounding to 8 bits moves a loss of 5 nats by about 0.01, and 0.1 shows a lost gradient."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = build_model(kind, hidden_size=32, dropout=0.0)
        trainer = build_trainer(precision, model=model, precision=precision, max_steps=60, log_every=10)
        trainer.fit()
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        rows = rows_of(trainer.output_dir)
        losses[precision] = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.1)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0] - 0.5


def rows_of(folder):
    """log.csv without its one column that is a time."""
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in csv.DictReader(file)]


def assert_same_run(first, second):
    for name in ("last/model.safetensors", "last/training_state.safetensors", "best/model.safetensors"):
        one, two = (safetensors.torch.load_file(folder / name) for folder in (first, second))
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), (name, key)
    counters = [json.loads((folder / "last/training_state.json").read_text())["counters"] for folder in (first, second)]
    for each in counters:
        del each["seconds"]
    assert counters[0] == counters[1]
    assert rows_of(first) == rows_of(second)


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(("kind", "batches", "stop", "step", "precision"), RUNS)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    build_trainer, tmp_path, kind, batches, stop, step, precision
):
    settings = {"batches": batches, "precision": precision}
    build_trainer("whole", kind, **settings).fit()
    trainer = build_trainer("parts", kind, **settings)
    stop_in_step(trainer, step, stop)
    with pytest.raises((KilledError, KeyboardInterrupt)):
        trainer.fit()
    torch.rand(3)
    result = build_trainer("parts", kind, **settings).fit(resume=True)
    assert result.steps == 12
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.usefixtures("no_picture")
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(build_trainer, tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        build_trainer(name, seed=seed).fit()
    assert torch.equal(state, torch.get_rng_state())
    assert_same_run(tmp_path / "one", tmp_path / "two")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_loss_falls_far_below_the_start(build_trainer, build_model, data, kind):
    model = build_model(kind, dropout=0.0, hidden_size=32, num_hidden_layers=1)
    before = evaluate(model, data.valid)
    result = build_trainer(
        model=model, max_steps=100, batch_size=16, eval_every=50, eval_tokens=None, learning_rate=3e-2
    ).fit()
    assert result.best_valid_loss < before.loss / 2
    best = CausalLM.from_pretrained(result.best_path)
    again = evaluate(best, data.valid, batch_size=16, sequence_length=16)
    assert again.bits_per_byte == result.bits_per_byte
    assert result.tokens_per_second > 0
    assert result.stop_reason == "max_steps"


def test_a_run_directory_is_complete(build_trainer, tokenizer, tmp_path):
    result = build_trainer().fit()
    assert Tokenizer.load(result.best_path) == tokenizer
    names = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    checkpoint = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    state = {"training_state.json", "training_state.safetensors"}
    expected = {f"best/{name}" for name in checkpoint} | {f"last/{name}" for name in checkpoint | state}
    assert names == expected | {"log.csv", "loss.png"}
    assert result.picture_path.read_bytes().startswith(b"\x89PNG")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["3", "4", "6", "8", "9", "12"]
    assert [row["step"] for row in rows_of(tmp_path / "run") if row["valid_loss"]] == ["4", "8", "12"]


@pytest.mark.usefixtures("no_picture")
def test_patience_stops_and_keeps_the_best(build_trainer):
    # A learning rate of nothing: no validation is ever better than the first.
    trainer = build_trainer(learning_rate=1e-30, eval_every=1, patience=3, max_steps=100)
    result = trainer.fit()
    assert (result.stop_reason, result.steps, result.best_step) == ("patience", 4, 1)
    assert build_trainer(learning_rate=1e-30, eval_every=1, patience=3, max_steps=100).fit(resume=True) == result


@pytest.mark.abuse
def test_a_diverged_run_names_the_step_and_keeps_the_checkpoint(build_trainer, tmp_path):
    trainer = build_trainer()

    def spoil():
        with torch.no_grad():
            trainer.model.output_weight[0, 0] = math.nan

    stop_in_step(trainer, 6, spoil)
    with pytest.raises(DivergedError, match=r"step 7: the loss is nan; use a lower learning_rate"):
        trainer.fit()
    CausalLM.from_pretrained(tmp_path / "run" / "last")
    assert build_trainer().fit(resume=True).steps == 12


def test_the_first_ctrl_c_saves_before_the_first_validation_too(build_trainer, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    trainer = build_trainer()
    stop_in_step(trainer, 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert signal.getsignal(signal.SIGINT) is handler
    assert json.loads((tmp_path / "run/last/training_state.json").read_text())["counters"]["step"] == 1
    assert not (tmp_path / "run/best").exists()


def test_the_second_ctrl_c_does_not_wait(build_trainer, tmp_path):
    trainer = build_trainer()

    def twice():
        interrupt()
        interrupt()

    stop_in_step(trainer, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert not (tmp_path / "run/last").exists()


@pytest.mark.usefixtures("no_picture")
def test_ctrl_c_within_a_validation_repeats_it_on_resume(build_trainer, tmp_path, monkeypatch):
    build_trainer("whole").fit()
    trainer = build_trainer("parts")
    forward = trainer.model.hidden

    def hidden(ids, state=None):
        if not trainer.model.training:
            interrupt()
        return forward(ids, state)

    monkeypatch.setattr(trainer.model, "hidden", hidden)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.model.training
    build_trainer("parts").fit(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.abuse
@pytest.mark.usefixtures("no_picture")
def test_an_old_run_is_neither_overwritten_nor_mixed_up(build_trainer, tmp_path):
    with pytest.raises(PathError, match="no run to go on with"):
        build_trainer().fit(resume=True)
    build_trainer().fit()
    before = (tmp_path / "run/last/model.safetensors").read_bytes()
    with pytest.raises(ArgumentError, match="holds a run already"):
        build_trainer().fit()
    for fields in ({"batch_size": 2}, {"sequence_length": 8}, {"seed": 1}, {"batches": "random"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(fields))}=.* its batches depend on it"):
            build_trainer(**fields).fit(resume=True)
    with pytest.raises(FormatError, match="another model"):
        build_trainer(kind="gru").fit(resume=True)
    assert (tmp_path / "run/last/model.safetensors").read_bytes() == before
    assert build_trainer(max_steps=14).fit(resume=True).steps == 14


@pytest.mark.abuse
@pytest.mark.usefixtures("no_picture")
def test_another_data_set_or_tokenizer(build_trainer, build_model, tokenizer, tmp_path):
    build_trainer().fit()
    (tmp_path / "other.txt").write_text("quite another text " * 60)
    other = TokenDataset.build(tmp_path / "other.txt", tokenizer, tmp_path / "other")
    settings = {"tokenizer": tokenizer, "batch_size": 4, "sequence_length": 16, "progress": False}
    with pytest.raises(FormatError, match="another data set"):
        Trainer(build_model(), other, tmp_path / "run", **settings).fit(resume=True)

    stranger = Tokenizer.train(iter(["quite another text " * 60]), vocab_size=260)
    with pytest.raises(FormatError, match="made by another tokenizer"):
        Trainer(build_model(), other, tmp_path / "run", **{**settings, "tokenizer": stranger})
    changed = TokenDataset.build(tmp_path / "other.txt", stranger, tmp_path / "changed")
    with pytest.raises(FormatError, match="another tokenizer"):
        Trainer(build_model(), changed, tmp_path / "run", **{**settings, "tokenizer": stranger}).fit(resume=True)


def test_the_tokenizer_comes_with_the_data(build_model, data, tokenizer, tmp_path):
    Trainer(build_model(), data, tmp_path / "run", max_steps=1, batch_size=2, sequence_length=8, progress=False).fit()
    assert Tokenizer.load(tmp_path / "run" / "best") == tokenizer


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sequence_length": 10**6}, "needs .* tokens, the train split has"),
        ({"kind": "transformer", "sequence_length": 4096}, "max_position_embeddings=2048"),
        ({"kind": "transformer", "batches": "contiguous"}, "only for recurrent models"),
        ({"lr": 1}, "lr: no field"),
    ],
)
def test_settings_that_do_not_fit(build_trainer, fields, reason):
    with pytest.raises(ArgumentError, match=reason):
        build_trainer(**fields)


@pytest.mark.abuse
def test_a_model_with_too_small_a_vocabulary(build_trainer, build_model):
    with pytest.raises(ArgumentError, match="vocab_size=10 of the model: the data has 280 tokens"):
        build_trainer(model=build_model(vocab_size=10))


@pytest.mark.usefixtures("no_picture")
def test_contiguous_training_carries_the_state(build_trainer, monkeypatch):
    trainer = build_trainer()
    forward, states = trainer.model.hidden, []

    def hidden(ids, state=None):
        result = forward(ids, state)
        if trainer.model.training:
            states.append((state, result[1]))
        return result

    monkeypatch.setattr(trainer.model, "hidden", hidden)
    trainer.fit()
    assert states[0][0] is None
    for (_, left), (found, _) in pairwise(states):
        assert found is None or all(torch.equal(a, b) and not b.requires_grad for a, b in zip(left, found, strict=True))
    assert sum(found is None for found, _ in states) == 1
