"""Checkpoints made to do harm: nothing in them runs, nothing outside of their folders is touched, nobody is asked.

All are loaded by one other process whose stdin answers "y" to every question, and which reports what it opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from ttt_hf.modeling import TtTForConditionalGeneration


# Loads every folder and lets it answer. Its audit hook sees each file, folder, program and address that Python opens.
LOADER = r"""
import json, os, signal, sys
seen = []
def too_slow(number, frame):
    raise RuntimeError("it took more than 30 s")
signal.signal(signal.SIGALRM, too_slow)
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        seen.append(os.path.realpath(os.fsdecode(arguments[0])))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect"):
        seen.append(event)
root, folders = sys.argv[1], sys.argv[2:]
from ttt_hf.cli.quiet import silence_transformers
from ttt_hf.loading import load_model_and_processor
silence_transformers()
sys.addaudithook(watch)
results = {}
for folder in folders:
    seen.clear()
    signal.alarm(30)
    try:
        model, processor = load_model_and_processor(folder, device="cpu")
        conversation = [{"role": "user", "content": "Hello"}]
        inputs = processor.apply_chat_template(conversation, task="chat", add_generation_prompt=True)
        model.generate(**inputs, max_new_tokens=3)
        result = "loaded"
    except Exception as error:
        result = type(error).__name__ + ": " + str(error)
    signal.alarm(0)
    # The base of adapters, and the settings of huggingface_hub.
    own = (folder, os.path.join(os.path.dirname(folder), "base"), os.path.join(root, "hub"))
    outside = [path for path in seen if path.startswith(root) and not path.startswith(own)]
    strange = outside + [event for event in seen if not event.startswith("/")]
    results[os.path.basename(folder)] = {"result": result, "strange": strange}
print(json.dumps(results))
"""


class Hostile:
    """One folder to be made hostile, beside a folder of another that it must not touch.

    Args:
        folder: A copy of a checkpoint.
        outside: Holds code that leaves a file `executed` there, and files that look worth reading.
    """

    def __init__(self, folder: Path, outside: Path) -> None:
        self.folder, self.outside = folder, outside

    def edit(self, name: str, **changes: Any) -> None:
        path = self.folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **changes}))

    def edit_backbone(self, **changes: Any) -> None:
        text = json.loads((self.folder / "config.json").read_text())["text_config"]
        self.edit("config.json", text_config={**text, **changes})

    def add_code(self, part: str = "") -> None:
        for name in ("evil.py", "tokenization_evil.py", "custom_generate/generate.py"):
            (self.folder / part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.outside / "evil.py", self.folder / part / name)

    def edit_weights(self, change: Callable[[dict[str, torch.Tensor]], Any], name: str = "model.safetensors") -> None:
        weights = load_file(self.folder / name)
        change(weights)
        save_file(weights, self.folder / name, metadata={"format": "pt"})

    def link(self, name: str) -> None:
        """Moves a file out of the folder and leaves a link."""
        shutil.move(self.folder / name, self.outside / Path(name).name)
        (self.folder / name).symlink_to(self.outside / Path(name).name)

    def adapter(self, **changes: Any) -> None:
        """Turns the folder into an adapter, whose configuration is changed."""
        base = self.folder.parent / "base"
        model = TtTForConditionalGeneration.from_pretrained(base)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        shutil.rmtree(self.folder)
        adapted.save_pretrained(self.folder, save_embedding_layers=False)
        self.edit("adapter_config.json", base_model_name_or_path=str(base), **changes)

    def pickle(self, name: str) -> None:
        """Puts a pickle that runs code in the place of the weights."""
        (self.folder / "model.safetensors").unlink()
        (self.folder / name).write_bytes(pickle.dumps(Bomb(str(self.outside / "executed"))))


class Bomb:
    """Its unpickling makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


# -- what is done to the folder: the expected sentence, or "loaded" where the trap has no effect ----------------------

ATTACKS: dict[str, tuple[Callable[[Hostile], None], str]] = {}


def attack(expected: str) -> Callable[[Callable[[Hostile], None]], Callable[[Hostile], None]]:
    def register(make: Callable[[Hostile], None]) -> Callable[[Hostile], None]:
        ATTACKS[make.__name__] = (make, expected)
        return make

    return register


