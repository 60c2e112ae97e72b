"""The ragged cache alone, and under a backbone."""

from collections.abc import Callable

import pytest
import torch

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.modeling.cache_ttt import KEY_LENGTH_MULTIPLE, RaggedCache, cache_argument
from ttt_hf.modeling.masking_ttt import NO_ORDER, AttentionKeys, AttentionQueries, build_attention_mask


CPU = torch.device("cpu")


def states(values: list[list[float]]) -> torch.Tensor:
    """Keys of shape (batch, 2 heads, length, 3) that hold the given number everywhere."""
    return torch.tensor(values)[:, None, :, None].expand(-1, 2, -1, 3)


def test_rows_are_written_behind_their_own_lengths() -> None:
    cache = RaggedCache(batch_size=2, capacity=6)
    assert cache.reserve([3, 1], CPU).tolist() == [[0, 1, 2], [0, 6, 6]]
    keys, _ = cache.update(states([[1, 2, 3], [4, -1, -1]]), states([[1, 2, 3], [4, -1, -1]]), 0)
    assert keys.shape == (2, 2, 6, 3)
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 3, 0, 0, 0], [4, 0, 0, 0, 0, 0]]

    cache.commit([2, 1])
    assert cache.reserve([1, 2], CPU).tolist() == [[2, 6], [1, 2]]
    keys, values = cache.update(states([[7, -1], [8, 9]]), states([[70, -1], [80, 90]]), 0)
    # The open third token of row 0 is overwritten, padding leaves no trace.
    assert keys[:, 1, :, 2].tolist() == [[1, 2, 7, 0, 0, 0], [4, 8, 9, 0, 0, 0]]
    assert values[:, 1, :3, 2].tolist() == [[1, 2, 70], [4, 80, 90]]
    assert cache.lengths == [2, 1]
    assert cache.get_seq_length() == 2
    assert cache.get_max_length() == 6


def test_attention_gets_no_more_keys_than_the_longest_row_needs() -> None:
    cache = RaggedCache(batch_size=1, capacity=300)
    cache.reserve([5], CPU)
    keys, _ = cache.update(states([[1.0] * 5]), states([[1.0] * 5]), 0)
    assert keys.shape[2] == cache.key_length == KEY_LENGTH_MULTIPLE
    assert cache.get_mask_sizes(5, 0) == (KEY_LENGTH_MULTIPLE, 0)
    cache.commit([5])
    cache.reserve([2 * KEY_LENGTH_MULTIPLE], CPU)
    assert cache.key_length == 3 * KEY_LENGTH_MULTIPLE


def test_swapped_rows_keep_their_committed_keys() -> None:
    cache = RaggedCache(batch_size=3, capacity=4)
    cache.reserve([1, 2, 2], CPU)
    cache.update(states([[1, 0], [2, 3], [4, 5]]), states([[1, 0], [2, 3], [4, 5]]), 0)
    cache.commit([1, 2, 0])
    cache.swap(0, 1)
    assert cache.lengths == [2, 1, 0]
    assert cache.layers[0].keys[:2, 0, :2, 0].tolist() == [[2, 3], [1, 3]]
    # Nothing is committed in the last row, so that only one of the two is copied.
    cache.swap(0, 2)
    assert cache.lengths == [0, 1, 2]
    assert cache.layers[0].keys[2, 0, :2, 0].tolist() == [2, 3]


def test_some_rows_can_be_written_without_the_others() -> None:
    cache = RaggedCache(batch_size=3, capacity=4)
    cache.reserve([1, 1, 1], CPU)
    cache.update(states([[1], [2], [3]]), states([[1], [2], [3]]), 0)
    cache.commit([1, 1, 1])
    assert cache.reserve([1, 2], CPU, first=1).tolist() == [[1, 4], [1, 2]]
    keys, _ = cache.update(states([[5, -1], [6, 7]]), states([[5, -1], [6, 7]]), 0)
    assert keys[:, 0, :3, 0].tolist() == [[2, 5, 0], [3, 6, 7]]
    assert cache.layers[0].keys[0, 0, :3, 0].tolist() == [1, 0, 0]


def test_aligned_rows_write_a_slice_and_read_no_further() -> None:
    cache = RaggedCache(batch_size=3, capacity=300)
    cache.reserve([2, 2, 2], CPU)
    cache.update(states([[1, 2]] * 3), states([[1, 2]] * 3), 0)
    cache.commit([2, 1, 1])
    assert cache.reserve_aligned(2, 3, first=1) == slice(1, 4)
    keys, values = cache.update(states([[3, 4, 5], [6, 7, 8]]), states([[3, 4, 5], [6, 7, 8]]), 0)
    assert keys[:, 0, :, 0].tolist() == values[:, 0, :, 0].tolist() == [[1, 3, 4, 5], [1, 6, 7, 8]]
    cache.truncate(1, 0)
    assert cache.lengths == [2, 0, 1]
    with pytest.raises(ValueError, match="300 slots a row, 301 are needed"):
        cache.reserve_aligned(1, 299)


def test_overflow_and_shrinking_are_errors() -> None:
    cache = RaggedCache(batch_size=1, capacity=4)
    with pytest.raises(ValueError, match="4 slots a row, 5 are needed"):
        cache.reserve([5], CPU)
    cache.commit([3])
    with pytest.raises(ValueError, match="cannot shrink"):
        cache.commit([2])
    with pytest.raises(ValueError, match="4 slots a row, 5 are needed"):
        cache.reserve([2], CPU)


@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
@torch.no_grad()
def test_ragged_pieces_give_the_same_hidden_states_as_whole_rows(
    backbone: str, tiny_model: Callable[..., TtTForConditionalGeneration]
) -> None:
    model = tiny_model(backbone).model
    torch.manual_seed(0)
    ids = torch.randint(2, 36, (2, 9))
    whole = model(ids).last_hidden_state
    cache = RaggedCache(batch_size=2, capacity=16)
    # Row 0 in pieces of 4, 1, 4; row 1 in pieces of 2, 5, 2: one of them is padded every time.
    done = [0, 0]
    for counts in ([4, 2], [1, 5], [4, 2]):
        slots = cache.reserve(counts, CPU)
        width = slots.shape[1]
        pieces = torch.zeros(2, width, dtype=torch.long)
        for row, count in enumerate(counts):
            pieces[row, :count] = ids[row, done[row] : done[row] + count]
        is_token = slots < cache.capacity
        horizon = torch.where(is_token, slots + 1, 1)
        no_block = torch.full_like(slots, -1)
        ends = torch.tensor(done)[:, None] + torch.tensor(counts)[:, None]
        index = torch.arange(cache.key_length)
        keys = AttentionKeys(torch.where(index < ends, index, NO_ORDER), torch.full((2, cache.key_length), -1))
        mask = build_attention_mask(model.config, AttentionQueries(torch.zeros_like(slots), horizon, no_block), keys)
        output = model(
            pieces,
            attention_mask=mask,
            position_ids=horizon - 1,
            use_cache=True,
            **{cache_argument(model): cache},
        ).last_hidden_state
        for row, count in enumerate(counts):
            torch.testing.assert_close(
                output[row, :count], whole[row, done[row] : done[row] + count], atol=1e-5, rtol=1e-5
            )
            done[row] += count
        cache.commit(done)
