"""Who sees whom: block ids, the one mask formulation, and its objects for eager, SDPA and flex attention."""

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from ttt_hf.modeling.masking_ttt import (
    NO_ORDER,
    AttentionKeys,
    AttentionQueries,
    attention_windows,
    audio_block_ids,
    build_attention_mask,
    hybrid_mask_function,
    isolate_padding,
)


START = 10  # ids from here on are audio


def evaluate(queries: AttentionQueries, keys: AttentionKeys, window: int | None = None) -> torch.Tensor:
    function = hybrid_mask_function(queries, keys, window)
    batch, q_length = queries.horizon.shape
    batch_idx = torch.arange(batch)[:, None, None]
    return function(
        batch_idx, torch.tensor(0), torch.arange(q_length)[:, None], torch.arange(keys.order.shape[1])[None, :]
    )


def clean(block_ids: torch.Tensor) -> tuple[AttentionQueries, AttentionKeys]:
    order = torch.arange(block_ids.shape[1]).expand_as(block_ids)
    return AttentionQueries(torch.zeros_like(order), order + 1, block_ids), AttentionKeys(order, block_ids)


def test_block_ids_number_the_spans():
    ids = torch.tensor([[10, 11, 1, 2, 12, 13, 14, 3, 15], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
    expected = [[0, 0, -1, -1, 4, 4, 4, -1, 8], [-1] * 9]
    assert audio_block_ids(ids, START).tolist() == expected


def test_block_ids_cut_a_span_into_blocks_from_its_start():
    ids = torch.tensor([[1, 10, 11, 12, 13, 14, 2, 15, 16, 17]])
    assert audio_block_ids(ids, START, block_length=2).tolist() == [[-1, 1, 1, 3, 3, 5, -1, 7, 7, 9]]
    assert audio_block_ids(ids, START, block_length=1).tolist() == [[-1, 1, 2, 3, 4, 5, -1, 7, 8, 9]]


def test_padding_ends_a_span_and_belongs_to_none():
    ids = torch.tensor([[10, 11, 12, 13, 14]])
    mask = torch.tensor([[0, 0, 1, 1, 0]])
    assert audio_block_ids(ids, START, attention_mask=mask).tolist() == [[-1, -1, 2, 2, -1]]


def test_block_length_is_checked():
    with pytest.raises(ValueError, match="block_length must be at least 1, got 0"):
        audio_block_ids(torch.tensor([[1]]), START, block_length=0)


def test_isolated_padding_sees_itself_alone():
    block_ids = torch.tensor([[-1, 1, 1, -1, -1], [-1, -1, -1, -1, -1]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    isolated = isolate_padding(block_ids, mask)
    assert isolated[mask.bool()].tolist() == block_ids[mask.bool()].tolist()
    for row, row_mask in zip(isolated.tolist(), mask.tolist()):
        padding = [block for block, kept in zip(row, row_mask) if not kept]
        assert len(set(padding)) == 2
        assert min(padding) >= 0
        assert not set(padding) & {block for block, kept in zip(row, row_mask) if kept}


@pytest.mark.parametrize("block_length", [None, 1, 2, 3])
def test_agrees_with_the_definition_position_by_position(block_length):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 2, (6, 24), generator=generator) * 10 + 3
    block_ids = audio_block_ids(ids, START, block_length)
    mask = evaluate(*clean(block_ids))
    for row in range(len(ids)):
        audio = (ids[row] >= START).tolist()
        group: list[int | None] = []
        run = 0
        for position, is_audio in enumerate(audio):
            run = run + 1 if is_audio and position and audio[position - 1] else int(is_audio)
            begin = position - run + 1
            group.append((begin, (run - 1) // (block_length or 99)) if is_audio else None)
        for q in range(24):
            for k in range(24):
                assert mask[row, q, k] == (k <= q or (group[q] is not None and group[q] == group[k]))


def test_agrees_with_the_official_masks(golden_cases):
    for case in golden_cases("forward"):
        tensors = case["tensors"]
        ids, padding = tensors["input_ids"], tensors.get("attention_mask")
        padding = torch.ones_like(ids) if padding is None else padding
        queries, keys = clean(audio_block_ids(ids, 511, attention_mask=padding))
        keys = keys._replace(order=keys.order.masked_fill(padding == 0, NO_ORDER))
        mask = evaluate(queries, keys)
        assert torch.equal(mask[padding.bool()], tensors["hybrid_mask"][padding.bool()]), case["name"]


def test_packed_documents_do_not_see_each_other():
    block_ids = audio_block_ids(torch.tensor([[1, 11, 12, 1, 11, 12, 1]]), START)
    queries, keys = clean(block_ids)
    queries = queries._replace(start=torch.tensor([[0, 0, 0, 3, 3, 3, 3]]))
    mask = evaluate(queries, keys)[0]
    assert not mask[3:, :3].any()
    assert torch.equal(mask[3:, 3:], evaluate(*clean(block_ids[:, 3:]))[0])


def test_keys_without_order_are_seen_by_their_own_block_only():
    # clean 0..3 with a span at 1..2, then a noised copy of it that stands behind everything
    order = torch.tensor([[0, 1, 2, 3, NO_ORDER, NO_ORDER]])
    block_ids = torch.tensor([[-1, 1, 1, -1, 7, 7]])
    queries = AttentionQueries(torch.zeros_like(order), torch.tensor([[1, 2, 3, 4, 1, 1]]), block_ids)
    mask = evaluate(queries, AttentionKeys(order, block_ids))[0]
    assert mask[4].tolist() == mask[5].tolist() == [True, False, False, False, True, True]
    assert not mask[:4, 4:].any()


def test_a_cache_with_a_length_per_row():
    # row 0 has committed 4 slots and adds 2, row 1 has committed 1 and adds 2; the buffer has 8 slots
    slots = torch.arange(8).expand(2, -1)
    lengths = torch.tensor([[6], [3]])
    order = torch.where(slots < lengths, slots, NO_ORDER)
    block_ids = torch.tensor([[-1, -1, -1, 3, 3, 3, -1, -1], [-1, 1, 1, -1, -1, -1, -1, -1]])
    positions = torch.tensor([[4, 5], [1, 2]])
    queries = AttentionQueries(torch.zeros(2, 2, dtype=torch.long), positions + 1, block_ids.gather(1, positions))
    mask = evaluate(queries, AttentionKeys(order, block_ids))
    assert mask.int().tolist() == [
        [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]],
        [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]],
    ]


def test_a_window_limits_order_but_not_the_block():
    block_ids = torch.tensor([[-1, -1, -1, -1, 4, 4, 4, 4]])
    mask = evaluate(*clean(block_ids), window=2)[0]
    assert mask[3].int().tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert mask[7].int().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    queries, keys = clean(block_ids)
    moved = evaluate(queries._replace(position=queries.horizon + 1), keys, window=2)[0]
    assert moved[3].int().tolist() == [0] * 8


def test_window_by_layer_type():
    plain = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4}
    assert attention_windows(LlamaConfig(**plain)) == {"full_attention": None}
    assert attention_windows(Qwen2Config(**plain)) == {"full_attention": None}
    sliding = Qwen2Config(**plain, use_sliding_window=True, sliding_window=5, max_window_layers=2)
    assert attention_windows(sliding) == {"full_attention": None, "sliding_attention": 5}
    sliding.layer_types = ["full_attention", "chunked_attention", "linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="chunked_attention, linear_attention"):
        attention_windows(sliding)


def test_objects_for_each_attention_implementation(tiny_config):
    queries, keys = clean(audio_block_ids(torch.tensor([[1, 11, 12, 13, 2], [1, 2, 3, 11, 12]]), START))
    expected = evaluate(queries, keys)
    config = tiny_config()
    config._attn_implementation = "sdpa"
    mask = build_attention_mask(config, queries, keys)
    assert mask.dtype == torch.bool
    assert torch.equal(mask[:, 0], expected)
    config._attn_implementation = "eager"
    mask = build_attention_mask(config, queries, keys, dtype=torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask[:, 0] == 0, expected)
    assert torch.isfinite(mask).all()
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        build_attention_mask(config, queries, keys)


def test_a_dictionary_for_layer_types(tiny_config):
    text = {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1}
    config = tiny_config(text=text)
    config._attn_implementation = "sdpa"
    queries, keys = clean(torch.full((1, 5), -1))
    masks = build_attention_mask(config, queries, keys)
    assert torch.equal(masks["full_attention"][0, 0], torch.ones(5, 5).tril().bool())
    assert torch.equal(masks["sliding_attention"][0, 0], torch.ones(5, 5).tril().triu(-1).bool())