@attack("loaded")
def code_for_the_configuration(it: Hostile) -> None:
    it.add_code()
    it.edit("config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})


@attack("loaded")
def code_for_the_backbone(it: Hostile) -> None:
    it.add_code()
    it.edit_backbone(auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})


@attack("which is never run")
def code_for_a_tokenizer_of_a_new_type(it: Hostile) -> None:
    it.add_code()
    it.edit("tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})


@attack("loaded")
def code_for_a_tokenizer_of_a_known_type(it: Hostile) -> None:
    it.add_code()
    it.edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.T", None]})


@attack("loaded")
def code_for_the_processor(it: Hostile) -> None:
    it.add_code()
    it.edit("processor_config.json", auto_map={"AutoProcessor": "evil.P"}, processor_class="EvilProcessor")


@attack("which is never run")
def code_for_a_codec_of_a_new_type(it: Hostile) -> None:
    it.add_code("codec")
    it.edit("codec/config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})


@attack("which is never run")
def code_of_another_repository(it: Hostile) -> None:
    it.edit("codec/config.json", model_type="evil", auto_map={"AutoConfig": "somebody/evil--evil.Config"})


@attack("loaded")
def code_for_generate(it: Hostile) -> None:
    it.add_code()
    it.edit("generation_config.json", custom_generate=str(it.folder), trust_remote_code=True)


@attack("penalty_alpha=0.6 is not supported")
def code_for_another_decoding(it: Hostile) -> None:
    # transformers loads contrastive search from the Hub.
    it.edit("generation_config.json", penalty_alpha=0.6, top_k=4)


@attack("only safetensors are read")
def pickled_weights(it: Hostile) -> None:
    it.pickle("pytorch_model.bin")


@attack("only safetensors are read")
def pickled_weights_of_lightning(it: Hostile) -> None:
    it.pickle("model.ckpt")


@attack("loaded")
def pickled_weights_beside_the_others(it: Hostile) -> None:
    content = (it.folder / "model.safetensors").read_bytes()
    it.pickle("pytorch_model.bin")
    shutil.copy(it.folder / "pytorch_model.bin", it.folder / "model.pt")
    (it.folder / "model.safetensors").write_bytes(content)


@attack("names other files to load")
def pickled_weights_by_name(it: Hostile) -> None:
    shutil.copy(it.folder / "model.safetensors", it.folder / "copy.safetensors")
    it.edit("config.json", transformers_weights="adapter_model.bin")


@attack("is damaged")
def zip_bomb_as_weights(it: Hostile) -> None:
    with zipfile.ZipFile(it.folder / "model.safetensors", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))


@attack("is damaged")
def huge_header(it: Hostile) -> None:
    (it.folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


@attack("is damaged")
def overlapping_tensors(it: Hostile) -> None:
    header = {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b")}
    text = json.dumps(header).encode()
    (it.folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))


@attack("names no files")
def shards_of_another_folder(it: Hostile) -> None:
    shutil.move(it.folder / "model.safetensors", it.outside / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../outside/model.safetensors"}}
    (it.folder / "model.safetensors.index.json").write_text(json.dumps(index))


@attack("part of a distributed checkpoint")
def other_weights_that_come_first(it: Hostile) -> None:
    shutil.copy(it.folder / "model.safetensors", it.folder / "shard-00001-model-00001-of-00001.safetensors")


@attack("is a link to another folder")
def linked_weights(it: Hostile) -> None:
    it.link("model.safetensors")


@attack("is a link to another folder")
def linked_tokenizer(it: Hostile) -> None:
    it.link("tokenizer.json")


@attack("is a link to another folder")
def linked_codec(it: Hostile) -> None:
    shutil.move(it.folder / "codec", it.outside / "codec")
    (it.folder / "codec").symlink_to(it.outside / "codec")


@attack("is no regular file")
def pipe_as_configuration(it: Hostile) -> None:
    (it.folder / "generation_config.json").unlink()
    os.mkfifo(it.folder / "generation_config.json")


@attack("loaded")
def tokenizer_that_names_files(it: Hostile) -> None:
    names = ("vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "added_tokens_file", "spm_file")
    it.edit("tokenizer_config.json", **{name: str(it.outside / "secret.json") for name in names})


@attack("names other files to load")
def tokenizer_of_another_folder(it: Hostile) -> None:
    it.edit("tokenizer_config.json", fast_tokenizer_files=["../outside/tokenizer.4.0.0.json"])


@attack("names other files to load")
def configuration_of_another_folder(it: Hostile) -> None:
    it.edit("config.json", configuration_files=["config.4.0.0/../../outside/secret.json"])


@attack("names other files to load")
def audio_tokenizer_of_another_folder(it: Hostile) -> None:
    name = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": str(it.outside)}
    it.edit("processor_config.json", audio_tokenizer=name)


@attack("neither a Hub id nor a short name")
def codec_of_another_folder(it: Hostile) -> None:
    shutil.move(it.folder / "codec", it.outside / "other-codec")
    it.edit("processor_config.json", codec=str(it.outside / "other-codec"))


@attack("neither a Hub id nor a short name")
def codec_that_is_no_name(it: Hostile) -> None:
    shutil.rmtree(it.folder / "codec")
    it.edit("processor_config.json", codec={"audio_tokenizer_class": "evil"})


@attack("There is no folder somebody/evil-codec")
def codec_of_another_repository(it: Hostile) -> None:
    shutil.rmtree(it.folder / "codec")
    it.edit("processor_config.json", codec="somebody/evil-codec")


@attack("holds an adapter")
def codec_with_an_adapter(it: Hostile) -> None:
    content = {"peft_type": "LORA", "base_model_name_or_path": str(it.outside)}
    (it.folder / "codec" / "adapter_config.json").write_text(json.dumps(content))


@attack("may be code from the Hub")
def kernel_of_the_hub(it: Hostile) -> None:
    it.edit("config.json", attn_implementation="somebody/evil-kernel")


@attack("may be code from the Hub")
def kernel_for_the_backbone(it: Hostile) -> None:
    it.edit_backbone(_attn_implementation="somebody/evil-kernel:attention")


@attack("which needs further code")
def quantization_by_other_code(it: Hostile) -> None:
    it.edit("config.json", quantization_config={"quant_method": "evil", "modules_to_not_convert": ["os"]})


@attack("loaded")
def commit_and_name_of_another(it: Hostile) -> None:
    it.edit("config.json", _commit_hash="../../outside", _name_or_path=str(it.outside), name_or_path=str(it.outside))
    it.edit("tokenizer_config.json", _commit_hash="../../outside", name_or_path=str(it.outside))


@attack("and the files hold")
def model_too_large_for_the_memory(it: Hostile) -> None:
    it.edit_backbone(intermediate_size=10**9)


@attack("does not fit the weights")
def model_of_endless_layers(it: Hostile) -> None:
    it.edit_backbone(num_hidden_layers=10**9, layer_types=None)


@attack("are not finite numbers")
def weights_that_are_no_numbers(it: Hostile) -> None:
    it.edit_weights(lambda weights: weights["model.norm.weight"].fill_(float("nan")))


@attack("are not finite numbers")
def codec_with_infinite_weights(it: Hostile) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[min(weights)].view(-1)[0] = float("inf")

    it.edit_weights(change, "codec/model.safetensors")


@attack("only LORA is supported")
def adapter_of_prompts_with_a_tokenizer(it: Hostile) -> None:
    it.adapter()
    settings = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, prompt_tuning_init="TEXT", prompt_tuning_init_text="hello",
        tokenizer_name_or_path=str(it.outside), tokenizer_kwargs={"trust_remote_code": True},
    ).to_dict()  # fmt: skip
    it.edit(
        "adapter_config.json", **{key: value for key, value in settings.items() if key != "base_model_name_or_path"}
    )


@attack("only LORA is supported")
def adapter_that_loads_adapters(it: Hostile) -> None:
    it.adapter(peft_type="XLORA", adapters={"1": str(it.outside)})


@attack("only LORA is supported")
def adapter_with_a_pickled_state(it: Hostile) -> None:
    it.adapter(peft_type="MULTITASK_PROMPT_TUNING", prompt_tuning_init_state_dict_path=str(it.outside / "state.bin"))


@attack("uses layer_replication")
def adapter_that_copies_layers(it: Hostile) -> None:
    it.adapter(layer_replication=[[0, 2]] * 100_000)


@attack("uses megatron_config")
def adapter_that_names_a_module(it: Hostile) -> None:
    it.adapter(megatron_config={"a": 1}, megatron_core="evil")


@attack("loaded")
def adapter_with_an_endless_expression(it: Hostile) -> None:
    it.adapter(target_modules="(.*.*.*.*.*.*.*.*.*.*)*!", exclude_modules="(.*.*.*.*.*.*)*!", layers_pattern="(a+)+$")


@attack("alpha_pattern must be numbers by names of layers")
def adapter_with_an_endless_pattern(it: Hostile) -> None:
    it.adapter(alpha_pattern={"(.*.*.*.*.*.*.*.*.*.*.*.*)*!": 3})


@attack("lora_alpha must be a finite number")
def adapter_of_no_number(it: Hostile) -> None:
    it.adapter(lora_alpha=float("nan"))


@attack("lora_alpha must be a finite number")
def adapter_of_a_huge_number(it: Hostile) -> None:
    it.adapter(lora_alpha=10**400)


@attack("has a rank of")
def adapter_too_large_for_the_memory(it: Hostile) -> None:
    it.adapter(r=10**9)


@attack("are not finite numbers")
def adapter_with_an_infinite_scale(it: Hostile) -> None:
    it.adapter(lora_alpha=1e308)
    it.edit_weights(lambda weights: [tensor.fill_(1.0) for tensor in weights.values()], "adapter_model.safetensors")


@attack("only safetensors are read")
def adapter_as_a_pickle(it: Hostile) -> None:
    it.adapter()
    (it.folder / "adapter_model.safetensors").rename(it.folder / "model.safetensors")
    it.pickle("adapter_model.bin")


# -- the tests --------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all regular files in a folder, and the names of all others."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in paths
        if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def loaded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each hostile folder, and whether anything on the disk has changed."""
    root = tmp_path_factory.mktemp("hostile").resolve()
    shutil.copytree(checkpoint, root / "base")
    for name, (make, _) in ATTACKS.items():
        # Each has its own neighbour, so that one attack cannot hide behind another.
        outside = root / name / "outside"
        outside.mkdir(parents=True)
        shutil.copytree(checkpoint, root / name / "base")
        code = f"open({str(outside / 'executed')!r}, 'w')\nclass Config: pass\nModel = T = P = Config\n"
        (outside / "evil.py").write_text(code)
        (outside / "secret.json").write_text('{"secret": 1}')
        make(Hostile(Path(shutil.copytree(checkpoint, root / name / name)), outside))
    (root / "hub").mkdir()
    before = contents(root)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hub"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", LOADER, str(root), *(str(root / name / name) for name in ATTACKS)],
        input="y\n" * 1000, capture_output=True, text=True, check=False, cwd=root / "hub", env=environment,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    after = {path: content for path, content in contents(root).items() if not path.startswith("hub/")}
    return {"results": json.loads(result.stdout), "printed": result.stderr, "before": before, "after": after}


def test_there_are_thirty_kinds() -> None:
    assert len(ATTACKS) >= 30


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_checkpoint(loaded: dict[str, Any], name: str) -> None:
    outcome = loaded["results"][name]
    expected = ATTACKS[name][1]
    if expected == "loaded":
        assert outcome["result"] == "loaded"
    else:
        kind, message = outcome["result"].split(": ", 1)
        assert kind in ("ValueError", "FileNotFoundError"), outcome["result"]
        assert expected in message and "\n" not in message and "trust_remote_code" not in message
    assert outcome["strange"] == [], "it read or ran what is outside of its folder"


def test_nothing_was_executed_written_or_asked(loaded: dict[str, Any]) -> None:
    assert loaded["after"] == loaded["before"]
    assert not [path for path in loaded["after"] if path.endswith("executed")]
    assert "[y/N]" not in loaded["printed"]
