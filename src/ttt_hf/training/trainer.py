"""Transformers' Trainer for TtT: exact averages over samples, and separate metrics for text and audio."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Sized
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from ..data import LengthGroupedSampler, NumberedDataset, TtTDataCollator
from ..modeling.loss_ttt import sample_ids
from .adapters import check_adapters
from .saving import atomic_checkpoint


logger = logging.getLogger(__name__)

NOISE_BINS = 5
# Entry of a checkpoint's trainer_state.json.
LOSS_SUM = "TtTLossSum"


class Means:
    """Running means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, value: torch.Tensor | float, count: int) -> None:
        """Adds a sum over `count` values, which may be 0."""
        if count:
            total, number = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + float(value), number + count

    def take(self, every_process: bool = False) -> dict[str, float]:
        """Returns the means, of all processes if `every_process`, and resets them."""
        mine, self._sums = self._sums, {}
        merged = Means()
        # Sums, not means: processes hold different numbers of values.
        for sums in gather_object([mine]) if every_process else [mine]:
            for name, (total, number) in sums.items():
                merged.add(name, total, number)
        return {name: round(total / number, 4) for name, (total, number) in merged._sums.items()}


class InterruptCallback(TrainerCallback):
    """On Ctrl-C or SIGTERM, stops after the current optimizer step and saves a checkpoint; a second one stops at once.

    Stopping within a step would leave some weights updated and others not. To be used as a context manager.

    Attributes:
        number: Number of the signal, 0 before it came.
        checkpoint: Name of the checkpoint that was saved, if any.
    """

    def __init__(self) -> None:
        self.number = 0
        self.checkpoint = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptCallback:
        # Python lets only the main thread install handlers.
        if threading.current_thread() is threading.main_thread():
            # Schedulers send SIGTERM before they kill, and wait a while.
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.number = number
        # The next one gets the usual handler, and interrupts at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        logger.warning(
            "%s: stops after this step and saves a checkpoint; %s stops immediately",
            "interrupted" if number == signal.SIGINT else "asked to terminate",
            "Ctrl-C again" if number == signal.SIGINT else "a second SIGTERM",
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The signal may reach one process alone, or each in another step; all of them have to save in the same one.
        if args.world_size > 1:
            self.number = max(gather_object([self.number]))
        if self.number:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.checkpoint = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"

    def raise_if_asked(self, folder: str) -> None:
        """Ends the training in the way that the signal asks for."""
        if not self.number:
            return
        if self.checkpoint:
            logger.warning("%s/%s is saved: run the same command again to go on from there", folder, self.checkpoint)
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.number)


