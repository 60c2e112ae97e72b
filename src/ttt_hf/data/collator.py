"""The collator: pads samples to batches and draws the diffusion noise, so that `forward` gets it as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch

from ..modeling.configuration_ttt import TtTConfig
from ..modeling.masking_ttt import NO_ORDER, audio_block_ids
from .samples import IGNORE
from .variants import draw_variants


OBJECTIVES = ("two_stream", "paper", "ar", "nar")
# Copies of each span in evaluation: one noise level for each fifth of [0, 1).
EVALUATION_COPIES = 5
# Spans of up to so many codes are never truncated.
UNTRUNCATED_CODES = 10

# A sample, or a row of the batch: arrays of one number per position, by the names that `forward` has for them.
Arrays = dict[str, np.ndarray]


@dataclass
class _Canvas:
    """A noised copy of one span.

    Args:
        ids: What the model reads.
        targets: The original ids at masked positions, -100 elsewhere.
        weights: Weight of each position in the loss.
        levels: Masking probability at masked positions, 0 elsewhere and at filler.
        block: Number of each position's block within the copy.
    """

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    block: np.ndarray


@dataclass
class TtTDataCollator:
    """Pads samples to a batch and draws the diffusion noise, so that `forward` is a pure function of its inputs.

    With `objective="two_stream"` a row is the clean sequence followed by noised copies of its response audio:

        clean   <user> ... <assistant> text [ a a a a e ] text [ a a a e ]    text is learned here, after clean audio
        noised                              [ a _ a _ e ]      [ a a _ _ ]    audio is learned here
        position                            same as above      same as above

    A copy sees the clean tokens before its span and itself: exactly what the model sees at inference. With
    `block_canvas` it is also shaped like the canvas of inference: blocks before a random one are finished, that block
    is noised, nothing follows it, and positions after the end marker repeat the end marker. With `objective="paper"`
    the one sequence is noised in place (arXiv 2509.20072, section 3; official `modeling_qwen_TtT.py`), with BANOM and
    PPM.

    Two baselines of the paper's ablation are limits of the same scheme. With `objective="ar"` a copy masks its whole
    span, and blocks of one position (the model's `audio_attention` must be `"block_causal"`, its `audio_block_length`
    1) see what lies before them: audio is autoregressive, too. With `objective="nar"` a copy holds a full reply, text
    and audio, and nothing is learned autoregressively.

    The noise depends only on `seed` and the numbers `draw` of the batch's samples, not on worker processes or
    interruptions; [`NumberedDataset`] gives every draw of every epoch its own number. Samples without one are numbered
    in order.

    Where recordings of the user have variants, each draw takes one of them, or the plain one.

    Several samples may share a row ([`pack_samples`]): they do not see each other, and each counts as one.

    Args:
        config: Names the audio ids, the kind of audio attention and the block length.
        pad_token_id: Id of padding, which the attention mask hides.
        objective: `"two_stream"`, `"paper"`, `"ar"` or `"nar"`.
        noise_copies: Noised copies of each span (`two_stream`) or reply (`nar`); their noise levels are antithetic.
        complementary: Every second copy noises exactly what the copy before it left clean, so that each pair learns
            every position (needs an even number of copies).
        noise_per: `"sample"` or `"span"`: whether all spans of a sample share one noise level.
        weighting: `"inverse"` weights a masked position by the inverse of the noise level, which makes the loss a
            bound of the likelihood; `"flat"` weights all the same.
        block_canvas: Shape each copy like the canvas of inference (`two_stream`, `nar`).
        filler_weight: Weight of the repeated end markers after the end of a span.
        clean_batch_probability: BANOM: share of batches left clean (`paper`).
        prefix_preservation: PPM: share of samples whose first spans stay clean (`paper`).
        span_truncation: SST: share of samples whose last span is cut at a random position, anew in each draw, so that
            the model does not learn typical lengths of spans.
        minimum_noise: Smallest probability of masking a position.
        fixed_levels: Whether the copies of a sample have noise levels of their own, one in each of `noise_copies`
            equal parts of [0, 1), which depend on the sample's number alone; by default a batch shares its levels.
        seed: Seed of the noise; no other random state is read or touched.
    """

    config: TtTConfig
    pad_token_id: int
    objective: str = "two_stream"
    noise_copies: int = 1
    complementary: bool = False
    noise_per: str = "sample"
    weighting: str = "inverse"
    block_canvas: bool = True
    filler_weight: float = 0.1
    clean_batch_probability: float = 0.3
    prefix_preservation: float = 0.3
    span_truncation: float = 0.0
    minimum_noise: float = 1e-3
    fixed_levels: bool = False
    seed: int = 0
    _numbers: count = field(default_factory=count, init=False, repr=False)

    def __post_init__(self) -> None:
        choices = {
            "objective": OBJECTIVES,
            "noise_per": ("sample", "span"),
            "weighting": ("inverse", "flat"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}.")
        # Copies come in pairs of a mask and its complement, and `ar` masks everything: a second copy adds nothing.
        if self.noise_copies < 1:
            raise ValueError(f"noise_copies must be at least 1, got {self.noise_copies}.")
        if self.complementary and self.noise_copies % 2:
            raise ValueError(f"complementary needs an even number of noise_copies, got {self.noise_copies}.")
        if self.objective == "ar":
            if self.config.attention_block_length != 1:
                raise ValueError(
                    "The objective 'ar' needs a model that speaks code by code: set audio_attention to 'block_causal' "
                    "and audio_block_length to 1."
                )
            if self.noise_copies > 1:
                raise ValueError("The objective 'ar' has no noise: noise_copies must be 1.")

    @classmethod
    def for_evaluation(cls, config: TtTConfig, pad_token_id: int) -> TtTDataCollator:
        """The noise that all evaluations share, whatever the objective, seed or batch size of the training.

        Text is predicted after clean audio, and every span after a clean prefix, once at each of `EVALUATION_COPIES`
        noise levels. Losses of trainings can so be compared, and the loss of one sample does not depend on others.

        Args:
            config: As in training; the kind of attention is that of the evaluation.
        """
        return cls(config, pad_token_id, noise_copies=EVALUATION_COPIES, fixed_levels=True)

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            features: Samples with `input_ids` and `labels` of equal length (-100 at the prompt), and optionally
                `draw`, the number that seeds their noise, and `variants` of their recordings; or rows of several
                samples with their lengths in `sample_lengths`.

        Returns:
            Arguments of `TtTForConditionalGeneration.forward`, all of shape `(batch, length)`, and for logging
            `noise_levels` (float, of the same shape: the masking probability at masked positions, 0 elsewhere) and
            `draws` of shape `(batch,)`.

        Raises:
            ValueError: If ids and labels, or the lengths of the samples in a row, do not agree.
        """
        # 1. Every sample and variant has a generator of its own, seeded by its number.
        # The second number of a seed keeps streams apart: 0 for the batch, 1 for the noise, 2 for the variants.
        draws = [int(feature["draw"]) if "draw" in feature else next(self._numbers) for feature in features]
        drawn = [draw_variants(row, np.random.default_rng([self.seed, 2, n])) for row, n in zip(features, draws)]
        rows = [_samples_of(row) for row in drawn]
        # 2. A batch shares BANOM and noise levels that cover [0, 1) evenly, which lowers the variance of the loss.
        batch_rng = np.random.default_rng([self.seed, 0, *draws])
        clean = batch_rng.random() < self.clean_batch_probability  # BANOM: text is learned after clean audio
        total = sum(map(len, rows))
        copies = 1 if self.objective == "paper" else self.noise_copies
        # (samples, copies): levels cover [0, 1) over the batch as a whole, whichever sample gets which.
        levels = iter(_antithetic(total * copies, batch_rng).reshape(copies, total).T)
        # 3. Samples are noised one by one and joined to rows.
        batch = []
        for draw, samples in zip(draws, rows):
            rng = np.random.default_rng([self.seed, 1, draw])
            noised = []
            for sample, shared in zip(samples, levels):
                own = (np.arange(copies) + rng.random()) / copies if self.fixed_levels else shared
                noised.append(self._noise(sample, own, clean, rng))
            batch.append(_concatenate(noised))
        return {**_pad(batch, self.pad_token_id), "draws": torch.tensor(draws)}

    def _noise(self, sample: Arrays, levels: np.ndarray, clean: bool, rng: np.random.Generator) -> Arrays:
        if rng.random() < self.span_truncation:
            sample = self._truncate(sample, rng)
        if self.objective == "paper":
            return self._paper(sample, float(levels[0]), clean, rng)
        return self._two_stream(sample, levels, rng)

    # -- two_stream ---------------------------------------------------------------------------------------------------

    def _two_stream(self, sample: Arrays, levels: np.ndarray, rng: np.random.Generator) -> Arrays:
        ids, labels = sample["input_ids"], sample["labels"]
        spans = self._response_spans(labels)
        # Audio of the clean sequence keeps its labels, but has no weight: `forward` counts only weighted audio.
        clean = self._clean(ids, np.full_like(labels, IGNORE) if self.objective == "nar" else labels)
        pieces = [clean]
        # A clean block has the index of its first token as id (see `audio_block_ids`); copies are numbered after them.
        next_block = int(clean["block_ids"].max(initial=-1)) + 1
        for start, end in spans:
            for block, level, numbers in self._noisings(levels, end - start, rng):
                canvas = self._draw_canvas(ids[start:end], block, level, numbers)
                size = len(canvas.ids)
                pieces.append(
                    {
                        "input_ids": canvas.ids,
                        "labels": canvas.targets,
                        # The positions of the original: a copy stands where its span does.
                        "position_ids": start + np.arange(size),
                        "block_ids": next_block + canvas.block,
                        # By order, no other token sees a copy; only its own block does.
                        "order_ids": np.full(size, NO_ORDER),
                        "start_ids": np.zeros(size, dtype=np.int64),
                        # A block-causal canvas sees the clean tokens before its block, a span canvas those before its
                        # span.
                        "horizon_ids": start + canvas.block * self.config.audio_block_length,
                        # A mean over spans and copies: samples with more spans do not weigh more.
                        "audio_loss_weights": canvas.weights / (len(spans) * self.noise_copies),
                        "noise_levels": canvas.levels,
                    }
                )
                next_block += int(canvas.block.max()) + 1
        # (clean length + lengths of all copies,)
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in clean}

    def _noisings(
        self, levels: np.ndarray, span_length: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, float, np.ndarray]]:
        """For each copy of a span: the block that is noised, the noise level, and a number in [0, 1) for each
        position, which is masked if the number is below the level.
        """
        blocks = -(-span_length // self.config.audio_block_length)
        if self.objective == "ar":
            # Blocks of one position: there are as many as positions, and numbers of 0 mask each of them.
            yield blocks - 1, 1.0, np.zeros(blocks)
            return
        # Copies take different blocks while there are any. Block-causal blocks do not see each other's noise, so one
        # copy noises all of them.
        noises_all = self._block_causal or not self.block_canvas
        order = [blocks - 1] if noises_all else rng.permutation(blocks).tolist()
        together = 2 if self.complementary else 1
        # With a level per span, the sample's levels are rotated by a random amount for each span.
        shift = rng.random() if self.noise_per == "span" else 0.0
        level, numbers = 0.0, np.zeros(0)
        for copy, t in enumerate(levels):
            if copy % together:
                # Mirrored numbers are below the mirrored level where the first copy's were not: the complement.
                level, numbers = 1 - level, 1 - numbers
            else:
                level = self._masking_probability((t + shift) % 1)
                numbers = rng.random(blocks * self.config.audio_block_length)
            # A pair noises the same block; with more pairs than blocks, the order starts over.
            yield order[copy // together % len(order)], level, numbers

    def _draw_canvas(self, span: np.ndarray, block: int, level: float, numbers: np.ndarray) -> _Canvas:
        """Noises one copy of `span` (its codes and, unless it was cut, its end marker; for `nar` also text)."""
        size = self.config.audio_block_length
        targets = span
        filler = np.zeros(len(span), dtype=bool)
        noised = np.ones(len(span), dtype=bool)
        # 1. What the canvas holds: finished blocks, the noised one, nothing after it.
        if self.block_canvas:
            first_noised = 0 if self._block_causal else block * size
            targets = span[: (block + 1) * size]
            missing = (block + 1) * size - len(targets)
            # Decoding denoises full blocks, so what follows the end marker in its block needs a target, too. A span
            # that was cut has no end marker, and stops where it was cut.
            if span[-1] in self._end_ids:
                targets = np.concatenate([targets, np.full(missing, span[-1])])
            filler = np.arange(len(targets)) >= len(span)
            noised = np.arange(len(targets)) >= first_noised
        # 2. What is masked. Filler takes part, but cannot be all that a copy has to learn.
        numbers = numbers[: len(targets)]
        masked = noised & (numbers < level)
        counted = noised & ~filler
        if not (masked & counted).any():
            # The position closest to being masked: a copy in which nothing is learned would be wasted.
            masked[np.where(counted, numbers, np.inf).argmin()] = True
        # 3. Weights and levels, of shape (canvas length,).
        # The mean over masked positions is the 1/t weighting without its variance: their number is about t * length.
        learned = (masked & counted).sum() if self.weighting == "inverse" else counted.sum()
        return _Canvas(
            ids=np.where(masked, self.config.mask_token_id, targets),
            targets=np.where(masked, targets, IGNORE),
            weights=np.where(masked, np.where(filler, self.filler_weight, 1.0), 0.0) / learned,
            # Filler is not logged as accuracy: it would hide how well codes are predicted.
            levels=np.where(masked & counted, level, 0.0),
            block=np.arange(len(targets)) // size if self._block_causal else np.zeros(len(targets), dtype=np.int64),
        )

    # -- paper --------------------------------------------------------------------------------------------------------

    def _paper(self, sample: Arrays, t: float, clean: bool, rng: np.random.Generator) -> Arrays:
        ids, labels = sample["input_ids"], sample["labels"]
        spans = self._response_spans(labels)
        # PPM: the spans before a random one stay clean.
        if spans and rng.random() < self.prefix_preservation:
            spans = spans[rng.integers(len(spans)) :]
        # Level 0 is never masked: text, prompts, and the spans that PPM keeps.
        levels = np.zeros(len(ids))
        for start, end in spans:
            shift = rng.random() if self.noise_per == "span" else 0.0
            levels[start:end] = self._masking_probability((t + shift) % 1)
        masked = (rng.random(len(ids)) < levels) & (not clean)
        noise_levels = np.where(masked, levels, 0.0)
        # 1 / t, divided below by the number of positions that could be masked, not by that of masked ones.
        weights = np.divide(masked, levels, out=np.zeros(len(ids)), where=masked)
        return {
            **self._clean(ids, labels),
            "input_ids": np.where(masked, self.config.mask_token_id, ids),
            "audio_loss_weights": (weights if self.weighting == "inverse" else masked) / max((levels > 0).sum(), 1),
            "noise_levels": noise_levels,
        }

    # -- shared -------------------------------------------------------------------------------------------------------

    @property
    def _block_causal(self) -> bool:
        return self.config.audio_attention == "block_causal"

    def _masking_probability(self, t: float) -> float:
        return (1 - self.minimum_noise) * t + self.minimum_noise

    def _clean(self, ids: np.ndarray, labels: np.ndarray) -> Arrays:
        """Arguments of `forward` for the clean sequence."""
        # Without a block length, all of a span is one block and sees itself in both directions.
        block_length = self.config.audio_block_length if self._block_causal else None
        blocks = audio_block_ids(torch.from_numpy(ids)[None], self.config.audio_token_start_id, block_length)
        index = np.arange(len(ids))
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": index,
            "block_ids": blocks[0].numpy(),
            "order_ids": index,
            "start_ids": np.zeros_like(index),
            # By order, a token sees itself and those before it; its block adds the audio after it.
            "horizon_ids": index + 1,
            "audio_loss_weights": np.zeros(len(ids)),
            "noise_levels": np.zeros(len(ids)),
        }

    @property
    def _end_ids(self) -> list[int]:
        """Ids that end a span or, where full replies are noised, a reply."""
        if self.objective != "nar":
            return self.config.end_audio_token_ids or []
        eos = self.config.get_text_config().eos_token_id
        return eos if isinstance(eos, list) else [eos]

    def _response_spans(self, labels: np.ndarray) -> list[tuple[int, int]]:
        """Start and end of what is noised: see `diffused_runs`."""
        return diffused_runs(labels, self.config, self.objective)

    def _truncate(self, sample: Arrays, rng: np.random.Generator) -> Arrays:
        """SST: cuts the sample between 30 % and 90 % of the codes of its last span."""
        spans = self._response_spans(sample["labels"])
        if not spans:
            return sample
        start, end = spans[-1]
        # The last position of a run is its end marker, which is always cut off: no wrong end is learned.
        codes = end - start - 1
        if codes <= UNTRUNCATED_CODES:
            return sample
        # Everything after the cut goes, too: it would follow a reply that has not ended.
        kept = int(rng.integers(max(int(0.3 * codes), 5), int(0.9 * codes), endpoint=True))
        return {name: values[: start + kept] for name, values in sample.items()}


def diffused_runs(labels: Sequence[int] | np.ndarray, config: TtTConfig, objective: str) -> list[tuple[int, int]]:
    """Finds what an objective noises: the spans of audio in replies (codes and end marker), or full replies (`nar`).

    Args:
        labels: Labels of a sample, -100 where nothing is learned.
        config: Names the audio ids.
        objective: See `TtTDataCollator`.

    Returns:
        Start and end of each maximal run.
    """
    # IGNORE is negative, and so below either bound.
    lowest = 0 if objective == "nar" else config.audio_token_start_id
    inside = np.asarray(labels, dtype=np.int64) >= lowest
    # Edges alternate: the start of a run, then the position after its end.
    edges = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


# Values that padding is ignored by: no label, no block, and an order that no query sees.
_FILL = {"labels": IGNORE, "block_ids": -1, "order_ids": NO_ORDER}


def _samples_of(feature: dict[str, Any]) -> list[Arrays]:
    """The samples of a row: one, or those of `sample_lengths`."""
    row = {name: np.asarray(feature[name], dtype=np.int64) for name in ("input_ids", "labels")}
    lengths = feature.get("sample_lengths") or [len(row["input_ids"])]
    if not sum(lengths) == len(row["input_ids"]) == len(row["labels"]):
        raise ValueError("A sample's input_ids and labels must have the same length, that of its sample_lengths.")
    ends = np.cumsum(lengths)[:-1]
    parts = {name: np.split(values, ends) for name, values in row.items()}
    return [dict(zip(parts, sample)) for sample in zip(*parts.values())]


def _antithetic(count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers spread evenly over [0, 1) with one common random shift, in random order."""
    return rng.permutation((rng.random() + np.arange(count) / max(count, 1)) % 1.0)


def _concatenate(samples: list[Arrays]) -> Arrays:
    """Joins samples to one row. Orders and blocks are shifted by the position in the row, so that they are unique."""
    start = 0
    for sample in samples:
        sample["order_ids"] = np.where(sample["order_ids"] == NO_ORDER, NO_ORDER, sample["order_ids"] + start)
        # Ids of blocks are smaller than the sample's length, copies included, so shifted ones cannot collide.
        # Positions are not shifted: each sample starts at 0, as it does alone in a row.
        sample["block_ids"] = np.where(sample["block_ids"] < 0, -1, sample["block_ids"] + start)
        sample["start_ids"] = sample["start_ids"] + start
        sample["horizon_ids"] = sample["horizon_ids"] + start
        start += len(sample["input_ids"])
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def _pad(rows: list[Arrays], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-pads rows to the longest; padding has no block, order or weight: nothing sees or counts it."""
    length = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, torch.Tensor] = {}
    for name in rows[0]:
        fill = pad_token_id if name == "input_ids" else _FILL.get(name, 0)
        # (batch, length)
        padded = np.stack([np.pad(row[name], (0, length - len(row[name])), constant_values=fill) for row in rows])
        batch[name] = torch.from_numpy(padded).to(torch.float32 if padded.dtype.kind == "f" else torch.long)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(length)[None, :] < lengths[:, None]).long()
    return batch
