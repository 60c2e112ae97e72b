"""Transformers' Trainer for TtT: exact averages over samples, and a log that tells text and audio apart."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sized
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer

from ..data import LengthGroupedSampler, NumberedDataset
from ..modeling.loss_ttt import sample_ids


NOISE_BINS = 5


class TtTTrainer(Trainer):
    """
    Trains a TtT on batches of `TtTDataCollator`.

    The loss of a step is the mean over all of its samples: those of all processes and all accumulated batches, packed
    or not, count the same, so that eight accumulated batches of one sample make the step of one batch of eight.

    Besides transformers' own log it reports, averaged since the last log: `text_loss`, `audio_loss`, `text_accuracy`,
    `audio_accuracy_0_20` ... `audio_accuracy_80_100` (how many masked positions were found, by the share of masked
    positions in percent), `end_accuracy` (the same for the markers that end a span), `tokens_per_second` (of this
    process, noised copies included) and `padding` (its share of the computed positions). Batches hold samples of
    similar length (column `length` of the dataset). Set `remove_unused_columns=False` in its arguments, since the
    collator names the inputs of `forward`.
    """

    # compute_loss divides by the samples of the whole step, so nothing is left to divide by the number of batches.
    loss_is_scaled_for_ga: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self._positions = self._tokens = 0
        self._logged_at = time.monotonic()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; when interrupted (Ctrl-C), it saves a checkpoint, from which the next call goes on."""
        try:
            return super().train(*args, **kwargs)
        except KeyboardInterrupt:
            if self.state.global_step:
                self._save_checkpoint(self.model, trial=None)
            raise

    # -- loss ---------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        levels, draws = inputs.pop("noise_levels"), inputs.pop("draws")
        outputs = model(**inputs)
        if not torch.isfinite(outputs.loss):
            raise FloatingPointError(
                f"The loss of step {self.state.global_step + 1} is not a number. Its batch held the samples "
                f"{self._sample_numbers(draws)}: look at them, or take a smaller learning_rate."
            )
        loss = outputs.loss * self._share_of_step(outputs, num_items_in_batch)
        if model.training:
            self._record(outputs, inputs, levels)
        return (loss, outputs) if return_outputs else loss

    def _sample_numbers(self, draws: torch.Tensor) -> str:
        count = len(self.train_dataset) if isinstance(self.train_dataset, Sized) else None
        return ", ".join(str(draw % count if count else draw) for draw in draws.tolist())

    def _share_of_step(self, outputs: Any, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
        """Weight of a batch's mean in the mean over the step, times the processes, whose gradients are averaged."""
        if num_items_in_batch is None:
            return 1.0
        return outputs.num_samples * self.accelerator.num_processes / num_items_in_batch

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor | None:
        """The number of samples in a step, those of all processes together."""
        if not batch_samples:
            return None
        count = sum(sample_ids(batch["order_ids"], batch["start_ids"])[1] for batch in batch_samples)
        return self.accelerator.reduce(torch.tensor(count, device=device), reduction="sum")

    # -- data ---------------------------------------------------------------------------------------------------------

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        if isinstance(dataset, Sized):  # a stream is not: the collator numbers its samples
            dataset = NumberedDataset(dataset)
        return super()._get_dataloader(dataset, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: NumberedDataset) -> Sampler[int]:
        return LengthGroupedSampler(
            train_dataset.lengths, self._train_batch_size, self.args.seed, processes=self.args.world_size
        )

    # -- log ----------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update({name: round(self._sums[name] / count, 4) for name, count in self._counts.items() if count})
        now = time.monotonic()
        if self._positions:
            logs["tokens_per_second"] = round(self._tokens / (now - self._logged_at), 1)
            logs["padding"] = round(1 - self._tokens / self._positions, 4)
        self._sums.clear()
        self._counts.clear()
        self._positions = self._tokens = 0
        self._logged_at = now
        super().log(logs, start_time)

    def _record(self, outputs: Any, inputs: dict[str, torch.Tensor], levels: torch.Tensor) -> None:
        self._tokens += int(inputs["attention_mask"].sum())
        self._positions += inputs["attention_mask"].numel()
        self._add("text_loss", outputs.text_loss, 1)
        self._add("text_accuracy", outputs.text_correct.sum(), outputs.text_correct.numel())
        learned = inputs["audio_loss_weights"] > 0
        if not learned.any():
            return
        self._add("audio_loss", outputs.audio_loss, 1)
        levels, targets = levels[learned], inputs["labels"][learned]
        counted = levels > 0  # not the end markers that fill up a canvas
        ends = torch.tensor(self._end_ids(), device=targets.device)
        is_end = counted & torch.isin(targets, ends)
        self._add("end_accuracy", outputs.audio_correct[is_end].sum(), int(is_end.sum()))
        bins = (levels * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
        for number in range(NOISE_BINS):
            correct = outputs.audio_correct[counted & (bins == number)]
            low, high = (100 * edge // NOISE_BINS for edge in (number, number + 1))
            self._add(f"audio_accuracy_{low}_{high}", correct.sum(), correct.numel())

    def _end_ids(self) -> list[int]:
        return self.accelerator.unwrap_model(self.model).config.end_audio_token_ids or []

    def _add(self, name: str, value: torch.Tensor, count: int) -> None:
        self._sums[name] += float(value.detach())
        self._counts[name] += count
