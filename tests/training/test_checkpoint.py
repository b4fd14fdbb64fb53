from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from wordkiln.errors import FormatError


@pytest.fixture
def last(build_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("wordkiln.training.trainer.draw_loss", lambda path, rows: None)
    build_trainer(max_steps=4).fit()
    return tmp_path / "run" / "last"


def edit_state(last, change):
    path = last / "training_state.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(format="pickle"), "format: must be"),
        (lambda c: c.update(version=9), "version=9"),
        (lambda c: c.update(counters=[]), "counters: must be an object"),
        (lambda c: c["counters"].update(step=-1), "counters.step=-1"),
        (lambda c: c["counters"].update(step=1.5), "counters.step=1.5"),
        (lambda c: c["counters"].update(step=True), "counters.step=True"),
        (lambda c: c["counters"].update(step=10**400), "counters.step="),
        (lambda c: c["counters"].update(seconds="long"), "counters.seconds='long'"),
        (lambda c: c["counters"].pop("loss_sum"), "counters.loss_sum=None"),
        (lambda c: c.update(tokenizer_fingerprint="x"), "another tokenizer"),
        (lambda c: c.update(data_fingerprint=None), "another data set"),
    ],
)
def test_edited_states_are_refused(build_trainer, last, change, reason):
    edit_state(last, change)
    with pytest.raises(FormatError, match=reason):
        build_trainer(max_steps=8).fit(resume=True)


@pytest.mark.abuse
@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 200_000, b"\xff"])
def test_broken_states_are_refused(build_trainer, last, content):
    (last / "training_state.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"training_state\.json"):
        build_trainer(max_steps=8).fit(resume=True)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.exp_avg.lm_head.weight", None),
        ("optimizer.exp_avg_sq.lm_head.weight", torch.zeros(3)),
        ("optimizer.step.lm_head.weight", torch.zeros((), dtype=torch.int64)),
        ("generator.cpu", torch.zeros(5, dtype=torch.uint8)),
        ("recurrent.1", None),
        ("recurrent.0", torch.zeros(2, 3, 8)),
    ],
)
def test_changed_tensors_are_refused_before_anything_changes(build_trainer, last, name, value):
    path = last / "training_state.safetensors"
    tensors = safetensors.torch.load_file(path)
    assert tensors.pop(name) is not None
    if value is not None:
        tensors[name] = value
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(FormatError, match=r"training_state\.safetensors"):
        build_trainer(max_steps=8).fit(resume=True)


@pytest.mark.abuse
@pytest.mark.parametrize("file", ["training_state.safetensors", "model.safetensors"])
def test_truncated_tensors_are_refused(build_trainer, last, file):
    content = (last / file).read_bytes()
    (last / file).write_bytes(content[:-5])
    with pytest.raises(FormatError, match=file):
        build_trainer(max_steps=8).fit(resume=True)
