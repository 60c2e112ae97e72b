"""transformers' tests of models and configurations, run on TtT over each backbone."""

from __future__ import annotations

import contextlib
import unittest
from typing import Any

import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from upstream_tests import ConfigTester, ModelTesterMixin, TrainingTesterMixin

from ttt_hf.modeling import TtTConfig, TtTForConditionalGeneration


AUDIO_START = 80


class TtTTester:
    """Makes the small configurations and inputs that the mixins ask for.

    Args:
        backbone: Class of the backbone's configuration.
        audio_attention: As in `TtTConfig`.
    """

    is_training = True
    batch_size = 3
    seq_length = 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    vocab_size = 99

    def __init__(self, backbone: type, audio_attention: str = "span") -> None:
        self.backbone = backbone
        self.audio_attention = audio_attention

    def get_config(self) -> TtTConfig:
        text_config = self.backbone(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            **({"head_dim": 8} if self.backbone is Qwen3Config else {}),
        )
        config = TtTConfig(
            text_config=text_config,
            audio_token_start_id=AUDIO_START,
            audio_vocab_size=8,
            mask_token_id=89,
            begin_audio_token_ids=[AUDIO_START - 2, AUDIO_START - 1],
            audio_attention=self.audio_attention,
            audio_block_length=2,
        )
        # Read by a test; the model takes that of `text_config`.
        config.vocab_size = self.vocab_size
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[TtTConfig, dict[str, torch.Tensor]]:
        shape = (self.batch_size, self.seq_length)
        # Text with a span of audio in the middle.
        input_ids = torch.randint(5, AUDIO_START - 2, shape)
        input_ids[:, 2:5] = torch.randint(AUDIO_START + 1, 89, (self.batch_size, 3))
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones(shape, dtype=torch.long)}


class TtTTests(ModelTesterMixin, TrainingTesterMixin):
    all_model_classes = (TtTForConditionalGeneration,)
    # The mixin of generation, which the source distribution lacks, is not inherited.
    all_generative_model_classes = ()
    model_tester: Any = None
    backbone: Any = None
    audio_attention = "span"

    def setUp(self) -> None:
        self.model_tester = TtTTester(self.backbone, self.audio_attention)
        self.config_tester = ConfigTester(self, config_class=TtTConfig, has_text_modality=False, audio_block_length=9)

    def subTest(self, *args: Any, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
        # There is one class to test: what fails in a part fails as a whole, as EXPECTED_FAILURES needs it.
        return contextlib.nullcontext()

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            # Text and audio targets; the mixin knows the labels of transformers' own classes only.
            labels = inputs["input_ids"].clone()
            weights = (labels >= AUDIO_START).float()
            inputs.update(labels=labels, audio_loss_weights=weights)
        return inputs

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class TestQwen2(TtTTests, unittest.TestCase):
    backbone = Qwen2Config


class TestQwen3BlockCausal(TtTTests, unittest.TestCase):
    backbone = Qwen3Config
    audio_attention = "block_causal"


class TestLlama(TtTTests, unittest.TestCase):
    backbone = LlamaConfig
