"""SmolLM2-135M on this machine beside transformers and llama.cpp, step by step, and prompts; our models beside torch.

All sides get the same ids, not each its own choice: that could differ in the last bit.
"""

import numpy as np
import pairs
import pytest
from runtime_rows import LLAMA_TOLERANCES, TOLERANCES, model, near_logits, peer

DTYPES = ("float32", "bfloat16", "int8")
STEPS = 32
# library, its kind of weights, ours beside it
PEERS = (
    ("transformers", "float32", "float32"),
    ("transformers", "bfloat16", "bfloat16"),
    ("transformers", "bfloat16", "int8"),
    ("llama.cpp", "f32", "float32"),
    ("llama.cpp", "f16", "bfloat16"),
    ("llama.cpp", "q8_0", "int8"),
    ("llama.cpp", "q4_0", "int8"),
)
# ours / peer that must be reached (issue 5's table), by batch and weights
GOALS = {(1, "f32"): 1.0, (1, "f16"): 1.3, (1, "q8_0"): 2.0, (8, "q8_0"): 2.0}
PREFILL_GOALS = {("transformers", "float32"): 1.2, ("llama.cpp", "f32"): 1.2, ("transformers", "bfloat16"): 1.4}


def ids_of(length, seed=0):
    return np.random.default_rng(seed).integers(0, 49152, length)


def tolerance(library, kind, dtype):
    return LLAMA_TOLERANCES[kind] if library == "llama.cpp" else TOLERANCES[dtype]


def stepping(side, batch):
    rows = [ids_of(64, row).tolist() for row in range(batch)]
    side.begin(rows)

    def run():
        # Each run goes on where the last one stopped: both sides have the same number of keys.
        for position in range(STEPS):
            logits = side.step(np.full(batch, 100 + position))
        return logits

    return run


@pytest.mark.parametrize(("library", "kind", "dtype"), PEERS)
@pytest.mark.parametrize("batch", [1, 8])
def test_decode(library, kind, dtype, batch):
    theirs, ours = peer(library, kind), model("ours", dtype)
    goal = GOALS.get((batch, kind))
    pairs.compare(
        f"SmolLM2 {dtype}, {STEPS} steps behind 64 ids, batch {batch}",
        theirs.name,
        stepping(ours, batch),
        stepping(theirs, batch),
        equal=near_logits(tolerance(library, kind, dtype)),
        amount=STEPS * batch,
        unit="tokens",
        goal=None if goal is None else (goal, goal),
        rounds=5,
    )


@pytest.mark.parametrize(("library", "kind", "dtype"), PEERS)
def test_prefill(library, kind, dtype):
    theirs, ours = peer(library, kind), model("ours", dtype)
    prompts = iter(range(10**6))

    def read(side):
        # Another first id each time: ours would find a prompt that it has read before.
        prompt = ids_of(512).tolist()
        prompt[0] = next(prompts) // 2
        return side.begin([prompt])

    goal = PREFILL_GOALS.get((library, kind) if dtype != "int8" else None)
    pairs.compare(
        f"SmolLM2 {dtype}, a prompt of 512 ids",
        theirs.name,
        lambda: read(ours),
        lambda: read(theirs),
        equal=near_logits(tolerance(library, kind, dtype)),
        amount=512,
        unit="tokens",
        goal=None if goal is None else (goal, goal),
        rounds=5,
    )


OWN = {
    "LSTM 2 x 650": {"kind": "lstm", "hidden_size": 650},
    "Transformer 6 x 384": {"kind": "transformer", "hidden_size": 384, "num_hidden_layers": 6},
}
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("batch", [1, 8])
def test_own_models(name, dtype, batch, tmp_path):
    """A step of our own models against the torch model it was saved from, float32 there."""
    import torch

    import wordkiln as wk
    from wordkiln.interop import open_model
    from wordkiln.runtime import DecoderModel, load_model

    torch.manual_seed(0)
    theirs = wk.models.CausalLM(wk.models.ModelConfig(vocab_size=10_000, **OWN[name])).eval()
    theirs.save_pretrained(tmp_path)
    if theirs.config.is_recurrent:
        ours = load_model(tmp_path, dtype)
    else:
        wk.Tokenizer.train(["a text"], vocab_size=260).save(tmp_path / "tokenizer.json")
        opened = open_model(tmp_path)
        ours = DecoderModel(opened.architecture, opened.source, dtype)
    prompts = [np.random.default_rng(row).integers(0, 10_000, 32).tolist() for row in range(batch)]

    def stepping(model):
        state, _ = model.begin(prompts)

        def run():
            for position in range(STEPS):
                logits = model.step(state, np.full(batch, 100 + position))
            return logits

        return run

    pairs.compare(
        f"{name}, V 10000, {dtype}, {STEPS} steps, batch {batch}",
        f"the torch model, torch {torch.__version__}",
        stepping(ours),
        stepping(theirs),
        equal=near_logits(TOLERANCES[dtype]),
        amount=STEPS * sum(p.numel() for p in theirs.parameters()) * BYTES[dtype] / 1e9,
        unit="GB of weights",
        rounds=5,
    )
