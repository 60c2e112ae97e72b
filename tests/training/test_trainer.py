"""The Trainer of TtT: what it logs, and that accumulation does not change the gradient."""

import signal
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from ttt_hf import TtTForConditionalGeneration
from ttt_hf.data import TtTDataCollator, pack_samples
from ttt_hf.training.trainer import TtTTrainer


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

    def _two_stream(self, sample, levels, rng):
        rng = np.random.default_rng(sample["input_ids"])
        return super()._two_stream(sample, np.array([0.6] * len(levels)), rng)


@pytest.fixture
def make_trainer(tiny_config, tmp_path):
    def make(samples, collator=TtTDataCollator, eval_samples=None, **arguments):
        torch.manual_seed(0)
        config = tiny_config()
        return TtTTrainer(
            model=TtTForConditionalGeneration(config),
            args=TrainingArguments(
                output_dir=str(tmp_path),
                remove_unused_columns=False,
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                **{"logging_steps": 1, "save_strategy": "no", **arguments},
            ),
            train_dataset=Dataset.from_list(samples),
            eval_dataset=eval_samples and Dataset.from_list(eval_samples),
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


def weights_after_a_step(make_trainer, samples, batch_size, accumulation):
    trainer = make_trainer(
        samples, NoiseOfTheSample, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
        max_steps=1, learning_rate=0.1, optim="sgd", max_grad_norm=0.0,
    )  # fmt: skip
    trainer.train()
    return trainer.model.state_dict()


def assert_same(weights, others):
    for name, value in weights.items():
        assert torch.allclose(value, others[name], atol=1e-5), name


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 8), (3, 3)])
def test_accumulated_batches_make_the_step_of_one_batch(make_trainer, batch_size, accumulation):
    """Three times three samples are batches of three, three and two: each sample counts the same."""
    expected = weights_after_a_step(make_trainer, make_samples(8), 8, 1)
    assert_same(expected, weights_after_a_step(make_trainer, make_samples(8), batch_size, accumulation))


def test_packed_rows_make_the_step_of_their_samples(make_trainer):
    samples = Dataset.from_list(make_samples(8))
    packed = samples.map(pack_samples, batched=True, fn_kwargs={"row_length": 64}, remove_columns=samples.column_names)
    assert 1 < len(packed) < 8
    expected = weights_after_a_step(make_trainer, list(samples), 8, 1)
    assert_same(expected, weights_after_a_step(make_trainer, list(packed), 2, -(-len(packed) // 2)))


class Interruption(TrainerCallback):
    """Ctrl-C in the fifth step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            signal.raise_signal(signal.SIGINT)


def test_training_goes_on_after_ctrl_c_as_if_nothing_had_happened(make_trainer, tmp_path):
    settings = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "num_train_epochs": 3}
    whole = make_trainer(make_samples(12), **settings)
    whole.train()
    interrupted = make_trainer(make_samples(12), **settings)
    interrupted.add_callback(Interruption())
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    resumed = make_trainer(make_samples(12), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed.state.global_step == whole.state.global_step == 9
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_loss_that_is_not_a_number_stops_and_names_the_samples(make_trainer):
    trainer = make_trainer(make_samples(3), per_device_train_batch_size=3, max_steps=1)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 1 is not a number. Its batch held the samples [012], [012]"):
        trainer.train()


def test_log_tells_speed_padding_and_how_well_spans_end(make_trainer):
    trainer = make_trainer(make_samples(16), per_device_train_batch_size=8, max_steps=2)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "text_loss" in entry]
    assert all(entry["tokens_per_second"] > 0 and 0 <= entry["padding"] < 1 for entry in entries)
    assert any(0 <= entry.get("end_accuracy", -1) <= 1 for entry in entries)


def test_means_of_training_wait_for_an_entry_of_training(make_trainer):
    trainer = make_trainer(
        make_samples(16),
        eval_samples=make_samples(8),
        per_device_train_batch_size=4,
        max_steps=4,
        logging_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=8,
    )
    trainer.train()
    entries = trainer.state.log_history
    assert len([entry for entry in entries if "eval_loss" in entry]) == 4
    assert not any("text_loss" in entry for entry in entries if "eval_loss" in entry)
    (entry,) = [entry for entry in entries if "loss" in entry]
    assert entry["loss"] == pytest.approx(entry["text_loss"] + entry["audio_loss"], abs=2e-3)


def test_evaluation_tells_text_and_audio_apart(make_trainer):
    trainer = make_trainer(make_samples(8), eval_samples=make_samples(8), per_device_eval_batch_size=8)
    measures = trainer.evaluate()
    assert measures["eval_loss"] == pytest.approx(measures["eval_text_loss"] + measures["eval_audio_loss"], abs=1e-3)
    assert 0 <= measures["eval_text_accuracy"] <= 1
    assert not any("tokens_per_second" in name or "padding" in name for name in measures)


def test_evaluation_draws_the_same_noise_each_time(make_trainer):
    trainer = make_trainer(make_samples(8), eval_samples=make_samples(8), per_device_train_batch_size=4)
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


def predictions_of(tiny_config, tmp_path, with_adapter=False, **settings):
    """What `compute_metrics` gets from transformers' own Trainer."""
    torch.manual_seed(0)
    config = tiny_config()
    model = TtTForConditionalGeneration(config)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), remove_unused_columns=False, report_to="none", use_cpu=True, disable_tqdm=True,
        per_device_eval_batch_size=3,
    )  # fmt: skip
    found = []

    def compute_metrics(prediction):
        found.append(prediction)
        return {}

    Trainer(
        model=get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")) if with_adapter else model,
        args=arguments,
        eval_dataset=Dataset.from_list(make_samples(8)).remove_columns("length"),
        data_collator=TtTDataCollator.for_evaluation(config, pad_token_id=39),
        compute_metrics=compute_metrics,
        **settings,
    ).evaluate()
    return found[0]


@pytest.mark.parametrize("with_adapter", [False, True])
def test_metrics_of_the_stock_trainer_get_logits_and_labels(make_trainer, tiny_config, tmp_path, with_adapter):
    prediction = predictions_of(tiny_config, tmp_path, with_adapter)
    logits, labels = prediction.predictions, prediction.label_ids
    assert logits.shape == (*labels.shape, tiny_config().get_text_config().vocab_size)
    # Text is predicted at the position before it.
    is_text = (labels[:, 1:] >= 0) & (labels[:, 1:] < 40)
    accuracy = (logits[:, :-1].argmax(-1) == labels[:, 1:])[is_text].mean()
    ours = make_trainer(make_samples(8), eval_samples=make_samples(8)).evaluate()
    assert accuracy == pytest.approx(ours["eval_text_accuracy"], abs=1e-4)


def test_logits_may_be_reduced_before_they_are_gathered(tiny_config, tmp_path):
    prediction = predictions_of(
        tiny_config, tmp_path, preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1)
    )
    assert prediction.predictions.shape == prediction.label_ids.shape


