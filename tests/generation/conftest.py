"""Stand-ins: a tokenizer of bytes, and a model that says what it is told."""

import codecs

import numpy as np
import pytest

from wordkiln.errors import ArgumentError

END = 256


class ByteStream:
    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id):
        return "" if token_id == END else self._decoder.decode(bytes([token_id]))

    def finish(self):
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """Every byte is a token; one more ends documents."""

    vocab_size = 257
    end_id = END

    def encode(self, text, allowed_special=(), disallowed_special="all"):
        parts = text.split("<|end|>")
        if len(parts) > 1 and not allowed_special and disallowed_special:
            raise ArgumentError('the text holds the special token "<|end|>": name it')
        if not allowed_special:
            return list(text.encode())
        ids = [list(part.encode()) for part in parts]
        return [id for place, part in enumerate(ids) for id in ([END, *part] if place else part)]

    def decode_stream(self):
        return ByteStream()


class ScriptedModel:
    """Answers each prompt with a text, its end token included, whatever ids it is given."""

    vocab_size = 257
    max_positions = None
    eos_token_id = None

    def __init__(self, answers):
        self.answers = {prompt: [*answer.encode(), END] for prompt, answer in answers.items()}
        self.batch_sizes = []

    def begin(self, prompts):
        rows = [[self.answers[bytes(prompt).decode()], 0] for prompt in prompts]
        return rows, self._logits(rows)

    def step(self, state, ids):
        assert [answer[position] for answer, position in state] == ids.tolist()
        for row in state:
            row[1] += 1
        return self._logits(state)

    def select(self, state, rows):
        return [list(state[row]) for row in rows]

    def join(self, states):
        return [row for state in states for row in state]

    def _logits(self, rows):
        self.batch_sizes.append(len(rows))
        logits = np.full((len(rows), self.vocab_size), -np.inf, np.float32)
        for row, (answer, position) in enumerate(rows):
            logits[row, answer[position]] = 0
        return logits


class RandomModel:
    """A bigram model with random logits: what comes depends on the last id alone."""

    vocab_size = 257
    max_positions = 200
    eos_token_id = END

    def __init__(self):
        self._logits = np.random.default_rng(0).normal(0, 3, (self.vocab_size, self.vocab_size)).astype(np.float32)

    def begin(self, prompts):
        return [None] * len(prompts), self._logits[[prompt[-1] for prompt in prompts]]

    def step(self, state, ids):
        assert len(state) == len(ids)
        return self._logits[ids]

    def select(self, state, rows):
        return [state[row] for row in rows]

    def join(self, states):
        return [row for state in states for row in state]

    def score(self, rows):
        logits = self._logits.astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return [logprobs[row[:-1], row[1:]].astype(np.float32) for row in map(list, rows)]


@pytest.fixture
def byte_tokenizer():
    return ByteTokenizer()


@pytest.fixture(scope="session")
def new_byte_tokenizer():
    return ByteTokenizer


@pytest.fixture
def scripted():
    """answers by prompt -> a LanguageModel that gives them."""
    from wordkiln.generation import LanguageModel

    return lambda answers: LanguageModel(ScriptedModel(answers), ByteTokenizer())


@pytest.fixture(scope="session")
def make_random_model():
    from wordkiln.generation import LanguageModel

    return lambda: LanguageModel(RandomModel(), ByteTokenizer())


@pytest.fixture
def random_model(make_random_model):
    return make_random_model()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A random LSTM of 300 tokens, written without torch."""
    from safetensors.numpy import save_file

    import wordkiln as wk
    from wordkiln.models.layout import parameter_shapes

    directory = tmp_path_factory.mktemp("checkpoint")
    wk.Tokenizer.train(["床前明月光,疑是地上霜。\n", "the quick brown fox\n"] * 3, vocab_size=300).save(directory)
    config = wk.models.ModelConfig(kind="lstm", vocab_size=300, hidden_size=32)
    config.save(directory)
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors")
    return directory
