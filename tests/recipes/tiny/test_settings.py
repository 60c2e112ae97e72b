"""The recipe file: complete, typed, overridable, and fingerprinted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from recipes.tiny.codec_objective import CodecTraining
from recipes.tiny.settings import RECIPE_FILE, fingerprint, load_settings


def test_the_shipped_recipe_loads_completely() -> None:
    settings = load_settings()
    tree = yaml.safe_load(RECIPE_FILE.read_text(encoding="utf-8"))
    assert {field.name for field in dataclasses.fields(settings)} == set(tree)
    for section, keys in tree.items():
        read = dataclasses.asdict(getattr(settings, section))
        assert {key: read[key] for key in keys} == pytest.approx(keys)
        assert section == "codec" or set(read) == set(keys)


def test_training_the_codec_alone_does_what_the_recipe_does() -> None:
    assert load_settings().codec == CodecTraining()
    assert load_settings(overrides=["codec.codec_steps=9"]).codec == CodecTraining(codec_steps=9)


def test_overrides_are_read_as_yaml() -> None:
    overrides = ["lm.steps=7", "lm.learning_rate=1e-4", "generation.audio_entropy_bound=2.5"]
    settings = load_settings(overrides=overrides)
    assert settings.lm.steps == 7
    assert settings.lm.learning_rate == pytest.approx(1e-4)
    assert settings.generation.audio_entropy_bound == pytest.approx(2.5)
    assert load_settings(overrides=["data.scale=1"]).data.scale == 1.0
    assert load_settings(overrides=["generation.audio_entropy_bound=null"]).generation.audio_entropy_bound is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lm.step=7", "no setting lm.step, did you mean steps"),
        ("lmm.steps=7", "no section 'lmm', did you mean lm"),
        ("lm.steps=many", "lm.steps has to be int, not 'many'"),
        ("lm.steps=1.5", "lm.steps has to be int, not 1.5"),
        ("lm.steps=true", "lm.steps has to be int, not True"),
        ("lm.learning_rate=fast", "lm.learning_rate has to be float"),
        ("lm.objective=3", "lm.objective has to be str"),
        ("lm.steps", "write section.key=value"),
        ("steps=3", "write section.key=value"),
        ("lm.steps=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_settings(overrides=[override])


def test_a_recipe_file_of_ones_own(tmp_path: Path) -> None:
    tree = yaml.safe_load(RECIPE_FILE.read_text(encoding="utf-8"))
    tree["lm"]["steps"] = 3
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert load_settings(path).lm.steps == 3
    del tree["lm"]["steps"]
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks lm\.steps"):
        load_settings(path)
    path.write_text("- just\n- a list\n", encoding="utf-8")
    with pytest.raises(ValueError, match="sections of the recipe"):
        load_settings(path)
    path.write_text("lm: [", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_settings(path)
    with pytest.raises(FileNotFoundError, match="no recipe file"):
        load_settings(tmp_path / "absent.yaml")


def test_the_fingerprint_follows_what_decides_the_result() -> None:
    before = load_settings()
    assert fingerprint(before, ["lm"]) == fingerprint(load_settings(), ["lm"])
    assert fingerprint(before, ["lm"]) != fingerprint(load_settings(overrides=["lm.steps=1"]), ["lm"])
    assert fingerprint(before, ["data"]) == fingerprint(load_settings(overrides=["lm.steps=1"]), ["data"])
    assert fingerprint(before, ["data"]) == fingerprint(load_settings(overrides=["data.workers=9"]), ["data"])
    assert fingerprint(before, ["lm"]) == fingerprint(load_settings(overrides=["lm.save_steps=9"]), ["lm"])
