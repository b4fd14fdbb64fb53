"""SmolLM2-135M in processes of their own: peak memory, and the way from the import to the first token."""

import statistics
import subprocess
import sys

import pairs
import peers_models
import pytest

# Not ru_maxrss, which a process has from the one that started it.
SHOW = """
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM")), seconds)
"""
OURS = """
import time; start = time.perf_counter()
import wordkiln as wk
model = wk.load({path!r}, dtype={dtype!r})
model.generate("The capital of France is", max_new_tokens={tokens}, temperature=0)
"""
LLAMA = """
import time; start = time.perf_counter()
import llama_cpp
model = llama_cpp.Llama({path!r}, n_ctx=1024, n_threads=2, n_threads_batch=2, verbose=False)
model("The capital of France is", max_tokens={tokens}, temperature=0)
"""
TRANSFORMERS = """
import time; start = time.perf_counter()
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({path!r}, dtype=torch.{kind})
tokenizer = AutoTokenizer.from_pretrained({path!r})
ids = tokenizer("The capital of France is", return_tensors="pt")
model.generate(**ids, max_new_tokens={tokens}, min_new_tokens={tokens}, do_sample=False)
"""
CTRANSLATE2 = """
import time; start = time.perf_counter()
import ctranslate2
from tokenizers import Tokenizer
model = ctranslate2.Generator({path!r}, device="cpu", compute_type={kind!r}, inter_threads=1, intra_threads=2)
tokenizer = Tokenizer.from_file({folder!r} + "/tokenizer.json")
prompt = [tokenizer.encode("The capital of France is").tokens]
model.generate_batch(prompt, max_length={tokens}, min_length={tokens}, sampling_topk=1)
"""
ONNXRUNTIME = """
import time; start = time.perf_counter()
import onnxruntime_genai
model = onnxruntime_genai.Model({path!r})
ids = onnxruntime_genai.Tokenizer(model).encode("The capital of France is")
parameters = onnxruntime_genai.GeneratorParams(model)
longest = len(ids) + {tokens}
parameters.set_search_options(max_length=longest, min_length=longest, do_sample=False)
generator = onnxruntime_genai.Generator(model, parameters)
generator.append_tokens(ids)
while not generator.is_done():
    generator.generate_next_token()
"""
# library, its kind of weights, ours beside it, its program, its file
PEERS = (
    ("transformers", "float32", "float32", TRANSFORMERS, lambda _: peers_models.hugging_face()),
    ("transformers", "bfloat16", "bfloat16", TRANSFORMERS, lambda _: peers_models.hugging_face()),
    ("llama.cpp", "f32", "float32", LLAMA, peers_models.gguf),
    ("llama.cpp", "f16", "bfloat16", LLAMA, peers_models.gguf),
    ("llama.cpp", "q8_0", "int8", LLAMA, peers_models.gguf),
    ("ctranslate2", "float32", "float32", CTRANSLATE2, peers_models.ctranslate2),
    ("ctranslate2", "int8", "int8", CTRANSLATE2, peers_models.ctranslate2),
    ("onnxruntime", "fp32", "float32", ONNXRUNTIME, peers_models.onnx),
    ("onnxruntime", "int4", "int8", ONNXRUNTIME, peers_models.onnx),
)


def measured(program, **values):
    """Peak memory in megabytes and seconds of a process, each the median of three."""
    code = program.format(**values) + SHOW
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    found = [tuple(map(float, run.stdout.split()[-2:])) for run in runs]
    return statistics.median(run[0] for run in found), statistics.median(run[1] for run in found)


@pytest.mark.parametrize(("library", "kind", "dtype", "program", "file_of"), PEERS)
def test_memory_and_first_token(library, kind, dtype, program, file_of):
    try:
        path = str(file_of(kind))
    except peers_models.MissingError as error:
        pairs.NOTES.append(str(error))
        pytest.skip(str(error))
    own = str(peers_models.source() / peers_models.GGUF)
    more = {"folder": str(peers_models.hugging_face()), "kind": kind}
    for what, tokens, index, unit in (("peak memory, 128 tokens", 128, 0, "MB"), ("import to first token", 1, 1, "s")):
        ours = measured(OURS, path=own, dtype=dtype, tokens=tokens)[index]
        theirs = measured(program, path=path, tokens=tokens, **more)[index]
        goal = pairs.judge(theirs / ours, 1.0) if unit == "MB" and library == "llama.cpp" else ""
        pairs.ROWS.append(
            pairs.Row(
                work=f"SmolLM2 {dtype}, {what}",
                peer=f"{library} {kind}",
                ours=f"{ours:.2f} {unit}",
                theirs=f"{theirs:.2f} {unit}",
                ratio=theirs / ours,
                verdict=pairs.judge(ours, 1.5, least=False) if unit == "s" else goal,
            )
        )
