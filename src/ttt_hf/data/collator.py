"""The collator that draws the noise: it turns samples into padded batches that hold everything `forward` needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..modeling.configuration_ttt import TtTConfig
from ..modeling.masking_ttt import NO_ORDER, audio_block_ids


IGNORE = -100


@dataclass
class _Canvas:
    """A noised copy of one span: what the model reads, what it should find, and how much each position counts."""

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    block: np.ndarray


@dataclass
class TtTDataCollator:
    """
    Pads samples to a batch and draws the diffusion noise, so that `forward` is a pure function of its inputs.

    With `objective="two_stream"` a row is the clean sequence followed by noised copies of its response audio:

        clean   <user> ... <assistant> text [ a a a a e ] text [ a a a e ]    text is learned here, behind clean audio
        noised                              [ a _ a _ e ]      [ a a _ _ ]    audio is learned here
        position                            same as above      same as above

    A copy sees the clean tokens before its span and itself: exactly what inference meets at that point. With
    `block_canvas` it is also cut like inference's canvas: blocks before a random one are finished, that block is
    noised, nothing is behind it, and places behind the end marker hold the end marker again. With `objective="paper"`
    the one sequence is noised in place (arXiv 2509.20072, section 3; official `modeling_qwen_TtT.py`), with BANOM and
    PPM.

    Args:
        config (`TtTConfig`): Names the audio ids, the kind of audio attention and the block length.
        pad_token_id (`int`): Id that fills rows up; padding is hidden by the attention mask.
        objective (`str`, defaults to `"two_stream"`): `"two_stream"` or `"paper"`.
        noise_copies (`int`, defaults to 1): Noised copies of each span (`two_stream`); their noise levels are
            antithetic.
        block_canvas (`bool`, defaults to `True`): Cut each copy like inference's canvas (`two_stream`).
        filler_weight (`float`, defaults to 0.1): Weight of the repeated end markers behind a span's end.
        clean_batch_probability (`float`, defaults to 0.3): BANOM: share of batches left clean (`paper`).
        prefix_preservation (`float`, defaults to 0.3): PPM: share of samples whose first spans stay clean (`paper`).
        minimum_noise (`float`, defaults to 1e-3): Smallest probability of masking a position.
        seed (`int`, defaults to 0): Seed of the collator's own generator; no other random state is touched.
    """

    config: TtTConfig
    pad_token_id: int
    objective: str = "two_stream"
    noise_copies: int = 1
    block_canvas: bool = True
    filler_weight: float = 0.1
    clean_batch_probability: float = 0.3
    prefix_preservation: float = 0.3
    minimum_noise: float = 1e-3
    seed: int = 0
    generator: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.objective not in ("two_stream", "paper"):
            raise ValueError(f"objective must be 'two_stream' or 'paper', got {self.objective!r}.")
        if self.noise_copies < 1:
            raise ValueError(f"noise_copies must be at least 1, got {self.noise_copies}.")
        self.generator = np.random.default_rng(self.seed)

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            features (`Sequence[dict]`): Samples with `input_ids` and `labels` (equal lengths; -100 marks the prompt).

        Returns:
            `dict[str, torch.Tensor]`: What `TtTForConditionalGeneration.forward` takes, all of shape `(batch,
            length)`, and `noise_levels` (float, the masking probability at masked positions, 0 elsewhere) for logging.

        Raises:
            ValueError: If a sample's ids and labels differ in length.
        """
        for feature in features:
            if len(feature["input_ids"]) != len(feature["labels"]):
                raise ValueError("A sample's input_ids and labels must have the same length.")
        rows = [
            {name: np.asarray(feature[name], dtype=np.int64) for name in ("input_ids", "labels")}
            for feature in features
        ]
        return self._two_stream(rows) if self.objective == "two_stream" else self._paper(rows)

    # -- two_stream ---------------------------------------------------------------------------------------------------

    def _two_stream(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        levels = self._antithetic_levels(len(rows) * self.noise_copies).reshape(self.noise_copies, len(rows))
        return _pad([self._two_stream_row(row, levels[:, index]) for index, row in enumerate(rows)], self.pad_token_id)

    def _two_stream_row(self, row: dict[str, np.ndarray], levels: np.ndarray) -> dict[str, np.ndarray]:
        ids, labels = row["input_ids"], row["labels"]
        length = len(ids)
        index = np.arange(length)
        parts = {
            "input_ids": [ids],
            "labels": [labels],
            "position_ids": [index],
            "block_ids": [self._block_ids(ids)],
            "order_ids": [index],
            "horizon_ids": [index + 1],
            "audio_loss_weights": [np.zeros(length)],
            "noise_levels": [np.zeros(length)],
        }
        next_block = int(parts["block_ids"][0].max(initial=-1)) + 1
        spans = self._response_spans(ids, labels)
        for start, end in spans:
            chosen = self._blocks_to_noise(end - start)
            for copy, level in enumerate(levels):
                canvas = self._draw_canvas(ids[start:end], chosen[copy % len(chosen)], level)
                size = len(canvas.ids)
                # A block-causal canvas sees the clean tokens before its block, a span canvas those before its span.
                horizon = start + canvas.block * self.config.audio_block_length
                parts["input_ids"].append(canvas.ids)
                parts["labels"].append(canvas.targets)
                parts["position_ids"].append(start + np.arange(size))
                parts["block_ids"].append(next_block + canvas.block)
                parts["order_ids"].append(np.full(size, NO_ORDER))
                parts["horizon_ids"].append(horizon)
                parts["audio_loss_weights"].append(canvas.weights / (len(spans) * self.noise_copies))
                parts["noise_levels"].append(np.where(canvas.weights > 0, level, 0.0))
                next_block += int(canvas.block.max()) + 1
        return {name: np.concatenate(pieces) for name, pieces in parts.items()}

    def _blocks_to_noise(self, span_length: int) -> list[int]:
        """The blocks of a span that its copies are noised in, a new one for each copy as far as they go."""
        blocks = -(-span_length // self.config.audio_block_length)
        # Block-causal blocks do not see each other's noise, so that one copy noises all of them.
        if not self.block_canvas or self._block_causal:
            return [blocks - 1]
        return self.generator.permutation(blocks).tolist()

    def _draw_canvas(self, span: np.ndarray, block: int, level: float) -> _Canvas:
        """Noises one copy of `span` (codes and, unless it was cut, its end marker) at `level`."""
        size = self.config.audio_block_length
        targets = span
        filler = np.zeros(len(span), dtype=bool)
        noised = np.ones(len(span), dtype=bool)
        if self.block_canvas:
            first_noised = 0 if self._block_causal else block * size
            targets = span[: (block + 1) * size]
            missing = (block + 1) * size - len(targets)
            if span[-1] in (self.config.end_audio_token_ids or []):
                targets = np.concatenate([targets, np.full(missing, span[-1])])
            filler = np.arange(len(targets)) >= len(span)
            noised = np.arange(len(targets)) >= first_noised
        masked = noised & (self.generator.random(len(targets)) < level)
        if not (masked & ~filler).any():
            masked[self.generator.choice(np.flatnonzero(noised & ~filler))] = True
        # The mean over masked positions is the 1/t weighting without its variance: their number is about t * length.
        weights = np.where(masked, np.where(filler, self.filler_weight, 1.0), 0.0) / (masked & ~filler).sum()
        return _Canvas(
            ids=np.where(masked, self.config.mask_token_id, targets),
            targets=np.where(masked, targets, IGNORE),
            weights=weights,
            block=np.arange(len(targets)) // size if self._block_causal else np.zeros(len(targets), dtype=np.int64),
        )

    # -- paper --------------------------------------------------------------------------------------------------------

    def _paper(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        levels = self._antithetic_levels(len(rows))
        clean = self.generator.random() < self.clean_batch_probability  # BANOM: text is learned behind clean audio
        return _pad([self._paper_row(row, level, clean) for row, level in zip(rows, levels)], self.pad_token_id)

    def _paper_row(self, row: dict[str, np.ndarray], level: float, clean: bool) -> dict[str, np.ndarray]:
        ids, labels = row["input_ids"], row["labels"]
        spans = self._response_spans(ids, labels)
        # PPM: the spans before a random one stay clean.
        if spans and self.generator.random() < self.prefix_preservation:
            spans = spans[self.generator.integers(len(spans)) :]
        maskable = np.zeros(len(ids), dtype=bool)
        for start, end in spans:
            maskable[start:end] = True
        masked = maskable & (self.generator.random(len(ids)) < level) & (not clean)
        index = np.arange(len(ids))
        return {
            "input_ids": np.where(masked, self.config.mask_token_id, ids),
            "labels": labels,
            "position_ids": index,
            "block_ids": self._block_ids(ids),
            "order_ids": index,
            "horizon_ids": index + 1,
            "audio_loss_weights": masked / level / max(int(maskable.sum()), 1),
            "noise_levels": np.where(masked, level, 0.0),
        }

    # -- shared -------------------------------------------------------------------------------------------------------

    @property
    def _block_causal(self) -> bool:
        return self.config.audio_attention == "block_causal"

    def _antithetic_levels(self, count: int) -> np.ndarray:
        """Noise levels, spread evenly over (minimum_noise, 1) with one common random shift, in random order."""
        t = (self.generator.random() + np.arange(count) / max(count, 1)) % 1.0
        return self.generator.permutation((1 - self.minimum_noise) * t + self.minimum_noise)

    def _block_ids(self, ids: np.ndarray) -> np.ndarray:
        block_length = self.config.audio_block_length if self._block_causal else None
        blocks = audio_block_ids(torch.from_numpy(ids)[None], self.config.audio_token_start_id, block_length)
        return blocks[0].numpy()

    def _response_spans(self, ids: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
        """Maximal runs of audio ids (codes and end marker) that the labels cover, as (start, end)."""
        audio = (ids >= self.config.audio_token_start_id) & (labels != IGNORE)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], audio.astype(np.int8), [0]])))
        return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


_FILL = {"labels": IGNORE, "block_ids": -1, "order_ids": NO_ORDER}


def _pad(rows: list[dict[str, np.ndarray]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-pads rows to the longest; padding has no block, no order and no weight: nothing sees or counts it."""
    length = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, torch.Tensor] = {}
    for name in rows[0]:
        fill = pad_token_id if name == "input_ids" else _FILL.get(name, 0)
        padded = np.stack([np.pad(row[name], (0, length - len(row[name])), constant_values=fill) for row in rows])
        batch[name] = torch.from_numpy(padded).to(torch.float32 if padded.dtype.kind == "f" else torch.long)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(length)[None, :] < lengths[:, None]).long()
    return batch
