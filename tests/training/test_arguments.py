"""Recipes: what their keys may be, and what is said of a wrong one."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ttt_hf.data import TtTDataCollator
from ttt_hf.training.arguments import GROUPS, ObjectiveArguments, keys_page, load_recipe, parse_recipe
from ttt_hf.training.recipes import RECIPES, recipe_names


def test_keys_go_to_their_groups(tmp_path):
    recipe = parse_recipe(
        {"lora_rank": 4, "lora_targets": ["q_proj"], "objective": "paper", "learning_rate": 1e-3, "seed": 3}
    )
    assert (recipe.model.lora_rank, recipe.model.lora_targets) == (4, ["q_proj"])
    assert recipe.objective.objective == "paper"
    assert (recipe.training.learning_rate, recipe.training.seed) == (1e-3, 3)
    assert recipe.training.remove_unused_columns is False


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lora_rank: 4\nlearning_rate: 1.0e-3\ntrain_data: [{path: a, ratio: 0.5}]\n")
    recipe = load_recipe(str(path), ["lora_rank=16", "lora_targets=[q_proj, v_proj]", "codec=null"])
    assert recipe.model.lora_rank == 16
    assert recipe.model.lora_targets == ["q_proj", "v_proj"]
    assert recipe.model.codec is None
    assert recipe.training.learning_rate == 1e-3
    assert recipe.data.train_data == '[{"path": "a", "ratio": 0.5}]'


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid(name, tmp_path):
    by_name = load_recipe(name, [f"output_dir={tmp_path}"])
    assert by_name == load_recipe(str(RECIPES / f"{name}.yaml"), [f"output_dir={tmp_path}"])


def test_keys_of_the_objective_are_those_of_the_collator():
    collator = {entry.name: entry.default for entry in dataclasses.fields(TtTDataCollator)}
    for entry in dataclasses.fields(ObjectiveArguments):
        assert collator[entry.name] == entry.default


def test_every_key_is_explained():
    for group in GROUPS:
        for entry in dataclasses.fields(group):
            assert entry.metadata.get("help"), entry.name


def test_the_documentation_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "recipe-keys.md"
    assert page.read_text(encoding="utf-8") == keys_page(), "run python -m ttt_hf.training.arguments"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_rnk": 3}, "no key lora_rnk: did you mean lora_rank"),
        ({"xyzzy": 3}, "no key xyzzy"),
        ({"lora_rank": "many"}, "key lora_rank has a wrong value"),
        ({"block_canvas": "maybe"}, "key block_canvas has a wrong value"),
        ({"model": ["a", "b"]}, "key model has a wrong value: one value belongs here, not a list"),
        ({"model": {"a": 1}, "seed": [1]}, "key seed has a wrong value: one value belongs here, not a list"),
        ({"lora_targets": ["q_proj", "--help"]}, "key lora_targets has a wrong value: '--help' in its list"),
        ({"lora_rank": "9" * 5000}, "key lora_rank has a wrong value"),
        ({"warmup_steps": "1e999"}, "key warmup_steps has a wrong value: inf is no finite number"),
        (
            {"span_truncation": float("nan"), "seed": 3},
            "key span_truncation has a wrong value: nan is no finite number",
        ),
        ({"lr_scheduler_type": "sideways"}, "key lr_scheduler_type cannot be used here: "),
        ({"optim": "sideways", "seed": 3}, "key optim has a wrong value: invalid choice"),
        ({"load_best_model_at_end": True, "seed": 3}, "key load_best_model_at_end cannot be used here: "),
        ({"fsdp_config": "nowhere.json", "fsdp": "full_shard", "seed": 3}, "key fsdp"),
    ],
)
def test_wrong_keys_and_values_are_named(values, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_recipe(values)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_keys_of_packages_and_devices_that_are_not_here():
    if find_spec("deepspeed") is None:
        with pytest.raises(ImportError, match=r"key deepspeed cannot be used here: .*[Dd]eepspeed"):
            parse_recipe({"deepspeed": {"zero_stage": 3}, "seed": 3})
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="key tf32 cannot be used here: "):
            parse_recipe({"tf32": True})


def test_a_value_may_look_like_an_option():
    assert parse_recipe({"model": "--help"}).model.model == "--help"
    assert parse_recipe({"learning_rate": -1}).training.learning_rate == -1
    assert parse_recipe({"save_strategy": False}).training.save_strategy == "no"


def test_files_and_overrides_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="lora_asr"):
        load_recipe("no-such-recipe")
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(str(path))
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="keys and values"):
        load_recipe(str(path))
    with pytest.raises(ValueError, match="key=value"):
        load_recipe("lora_asr", ["lora_rank"])
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe("lora_asr", ["lora_targets=[a"])
