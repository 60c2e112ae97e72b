"""The model: official logits, every attention implementation and backbone, caches, two streams, saving and loading."""

import copy
import logging

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    StaticCache,
    masking_utils,
)
from transformers.integrations import flex_attention as flex_integration
from transformers.modeling_outputs import ModelOutput

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.modeling.masking_ttt import (
    NO_ORDER,
    AttentionKeys,
    AttentionQueries,
    audio_block_ids,
    build_attention_mask,
)


VARIANTS = ["tied", "untied"]
# text, a user span, text, a response span of 6 codes and its end, text
CLEAN = [2, 36, 41, 43, 44, 38, 5, 6, 36, 42, 50, 45, 46, 56, 41, 58, 7, 9, 0]
SPAN = (9, 16)
MASK = 57
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def logits_of(model, ids, **kwargs) -> torch.Tensor:
    inputs = {"input_ids": torch.as_tensor(ids), **kwargs}
    inputs = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits.cpu()


def check_official_logits(model, variant, cases):
    for case in cases:
        tensors = case["tensors"]
        padding = tensors.get("attention_mask")
        logits = logits_of(model, tensors["input_ids"], attention_mask=padding)
        valid = torch.ones_like(tensors["input_ids"]) if padding is None else padding
        full = tensors.get(f"logits_{variant}")
        if full is None:
            full, logits_kept = tensors[f"logits_{variant}_every16"], logits[..., ::16]
            argmax = tensors[f"argmax_{variant}"]
            assert torch.equal(logits.argmax(dim=-1)[valid.bool()], argmax[valid.bool()]), case["name"]
        else:
            logits_kept = logits
        torch.testing.assert_close(logits_kept[valid.bool()], full[valid.bool()], atol=1e-4, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_official_logits(golden_folders, golden_cases, variant, implementation):
    model = TtTForConditionalGeneration.from_pretrained(
        golden_folders[variant], begin_audio_token_ids=[501, 502], attn_implementation=implementation
    ).eval()
    assert model.model.config._attn_implementation == implementation
    check_official_logits(model, variant, golden_cases("forward"))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_official_logits_with_flex_attention(golden_folders, golden_cases, monkeypatch, device):
    cases = golden_cases("forward")
    if device == "cpu":
        # Unfused: compiling the kernel takes minutes on a CPU, and torch 2.13 writes invalid C++ once shapes change.
        def unfused_mask(**kwargs):
            return create_block_mask(**{**kwargs, "_compile": False})

        monkeypatch.setattr(masking_utils, "create_block_mask", unfused_mask)
        monkeypatch.setattr(flex_integration, "WrappedFlexAttention", lambda training: lambda: flex_attention)
        cases = [case for case in cases if case["name"] in ("f3_dialogue", "f7_right_pad")]
    model = TtTForConditionalGeneration.from_pretrained(
        golden_folders["untied"], begin_audio_token_ids=[501, 502], attn_implementation="flex_attention"
    ).eval()
    assert len(cases) >= 2
    check_official_logits(model.to(device), "untied", cases)


def test_official_checkpoint_loads_without_a_word(golden_folders, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        for folder in golden_folders.values():
            TtTForConditionalGeneration.from_pretrained(folder, begin_audio_token_ids=[501, 502])
    assert caplog.messages == []


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(
    ("backbone", "plain_class"),
    [("qwen2", Qwen2ForCausalLM), ("qwen3", Qwen3ForCausalLM), ("llama", LlamaForCausalLM)],
)
def test_plain_text_checkpoint(tiny_config, tmp_path, caplog, backbone, plain_class, tie):
    config = tiny_config(backbone, text={"tie_word_embeddings": tie})
    plain = plain_class(config.text_config).eval()
    plain.save_pretrained(tmp_path)
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        model = TtTForConditionalGeneration.from_pretrained(
            tmp_path, mask_token_id=57, audio_token_start_id=40, audio_vocab_size=16, begin_audio_token_ids=[36, 37]
        )
    assert caplog.messages == []
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in plain.named_parameters()}
    text = torch.tensor([[2, 3, 5, 7, 11, 13]])
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, text), plain(text).logits, atol=1e-5, rtol=0)
    fresh = TtTForConditionalGeneration(config)
    fresh.load_state_dict(plain.state_dict())
    assert (fresh.lm_head.weight is fresh.get_input_embeddings().weight) == tie


