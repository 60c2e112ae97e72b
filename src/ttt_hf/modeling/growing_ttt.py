"""Grows a TtT from a text model: ids of the audio tokens, initial rows of the embeddings, and the copy of the rest."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import PreTrainedModel

from .backbones_ttt import check_backbone
from .masking_ttt import ATTENTION_IMPLEMENTATIONS


if TYPE_CHECKING:
    from .modeling_ttt import TtTForConditionalGeneration


TEXT_SIDE_TOKENS = ("<|begin_of_audio|>", "<|begin_of_quad|>", "<|end_of_audio|>")
AUDIO_TOKEN = "<|audio|>"
MASK_TOKEN = "<|mask_token|>"
END_TOKENS = ("<|end_of_audio_new|>", "<|end_of_audio_span_last|>")
# Tokens of the chat format (ChatML), and the padding token.
TURN_START_TOKEN = "<|im_start|>"
TURN_END_TOKEN = "<|im_end|>"
PAD_TOKEN = "<|endoftext|>"

# New rows are drawn from a normal distribution with the mean of the old rows and this share of their covariance. Close
# to the mean, a new token takes no more probability from the text distribution than an average token does: see
# J. Hewitt, "Initializing New Word Embeddings for Pretrained Language Models" (2021).
COVARIANCE_SHARE = 1e-5
# Rows cast to float64 at a time, which bounds the memory for the covariance of a large vocabulary.
CHUNK_ROWS = 8192


class AudioTokens(NamedTuple):
    """Ids of the audio tokens in an enlarged vocabulary; the first four are fields of `TtTConfig`.

    Attributes:
        first_new_id: First id whose row is new.
        vocab_size: Size of the smallest vocabulary that holds all ids.
    """

    begin_audio_token_ids: list[int]
    audio_token_start_id: int
    mask_token_id: int
    end_audio_token_ids: list[int]
    first_new_id: int
    vocab_size: int


def place_audio_tokens(
    audio_vocab_size: int, text_vocab_size: int, tokenizer: Any = None, text_tokens: Sequence[str] = ()
) -> AudioTokens:
    """Assigns ids to the audio tokens and adds them to the tokenizer, if there is one.

    The order is that of the official TtT vocabulary: `<|begin_of_audio|>`, `<|begin_of_quad|>`, `<|end_of_audio|>` as
    the last text tokens, then `<|audio|>`, the codes `<|audio_0|>` ..., the mask token and the two end markers.

    Args:
        audio_vocab_size: Number of codes.
        text_vocab_size: Rows of the text model's embedding matrix; new ids follow them when there is no tokenizer.
        tokenizer: A transformers tokenizer, changed in place. New ids follow its own tokens, so that padding rows of
            the text model's embedding matrix are used first.
        text_tokens: Further special tokens to add to the tokenizer, before those of audio, unless it has them.

    Raises:
        ValueError: If the tokenizer already holds audio tokens, or numbers new tokens with gaps.
    """
    codes = [f"<|audio_{code}|>" for code in range(audio_vocab_size)]
    tokens = [*TEXT_SIDE_TOKENS, AUDIO_TOKEN, *codes, MASK_TOKEN, *END_TOKENS]
    first = text_vocab_size
    if tokenizer is not None:
        present = [token for token in tokens if token in tokenizer.get_vocab()]
        if present:
            raise ValueError(
                f"The tokenizer already has audio tokens ({present[0]}): pass the tokenizer of the text model, or "
                "load a TtT checkpoint with from_pretrained."
            )
        tokens = [token for token in text_tokens if token not in tokenizer.get_vocab()] + tokens
        first = _add_tokens(tokenizer, tokens)
    # Tokens of `text_tokens` that were missing come before those of audio.
    begin = first + tokens.index(TEXT_SIDE_TOKENS[0])
    start = begin + len(TEXT_SIDE_TOKENS)
    mask = start + 1 + audio_vocab_size
    return AudioTokens(
        begin_audio_token_ids=[begin, begin + 1],
        audio_token_start_id=start,
        mask_token_id=mask,
        end_audio_token_ids=[mask + 1, mask + 2],
        # A tokenizer may have tokens without a row in the text model: their rows are new, too.
        first_new_id=min(first, text_vocab_size),
        vocab_size=max(first + len(tokens), text_vocab_size),
    )


def _add_tokens(tokenizer: Any, tokens: Sequence[str]) -> int:
    """Adds special tokens with contiguous ids and returns the first id."""
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if ids != list(range(ids[0], ids[0] + len(tokens))):
        raise ValueError(
            "The tokenizer numbers new tokens with gaps, but audio ids must be contiguous: use another one."
        )
    return ids[0]


def grow_rows(weight: torch.Tensor, first_new_row: int, rows: int, generator: torch.Generator) -> torch.Tensor:
    """Enlarges an embedding matrix by rows drawn around the mean of the old ones.

    Args:
        weight: The old matrix, float of shape `(old rows, hidden)`.
        first_new_row: Index of the first row to draw; those before it are kept bit for bit.
        rows: Number of rows of the result.
        generator: Random generator on the CPU.

    Returns:
        Matrix of shape `(rows, hidden)` with the dtype and device of `weight`.

    Raises:
        ValueError: If the old matrix is not finite.
    """
    old = weight.detach()[:first_new_row]
    hidden = old.shape[1]
    # Two passes, mean and centred products: the textbook E[xy] - E[x]E[y] would cancel.
    total = torch.zeros(hidden, dtype=torch.float64, device=old.device)
    products = torch.zeros(hidden, hidden, dtype=torch.float64, device=old.device)
    for chunk in old.split(CHUNK_ROWS):
        total += chunk.double().sum(dim=0)
    mean = total / len(old)
    if not bool(mean.isfinite().all()):
        raise ValueError(
            "The text model's embeddings are not finite numbers: its weights are damaged; fetch it again."
        )
    for chunk in old.split(CHUNK_ROWS):
        centred = chunk.double() - mean
        products += centred.T @ centred
    covariance = products / max(len(old) - 1, 1)
    # With fewer rows than dimensions the covariance is singular; the jitter makes the factorisation exist.
    jitter = 1e-6 * covariance.diagonal().mean().clamp(min=1e-12)
    factor = torch.linalg.cholesky(covariance + jitter * torch.eye(hidden, dtype=torch.float64, device=old.device))
    # Drawn on the CPU, so that a seed gives the same rows on every device.
    noise = torch.randn(rows - first_new_row, hidden, dtype=torch.float64, generator=generator).to(old.device)
    # (new rows, hidden), with the covariance COVARIANCE_SHARE * factor @ factor.T
    new = mean + COVARIANCE_SHARE**0.5 * noise @ factor.T
    return torch.cat([old, new.to(old.dtype)])


def grow_text_model(
    model_class: "type[TtTForConditionalGeneration]",
    text_model: PreTrainedModel,
    audio_vocab_size: int,
    tokenizer: Any,
    seed: int,
    text_tokens: Sequence[str],
    config_fields: Mapping[str, Any],
) -> "TtTForConditionalGeneration":
    """Creates a TtT from a loaded text model, see `TtTForConditionalGeneration.from_text_model`."""
    backbone, head = text_model.base_model, text_model.get_output_embeddings()
    # Our output layer has no bias, and a config with a text part belongs to a model of several modalities.
    if head is None or head.bias is not None or text_model.config.get_text_config() is not text_model.config:
        raise ValueError(
            f"{type(text_model).__name__} is no plain decoder-only language model with an output layer without "
            "bias: choose another text model."
        )

    # 1. Assign ids to the audio tokens, and configure a backbone with a larger vocabulary
    old_rows = backbone.get_input_embeddings().weight
    tokens = place_audio_tokens(audio_vocab_size, len(old_rows), tokenizer, text_tokens)
    text_config = copy.deepcopy(text_model.config)
    text_config.vocab_size = tokens.vocab_size
    config = model_class.config_class(
        text_config=text_config,
        audio_token_start_id=tokens.audio_token_start_id,
        audio_vocab_size=audio_vocab_size,
        mask_token_id=tokens.mask_token_id,
        begin_audio_token_ids=tokens.begin_audio_token_ids,
        end_audio_token_ids=tokens.end_audio_token_ids,
        **config_fields,
    )
    # Flash attention is not taken over, as it cannot express the hybrid mask.
    if text_model.config._attn_implementation in ATTENTION_IMPLEMENTATIONS:
        config._attn_implementation = text_model.config._attn_implementation
    # 2. Build the model. Its parameters are overwritten below; drawing them must not advance the global generator.
    with torch.random.fork_rng(devices=[]):
        model = model_class._from_config(config, dtype=text_model.dtype)
    # 3. Copy the text model, with new rows in the embedding and, unless tied, in the output layer
    state = {f"model.{name}": value for name, value in backbone.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    new_rows = grow_rows(old_rows, tokens.first_new_id, tokens.vocab_size, generator)
    state[model._tied_weights_keys["lm_head.weight"]] = new_rows
    # Each matrix has its own mean; tied layers share the rows.
    if not config.tie_word_embeddings:
        new_rows = grow_rows(head.weight, tokens.first_new_id, tokens.vocab_size, generator)
    state["lm_head.weight"] = new_rows
    # Strict: an unknown or missing parameter raises instead of keeping random values.
    model.load_state_dict(state)
    model.generation_config = copy.deepcopy(text_model.generation_config)
    model = model.to(text_model.device).eval()
    # 4. What a backbone does with the mask and the cache shows in its logits only
    check_backbone(model)
    return model
