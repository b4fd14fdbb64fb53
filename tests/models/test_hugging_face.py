"""A transformer's directory is a Hugging Face Llama directory, in both directions."""

import pytest
import torch

from wordkiln.models import CausalLM, ModelConfig
from wordkiln.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

# Logits here are near 1; both run the same float32 formula with other orders of summation, some 2 * 10**-7 a layer.
TOLERANCE = {"atol": 5e-6, "rtol": 1e-5}

SHAPES = {
    "tied": {"tie_word_embeddings": True},
    "grouped": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "long-rope": {"rope_theta": 500000.0, "rms_norm_eps": 1e-5, "num_key_value_heads": 1},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def fields(request):
    return {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "eos_token_id": 2,
        **request.param,
    }


def random_weights(module):
    """Larger than an initialisation: the logits must depend on every part."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn_like(weight) * 0.1 + (1.0 if weight.dim() == 1 else 0.0))
    return module.eval()


def check_equal(ours, theirs):
    ids = torch.randint(0, 97, (2, 100), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = theirs(ids).logits
        torch.testing.assert_close(ours(ids)[0], wanted, **TOLERANCE)
    assert wanted.std() > 0.1


def test_they_open_ours(fields, tmp_path):
    ours = random_weights(CausalLM(ModelConfig(kind="transformer", **fields)))
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert theirs.config.eos_token_id == 2
    assert theirs.config.bos_token_id is None
    assert theirs.num_parameters() == ours.num_parameters()
    check_equal(ours, theirs.eval())


def test_they_open_our_tokenizer(tmp_path):
    texts = ["床前明月光,疑是地上霜。\n", "the quick brown fox jumps over the lazy dog\n"] * 3
    ours = Tokenizer.train(texts, vocab_size=290, special_tokens=["<|user|>", "<|end|>"])
    ours = ours.with_chat_template("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}")
    model = CausalLM(ModelConfig(kind="transformer", vocab_size=290, hidden_size=32, eos_token_id=ours.end_id))
    model.save_pretrained(tmp_path / "ours", ours)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in (*texts, "Hello, I'VE 12 things\n\n  x<|end|>y ", "e\u0301 naïve 👩\u200d👧\r\n\tx", ""):
        ids = ours.encode(text, allowed_special="all")
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.bos_token_id, len(theirs)) == (ours.end_id, None, 290)
    messages = [{"role": "user", "content": "明月"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == "<|user|>明月"
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert generation.eos_token_id == ours.end_id


def test_we_open_theirs(fields, tmp_path):
    theirs = random_weights(transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)))
    theirs.save_pretrained(tmp_path / "theirs")
    check_equal(CausalLM.from_pretrained(tmp_path / "theirs"), theirs)


def test_greedy_steps_agree(fields, tmp_path):
    ours = random_weights(CausalLM(ModelConfig(kind="transformer", **fields | {"eos_token_id": None})))
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    prompt = [5, 6, 7]
    wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0].tolist()
    state, logits = ours.begin([prompt])
    text = list(prompt)
    for _ in range(20):
        text.append(int(logits[0].argmax()))
        logits = ours.step(state, text[-1:])
    assert text == wanted
