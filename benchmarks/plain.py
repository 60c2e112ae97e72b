"""A plain implementation of the official algorithm: what `generate` is measured against, and checked against.

Batch 1, no cache, every token recomputed at every step, logits of the whole vocabulary at every position. It is
written here a second time, from the algorithm alone, so that equal ids are a check, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ttt_hf import TtTForConditionalGeneration


@dataclass(frozen=True)
class Settings:
    """Settings of greedy generation, for both implementations."""

    block_length: int
    steps_per_block: int
    max_span_length: int
    max_new_tokens: int
    min_text_tokens_after_audio: int = 0


@dataclass
class Plain:
    """A plain implementation of the official algorithm.

    Attributes:
        on_token: Called after each text token; marks the end of the prefill.
        num_forward_passes: Forwards so far.
    """

    model: TtTForConditionalGeneration
    settings: Settings
    eos_token_id: int
    on_token: Callable[[], None] = lambda: None
    num_forward_passes: int = 0

    @torch.inference_mode()
    def generate(self, prompt: list[int]) -> list[int]:
        """Answers one prompt, text token by token (1.) and audio span by span (2.); returns the new ids."""
        config, settings = self.model.config, self.settings
        # `texts_left` counts the text tokens that must follow a span before the reply may end.
        ids, texts_left = list(prompt), 0
        while len(ids) - len(prompt) < settings.max_new_tokens:
            # 1. Text is greedy, one token per forward.
            logits = self._logits(ids)[-1]
            if texts_left > 0:
                logits[self.eos_token_id] = -torch.inf
            token = int(logits.argmax())
            ids.append(token)
            self.on_token()
            texts_left = max(0, texts_left - 1)
            if token == self.eos_token_id:
                break
            # 2. A begin token opens a span, which only an end marker or the limit of the reply closes.
            if token in config.begin_audio_token_ids:
                while len(ids) - len(prompt) < settings.max_new_tokens and self._write_span(ids) is False:
                    pass
                texts_left = settings.min_text_tokens_after_audio
        return ids[len(prompt) :]

    def _write_span(self, ids: list[int]) -> bool:
        """Appends blocks up to an end marker or the span limit; returns whether there was an end marker."""
        settings, ends = self.settings, self.model.config.end_audio_token_ids
        for _ in range(settings.max_span_length // settings.block_length):
            block = self._denoise(ids)
            # What a block holds after its first end marker is dropped.
            end = next((index for index, token in enumerate(block) if token in ends), None)
            ids += block if end is None else block[: end + 1]
            if end is not None:
                return True
        return False

    def _denoise(self, ids: list[int]) -> list[int]:
        """Fills a block of mask tokens; each step keeps the most confident proposals."""
        length, steps, mask = (
            self.settings.block_length,
            self.settings.steps_per_block,
            self.model.config.mask_token_id,
        )
        block = [mask] * length
        for step in range(steps):
            # (block_length, vocabulary); a masked position proposes its own token, not the next one.
            logits = self._logits(ids + block)[-length:]
            logits[:, self.eos_token_id] = -torch.inf
            confidence, proposal = logits.softmax(dim=-1).max(dim=-1)
            # Positions that are filled already keep their token.
            confidence[torch.tensor([token != mask for token in block])] = -torch.inf
            # The first steps fill one more where the positions do not divide evenly.
            count = length // steps + (step < length % steps)
            for position in confidence.topk(count).indices.tolist():
                if block[position] == mask:
                    block[position] = int(proposal[position])
        return block

    def _logits(self, ids: list[int]) -> torch.Tensor:
        """One forward over all tokens: `(length, vocabulary)`."""
        self.num_forward_passes += 1
        input_ids = torch.tensor([ids], device=self.model.device)
        is_audio = input_ids[0] >= self.model.config.audio_token_start_id
        # Audio tokens with no text between them have the same number. They see each other, everything else is causal:
        # (length, length).
        run = (~is_audio).cumsum(0)
        same_run = is_audio[:, None] & is_audio[None, :] & (run[:, None] == run[None, :])
        visible = torch.ones_like(same_run).tril() | same_run
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=visible.device)
        mask.masked_fill_(~visible, torch.finfo(self.model.dtype).min)
        embeds = self.model.get_input_embeddings()(input_ids)
        positions = torch.arange(len(ids), device=input_ids.device)[None]
        out = self.model.model(
            inputs_embeds=embeds, attention_mask=mask[None, None], position_ids=positions, use_cache=False
        )
        return self.model.lm_head(out.last_hidden_state)[0].float()