class TtTTrainer(Trainer):
    """Trains a TtT on batches of `TtTDataCollator`.

    The loss of a step is the mean over all of its samples, with equal weights across processes, accumulated batches
    and packed rows: eight accumulated batches of one sample give the same step as one batch of eight.

    Besides transformers' own entries it logs, averaged since the last log: `text_loss`, `audio_loss`, `text_accuracy`,
    `audio_accuracy_0_20` ... `audio_accuracy_80_100` (accuracy at masked positions, by the noise level in percent),
    `end_accuracy` (the same for end markers), `tokens_per_second` (of this process, including noised copies) and
    `padding` (fraction of the computed positions). An evaluation reports the same losses and accuracies, as
    `eval_text_loss` etc.; all losses are means over samples. Batches are grouped by length (column `length` of the
    dataset). The training arguments need `remove_unused_columns=False`, since the inputs of `forward` are created by
    the collator.

    Args:
        eval_collator: Collator of evaluations; by default `TtTDataCollator.for_evaluation`, whose noise is the same in
            every training, or a `data_collator` of another class itself.
    """

    # compute_loss divides by the samples of the step; the Trainer must not divide by the number of batches again.
    loss_is_scaled_for_ga: ClassVar[bool] = True

    def __init__(self, *args: Any, eval_collator: TtTDataCollator | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_adapters(self.model)
        collator: Any = self.data_collator  # type: ignore[has-type]
        if eval_collator is None and isinstance(collator, TtTDataCollator):
            eval_collator = TtTDataCollator.for_evaluation(collator.config, collator.pad_token_id)
        self.eval_collator: Any = eval_collator or collator
        self._needs_logits = False
        self._loss_sum = 0.0  # over the steps since the last checkpoint
        self._means = {True: Means(), False: Means()}  # in training, in evaluation
        self._positions = self._tokens = 0
        self._logged_at = time.monotonic()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See `Trainer.train`; after Ctrl-C or SIGTERM, raises as `InterruptCallback` once a checkpoint is saved."""
        self._loss_sum = 0.0
        with InterruptCallback() as interrupt:
            self.add_callback(interrupt)
            try:
                output = super().train(*args, **kwargs)
            finally:
                self.remove_callback(interrupt)
        interrupt.raise_if_asked(self.args.output_dir)
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The Trainer would run one more step of a training that is finished and resumed.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # The Trainer's own sum starts anew with each call, so that `train_loss` would be that of the last steps.
        self.state.stateful_callbacks[LOSS_SUM], self._loss_sum = {"sum": self._sum_of_losses()}, 0.0
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with atomic_checkpoint(Path(self._get_output_dir(trial), name)):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # The arguments are stored as they are, and a token would go with them.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def _sum_of_losses(self) -> float:
        """Sum of the losses of all steps since the training began, on average over the processes."""
        sums = gather_object([self._loss_sum])
        return float(self.state.stateful_callbacks.get(LOSS_SUM, {"sum": 0.0})["sum"]) + sum(sums) / len(sums)

    # -- loss ---------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        # For the log and for error messages; `forward` does not take them.
        levels, draws = inputs.pop("noise_levels"), inputs.pop("draws")
        outputs = model(**inputs, return_logits=self._needs_logits and not model.training)
        # Before the backward pass: the weights and the last checkpoint are still good.
        if not torch.isfinite(outputs.loss):
            raise FloatingPointError(
                f"The loss of step {self.state.global_step + 1} is not a number. Its batch held the samples "
                f"{self._sample_numbers(draws)}: look at them, or take a smaller learning_rate."
            )
        # (): the mean over the batch's samples becomes its part of the mean over the step.
        loss = outputs.loss * self._share_of_step(outputs, num_items_in_batch)
        if model.training:
            self._loss_sum += float(loss.detach())
            # Noised copies count as tokens: they are computed like any other.
            self._tokens += int(inputs["attention_mask"].sum())
            self._positions += inputs["attention_mask"].numel()
        self._record(self._means[model.training], outputs, inputs, levels)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any) -> Any:
        # All logits take much memory: only for `predict`, or a metric that the user gave.
        self._needs_logits = not prediction_loss_only
        return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)

    def _sample_numbers(self, draws: torch.Tensor) -> str:
        # A draw counts samples over all epochs.
        count = len(self.train_dataset) if isinstance(self.train_dataset, Sized) else None
        return ", ".join(str(draw % count if count else draw) for draw in draws.tolist())

    def _share_of_step(self, outputs: Any, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
        """Weight of a batch in the mean over the step, times the processes, which average their gradients."""
        if num_items_in_batch is None:
            return 1.0
        return outputs.num_samples * self.accelerator.num_processes / num_items_in_batch

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor | None:
        """Number of samples in a step, over all processes."""
        if not batch_samples:
            return None
        # Counted by where samples start, as `forward` does: a packed row holds several.
        count = sum(sample_ids(batch["order_ids"], batch["start_ids"])[1] for batch in batch_samples)
        return self.accelerator.reduce(torch.tensor(count, device=device), reduction="sum")

    # -- data ---------------------------------------------------------------------------------------------------------

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        # A stream has no indices: the collator numbers its samples in order.
        if isinstance(dataset, Sized):
            dataset = NumberedDataset(dataset)
        if kwargs.get("is_training"):
            return super()._get_dataloader(dataset, *args, **kwargs)
        collator: Any = self.data_collator  # type: ignore[has-type]
        try:
            # A new one each time, which numbers the samples of a stream from 0.
            self.data_collator = dataclasses.replace(self.eval_collator)
            return super()._get_dataloader(dataset, *args, **kwargs)
        finally:
            self.data_collator = collator

    def _get_train_sampler(self, train_dataset: NumberedDataset) -> Sampler[int]:
        # The Trainer's own grouping ignores turns of processes, and takes the batches of a group by falling length.
        return LengthGroupedSampler(
            train_dataset.lengths, self._train_batch_size, self.args.seed, processes=self.args.world_size
        )

    # -- log ----------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        now = time.monotonic()
        if "train_loss" in logs:
            logs["train_loss"] = self._sum_of_losses() / max(self.state.global_step, 1)
        # Entries of an evaluation or of sample replies come between those of training, which the means belong to.
        if not logs.keys() & {"loss", "train_loss"}:
            super().log(logs, start_time)
            return
        # Nothing was computed since the last entry, as at the end of a training: there is nothing to average.
        if self._positions:
            logs.update(_of_targets(self._means[True].take()))
            logs["tokens_per_second"] = round(self._tokens / (now - self._logged_at), 1)
            logs["padding"] = round(1 - self._tokens / self._positions, 4)
        self._positions = self._tokens = 0
        self._logged_at = now
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """See `Trainer.evaluation_loop`; adds losses and accuracies of text and audio."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = _of_targets(self._means[False].take(every_process=True))
        if output.metrics is not None and means:
            # The Trainer weights batches by their rows, which may hold any number of samples.
            means["loss"] = means.get("text_loss", 0.0) + means.get("audio_loss", 0.0)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def _record(self, means: Means, outputs: Any, inputs: dict[str, torch.Tensor], levels: torch.Tensor) -> None:
        """Adds losses and accuracies of a batch; `levels` are the noise levels of its positions."""
        # Over all samples, with text or audio or without: they do not depend on batches, and their sum is the loss.
        for name in ("text_loss", "audio_loss"):
            means.add(name, getattr(outputs, name).detach() * outputs.num_samples, int(outputs.num_samples))
        means.add("text_accuracy", outputs.text_correct.sum(), outputs.text_correct.numel())
        is_target = inputs["audio_loss_weights"] > 0
        if not is_target.any():
            return
        # In the order of `audio_correct`, which holds the audio targets row by row.
        levels, targets = levels[is_target], inputs["labels"][is_target]
        counted = levels > 0  # without the end markers that fill a canvas
        ends = torch.tensor(self._end_ids(), device=targets.device)
        is_end = counted & torch.isin(targets, ends)
        means.add("end_accuracy", outputs.audio_correct[is_end].sum(), int(is_end.sum()))
        # The highest level, 1, belongs to the last bin.
        bins = (levels * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
        for number in range(NOISE_BINS):
            correct = outputs.audio_correct[counted & (bins == number)]
            low, high = (100 * edge // NOISE_BINS for edge in (number, number + 1))
            means.add(f"audio_accuracy_{low}_{high}", correct.sum(), correct.numel())

    def _end_ids(self) -> list[int]:
        return self.accelerator.unwrap_model(self.model).config.end_audio_token_ids or []


def _of_targets(means: dict[str, float]) -> dict[str, float]:
    """Leaves out the losses that nothing was a target of: their 0 would look like a perfect prediction."""
    has = {kind: any(name.startswith(f"{kind}_accuracy") for name in means) for kind in ("text", "audio")}
    return {name: value for name, value in means.items() if has.get(name.removesuffix("_loss"), True)}
