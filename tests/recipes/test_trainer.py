"""The Trainer of TtT: what it logs, and that accumulation does not change the gradient."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ttt_hf import TtTForConditionalGeneration
from ttt_hf.data import TtTDataCollator
from ttt_hf.recipes.trainer import TtTTrainer


# Vocabulary of `tiny_config`: text below 40, codes 41..56, end markers 58 and 59.
def make_samples(count):
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        prompt = rng.integers(0, 30, size=5).tolist()
        reply = [
            *rng.integers(0, 30, size=rng.integers(2, 9)),
            37,
            *rng.integers(41, 57, size=rng.integers(3, 20)),
            59,
            31,
        ]
        ids = [int(id_) for id_ in prompt + reply]
        samples.append({"input_ids": ids, "labels": [-100] * 5 + ids[5:], "length": len(ids)})
    return samples


class NoiseOfTheSample(TtTDataCollator):
    """Draws the noise from the sample's own content, so that it does not depend on how samples are batched."""

    def _two_stream_row(self, row, levels):
        self.generator = np.random.default_rng(row["input_ids"])
        return super()._two_stream_row(row, np.array([0.6] * len(levels)))


@pytest.fixture
def make_trainer(tiny_config, tmp_path):
    def make(samples, collator=TtTDataCollator, **arguments):
        torch.manual_seed(0)
        config = tiny_config()
        return TtTTrainer(
            model=TtTForConditionalGeneration(config),
            args=TrainingArguments(
                output_dir=str(tmp_path),
                remove_unused_columns=False,
                report_to="none",
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                disable_tqdm=True,
                **arguments,
            ),
            train_dataset=Dataset.from_list(samples),
            data_collator=collator(config, pad_token_id=39),
        )

    return make


def test_log_tells_text_and_audio_apart_and_audio_by_noise_level(make_trainer):
    trainer = make_trainer(make_samples(32), per_device_train_batch_size=16, max_steps=4, learning_rate=3e-3)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "text_loss" in entry]
    assert len(logs) == 4
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["text_loss"] + entry["audio_loss"], abs=2e-3)
        assert 0 <= entry["text_accuracy"] <= 1
        assert any(name.startswith("audio_accuracy_") for name in entry)
    names = {name for entry in logs for name in entry if name.startswith("audio_accuracy_")}
    assert names <= {f"audio_accuracy_{low}_{low + 20}" for low in range(0, 100, 20)}


def test_training_lowers_both_losses(make_trainer):
    trainer = make_trainer(make_samples(4) * 4, per_device_train_batch_size=16, max_steps=30, learning_rate=1e-2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "text_loss" in entry]
    assert logs[-1]["text_loss"] < 0.5 * logs[0]["text_loss"]
    assert np.mean([entry["audio_loss"] for entry in logs[-5:]]) < 0.9 * logs[0]["audio_loss"]


def test_eight_accumulated_samples_equal_a_batch_of_eight(make_trainer):
    weights = []
    for batch_size, accumulation in ((8, 1), (1, 8)):
        trainer = make_trainer(
            make_samples(8), NoiseOfTheSample, per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation, max_steps=1, learning_rate=0.1, optim="sgd", max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5), name
