"""`wk.load` of the models of others: greedy texts are transformers'."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import wordkiln as wk
from wordkiln.errors import ArgumentError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parity
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "qwen3"])
def test_greedy_texts_are_transformers(make_tiny, name):
    torch = pytest.importorskip("torch")
    tiny = make_tiny(name)
    model = wk.load(tiny.directory)
    prompt = model.tokenizer.encode("the quick 明月")
    wanted = tiny.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    wanted = [token for token in wanted[0, len(prompt) :].tolist() if token not in (2, 3)]
    # Untrained logits are far apart: no two are nearer than the difference between float32 and float64.
    assert list(model.generate("the quick 明月", max_new_tokens=12, temperature=0).ids)[: len(wanted)] == wanted


def test_rows_without_a_token_are_never_chosen(make_tiny):
    tiny = make_tiny("llama-padded")
    model = wk.load(tiny.directory)
    prompts = ["the quick", "明月", "lazy dog", "a"]
    completions = model.generate(prompts, max_new_tokens=20, temperature=0)
    assert all(token < 300 for completion in completions for token in completion.ids)
    rows = [[*model.tokenizer.encode(prompt), *one.ids] for prompt, one in zip(prompts, completions, strict=True)]
    assert max(tiny.logits(row).argmax(-1).max() for row in rows) >= 300, "transformers would choose one"


def test_rows_without_a_token_have_no_probability(make_tiny):
    """Probabilities are those among the 300 tokens, wherever a model tells them."""
    tiny = make_tiny("llama-padded")
    model = wk.load(tiny.directory)
    prompt = "the quick 明月"
    ids = model.tokenizer.encode(prompt)
    logits = np.asarray(tiny.logits(ids), np.float64)[:, :300]
    wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = model.next_tokens(prompt, k=320)
    assert len(found) == 300
    assert sum(token.probability for token in found) == pytest.approx(1)
    # The logits themselves are within 1e-4 of transformers'.
    np.testing.assert_allclose([token.logprob for token in found], wanted[-1, [token.id for token in found]], atol=1e-3)
    np.testing.assert_allclose(model.model.score([ids])[0], wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-3)
    (first,) = model.generate(prompt, max_new_tokens=1, temperature=0).logprobs
    assert first == pytest.approx(found[0].logprob, abs=1e-5)
    (best,) = model.beam(prompt, num_beams=1, max_new_tokens=1)
    assert best.score == pytest.approx(found[0].logprob, abs=1e-5)


@pytest.mark.parity
def test_rows_without_a_token_have_no_probability_in_torch_either(make_tiny):
    directory = make_tiny("llama-padded").directory
    ours, theirs = wk.load(directory), wk.load(directory, backend="torch")
    ids = ours.tokenizer.encode("the quick 明月")
    (state, found), (torch_state, in_torch) = ours.model.begin([ids, ids[:2]]), theirs.model.begin([ids, ids[:2]])
    for _ in range(2):
        assert (found[:, 300:] == -np.inf).all()
        # Both are float32 sums of logits up to 10, in another order; -inf is equal to -inf alone.
        np.testing.assert_allclose(in_torch, found, rtol=0, atol=1e-4)
        found, in_torch = ours.model.step(state, [5, 7]), theirs.model.step(torch_state, [5, 7])
    rows = [ids, [5, 310, 7]]  # an id that is no token has no probability; what comes after it has
    scores, torch_scores = ours.model.score(rows), theirs.model.score(rows)
    assert np.isneginf(scores[1]).tolist() == [True, False]
    for one, other in zip(scores, torch_scores, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4)
    prompts, options = ["the quick", "明月", "lazy dog", "a"], {"max_new_tokens": 20, "temperature": 0}
    texts = [one.ids for one in theirs.generate(prompts, **options)]
    assert texts == [one.ids for one in ours.generate(prompts, **options)]
    assert max(max(text) for text in texts) < 300


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("ids", "message"), [([320], "unused_ids: ids from"), ([-1], "unused_ids"), (range(320), "are all ids")]
)
def test_a_torch_model_checks_its_unused_ids(make_tiny, ids, message):
    with pytest.raises(ArgumentError, match=message):
        wk.models.CausalLM.from_pretrained(make_tiny("llama-padded").directory, unused_ids=ids)


@pytest.mark.abuse
def test_torch_opens_no_gguf(make_tiny, tmp_path):
    path = tmp_path / "model.gguf"
    wk.interop.export_gguf(make_tiny("llama").directory, path)
    with pytest.raises(ArgumentError, match=r"backend='torch'.*model\.gguf"):
        wk.load(path, backend="torch")


def test_smollm2_names_paris(smollm2):
    model = wk.load(smollm2.parent)
    assert "Paris" in model.generate("The capital of France is", max_new_tokens=2, temperature=0).text
    assert model.end_ids == {2}


def test_settings_of_the_files_reach_the_model(copy):
    directory = copy("llama-padded")
    tokenizer = wk.Tokenizer.load(directory).with_chat_template("{{ messages }}")
    tokenizer.save(directory)
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|endoftext|>", "add_bos_token": True, "chat_template": "{{ messages }}"})
    )
    (directory / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [7, 299], "temperature": 0.5, "transformers_version": "5"})
    )
    opened = wk.interop.open_model(directory)
    assert (opened.bos_token_id, opened.add_bos, opened.chat_template) == (299, True, "{{ messages }}")
    assert (opened.architecture.eos_token_ids, opened.generation) == ((7, 299), {"temperature": 0.5})
    assert opened.unused_ids == tuple(range(300, 320))
    model = wk.load(directory)
    assert (model.end_ids, model.recommended) == ({7, 299}, {"temperature": 0.5})
    in_torch = wk.load(directory, backend="torch")
    assert (in_torch.end_ids, in_torch.recommended) == (model.end_ids, model.recommended)
    assert in_torch.generate("a", max_new_tokens=3, seed=1).text == model.generate("a", max_new_tokens=3, seed=1).text


def test_what_the_tokenizers_file_puts_before_a_text_is_told(copy):
    directory = copy()
    file = json.loads((directory / "tokenizer.json").read_text())
    file["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [299], "tokens": ["<|endoftext|>"]}},
    }
    (directory / "tokenizer.json").write_text(json.dumps(file))
    opened = wk.interop.open_model(directory)
    assert (opened.bos_token_id, opened.add_bos) == (299, True)


@pytest.mark.abuse
def test_other_precisions_are_refused(make_tiny):
    for options in ({"dtype": "int3"}, {"dtype": "bfloat16", "backend": "torch"}):
        with pytest.raises(ArgumentError, match="dtype="):
            wk.load(make_tiny("llama").directory, **options)


WITHOUT = """
import sys
for name in ("torch", "transformers", "gguf"):
    sys.modules[name] = None  # importing it raises, as if it were not there
import wordkiln as wk
opened = wk.interop.open_model(sys.argv[1])
assert opened.source.read("layers.0.q.weight").shape == (576, 576)
try:
    wk.interop.export_gguf(sys.argv[1], "out.gguf")
except wk.errors.DependencyError as error:
    assert "pip install 'wordkiln[gguf]'" in str(error)
else:
    raise AssertionError
"""


def test_a_gguf_file_of_blocks_needs_no_library(smollm2, tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", WITHOUT, str(smollm2)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
