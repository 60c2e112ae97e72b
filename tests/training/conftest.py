"""What the tests of the recipes share: dialogues whose audio is codes, and a short training on them."""

import json

import pytest

from ttt_hf.training.arguments import load_recipe
from ttt_hf.training.finetuning import train


@pytest.fixture(scope="session")
def short_dialogues(tmp_path_factory):
    """A file of rows of three tasks: recognise, read aloud, answer in writing."""
    path = tmp_path_factory.mktemp("dialogues") / "rows.jsonl"
    speech = {"type": "audio", "codes": list(range(8))}
    turns = [
        ("asr", [speech], [{"type": "text", "text": "Hello."}]),
        ("tts", [{"type": "text", "text": "Hello there."}], [{"type": "text", "text": "Hello there."}, speech]),
        ("text", [{"type": "text", "text": "What is a carrot?"}], [{"type": "text", "text": "A vegetable."}]),
    ]
    rows = [
        {"task": task, "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]}
        for task, user, reply in turns
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def train_adapter(short_dialogues):
    """`train_adapter(folder, "key=value")` trains two steps on `short_dialogues`, with dropout."""

    def make(out, *keys):
        settings = [f"train_data={{path: {short_dialogues}}}", f"output_dir={out}", "max_steps=2", "logging_steps=1"]
        settings += ["per_device_train_batch_size=3", "lora_rank=2", "lora_dropout=0.2", "warmup_steps=0"]
        train(load_recipe("lora_chat", [*settings, *keys]))
        return out

    return make


@pytest.fixture(scope="session")
def spoken_adapter(train_adapter, tmp_path_factory):
    """An adapter that was trained with replies at both of its steps. Shared: do not change it."""
    out = tmp_path_factory.mktemp("trainings") / "adapter"
    return train_adapter(out, "speak_steps=1", "speak_samples=3")