def test_losses_are_computed_without_all_logits_unless_a_metric_needs_them(make_trainer):
    trainer = make_trainer(make_samples(4), eval_samples=make_samples(4), max_steps=1)
    shapes = []
    trainer.model.register_forward_hook(lambda module, _, out: shapes.append(out.get("logits")), always_call=True)
    trainer.train()
    trainer.evaluate()
    assert shapes == [None] * len(shapes) and shapes


def test_predictions_are_logits_without_a_metric_too(make_trainer, tiny_config):
    trainer = make_trainer(make_samples(4))
    logits, labels, _ = trainer.predict(Dataset.from_list(make_samples(3)))
    assert logits.shape == (*labels.shape, tiny_config().get_text_config().vocab_size)


def test_evaluation_does_not_depend_on_batches_objective_or_seed(make_trainer, tiny_config):
    def measure(**arguments):
        trainer = make_trainer(make_samples(7), eval_samples=make_samples(7), **arguments)
        return {name: value for name, value in trainer.evaluate().items() if "loss" in name or "accuracy" in name}

    expected = measure(per_device_eval_batch_size=1)
    assert {f"eval_audio_accuracy_{low}_{low + 20}" for low in range(0, 100, 20)} <= expected.keys()
    assert measure(per_device_eval_batch_size=3) == pytest.approx(expected, abs=2e-4)
    for settings in ({"objective": "paper"}, {"noise_copies": 2, "seed": 5}, {"objective": "nar"}):
        collator = partial(TtTDataCollator, **settings)
        assert measure(collator=collator, per_device_eval_batch_size=4) == pytest.approx(expected, abs=2e-4)


def test_a_stream_is_evaluated_with_the_same_noise_each_time(make_trainer):
    trainer = make_trainer(make_samples(4), per_device_eval_batch_size=2)
    stream = Dataset.from_list(make_samples(6)).to_iterable_dataset()
    assert trainer.evaluate(stream)["eval_loss"] == trainer.evaluate(stream)["eval_loss"]


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_adapters_that_generate_does_not_see_are_not_trained(tiny_config, tmp_path, kind):
    config = tiny_config()
    adapted = get_peft_model(
        TtTForConditionalGeneration(config), kind(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8)
        if kind is PromptEncoderConfig else kind(task_type="CAUSAL_LM", num_virtual_tokens=2),
    )  # fmt: skip
    arguments = TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, report_to="none")
    with pytest.raises(ValueError, match=r"learns a prompt, which generate\(\) does not see: train a LoRA adapter"):
        TtTTrainer(model=adapted, args=arguments, data_collator=TtTDataCollator(config, pad_token_id=39))


class Termination(TrainerCallback):
    """SIGTERM in the fifth step, as a scheduler sends it."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_saves_like_ctrl_c_and_ends_the_process(make_trainer, tmp_path, caplog):
    trainer = make_trainer(make_samples(12), per_device_train_batch_size=4, num_train_epochs=3)
    trainer.add_callback(Termination())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        trainer.train()
    assert error.value.code == 143
    assert (tmp_path / "checkpoint-5" / "trainer_state.json").is_file()
    assert "checkpoint-5 is saved: run the same command again to go on from there" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == before
