"""SmolLM2-135M in the libraries that run it.

Each has the methods of these that it can have: `begin` (prompts of one length in, the logits behind them out), `step`
(an id for each row), `write` (new tokens by its own greedy search) and `search` (by its own beam search). No text ends.
"""

from __future__ import annotations

import json
import time
from functools import cache

import numpy as np
import peers_models
from pairs import Timed

END = 2  # SmolLM2's
THREADS = 2
LONGEST = 1024  # what llama.cpp's cache is made for
# What the others call a precision near ours.
LLAMA_CPP = {"float32": "f32", "bfloat16": "f16", "int8": "q8_0"}


class Transformers:
    """Hugging Face's."""

    def __init__(self, dtype: str) -> None:
        import torch
        import transformers

        self.torch = torch
        kind = torch.float32 if dtype == "float32" else torch.bfloat16
        self.model = transformers.AutoModelForCausalLM.from_pretrained(peers_models.hugging_face(), dtype=kind).eval()
        self.name = f"transformers {transformers.__version__} {dtype if dtype == 'float32' else 'bfloat16'}"
        self.cache = None

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        return self._run(prompts, None)

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self._run(ids[:, None], self.cache)

    def search(self, prompts: list[list[int]], beams: int, new: int) -> list[list[int]]:
        rows = self.torch.tensor(prompts)
        lengths = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": END, "eos_token_id": END}
        with self.torch.no_grad():
            out = self.model.generate(
                rows, attention_mask=self.torch.ones_like(rows), do_sample=False, num_beams=beams, **lengths
            )
        return out[:, rows.shape[1] :].tolist()

    def _run(self, ids, cache) -> np.ndarray:
        with self.torch.no_grad():
            tensor = self.torch.as_tensor(np.asarray(ids))
            out = self.model(tensor, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits[:, -1].float().numpy()


@cache
def _nothing():
    """What llama.cpp logs by; it keeps the address, so this must outlive every model."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda *_: None)


class LlamaCpp:
    """llama.cpp by its C interface, which steps several rows at once; its Python class does not."""

    def __init__(self, kind: str) -> None:
        path = peers_models.gguf(kind)  # which says so where the library is missing
        import llama_cpp

        self.library = llama_cpp
        self.name = f"llama.cpp {kind} ({llama_cpp.__version__})"
        llama_cpp.llama_log_set(_nothing(), None)
        settings = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.context, self.rows, self.length = None, 0, 0

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        if len(prompts) != self.rows:
            self._open(len(prompts))
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self.length = 0
        return self._run(np.asarray(prompts))

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self._run(ids[:, None])

    def _open(self, rows: int) -> None:
        if self.context is not None:
            self.library.llama_free(self.context)
        settings = self.library.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch, settings.n_ubatch = rows * LONGEST, rows, LONGEST, 512
        settings.n_threads = settings.n_threads_batch = THREADS
        settings.no_perf = True
        self.context, self.rows = self.library.llama_init_from_model(self.model, settings), rows

    def _run(self, ids: np.ndarray) -> np.ndarray:
        """Ids [B, n] behind the rows; the logits behind each row's last."""
        rows, count = ids.shape
        batch = self.library.llama_batch_init(ids.size, 0, 1)
        batch.n_tokens = ids.size
        for place in range(ids.size):
            row, number = divmod(place, count)
            batch.token[place], batch.pos[place] = int(ids[row, number]), self.length + number
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = number == count - 1
        failed = self.library.llama_decode(self.context, batch)
        self.library.llama_batch_free(batch)
        assert failed == 0, failed
        self.length += count
        logits = np.empty((rows, self.vocab_size), np.float32)
        for row in range(rows):
            found = self.library.llama_get_logits_ith(self.context, (row + 1) * count - 1)
            logits[row] = np.ctypeslib.as_array(found, (self.vocab_size,))
        return logits


class CTranslate2:
    """Whole texts only: writing is the time of a text less that of its first token."""

    def __init__(self, kind: str) -> None:
        peers_models.require("ctranslate2", "ctranslate2")
        import ctranslate2

        self.model = ctranslate2.Generator(
            str(peers_models.ctranslate2(kind)), device="cpu", compute_type=kind, inter_threads=1, intra_threads=THREADS
        )
        self.name = f"ctranslate2 {ctranslate2.__version__} {kind}"
        described = json.loads((peers_models.hugging_face() / "tokenizer.json").read_text())
        self.tokens = {number: token for token, number in described["model"]["vocab"].items()}
        self.tokens.update({token["id"]: token["content"] for token in described["added_tokens"]})

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        # min_length=1 would take the end token out of the logits.
        results = self._generate(prompts, 1, sampling_topk=1, return_logits_vocab=True, min_length=0)
        return np.concatenate([np.asarray(result.logits[0]) for result in results])

    def write(self, prompts: list[list[int]], new: int) -> Timed:
        start = time.perf_counter()
        self._generate(prompts, 1, sampling_topk=1)
        begun = time.perf_counter()
        results = self._generate(prompts, new, sampling_topk=1)
        return Timed(_first(results), time.perf_counter() - begun - (begun - start))

    def search(self, prompts: list[list[int]], beams: int, new: int) -> list[list[int]]:
        return _first(self._generate(prompts, new, beam_size=beams))

    def _generate(self, prompts: list[list[int]], new: int, **settings):
        rows = [[self.tokens[token_id] for token_id in row] for row in prompts]
        settings = {"min_length": new, **settings}
        return self.model.generate_batch(
            rows, max_length=new, include_prompt_in_result=False, max_batch_size=len(rows), **settings
        )


def _first(results) -> list[list[int]]:
    return [result.sequences_ids[0] for result in results]


class OnnxRuntime:
    """onnxruntime-genai."""

    def __init__(self, kind: str) -> None:
        folder = peers_models.onnx(kind)
        import onnxruntime_genai

        self.library = onnxruntime_genai
        config = onnxruntime_genai.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": THREADS}}}}))
        self.model = onnxruntime_genai.Model(config)
        self.name = f"onnxruntime-genai {onnxruntime_genai.__version__} {kind}"

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        return np.array(self._reader(prompts, 1).get_logits())[:, -1]

    def write(self, prompts: list[list[int]], new: int) -> Timed:
        generator = self._reader(prompts, new)
        generator.generate_next_token()
        start = time.perf_counter()
        texts = self._rest(generator, prompts)
        return Timed(texts, time.perf_counter() - start)

    def search(self, prompts: list[list[int]], beams: int, new: int) -> list[list[int]]:
        # A cache of its longest length from the start is not for beams.
        return self._rest(self._reader(prompts, new, num_beams=beams, past_present_share_buffer=False), prompts)

    def _reader(self, prompts: list[list[int]], new: int, **settings):
        """A generator that has read the prompts."""
        parameters = self.library.GeneratorParams(self.model)
        longest = len(prompts[0]) + new
        parameters.set_search_options(
            max_length=longest, min_length=longest, batch_size=len(prompts), do_sample=False, **settings
        )
        generator = self.library.Generator(self.model, parameters)
        generator.append_tokens(np.asarray(prompts, np.int32))
        return generator

    def _rest(self, generator, prompts: list[list[int]]) -> list[list[int]]:
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(row)[len(prompt) :].tolist() for row, prompt in enumerate(prompts)]


