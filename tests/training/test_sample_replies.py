"""Sample replies during training: what is written and logged, and that the training is not affected."""

import json
import logging
import sys

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.evaluation import total_word_errors
from ttt_hf.training.arguments import load_recipe
from ttt_hf.training.finetuning import train
from ttt_hf.training.sample_replies import SampleRepliesCallback, find_prompts


@pytest.fixture(scope="module")
def model():
    return TtTForConditionalGeneration.from_pretrained(embedded_checkpoint())


@pytest.fixture(scope="module")
def processor():
    return TtTProcessor.from_pretrained(embedded_checkpoint())


@pytest.fixture
def speak(model, processor, tmp_path):
    """`speak(conversations)` has the model reply to them; gives the folder and what was logged."""

    def make(conversations, step=200, **state):
        samples = []
        for question, answer in conversations:
            messages = [{"role": "user", "content": question}]
            prompt = processor.apply_chat_template(messages, add_generation_prompt=True, return_tensors=None)
            prompt = prompt["input_ids"][0]
            reply = processor.tokenizer(answer)["input_ids"] + [processor.tokenizer.eos_token_id]
            samples.append({"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply})
        scores = {}
        callback = SampleRepliesCallback(processor, model.config, samples, 4, 100, scores.update)
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
        callback.on_step_begin(arguments, TrainerState(global_step=step, **state), TrainerControl(), model=model)
        return tmp_path / "spoken" / f"step-{step:06d}", scores

    return make


def read_replies(folder):
    """The lines of each text file, by their names."""
    return [
        dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
        for path in sorted(folder.glob("*.txt"))
    ]


CONVERSATIONS = [("What is a carrot?", "The carrot is a vegetable."), ("What is two plus three?", "Five.")]


def test_replies_are_written_as_text_and_sound(speak):
    folder, scores = speak(CONVERSATIONS)
    replies = read_replies(folder)
    assert [reply["expected"] for reply in replies] == [answer for _, answer in CONVERSATIONS]
    assert all(question in reply["prompt"] for reply, (question, _) in zip(replies, CONVERSATIONS))
    sound, rate = soundfile.read(folder / "00.wav")
    assert rate == 16000 and len(sound) > 0.2 * rate
    pairs = [(reply["expected"], reply.get("reply", "")) for reply in replies]
    assert scores["spoken_wer"] == pytest.approx(total_word_errors(pairs).rate, abs=1e-4)
    assert {path.suffix for path in folder.iterdir()} == {".txt", ".wav"}


def test_without_a_codec_there_is_text_alone(speak, processor, monkeypatch):
    with_sound = read_replies(speak(CONVERSATIONS)[0])
    monkeypatch.setattr(processor, "codec", None)
    folder, scores = speak(CONVERSATIONS, step=300)
    assert read_replies(folder) == with_sound and "spoken_wer" in scores
    assert not list(folder.glob("*.wav"))


@pytest.mark.parametrize("state", [{"step": 150}, {"step": 0}, {"is_world_process_zero": False}], ids=str)
def test_it_speaks_at_its_steps_and_in_the_main_process(state, speak):
    folder, scores = speak(CONVERSATIONS, **{"is_world_process_zero": True, **state})
    assert not folder.exists() and not scores


def test_random_numbers_and_training_mode_stay(speak, model):
    model.train()
    try:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        speak(CONVERSATIONS)
        assert torch.equal(torch.rand(4), expected)
        assert model.training
    finally:
        model.eval()


def test_without_the_package_that_counts_words_the_replies_stay(speak, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with caplog.at_level(logging.INFO):
        folder, scores = speak(CONVERSATIONS)
    assert not scores and len(read_replies(folder)) == 2
    assert "ttt-hf[eval]" in caplog.text


def test_prompts_are_what_stands_before_the_first_reply():
    ids = list(range(10, 20))
    turns = {"input_ids": ids, "labels": [-100, -100, 12, 13, -100, -100, -100, 17, 18, 19]}
    written = {"input_ids": ids, "labels": ids}
    packed = {
        "input_ids": [*ids, *ids[:4]],
        "labels": [*turns["labels"], -100, 11, 12, 13],
        "sample_lengths": [10, 4],
    }
    found = [(prompt.ids, prompt.expected) for prompt in find_prompts([turns, written, packed])]
    first = ([10, 11], [12, 13])
    assert found == [first, first, ([10], [11, 12, 13])]


def test_samples_without_prompts_are_not_spoken(processor, model, caplog):
    samples = [{"input_ids": [1, 2], "labels": [1, 2]}]
    callback = SampleRepliesCallback(processor, model.config, samples, 4, 1, lambda _: None)
    assert not callback.prompts and "speak_steps: no replies" in caplog.text


# -- in a training ----------------------------------------------------------------------------------------------------


def test_scores_are_in_the_log_and_every_step_keeps_its_own(spoken_adapter):
    log = json.loads((spoken_adapter / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "spoken_wer" in entry] == [1, 2]
    assert [entry["step"] for entry in log if "loss" in entry and "text_loss" in entry] == [1, 2]
    for step in ("000001", "000002"):
        assert len(read_replies(spoken_adapter / "spoken" / f"step-{step}")) == 3


def test_weights_are_those_of_a_training_without_replies(spoken_adapter, train_adapter, tmp_path):
    silent = train_adapter(tmp_path / "silent")
    assert not (silent / "spoken").exists()
    file = "checkpoint-2/adapter_model.safetensors"
    weights, others = load_file(spoken_adapter / file), load_file(silent / file)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_model_divided_among_processes_is_refused(short_dialogues, tmp_path, monkeypatch):
    recipe = load_recipe("lora_chat", [f"train_data={short_dialogues}", f"output_dir={tmp_path}", "speak_steps=1"])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate's launcher does
    with pytest.raises(ValueError, match="speak_steps needs a whole model"):
        train(recipe)
