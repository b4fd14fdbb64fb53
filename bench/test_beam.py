"""A step of beam search without the model: choosing among batch x beams x V continuations, against `transformers`."""

import numpy as np
import pairs
import pytest
import torch
import transformers
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerationMixin

from wordkiln import _rust
from wordkiln.generation import BeamParams

VOCAB_SIZE, PROMPT, NEW, END = 50257, 64, 64, 50256
STEPS, ROUNDS = 5, 9
SHAPES = [(1, 4), (1, 16), (8, 4), (8, 8), (8, 16)]


class TheirSearch:
    """The body of transformers' beam loop after the model, tensor by tensor, with its own functions."""

    def __init__(self, batch, beams):
        self.mixin = type("Search", (GenerationMixin,), {})()
        self.batch, self.beams, self.length = batch, beams, PROMPT
        self.keep = 2 * beams
        longest = PROMPT + NEW
        self.running = torch.zeros((batch, beams, longest), dtype=torch.int64)
        self.sequences = self.running.clone()
        self.scores = torch.zeros((batch, beams))
        self.scores[:, 1:] = -1e9
        self.ended = torch.full((batch, beams), -1e9)
        self.is_ended = torch.zeros((batch, beams), dtype=torch.bool)
        self.hopeful = torch.ones((batch, 1), dtype=torch.bool)
        self.indices = torch.full((batch, beams, NEW), -1, dtype=torch.int32)
        self.ended_indices = self.indices.clone()
        self.top = torch.cat((torch.ones(beams, dtype=torch.bool), torch.zeros(self.keep - beams, dtype=torch.bool)))
        self.criteria = StoppingCriteriaList([MaxLengthCriteria(longest), EosTokenCriteria(torch.tensor([END]))])
        self.processors = LogitsProcessorList()

    def step(self, logits):
        mixin, batch, beams, length = self.mixin, self.batch, self.beams, self.length
        flat = mixin._flatten_beam_dim(self.running[:, :, :length])
        log_probs = torch.nn.functional.log_softmax(logits.to(copy=True, dtype=torch.float32), dim=-1)
        log_probs = self.processors(flat, log_probs)
        log_probs = mixin._unflatten_beam_dim(log_probs, batch, beams) + self.scores[:, :, None]
        top, running, indices = mixin._get_top_k_continuations(
            accumulated_log_probs=log_probs.reshape(batch, -1),
            running_sequences=self.running,
            running_beam_indices=self.indices,
            cur_len=length,
            decoder_prompt_len=PROMPT,
            do_sample=False,
            beams_to_keep=self.keep,
            num_beams=beams,
            batch_size=batch,
        )
        hits = self.criteria(mixin._flatten_beam_dim(running[:, :, : length + 1]), None)
        hits = mixin._unflatten_beam_dim(hits, batch, self.keep)
        self.running, self.scores, self.indices = mixin._get_running_beams_for_next_iteration(
            topk_log_probs=top,
            topk_running_sequences=running,
            topk_running_beam_indices=indices,
            next_token_hits_stopping_criteria=hits,
            num_beams=beams,
        )
        self.sequences, self.ended, self.ended_indices, self.is_ended = mixin._update_finished_beams(
            sequences=self.sequences,
            topk_running_sequences=running,
            beam_scores=self.ended,
            topk_log_probs=top,
            beam_indices=self.ended_indices,
            topk_running_beam_indices=indices,
            is_early_stop_heuristic_unsatisfied=self.hopeful,
            is_sent_finished=self.is_ended,
            next_token_hits_stopping_criteria=hits,
            top_num_beam_mask=self.top,
            num_beams=beams,
            cur_len=length,
            decoder_prompt_len=PROMPT,
            length_penalty=1.0,
            early_stopping=False,
        )
        parents = mixin._flatten_beam_dim(self.indices[..., length - PROMPT])
        self.length = length = length + 1
        self.hopeful = mixin._check_early_stop_heuristic(
            is_early_stop_heuristic_unsatisfied=self.hopeful,
            running_beam_scores=self.scores,
            beam_scores=self.ended,
            is_sent_finished=self.is_ended,
            cur_len=length,
            max_length=PROMPT + NEW,
            decoder_prompt_len=PROMPT,
            early_stopping=False,
            length_penalty=1.0,
        )
        mixin._beam_search_has_unfinished_sequences(self.hopeful, self.is_ended, hits, False)
        return parents, self.running[:, :, length - 1].flatten()


class OurSearch:
    def __init__(self, batch, beams, logits):
        params = BeamParams(num_beams=beams, max_new_tokens=NEW, end_ids=[END])
        self.native = _rust.BeamSearch(params, [[0] * PROMPT] * batch, VOCAB_SIZE)
        # The first step is on the prompts' rows: transformers has each of them `beams` times.
        self.native.step(np.ascontiguousarray(logits[::beams]))

    def step(self, logits):
        return self.native.step(logits)


@pytest.mark.parametrize(("batch", "beams"), SHAPES)
def test_bookkeeping_of_a_step(batch, beams):
    logits = np.random.default_rng(0).normal(0, 3, (STEPS + 1, batch * beams, VOCAB_SIZE)).astype(np.float32)
    logits[:, :, END] -= 30  # nothing ends, so that every step has all its rows
    tensors = torch.from_numpy(logits)

    def started(search):
        """A search that has written its first token."""
        if search is OurSearch:
            return OurSearch(batch, beams, logits[0])
        theirs = TheirSearch(batch, beams)
        theirs.step(tensors[0])
        return theirs

    def run(search, blocks):
        return [search.step(block) for block in blocks]

    def assert_equal(ours, theirs):
        for (our_parents, our_tokens), (their_parents, their_tokens) in zip(ours, theirs, strict=True):
            assert our_parents.tolist() == their_parents.tolist()
            assert our_tokens.tolist() == their_tokens.tolist()

    assert_equal(run(started(OurSearch), logits[1:]), run(started(TheirSearch), tensors[1:]))

    # A search for every run, made before: what that costs is not part of the step.
    ready = {search: [started(search) for _ in range(1 + 2 * ROUNDS)] for search in (OurSearch, TheirSearch)}
    pairs.compare(
        f"beam step, batch {batch} x {beams} beams, V {VOCAB_SIZE}, {STEPS} steps",
        f"transformers {transformers.__version__}",
        lambda: run(ready[OurSearch].pop(), logits[1:]),
        lambda: run(ready[TheirSearch].pop(), tensors[1:]),
        equal=assert_equal,
        amount=STEPS,
        unit="steps",
        goal=(20.0, 25.0),
        rounds=ROUNDS,
        warm=True,
    )
