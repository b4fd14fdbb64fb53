"""`Trainer`: from a model and a data set to a run directory."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wordkiln._allocator import keep_freed_memory
from wordkiln._files import recover_directory
from wordkiln.data import Batches, ContiguousBatches, RandomWindows, TokenDataset
from wordkiln.errors import ArgumentError, WordkilnError
from wordkiln.models import CausalLM, detach_state
from wordkiln.training.checkpoint import Counters, RunIdentity, RunState, load_last, save_last
from wordkiln.training.config import TrainingConfig
from wordkiln.training.interrupt import InterruptRequest
from wordkiln.training.loss import Evaluation, batch_loss, evaluate
from wordkiln.training.optim import build_optimizer, learning_rate_at
from wordkiln.training.precision import ComputeModel
from wordkiln.training.progress import ProgressLine
from wordkiln.training.report import LogFile, draw_loss, require_matplotlib

if TYPE_CHECKING:
    from wordkiln.tokenizer import Tokenizer

_PICTURE_SECONDS = 30.0


class DivergedError(WordkilnError, ArithmeticError):
    """The loss or its gradient is not finite any more. The last good checkpoint is kept."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave.

    Attributes:
        steps: optimizer steps done.
        best_step: the step of the best validation, whose weights are in `best_path`.
        best_valid_loss: its loss, nats per token.
        bits_per_byte: its loss in bits per UTF-8 byte of the validation text.
        tokens_per_second: training speed, validation and saving not counted.
        stop_reason: "max_steps" or "patience".
        best_path: checkpoint directory of the best weights.
        last_path: checkpoint directory that a run goes on from.
        log_path: log.csv.
        picture_path: loss.png.
    """

    steps: int
    best_step: int
    best_valid_loss: float
    bits_per_byte: float
    tokens_per_second: float
    stop_reason: str
    best_path: Path
    last_path: Path
    log_path: Path
    picture_path: Path


class Trainer:
    """Trains a model on a data set into a run directory: ``best/``, ``last/``, ``log.csv``, ``loss.png``.

    Args:
        model: trained in place, on the device it is on. After `fit` it has the last weights, not the best.
        data: the tokens; their vocabulary must be that of the model.
        output_dir: the run directory; other files in it are left alone.
        tokenizer: saved with the checkpoints. Default: the one kept with the data.
        config: how to train. Default: `TrainingConfig()`.
        progress: show progress on stderr.
        **fields: fields of `TrainingConfig` that replace those of `config`.

    Raises:
        ArgumentError: a field is out of its range, or model, data and config do not fit one another.
        FormatError: `tokenizer` is not the one that made the data.
        DependencyError: matplotlib is missing.
    """

    def __init__(
        self,
        model: CausalLM,
        data: TokenDataset,
        output_dir: str | os.PathLike[str],
        *,
        tokenizer: Tokenizer | None = None,
        config: TrainingConfig | None = None,
        progress: bool = True,
        **fields: Any,
    ) -> None:
        self.model = model
        self.data = data
        self.output_dir = Path(output_dir)
        self.config = _complete(config or TrainingConfig(), fields, model)
        self._progress = progress
        require_matplotlib()
        _check_fit(model, data, self.config)
        if tokenizer is None:
            tokenizer = data.tokenizer()
        data.check_tokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._batches = _build_batches(data, self.config)
        self._identity = RunIdentity(data.fingerprint, data.tokenizer_fingerprint, self.config)
        self._device = model.output_weight.device

    def fit(self, *, resume: bool = False) -> TrainingResult:
        """Train until `max_steps` or until patience ends.

        The same seed, machine and number of threads give the same bits, also through interruptions and `resume`. The
        global torch generators are left as they were.

        Args:
            resume: go on from ``last/`` in the run directory.

        Raises:
            ArgumentError: the directory holds a run already and `resume` is false, or `resume` is true and a setting
                that the batches depend on has changed.
            PathError: there is no run to go on with, or a file cannot be written.
            FormatError: the run to go on with is malformed, or of another data set, tokenizer or model.
            DivergedError: the loss is not finite; ``last/`` and ``best/`` stay as they were last saved.
            KeyboardInterrupt: after the first Ctrl-C, once ``last/`` is saved; a second one does not wait for that.
        """
        for path in (self._best, self._last):
            recover_directory(path)
            if path.exists() and not resume:
                raise ArgumentError(
                    f"output_dir={self.output_dir}: holds a run already; resume it or choose another directory"
                )
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), InterruptRequest() as interrupt:
            torch.manual_seed(self.config.seed)
            self._state = RunState(self.model, build_optimizer(self.model, self.config), Counters())
            if resume:
                load_last(self._last, self._state, self._identity)
            if self.config.keep_memory:
                keep_freed_memory()
            self._compute = ComputeModel(self.model, self.config.precision)
            counters = self._state.counters
            self._log = LogFile(self.output_dir / "log.csv", counters.step)
            self._picture_time = time.monotonic()
            with ProgressLine(self.config.max_steps, counters.step, self._progress) as self._display:
                self.model.train()
                self._compute.model.train()
                self._run(interrupt)
        return self._result()

    def _run(self, interrupt: InterruptRequest) -> None:
        try:
            while True:
                self._report(interrupt)
                if self._stop_reason():
                    break
                interrupt.check()
                self._train_step()
        except KeyboardInterrupt:
            # A second Ctrl-C may come from the middle of a step: then there is nothing whole to save.
            if interrupt.count == 1:
                self._save_last()
                self._draw(at_once=True)
            raise
        self._draw(at_once=True)

    def _stop_reason(self) -> str:
        patience, counters = self.config.patience, self._state.counters
        if patience is not None and counters.validations_since_best >= patience:
            return "patience"
        return "max_steps" if counters.step >= self.config.max_steps else ""

    def _train_step(self) -> None:
        state, counters = self._state, self._state.counters
        start = time.perf_counter()
        batch = self._batches.batch(counters.step)
        inputs = torch.from_numpy(batch.inputs).to(self._device)
        targets = torch.from_numpy(batch.targets).to(self._device)
        before = None if batch.starts_new_state else self._compute.cast(state.recurrent)
        loss, after = batch_loss(self._compute.model, inputs, targets, before)
        value = loss.item()
        self._check_finite("loss", value)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        self._compute.collect_gradients()
        parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm).item()
        self._check_finite("gradient norm", norm)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(counters.step, self.config)
        state.optimizer.step()
        self._compute.forget_gradients(state.optimizer)
        self._compute.refresh()
        if self.config.batches == "contiguous":
            detached = detach_state(after)
            assert isinstance(detached, tuple)
            state.recurrent = tuple(part.float() for part in detached)
        counters.gradient_norm = norm
        counters.loss_sum += value
        counters.loss_count += 1
        counters.step += 1
        counters.seconds += time.perf_counter() - start
        self._display.step(counters.step, value, self._tokens_per_second())

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            self._state.optimizer.zero_grad()
            raise DivergedError(
                f"step {self._state.counters.step + 1}: the {what} is {value}; use a lower learning_rate"
                f" (now {self.config.learning_rate}), a longer warm-up or a smaller max_grad_norm;"
                f" the last good checkpoint is kept in {self.output_dir}"
            )

    def _report(self, interrupt: InterruptRequest) -> None:
        """Validate and log after a step, where they are due and not done yet."""
        config, counters = self.config, self._state.counters
        last = counters.step == config.max_steps
        validates = last or counters.step % config.eval_every == 0
        logs = validates or counters.step % config.log_every == 0
        if counters.reported_step == counters.step or not logs:
            return
        evaluation = self._evaluate(interrupt) if validates else None
        train_loss = counters.loss_sum / max(1, counters.loss_count)
        row: dict[str, float | None] = {
            "step": counters.step,
            "train_loss": train_loss,
            "valid_loss": evaluation.loss if evaluation else None,
            "valid_bits_per_byte": evaluation.bits_per_byte if evaluation else None,
            "learning_rate": learning_rate_at(counters.step - 1, config),
            "gradient_norm": counters.gradient_norm,
            "tokens_per_second": round(self._tokens_per_second(), 1),
        }
        self._log.append(row)
        counters.reported_step = counters.step
        counters.loss_sum, counters.loss_count = 0.0, 0
        if evaluation:
            self._display.validation(counters.step, train_loss, evaluation.bits_per_byte, self._tokens_per_second())
            self._keep_best(evaluation)
            self._save_last()
            self._draw(at_once=False)

    def _evaluate(self, interrupt: InterruptRequest) -> Evaluation:
        evaluation = evaluate(
            self.model,
            self.data.valid,
            batch_size=self.config.batch_size,
            sequence_length=self.config.sequence_length,
            max_tokens=self.config.eval_tokens,
            carry_state=self.config.batches == "contiguous",
            check=interrupt.check,
        )
        self._check_finite("validation loss", evaluation.loss)
        return evaluation

    def _keep_best(self, evaluation: Evaluation) -> None:
        counters = self._state.counters
        if evaluation.loss >= counters.best_loss:
            counters.validations_since_best += 1
            return
        counters.best_loss = evaluation.loss
        counters.best_bits_per_byte = evaluation.bits_per_byte
        counters.best_step = counters.step
        counters.validations_since_best = 0
        self.model.save_pretrained(self._best, self._tokenizer)

    def _save_last(self) -> None:
        save_last(self._last, self._state, self._identity, self._tokenizer)

    def _draw(self, *, at_once: bool) -> None:
        if at_once or time.monotonic() - self._picture_time > _PICTURE_SECONDS:
            draw_loss(self.output_dir / "loss.png", self._log.rows)
            self._picture_time = time.monotonic()

    def _tokens_per_second(self) -> float:
        counters = self._state.counters
        tokens = counters.step * self.config.batch_size * self.config.sequence_length
        return tokens / counters.seconds if counters.seconds else 0.0

    def _result(self) -> TrainingResult:
        counters = self._state.counters
        return TrainingResult(
            steps=counters.step,
            best_step=counters.best_step,
            best_valid_loss=counters.best_loss,
            bits_per_byte=counters.best_bits_per_byte,
            tokens_per_second=self._tokens_per_second(),
            stop_reason=self._stop_reason(),
            best_path=self._best,
            last_path=self._last,
            log_path=self.output_dir / "log.csv",
            picture_path=self.output_dir / "loss.png",
        )

    @property
    def _best(self) -> Path:
        return self.output_dir / "best"

    @property
    def _last(self) -> Path:
        return self.output_dir / "last"


def _complete(config: TrainingConfig, fields: dict[str, Any], model: CausalLM) -> TrainingConfig:
    config = config.replace(fields)
    if config.batches is None:
        config = dataclasses.replace(config, batches="contiguous" if model.config.is_recurrent else "random")
    return config


def _check_fit(model: CausalLM, data: TokenDataset, config: TrainingConfig) -> None:
    if model.vocab_size < data.vocab_size:
        raise ArgumentError(f"vocab_size={model.vocab_size} of the model: the data has {data.vocab_size} tokens")
    if model.max_positions is not None and config.sequence_length > model.max_positions:
        raise ArgumentError(
            f"sequence_length={config.sequence_length}: must be at most max_position_embeddings={model.max_positions}"
        )
    if config.batches == "contiguous" and not model.config.is_recurrent:
        raise ArgumentError("batches='contiguous': only for recurrent models, a transformer carries no state")


def _build_batches(data: TokenDataset, config: TrainingConfig) -> Batches:
    if config.batches == "contiguous":
        return ContiguousBatches(data.train, config.batch_size, config.sequence_length)
    return RandomWindows(data.train, config.batch_size, config.sequence_length, config.seed)
