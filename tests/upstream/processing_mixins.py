"""transformers' tests of processors, run on `TtTProcessor` with a small tokenizer and codec."""

from __future__ import annotations

import unittest
from typing import Any

from transformers import PreTrainedTokenizerFast
from upstream_tests import ProcessorTesterMixin

from fixed_reply import make_codec, tone
from ttt_hf.processing import TtTProcessor, train_tokenizer


class TestTtTProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = TtTProcessor

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerFast:
        return train_tokenizer(["lower newer", "upper older longer string"], 300, 75)

    @classmethod
    def _setup_from_components(cls) -> TtTProcessor:
        # The codec is no component for transformers: it is saved in a folder of its own.
        return TtTProcessor(cls._setup_tokenizer(), make_codec())

    def prepare_audio_inputs(self, batch_size: int | None = None) -> list[dict[str, Any]]:
        # With their rate, without which samples are refused.
        return [{"array": tone(0.5, 16_000), "sampling_rate": 16_000}] * (batch_size or 1)
