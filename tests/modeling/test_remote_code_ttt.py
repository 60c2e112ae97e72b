"""A saved folder carries its own code: it loads where ttt_hf is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


MODELING = Path(__file__).parents[2] / "src" / "ttt_hf" / "modeling"

# Runs without ttt_hf: the package is neither on the path nor importable by any other way.
SCRIPT = """
import importlib.abc
import json
import sys


class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ttt_hf":
            raise ModuleNotFoundError(f"{name} is blocked")
        return None


sys.meta_path.insert(0, Blocker())

import torch
import transformers

torch.set_num_threads(1)
folder = sys.argv[1]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
multimodal = transformers.AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
ids = torch.tensor([[2, 36, 41, 43, 57, 57, 38, 5, 6]])
with torch.no_grad():
    logits = model(ids).logits
settings = {"max_new_tokens": 12, "do_sample": False, "audio_steps_per_block": 2, "audio_max_span_length": 8}
generated = model.generate(torch.tensor([[2, 5, 36]]), **settings)
print(json.dumps({
    "classes": [type(model).__name__, type(multimodal).__name__],
    "module": type(model).__module__,
    "config": type(config).__name__,
    "logits": logits[0, -1].tolist(),
    "generated": generated.tolist(),
    "ours": sorted(name for name in sys.modules if name.split(".")[0] == "ttt_hf"),
}))
"""


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model(audio_attention="block_causal")
    model.save_pretrained(folder)
    return folder, model


def test_the_code_is_saved_with_the_weights(saved):
    folder, _ = saved
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_ttt.TtTConfig",
        "AutoModelForCausalLM": "modeling_ttt.TtTForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_ttt.TtTForConditionalGeneration",
    }
    ours = {path.name for path in MODELING.glob("*_ttt.py")}
    assert {path.name for path in folder.glob("*.py")} == ours
    for name in ours:
        assert (folder / name).read_text() == (MODELING / name).read_text()


def test_loads_where_the_package_is_not_installed(saved, tmp_path):
    folder, model = saved
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    environment["HF_HOME"], environment["HF_MODULES_CACHE"] = str(tmp_path / "hub"), str(tmp_path / "modules")
    (tmp_path / "check.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-E", tmp_path / "check.py", folder],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["classes"] == ["TtTForConditionalGeneration"] * 2
    assert result["module"].startswith("transformers_modules.")
    assert result["config"] == "TtTConfig"
    assert result["ours"] == []
    with torch.no_grad():
        expected = model(torch.tensor([[2, 36, 41, 43, 57, 57, 38, 5, 6]])).logits[0, -1]
    torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-5, rtol=0)
    settings = {"max_new_tokens": 12, "do_sample": False, "audio_steps_per_block": 2, "audio_max_span_length": 8}
    generated = model.generate(torch.tensor([[2, 5, 36]]), **settings)
    assert result["generated"] == generated.tolist()


def test_saving_again_keeps_the_folder_loadable(saved, tmp_path):
    _, model = saved
    model.save_pretrained(tmp_path)
    assert len(json.loads((tmp_path / "config.json").read_text())["auto_map"]) == 3
