"""Sampling: every row draws from a stream of its own, which a seed fixes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import set_seed

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.modeling.seeds_ttt import derive_seed, row_generators


Models = Callable[..., TtTForConditionalGeneration]

PROMPTS = [[5, 9, 12, 30], [7, 8], [4, 11, 36]]
KEYS: dict[str, Any] = {
    "max_new_tokens": 24,
    "audio_steps_per_block": 3,
    "audio_max_span_length": 10,
    "do_sample": True,
    "audio_temperature": 1.0,
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """What is drawn without a seed is the same in every order of the tests: short replies may be equal by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sampled(model: TtTForConditionalGeneration, rows: list[list[int]], **kwargs: Any) -> list[list[int]]:
    """The ids of every row, up to the first padding token."""
    width = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[1] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
    keys = {**KEYS, "suppress_tokens": [1], **kwargs}
    return [[token for token in row if token != 1] for row in model.generate(**inputs, **keys).tolist()]


@pytest.mark.parametrize("seed", [None, 0], ids=["no_seed", "one_seed"])
def test_equal_prompts_of_a_batch_get_different_samples(seed: int | None, tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    # In text, temperature 2; at an open span, the codes.
    text = sampled(model, [PROMPTS[0]] * 4, seed=seed, temperature=2.0, suppress_tokens=[1, 36, 37])
    assert len({tuple(row) for row in text}) == 4
    audio = sampled(model, [PROMPTS[2]] * 4, seed=seed, do_sample=False)
    assert len({tuple(row) for row in audio}) == 4


def test_a_seed_gives_the_same_batch_again_and_another_seed_another(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    first = sampled(model, PROMPTS, seed=5)
    assert sampled(model, PROMPTS, seed=5) == first
    other = sampled(model, PROMPTS, seed=6)
    assert all(left != right for left, right in zip(first, other))


def test_with_a_seed_per_row_a_sample_does_not_depend_on_its_batch(tiny_model: Models) -> None:
    model, seeds = tiny_model("qwen2"), [3, 0, 8]
    together = sampled(model, PROMPTS, seed=seeds)
    backwards = sampled(model, PROMPTS[::-1], seed=seeds[::-1])
    assert backwards == together[::-1]
    for row, (prompt, seed) in enumerate(zip(PROMPTS, seeds)):
        assert sampled(model, [prompt], seed=seed) == sampled(model, [prompt], seed=[seed]) == [together[row]]
    same = sampled(model, [PROMPTS[0]] * 2, seed=[4, 4])
    assert same[0] == same[1]


def test_seeds_share_no_stream() -> None:
    draws = {
        tuple(torch.randint(2**31, (4,), generator=generator).tolist())
        for seed in range(20)
        for generator in row_generators(seed, 20, draws=True, device=torch.device("cpu"))
    }
    assert len(draws) == 400
    derived = {derive_seed(seed, key) for seed in range(20) for key in [*range(20), "sample-1"]}
    assert len(derived) == 420
    assert all(0 <= seed < 2**63 for seed in derived)


def test_set_seed_reaches_sampling_and_greedy_leaves_the_global_generator_alone(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    with torch.random.fork_rng():
        set_seed(1)
        first, second = sampled(model, PROMPTS), sampled(model, PROMPTS)
        set_seed(1)
        assert sampled(model, PROMPTS) == first
        assert first != second
        state = torch.get_rng_state()
        sampled(model, PROMPTS, do_sample=False, audio_temperature=0.0)
        assert torch.equal(torch.get_rng_state(), state)


def test_return_sequences_are_different_samples_of_each_prompt(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    rows = sampled(model, PROMPTS[:2], seed=5, num_return_sequences=3, repetition_penalty=1.2)
    assert len({tuple(row) for row in rows}) == len(rows) == 6
    assert all(row[: len(PROMPTS[index // 3])] == PROMPTS[index // 3] for index, row in enumerate(rows))
    assert sampled(model, PROMPTS[:2], seed=[9] * 6, num_return_sequences=3)[::3] == sampled(
        model, PROMPTS[:2], seed=[9, 9]
    )


def test_sampled_audio_is_enough_for_several_sequences(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    rows = sampled(model, [PROMPTS[2]], do_sample=False, num_return_sequences=4)
    assert len({tuple(row) for row in rows}) == 4
    greedy = {"do_sample": False, "audio_temperature": 0.0}
    with pytest.raises(ValueError, match=r"num_return_sequences=2 would give equal replies, as nothing is sampled"):
        sampled(model, [PROMPTS[2]], num_return_sequences=2, **greedy)
    assert sampled(model, [PROMPTS[2]], num_return_sequences=1, **greedy)
    with pytest.raises(ValueError, match="num_return_sequences must be an integer of at least 1, got 0"):
        sampled(model, [PROMPTS[2]], num_return_sequences=0)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ([1, 2], "2 were given for 3 rows"),
        ([], "0 were given for 3 rows"),
        ([1, 2, None], "seed must be an integer of at least 0, got None"),
        ([1, -2, 3], "seed must be an integer of at least 0, got -2"),
        ("7", "seed must be an integer of at least 0, got '7'"),
    ],
)
def test_wrong_seeds_are_one_sentence(seed: Any, message: str, tiny_model: Models) -> None:
    with pytest.raises(ValueError, match=message):
        sampled(tiny_model("qwen2"), PROMPTS, seed=seed)
