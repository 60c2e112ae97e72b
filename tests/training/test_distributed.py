"""Training in several processes is the training of one: run by torchrun, on two CPU processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Qwen2Config, TrainingArguments

from ttt_hf import TtTConfig, TtTForConditionalGeneration
from ttt_hf.data import TtTDataCollator
from ttt_hf.modeling import loss_ttt
from ttt_hf.training.recipes import DISTRIBUTED, recipe_names
from ttt_hf.training.trainer import TtTTrainer


SAMPLES, STEPS, LEARNING_RATE = 8, 3, 0.03


class FixedLevel(TtTDataCollator):
    """Noise levels are spread over the samples of a batch; with one for all, noise does not depend on the batch."""

    def _noise(self, sample, levels, clean, rng):
        return super()._noise(sample, np.full(len(levels), 0.6), clean, rng)


def make_config():
    text_config = Qwen2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    return TtTConfig(
        text_config=text_config, audio_token_start_id=40, audio_vocab_size=16, mask_token_id=57,
        begin_audio_token_ids=[36, 37], end_audio_token_ids=[58, 59], audio_block_length=4,
    )  # fmt: skip


def make_samples():
    """Half of them without speech, so that processes have different numbers of targets."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(SAMPLES):
        ids = rng.integers(0, 30, size=rng.integers(7, 14)).tolist()
        if number % 2:
            ids += [37, *rng.integers(41, 57, size=rng.integers(3, 20)).tolist(), 59]
        samples.append({"input_ids": ids, "labels": [-100] * 5 + ids[5:], "length": len(ids)})
    return samples


def make_model():
    torch.manual_seed(0)
    return TtTForConditionalGeneration(make_config())


def train(out, batch_size, accumulation):
    """Trains some steps of plain gradient descent, each over all samples, and saves the weights."""
    trainer = TtTTrainer(
        model=make_model(),
        args=TrainingArguments(
            output_dir=str(out), use_cpu=True, remove_unused_columns=False, report_to="none",
            save_strategy="no", disable_tqdm=True, max_steps=STEPS, optim="sgd", learning_rate=LEARNING_RATE,
            max_grad_norm=0.0, lr_scheduler_type="constant", per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        ),
        train_dataset=Dataset.from_list(make_samples()),
        data_collator=FixedLevel(make_config(), pad_token_id=39),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.epoch == STEPS
    save(trainer.model.state_dict(), out)


def train_sharded(out):
    """The same steps by hand, with weights, gradients and logits divided as fsdp2.yaml divides them."""
    dist.init_process_group("gloo")
    loss_ttt.VOCABULARY_PART = 16
    model = make_model()
    layers = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    for part in (*layers, model):
        fully_shard(part, mesh=dist.init_device_mesh("cpu", (dist.get_world_size(),)))
    assert len(layers) == 2
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    samples = make_samples()
    mine = range(dist.get_rank(), SAMPLES, dist.get_world_size())
    for epoch in range(STEPS):
        batch = FixedLevel(make_config(), 39)([{**samples[i], "draw": epoch * SAMPLES + i} for i in mine])
        del batch["draws"], batch["noise_levels"]
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    save({name: value.full_tensor() for name, value in model.state_dict().items()}, out)
    dist.destroy_process_group()


def save(weights, out):
    if int(os.environ.get("RANK", "0")) == 0:
        weights = {name: value.clone() for name, value in weights.items() if name != "lm_head.weight"}
        save_file(weights, out / "weights.safetensors")


def launch(out, *words):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, out, *words,
    ]  # fmt: skip
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(out / "weights.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights after steps over batches of eight, in one process."""
    out = tmp_path_factory.mktemp("whole")
    train(out, SAMPLES, 1)
    return load_file(out / "weights.safetensors")


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    before = make_model().state_dict()
    for name, value in weights.items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
        assert not torch.equal(value, before[name]), name


def test_accumulated_batches_make_the_steps_of_whole_ones(whole, tmp_path):
    train(tmp_path, 1, SAMPLES)
    assert_same(load_file(tmp_path / "weights.safetensors"), whole)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 2)])
def test_two_processes_make_the_steps_of_one(whole, tmp_path, batch_size, accumulation):
    assert_same(launch(tmp_path, "train", batch_size, accumulation), whole)


@pytest.mark.slow
def test_a_divided_model_makes_the_steps_of_a_whole_one(whole, tmp_path):
    assert_same(launch(tmp_path, "sharded"), whole)


@pytest.mark.slow
def test_the_command_line_trains_in_two_processes(short_dialogues, tmp_path):
    out = tmp_path / "adapter"
    keys = [f"train_data={{path: {short_dialogues}}}", f"output_dir={out}", "max_steps=1", "use_cpu=true"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "ttt_hf.cli",
        "train",
        "lora_chat",
        *keys,
        "lora_rank=2",
        "per_device_train_batch_size=1",
        "--json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    reports = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"')]
    assert [report["output_dir"] for report in reports] == [str(out)], "one process reports"
    assert (out / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
def test_the_model_names_the_layers_that_are_divided(tiny_model, backbone):
    model = tiny_model(backbone)
    layers = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    assert len(layers) == model.config.text_config.num_hidden_layers


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_files_for_accelerate_are_valid(name):
    config = load_config_from_file(str(DISTRIBUTED / f"{name}.yaml"))
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero3": "DEEPSPEED"}[name]
    assert config.mixed_precision == "bf16"
    assert not any(recipe.startswith("distributed") for recipe in recipe_names())


if __name__ == "__main__":
    folder, mode, *numbers = sys.argv[1:]
    torch.set_num_threads(1)
    if mode == "sharded":
        train_sharded(Path(folder))
    else:
        train(Path(folder), *map(int, numbers))
