"""Beam search against `transformers`, on tiny random models: the same texts, the same scores."""

import numpy as np
import pytest

from wordkiln.generation import BeamParams, beam_search

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB_SIZE = 120


class RecomputingModel:
    """The step protocol over a `transformers` model, without a cache: the state of a row is its ids."""

    max_positions = None
    eos_token_id = None
    vocab_size = VOCAB_SIZE

    def __init__(self, model):
        self.model = model

    def begin(self, prompts):
        state = [list(prompt) for prompt in prompts]
        return state, self._logits(state)

    def step(self, state, ids):
        for row, token in zip(state, ids.tolist(), strict=True):
            row.append(token)
        return self._logits(state)

    def select(self, state, rows):
        return [list(state[row]) for row in rows]

    def _logits(self, state):
        # Rows of one length at a time: nothing is padded.
        logits = np.empty((len(state), VOCAB_SIZE), np.float32)
        for length in {len(row) for row in state}:
            rows = [index for index, row in enumerate(state) if len(row) == length]
            with torch.no_grad():
                logits[rows] = self.model(torch.tensor([state[row] for row in rows])).logits[:, -1].numpy()
        return logits


def small(kind):
    torch.manual_seed(1)
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.5,
        )
        return transformers.LlamaForCausalLM(config).eval()
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
    )
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return small(request.param)


# 24 of 120 tokens end a text, so that texts do end.
ENDS = list(range(0, VOCAB_SIZE, 5))
CASES = {
    "default": {},
    "many beams": {"num_beams": 9, "num_return": 9},
    "one end id": {"end_ids": [7], "max_new_tokens": 14},
    "no end id": {"end_ids": []},
    "full": {"early_stopping": True, "num_return": 4},
    "never": {"early_stopping": "never", "num_return": 4},
    "never, longer": {"early_stopping": "never", "length_penalty": 2.0, "num_return": 4},
    "never, shorter": {"early_stopping": "never", "length_penalty": -1.0},
    "longer": {"length_penalty": 2.5, "num_return": 4},
    "sums": {"length_penalty": 0.0, "num_return": 4},
    "shorter": {"length_penalty": -0.5, "num_return": 2},
    "full, longer": {"early_stopping": True, "length_penalty": 1.5},
    "minimum": {"min_new_tokens": 6, "num_return": 4},
    "no repeated token": {"no_repeat_ngram_size": 1, "num_return": 4},
    "no repeated pair": {"no_repeat_ngram_size": 2, "end_ids": [7], "max_new_tokens": 16},
    "bad words": {"bad_words": [[3], [17, 4], [99, 98, 97], [11], [12, 13]], "num_return": 4},
    "one token": {"max_new_tokens": 1, "num_return": 4},
}


def by_transformers(model, prompt, params, forced):
    # All prompts at once would be padded: with these tiny models that is another distribution.
    given = torch.tensor([prompt])
    keywords = {}
    if params.bad_words:
        keywords["bad_words_ids"] = [list(word) for word in params.bad_words]
    if forced:
        everything = list(range(VOCAB_SIZE))
        keywords["prefix_allowed_tokens_fn"] = lambda _, ids: list(forced[len(ids) - len(prompt) :][:1]) or everything
    result = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        num_beams=params.num_beams,
        num_return_sequences=params.num_return,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        max_new_tokens=params.max_new_tokens,
        min_new_tokens=params.min_new_tokens or None,
        no_repeat_ngram_size=params.no_repeat_ngram_size,
        eos_token_id=list(params.end_ids) or None,
        pad_token_id=1,
        output_scores=True,
        return_dict_in_generate=True,
        **keywords,
    )
    texts = []
    for ids, beams, score in zip(
        result.sequences.tolist(), result.beam_indices, result.sequences_scores.tolist(), strict=True
    ):
        length = int((beams >= 0).sum())
        texts.append((ids[len(prompt) : len(prompt) + length], score))
    return texts


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_same_texts_and_scores(model, case):
    settings = {"num_beams": 4, "max_new_tokens": 9, "end_ids": ENDS} | CASES[case]
    params = BeamParams(**settings)
    prompts = [[5, 17, 99], [8, 9, 10, 11, 99, 98]]
    found = beam_search(RecomputingModel(model), prompts, params)
    for prompt, texts in zip(prompts, found, strict=True):
        expected = by_transformers(model, prompt, params, ())
        assert [text.ids for text in texts] == [ids for ids, _ in expected]
        # theirs: float32 log-probabilities, summed in float32
        assert [text.score for text in texts] == pytest.approx([score for _, score in expected], abs=2e-5, rel=2e-6)


@pytest.mark.parity
def test_forced_prefix_is_that_of_a_token_filter(model):
    prompts, forced = [[5, 17, 99], [100, 3]], [(33, 44, 56), ()]
    params = BeamParams(num_return=4, max_new_tokens=9, end_ids=ENDS, forced_prefix=forced)
    found = beam_search(RecomputingModel(model), prompts, params)
    for prompt, prefix, texts in zip(prompts, forced, found, strict=True):
        expected = by_transformers(model, prompt, params, prefix)
        assert [text.ids for text in texts] == [ids for ids, _ in expected]
        assert [text.score for text in texts] == pytest.approx([score for _, score in expected], abs=2e-5, rel=2e-6)