class Ours:
    """The runtime, from the same GGUF file."""

    def __init__(self, dtype: str) -> None:
        from wordkiln.interop import open_model
        from wordkiln.runtime import DecoderModel

        opened = open_model(peers_models.source() / peers_models.GGUF)
        self.model = DecoderModel(opened.architecture, opened.source, dtype)
        self.state = None

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        self.state, logits = self.model.begin(prompts)
        return logits

    def step(self, ids: np.ndarray) -> np.ndarray:
        return self.model.step(self.state, ids)

    def write(self, prompts: list[list[int]], new: int) -> Timed:
        from wordkiln.generation import Sampler, SamplingParams

        sampler = Sampler([SamplingParams(temperature=0.0, banned_ids=(END,))] * len(prompts), self.model.vocab_size)
        ids = [sampler.sample(self.begin(prompts))]
        start = time.perf_counter()
        while len(ids) < new:
            ids.append(sampler.sample(self.step(ids[-1])))
        return Timed(np.transpose(ids).tolist(), time.perf_counter() - start)

    def search(self, prompts: list[list[int]], beams: int, new: int) -> list[list[int]]:
        from wordkiln.generation import BeamParams, beam_search

        params = BeamParams(num_beams=beams, max_new_tokens=new, min_new_tokens=new, end_ids=[END])
        return [found[0].ids for found in beam_search(self.model, prompts, params)]
