"""Transformers' Trainer, told to log text and audio apart and audio accuracy by noise level."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer

from ..data import LengthGroupedSampler


NOISE_BINS = 5


class TtTTrainer(Trainer):
    """
    Trains a TtT on batches of `TtTDataCollator`.

    Besides transformers' own log it reports, averaged since the last log: `text_loss`, `audio_loss`, `text_accuracy`
    and `audio_accuracy_0_20` ... `audio_accuracy_80_100`: how many masked positions were found, by the share of masked
    positions in percent. Batches hold samples of similar length (column `length` of the dataset). Set
    `remove_unused_columns=False` in its arguments, since the collator names the inputs of `forward`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        levels = inputs.pop("noise_levels")
        outputs = model(**inputs)
        if model.training:
            self._record(outputs, levels[inputs["audio_loss_weights"] > 0])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler(
            dataset["length"], self._train_batch_size, self.args.seed, processes=self.args.world_size
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs.update({name: round(self._sums[name] / count, 4) for name, count in self._counts.items() if count})
        self._sums.clear()
        self._counts.clear()
        super().log(logs, start_time)

    def _record(self, outputs: Any, levels: torch.Tensor) -> None:
        self._add("text_loss", outputs.text_loss, 1)
        self._add("text_accuracy", outputs.text_correct.sum(), outputs.text_correct.numel())
        if not levels.numel():
            return
        self._add("audio_loss", outputs.audio_loss, 1)
        bins = (levels * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
        for number in range(NOISE_BINS):
            correct = outputs.audio_correct[bins == number]
            low, high = (100 * edge // NOISE_BINS for edge in (number, number + 1))
            self._add(f"audio_accuracy_{low}_{high}", correct.sum(), correct.numel())

    def _add(self, name: str, value: torch.Tensor, count: int) -> None:
        self._sums[name] += float(value.detach())
        self._counts[name] += count