@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("attention", ["span", "block_causal"])
def test_backbones_run_and_learn(tiny_model, backbone, attention):
    model = tiny_model(backbone, audio_attention=attention).train()
    noisy = torch.tensor([CLEAN, CLEAN])
    noisy[0, 10:13] = MASK
    noisy[1, 9:16] = MASK
    labels = torch.tensor([CLEAN, CLEAN])
    weights = (noisy == MASK).float() / 7
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        output = model(noisy, labels=labels, audio_loss_weights=weights)
        assert output.past_key_values is None
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["span", "block_causal"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_and_neighbours_change_nothing(tiny_model, side, attention, implementation):
    model = tiny_model(audio_attention=attention)
    model.set_attn_implementation(implementation)
    rows = [CLEAN, CLEAN[8:], CLEAN[:4], [41, 42]]
    ids, padding = torch.full((4, len(CLEAN)), 60), torch.zeros(4, len(CLEAN), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(len(CLEAN) - len(row), None) if side == "left" else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        padding[index, place] = 1
    batch = logits_of(model, ids, attention_mask=padding)
    assert torch.isfinite(batch).all()
    for index, row in enumerate(rows):
        alone = logits_of(model, [row])[0]
        torch.testing.assert_close(batch[index][padding[index].bool()], alone, atol=2e-5, rtol=0)


def test_padding_changes_no_loss(tiny_model):
    model = tiny_model()
    labels = torch.tensor([CLEAN])
    noisy = labels.clone()
    noisy[0, 9:12] = MASK
    weights = (noisy == MASK).float()
    plain = model(noisy, labels=labels, audio_loss_weights=weights)
    for pad in ((3, 0), (0, 3)):
        padded = [
            torch.nn.functional.pad(tensor, pad, value=fill)
            for tensor, fill in ((noisy, 1), (torch.ones_like(noisy), 0), (labels, 1), (weights, 0))
        ]
        ids, mask, padded_labels, padded_weights = padded
        padded_labels = padded_labels.where(mask == 1, -100)
        output = model(ids, attention_mask=mask, labels=padded_labels, audio_loss_weights=padded_weights)
        assert output.num_text_targets == plain.num_text_targets
        torch.testing.assert_close(output.loss, plain.loss, atol=1e-5, rtol=0)


def test_block_causal_hides_later_blocks_only(tiny_model):
    span = [41, 42, 43, 44, 45, 46, 47, 48, 49]
    ids = torch.tensor([[5, 36, *span]])
    changed = ids.clone()
    changed[0, 2 + 5] = 56  # inside the second block of four
    for attention, untouched in (("span", 2), ("block_causal", 2 + 4)):
        model = tiny_model(audio_attention=attention)
        difference = (logits_of(model, ids) - logits_of(model, changed)).abs().amax(dim=-1)[0]
        assert (difference[:untouched] < 1e-5).all()
        assert (difference[untouched:] > 1e-4).all()


def test_cached_text_equals_the_whole_sequence(tiny_model):
    model = tiny_model()
    ids = torch.tensor([CLEAN, CLEAN])
    padding = torch.ones_like(ids)
    padding[1, :2] = 0
    whole = logits_of(model, ids, attention_mask=padding)
    for cache in (DynamicCache(), StaticCache(model.config.text_config, max_cache_len=32)):
        with torch.no_grad():
            first = model(ids[:, :16], attention_mask=padding[:, :16], past_key_values=cache)
            steps = [first.logits]
            for index in range(16, ids.shape[1]):
                step = model(
                    ids[:, index : index + 1],
                    attention_mask=padding[:, : index + 1],
                    past_key_values=cache,
                )
                assert step.past_key_values is cache
                steps.append(step.logits)
        cached = torch.cat(steps, dim=1)
        torch.testing.assert_close(cached[padding.bool()], whole[padding.bool()], atol=2e-5, rtol=0)


def test_cached_span_with_block_ids_equals_the_whole_sequence(tiny_model):
    model = tiny_model()
    ids = torch.tensor([CLEAN])
    whole = logits_of(model, ids)
    cache = DynamicCache()
    blocks = audio_block_ids(ids, 40)
    with torch.no_grad():
        model(ids[:, : SPAN[0]], past_key_values=cache)
        with pytest.raises(ValueError, match="need block_ids over cached and new positions"):
            model(ids[:, SPAN[0] : SPAN[1]], past_key_values=cache)
        with pytest.raises(ValueError, match="block_ids must cover cached and new positions"):
            model(ids[:, SPAN[0] : SPAN[1]], past_key_values=cache, block_ids=blocks[:, SPAN[0] : SPAN[1]])
        span = model(ids[:, SPAN[0] : SPAN[1]], past_key_values=cache, block_ids=blocks[:, : SPAN[1]])
    torch.testing.assert_close(span.logits, whole[:, SPAN[0] : SPAN[1]], atol=2e-5, rtol=0)


def test_prepared_masks_are_used_as_they_are(tiny_model):
    model = tiny_model()
    ids = torch.tensor([CLEAN])
    blocks = audio_block_ids(ids, 40)
    order = torch.arange(ids.shape[1])[None]
    mask = build_attention_mask(
        model.config, AttentionQueries(torch.zeros_like(order), order + 1, blocks), AttentionKeys(order, blocks)
    )
    assert torch.equal(logits_of(model, ids, attention_mask=mask), logits_of(model, ids))
    causal = torch.ones(1, 1, len(CLEAN), len(CLEAN)).tril().bool()
    assert not torch.allclose(logits_of(model, ids, attention_mask=causal), logits_of(model, ids), atol=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_packed_documents_equal_documents_alone(tiny_model, packed):
    model = tiny_model()
    first, second = CLEAN[:12], CLEAN[6:]
    ids = torch.tensor([first + second])
    start = torch.tensor([[0] * 12 + [12] * len(second)])
    position = torch.arange(ids.shape[1])[None] - start
    blocks = torch.cat([audio_block_ids(torch.tensor([part]), 40) for part in (first, second)], dim=1)
    blocks[:, 12:] += (blocks[:, 12:] >= 0) * 12
    packing = {"position_ids": position, "start_ids": start, "block_ids": blocks}
    logits = logits_of(model, ids, **(packing if packed else {}))
    alone = torch.cat([logits_of(model, [first]), logits_of(model, [second])], dim=1)
    assert torch.allclose(logits, alone, atol=2e-5) == packed


def two_stream(attention: str, block: int, canvas: list[int]) -> dict[str, torch.Tensor]:
    """The clean sequence and, behind it, a noised copy of the first blocks of its response span; padded at the end."""
    length, begin = len(CLEAN), SPAN[0]
    block_ids = audio_block_ids(torch.tensor([CLEAN]), 40, 4 if attention == "block_causal" else None)[0].tolist()
    horizon, shown = begin, canvas
    if attention == "block_causal":
        horizon, shown = begin + 4 * block, canvas[4 * block : 4 * block + 4]
    copied = range(horizon, horizon + len(shown))
    columns = {
        "input_ids": CLEAN + shown + [1, 1],
        "attention_mask": [1] * (length + len(shown)) + [0, 0],
        "position_ids": [*range(length), *copied, 0, 0],
        "block_ids": [*block_ids, *[100] * len(shown), -1, -1],
        "order_ids": [*range(length), *[NO_ORDER] * (len(shown) + 2)],
        "horizon_ids": [*range(1, length + 1), *[horizon] * len(shown), 0, 0],
    }
    return {name: torch.tensor([column]) for name, column in columns.items()}


@pytest.mark.parametrize("backbone", ["qwen2", "llama"])
@pytest.mark.parametrize(("attention", "block"), [("span", 0), ("span", 1), ("block_causal", 0), ("block_causal", 1)])
def test_a_noised_copy_sees_what_inference_sees(tiny_model, backbone, attention, block):
    model = tiny_model(backbone, audio_attention=attention)
    begin = SPAN[0]
    canvas = CLEAN[begin : begin + 4] * block + [41, MASK, 45, MASK]
    if attention == "block_causal":  # earlier blocks are clean context there, not part of the copy
        canvas = [*CLEAN[begin : begin + 4 * block], 41, MASK, 45, MASK]
    batch = two_stream(attention, block, canvas)
    logits = logits_of(model, **{"ids": batch.pop("input_ids"), **batch})[0]
    torch.testing.assert_close(logits[: len(CLEAN)], logits_of(model, [CLEAN])[0], atol=1e-5, rtol=0)
    inference = logits_of(model, [CLEAN[:begin] + canvas])[0]
    noised = logits[len(CLEAN) : -2]
    torch.testing.assert_close(noised, inference[-len(noised) :], atol=1e-5, rtol=0)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("attention", ["span", "block_causal"])
def test_a_noised_copy_learns_from_nothing_it_must_not_see(tiny_model, attention):
    model = tiny_model(audio_attention=attention)
    canvas = [41, MASK, 45, MASK] if attention == "span" else [*CLEAN[9:13], 41, MASK, 45, MASK]
    batch = two_stream(attention, 0 if attention == "span" else 1, canvas)
    ids = batch.pop("input_ids")
    first_hidden = SPAN[0] if attention == "span" else SPAN[0] + 4
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    weights = torch.zeros(ids.shape)
    weights[0, len(CLEAN) : len(CLEAN) + 4] = (ids[0, len(CLEAN) : len(CLEAN) + 4] == MASK).float()
    labels = torch.full_like(ids, -100)
    labels[0, len(CLEAN) : len(CLEAN) + 4] = 42
    output = model(inputs_embeds=embeddings, labels=labels, audio_loss_weights=weights, **batch)
    assert output.num_audio_targets == 2
    output.loss.backward()
    seen = embeddings.grad[0].abs().amax(dim=-1) > 0
    assert seen[:first_hidden].all()
    assert not seen[first_hidden : len(CLEAN)].any()
    assert seen[len(CLEAN) : len(CLEAN) + 4].all()
    assert not seen[len(CLEAN) + 4 :].any()

    # and the other way round: text is learned without a look at the noise
    embeddings.grad = None
    labels = torch.tensor([CLEAN + [-100] * (ids.shape[1] - len(CLEAN))])
    model(inputs_embeds=embeddings, labels=labels, **batch).loss.backward()
    assert not embeddings.grad[0, len(CLEAN) :].any()


def test_text_labels_on_noised_copies_are_no_targets(tiny_model):
    model = tiny_model()
    batch = two_stream("span", 0, [41, MASK, 45, MASK])
    ids = batch["input_ids"]
    labels = torch.where(batch["attention_mask"].bool(), 5, -100).expand_as(ids)
    output = model(**batch, labels=labels)
    assert output.num_text_targets == len(CLEAN) - 1


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_sliding_window_backbone(tiny_config, implementation):
    text = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    config = tiny_config(text=text)
    model = TtTForConditionalGeneration(config).eval()
    model.set_attn_implementation(implementation)
    plain = Qwen2ForCausalLM(config.text_config).eval()
    plain.load_state_dict(model.state_dict())
    ids = torch.tensor([[2, 3, 5, 7, 11, 13, 17, 19, 23]])
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, ids), plain(ids).logits, atol=1e-5, rtol=0)
        cache = DynamicCache()
        model(ids[:, :5], past_key_values=cache)
        torch.testing.assert_close(
            model(ids[:, 5:], past_key_values=cache).logits, plain(ids).logits[:, 5:], atol=1e-5, rtol=0
        )
        with pytest.raises(ValueError, match="without a config"):
            model(ids, past_key_values=DynamicCache(config=config.text_config))
    batch = two_stream("span", 1, [*CLEAN[9:13], 41, MASK, 45, MASK])
    logits = logits_of(model, **{"ids": batch.pop("input_ids"), **batch})[0, len(CLEAN) : -2]
    inference = logits_of(model, [[*CLEAN[:13], 41, MASK, 45, MASK]])[0, -8:]
    torch.testing.assert_close(logits, inference, atol=1e-5, rtol=0)


def test_unsupported_layer_types_are_refused(tiny_config):
    config = tiny_config()
    config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        TtTForConditionalGeneration(config)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(tiny_model):
    model = tiny_model().train()
    ids = torch.tensor([CLEAN])

    def gradient() -> list[torch.Tensor]:
        model.zero_grad()
        model(ids, labels=ids, audio_loss_weights=(ids > 40).float()).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradient()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    for ours, expected in zip(gradient(), plain):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_bfloat16(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    half = TtTForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    ids = torch.tensor([CLEAN])
    padding = torch.ones_like(ids)
    padding[0, :2] = 0
    output = half(ids, attention_mask=padding, labels=ids, audio_loss_weights=(ids > 40).float())
    expected = model(ids, attention_mask=padding, labels=ids, audio_loss_weights=(ids > 40).float())
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.05)
    config = half.config
    assert config.dtype == config.text_config.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in TtTForConditionalGeneration(config).parameters()} == {torch.float32}


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(tiny_model, tmp_path, device_map):
    model = tiny_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    placed = TtTForConditionalGeneration.from_pretrained(tmp_path, device_map=device_map)
    if not torch.cuda.is_available():
        assert placed.device.type == "cpu"
    torch.testing.assert_close(logits_of(placed, [CLEAN]), logits_of(model, [CLEAN]), atol=1e-5, rtol=0)
    assert {"Qwen2DecoderLayer"} <= set(placed._no_split_modules)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
