"""`ttt-hf train`, as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from ttt_hf import TtTForConditionalGeneration, embedded_checkpoint
from ttt_hf.cli.main import main


QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"
SMALL = ["max_steps=2", "save_steps=1", "logging_steps=1", "per_device_train_batch_size=2", "lora_rank=2"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of recordings as `datasets` knows it: audio files and a metadata.csv."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = ["file_name,text"]
    for number in range(4):
        shutil.copy(QUESTION, folder / f"{number}.wav")
        rows.append(f"{number}.wav,What is this number {number}?")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def adapter(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter")
    data = f"train_data={{path: {recordings}, task: asr}}"
    assert main(["train", "lora_asr", data, f"output_dir={out}", *SMALL]) == 0
    return out


def test_from_recordings_to_an_adapter_that_plain_peft_loads(adapter):
    base = TtTForConditionalGeneration.from_pretrained(embedded_checkpoint(), dtype=torch.float32)
    ids = torch.tensor([[5, 6, base.config.audio_token_start_id + 7]])
    before = base(ids).logits
    assert not torch.equal(PeftModel.from_pretrained(base, adapter)(ids).logits, before)


def test_a_finished_training_is_not_done_again(adapter, recordings, capsys):
    changed = (adapter / "adapter_model.safetensors").read_bytes()
    data = f"train_data={{path: {recordings}, task: asr}}"
    assert main(["train", "lora_asr", data, f"output_dir={adapter}", *SMALL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["output_dir"] == str(adapter)
    assert (adapter / "adapter_model.safetensors").read_bytes() == changed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-recipe"], 2, "There is no recipe no-such-recipe"),
        (["lora_asr", "lora_rnk=3"], 2, "did you mean lora_rank"),
        (["lora_asr", "output_dir=x"], 1, "no train_data"),
        (["lora_asr", "output_dir={tmp}/x", "train_data=/no/such/folder"], 1, "no file or folder /no/such/folder"),
        (["lora_asr", "output_dir={tmp}/x", "train_data={{pth: a}}"], 1, "unknown key pth"),
        (["lora_asr", "output_dir={tmp}/x", "train_data={tmp}", "early_stopping_patience=2"], 1, "needs eval_data"),
        (["lora_asr", "output_dir={tmp}/x", "train_data={tmp}", "load_in_4bit=true"], 1, "needs a CUDA device"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line(arguments, code, message, capsys, tmp_path):
    if "load_in_4bit=true" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main(["train", *(argument.format(tmp=tmp_path) for argument in arguments)]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("ttt-hf: error: ")
