"""The model card of a training."""

import logging
import re
import sys

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import TrainerState

from ttt_hf import TtTForConditionalGeneration, TtTProcessor
from ttt_hf.training.arguments import parse_recipe
from ttt_hf.training.card import write_card
from ttt_hf.training.provenance import UNRECORDED, Run, changed_keys, deciding_keys


LOG = [
    {"step": 10, "loss": 3.0, "text_loss": 2.0, "audio_loss": 1.0, "text_accuracy": 0.5},
    {"step": 10, "spoken_wer": 0.5},
    {"step": 20, "eval_loss": 2.5},
    {"step": 20, "spoken_wer": 0.0},
    {"step": 20, "eval_loss": 2.25},
]


@pytest.fixture
def write(tmp_path):
    """`write(log, key=value)` writes the card of a recipe with these keys and gives it."""

    def make(log=(), sources=({"path": "recordings", "task": "asr", "rows": 12, "seconds": 34.5},), before=(), **keys):
        out = tmp_path / "my-adapter"
        out.mkdir(exist_ok=True)
        recipe = parse_recipe({"output_dir": str(out), "train_data": "recordings", **keys})
        state = TrainerState(global_step=20, epoch=1.5, log_history=list(log), best_global_step=12)
        run = Run(15 if before else 0, deciding_keys(recipe), {}, list(sources))
        return ModelCard.load(write_card(recipe, (*before, run), state))

    return make


def test_card_of_an_adapter(write, tmp_path):
    card = write(LOG, lora_rank=4, learning_rate=1e-3, model="some/model")
    assert card.data.base_model == "some/model" and card.data.library_name == "peft"
    assert "lora" in card.data.tags and card.data.base_model_relation == "adapter"
    assert "| `recordings` | asr |  | 12 | 34 |" in card.text
    assert "2.25" in card.text and re.search(r"spoken_wer.* \| 0 \|", card.text)
    assert (tmp_path / "my-adapter" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "(curves.png)" in card.text
    keys = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card.text, re.S)[1])
    assert keys == {"lora_rank": 4, "learning_rate": 1e-3, "model": "some/model", "train_data": "recordings"}


def test_card_of_a_whole_model(write):
    card = write(model="embedded")
    assert card.data.library_name == "transformers" and "lora" not in card.data.tags
    assert "PeftModel" not in card.text and 'from_pretrained("my-adapter")' in card.text


def test_card_names_no_paths_of_this_computer(write, tmp_path):
    base = tmp_path / "my-base"
    base.mkdir()
    data = str(tmp_path / "recordings")
    keys = {"model": str(base), "codec": str(base), "run_name": str(tmp_path / "run"), "hub_token": "secret"}
    card = write(lora_rank=4, sources=[{"path": data}], train_data=data, **keys)
    assert card.data.base_model is None
    assert 'codec="my-base"' in card.text
    assert "secret" not in card.content
    assert str(tmp_path) not in card.content
    assert "`recordings`" in card.content


def test_data_of_the_hub_are_named_to_it(write):
    assert write(sources=[{"path": "some/speech"}]).data.datasets == ["some/speech"]


def test_what_changes_how_an_adapter_loads_is_in_the_example(write):
    card = write(lora_rank=4, audio_block_length=16, dtype="bfloat16")
    assert 'dtype="bfloat16", audio_block_length=16)' in card.text
    assert "generation_config.audio_block_length = 16" in card.text


def test_nothing_measured(write, tmp_path):
    card = write()
    assert "Not measured" in card.text and "curves.png" not in card.text


def test_without_matplotlib_the_card_has_no_curves(write, monkeypatch, caplog):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.INFO):
        card = write(LOG)
    assert "curves.png" not in card.text and "2.25" in card.text
    assert "ttt-hf[train]" in caplog.text


def test_changed_keys_are_those_that_train_the_weights(tmp_path):
    keys = {
        "lora_rank": 4,
        "lora_targets": ["q_proj"],
        "train_data": [{"path": "a", "ratio": 0.5}],
        "lr_scheduler_type": "linear",
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
    }
    out = {"output_dir": str(tmp_path)}
    changed = changed_keys(deciding_keys(parse_recipe({**out, **keys, "speak_steps": 10, "hub_token": "secret"})))
    assert changed == keys
    assert deciding_keys(parse_recipe(changed | out)) == deciding_keys(parse_recipe({**out, **keys}))


def test_card_says_which_steps_were_trained_with_what(write):
    earlier = Run(
        5, deciding_keys(parse_recipe({"learning_rate": 0.5, "output_dir": "x"})), {}, [{"path": "old/data"}]
    )
    card = write(before=[UNRECORDED, earlier], learning_rate=0.25)
    assert "Steps 1 to 5: not recorded." in card.text
    first, second = re.findall(r"Steps (\d+ to \d+): keys.*?```yaml\n.*?learning_rate: ([\d.]+)", card.text, re.S)
    assert (first, second) == (("6 to 15", "0.5"), ("16 to 20", "0.25"))
    assert "| `data` |  |  |  |  | 6-15 |" in card.text or "| `old/data` |  |  |  |  | 6-15 |" in card.text
    assert card.data.datasets == ["old/data"]


def test_card_of_the_best_checkpoint_leaves_out_later_steps(write):
    earlier = Run(0, deciding_keys(parse_recipe({"learning_rate": 0.5, "output_dir": "x"})), {}, [{"path": "a"}])
    keys = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 4}
    card = write(before=[earlier], learning_rate=0.25, **keys)
    assert "The weights are those of step 12" in card.text
    assert "learning_rate: 0.5" in card.text and "learning_rate: 0.25" not in card.text


def test_licence_and_language_are_those_of_the_base_or_of_the_recipe(write, tmp_path):
    card = write(model="embedded", lora_rank=4)
    assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    # A name that only this package knows is no model of the Hub.
    assert card.data.base_model is None and "AutoPeftModel" in card.text
    card = write(model="embedded", license="cc-by-4.0", language=["de", "fr"])
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["de", "fr"])
    (tmp_path / "base").mkdir()
    assert write(model=str(tmp_path / "base")).data.license is None
    own = {"license": "other", "license_name": "research", "license_link": "https://host/license"}
    (tmp_path / "base" / "README.md").write_text(f"---\n{yaml.safe_dump(own)}---\n")
    assert own.items() <= write(model=str(tmp_path / "base")).data.to_dict().items()
    assert "license_name" not in write(model=str(tmp_path / "base"), license="mit").data.to_dict()


def test_seeds_are_named_even_if_they_are_the_defaults(write):
    assert "(seeds: `seed` 42)" in write().text
    assert "(seeds: `seed` 3, `data_seed` 4)" in write(seed=3, data_seed=4).text


def test_a_training_replaces_the_card_of_peft_and_its_example_runs(spoken_adapter, monkeypatch):
    card = ModelCard.load(spoken_adapter / "README.md")
    assert "# adapter" in card.text and "(curves.png)" in card.text and "spoken_wer" in card.text
    assert "rows.jsonl` |  |  | 3 |" in card.text
    assert torch.__version__ in card.text
    monkeypatch.chdir(spoken_adapter.parent)
    names = {}
    exec(re.search(r"```python\n(.*?)```", card.text, re.S)[1], names)
    assert isinstance(names["model"], TtTForConditionalGeneration) and isinstance(names["processor"], TtTProcessor)