def test_save_and_load(tiny_model, tmp_path, backbone, tie):
    model = tiny_model(backbone, tie_word_embeddings=tie, audio_attention="block_causal")
    model.save_pretrained(tmp_path)
    loaded, info = TtTForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tie
    assert torch.equal(logits_of(loaded, [CLEAN]), logits_of(model, [CLEAN]))


def test_official_weights_survive_our_format(golden_models, tmp_path):
    ids = torch.tensor([[5, 501, 520, 530, 632, 634, 7]])
    for variant, model in golden_models.items():
        model.save_pretrained(tmp_path / variant)
        loaded = TtTForConditionalGeneration.from_pretrained(tmp_path / variant)
        assert loaded.config.begin_audio_token_ids == [501, 502]
        assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))


def test_the_vocabulary_can_be_padded_but_not_lose_or_gain_tokens(tiny_model, tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    before = logits_of(model, [CLEAN])
    model.resize_token_embeddings(pad_to_multiple_of=80, mean_resizing=False)
    assert model.config.get_text_config().vocab_size == 80
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.allclose(logits_of(model, [CLEAN])[..., :64], before, atol=1e-5)
    # Without the padding, down to the last end marker, 59.
    model.resize_token_embeddings(60)
    model.save_pretrained(tmp_path)
    loaded = TtTForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.allclose(logits_of(loaded, [CLEAN]), before[..., :60], atol=1e-5)
    for size, message in ((59, "would cut off the audio tokens"), (61, "every id counts as audio")):
        with pytest.raises(ValueError, match=message):
            model.resize_token_embeddings(size)
    assert model.get_input_embeddings().weight.shape[0] == model.config.text_config.vocab_size == 60


def test_logits_to_keep_and_hidden_states(tiny_model):
    model = tiny_model()
    model.set_attn_implementation("eager")
    ids = torch.tensor([CLEAN])
    whole = logits_of(model, ids)
    assert torch.allclose(logits_of(model, ids, logits_to_keep=2), whole[:, -2:], atol=1e-6)
    assert torch.allclose(logits_of(model, ids, logits_to_keep=torch.tensor([3, 5])), whole[:, [3, 5]], atol=1e-6)
    with torch.no_grad():
        output = model(ids, output_hidden_states=True, output_attentions=True)
    assert isinstance(output, ModelOutput)
    assert [tuple(state.shape) for state in output.hidden_states] == [(1, 19, 32)] * 3
    assert [tuple(attention.shape) for attention in output.attentions] == [(1, 4, 19, 19)] * 2
    # The cache has two names, before and since transformers 5.24.
    assert output.past_key_values.get_seq_length() == 19
    assert output["cache"] is output.cache is output.past_key_values
    more = torch.tensor([[5]])
    expected = logits_of(model, more, past_key_values=copy.deepcopy(output.cache))
    assert torch.equal(logits_of(model, more, cache=copy.deepcopy(output.cache)), expected)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(more, cache=output.cache, past_key_values=output.cache)
    assert torch.allclose(output["logits"], whole, atol=1e-6)
    assert torch.allclose(model(ids, return_dict=False, use_cache=False)[0], whole, atol=1e-6)
    assert torch.equal(*(model(ids, labels=ids, return_dict=as_dict)[0] for as_dict in (True, False)))


def test_forward_draws_no_random_numbers(tiny_model):
    model = tiny_model().train()
    ids = torch.tensor([CLEAN])
    state = torch.random.get_rng_state()
    first, second = (model(ids, labels=ids, audio_loss_weights=(ids > 40).float()).loss for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())
