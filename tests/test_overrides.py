"""YAML files and `key=value` strings: what is wrong with them is said in one sentence."""

import os
import time

import pytest

from ttt_hf.overrides import MAX_BYTES, merge, nearest, parse_yaml, read_yaml, split_override


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not valid YAML"),
        (b"a: 1\nb: 2\na: 3", "the key a is given twice"),
        (b"a: {b: 1, b: 2}", "the key b is given twice"),
        (b"a: &x [1, *x]", "an alias refers to itself"),
        (b"&x {a: *x}", "an alias refers to itself"),
        (b"a: " + b"[" * 100 + b"]" * 100, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\x80\x03}q\x00.", "is not text in UTF-8"),
        (b"a: \x00", "special characters are not allowed"),
        (b"a: " + b"9" * 5000, "it holds a value that cannot be read"),
        (b"a: 0x" + b"f" * 5000, "a number of more than 64 bits"),
        (b"a: 2026-45-01", "it holds a value that cannot be read"),
        (b"a: 2026-11-27", "2026-11-27 is a date, quote it"),
        (b"a: !!binary aGk=", "is a bytes, quote it"),
        (b"a: !!set {b}", "is a set, quote it"),
        (b"1: a", "the key 1 is no text, quote it"),
        (b"on: a", "the key True is no text, quote it"),
        (b"? [a]\n: 1", "found unhashable key"),
        (b"a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        (b"a: 1 #" + b"x" * MAX_BYTES, "is larger than 1 MB"),
    ],
)
def test_files_that_hold_no_plain_yaml(content, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"recipe\.yaml ") as error:
        read_yaml(path)
    assert message in str(error.value)
    assert len(str(error.value)) < 700 and "\n" not in str(error.value)


def test_aliases_that_stand_for_millions_of_values(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("\n".join(lines))


def test_aliases_and_merges_of_an_ordinary_size_are_taken():
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nthird: *base"
    assert parse_yaml(text) == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}, "third": {"a": 1, "b": 2}}


def test_a_merged_mapping_may_come_before_its_own_turn():
    text = "base: &base {a: 1}\nouter: {inner: &inner {<<: *base, a: 2}}\nlast: {<<: *inner}"
    assert parse_yaml(text) == {"base": {"a": 1}, "outer": {"inner": {"a": 2}}, "last": {"a": 2}}


def test_many_keys_take_no_time_to_speak_of():
    begin = time.process_time()
    assert len(parse_yaml("\n".join(f"key{number}: 1" for number in range(20_000)))) == 20_000
    merges = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 50)}]}}" for n in range(1, 9)]
    with pytest.raises(ValueError, match=r"line \d: it holds too many keys"):
        parse_yaml("\n".join(["a0: &a0 {x: 1}", *merges]))
    assert time.process_time() - begin < 20


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no recipe file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="is no file"):
        read_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match="is no file"):
        read_yaml(tmp_path / "pipe.yaml")


def test_overrides():
    assert split_override("a = [1, x]", "key=value") == ("a", [1, "x"])
    assert split_override("a=b=c", "key=value") == ("a", "b=c")
    with pytest.raises(ValueError, match="is not an override: write key=value"):
        split_override("x" * 5000, "key=value")
    with pytest.raises(ValueError, match="The value of 'hub_token' is not valid YAML") as error:
        split_override("hub_token=[secret", "key=value")
    assert "secret" not in str(error.value)


def test_the_nearest_name_is_found_quickly_whatever_is_given():
    assert nearest("lora_rnk", ["lora_rank", "seed"], "no such key") == "did you mean lora_rank"
    assert nearest("x" * 1_000_000, ["lora_rank"], "no such key") == "no such key"


def test_settings_are_merged_key_by_key_and_lists_replaced() -> None:
    base = {"source": {"path": "a", "split": "test"}, "judge": ["x", "y"], "limit": 3}
    changes = {"source": {"path": "b"}, "judge": ["z"], "new": {"key": 1}}
    assert merge(base, changes) == {
        "source": {"path": "b", "split": "test"}, "judge": ["z"], "limit": 3, "new": {"key": 1}
    }  # fmt: skip
    assert base["source"] == {"path": "a", "split": "test"}
