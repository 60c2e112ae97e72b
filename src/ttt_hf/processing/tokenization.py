"""Tokenizers with audio tokens: training a small one, and finding the audio ids by token name.

The layout of the vocabulary is that of the official checkpoints: text, the text markers that open and close audio,
then `<|audio|>`, the codes, the mask token and the two markers that end a span. Every id from `<|audio|>` on counts as
audio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..modeling.growing_ttt import (
    AUDIO_TOKEN,
    END_TOKENS,
    MASK_TOKEN,
    PAD_TOKEN,
    TEXT_SIDE_TOKENS,
    TURN_END_TOKEN,
    TURN_START_TOKEN,
    place_audio_tokens,
)


CHAT_TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")


def code_token(code: int) -> str:
    """Token of an audio code."""
    return f"<|audio_{code}|>"


@lru_cache(maxsize=1)
def default_chat_template() -> str:
    """Jinja source of TtT's chat template: ChatML with typed content."""
    return CHAT_TEMPLATE_FILE.read_text(encoding="utf-8")


@dataclass(frozen=True)
class AudioTokenIds:
    """Ids of the audio tokens; all but `end_user_audio_token_id` are fields of `TtTConfig`.

    Args:
        audio_token_start_id: Id of `<|audio|>`; code `c` has id `audio_code_offset + c`.
        audio_vocab_size: Number of codes.
        mask_token_id: Id of `<|mask_token|>`.
        begin_audio_token_ids: Ids that open a span, `<|begin_of_audio|>` and, for the last span of a turn,
            `<|begin_of_quad|>`.
        end_audio_token_ids: Ids that end a span of the assistant, in the same order.
        end_user_audio_token_id: Id that ends the user's audio.
    """

    audio_token_start_id: int
    audio_vocab_size: int
    mask_token_id: int
    begin_audio_token_ids: list[int]
    end_audio_token_ids: list[int]
    end_user_audio_token_id: int

    @property
    def audio_code_offset(self) -> int:
        """Id of code 0, as in `TtTConfig`."""
        return self.audio_token_start_id + 1

    def config_fields(self) -> dict[str, int | list[int]]:
        """Keyword arguments for `TtTConfig`."""
        return {
            "audio_token_start_id": self.audio_token_start_id,
            "audio_vocab_size": self.audio_vocab_size,
            "mask_token_id": self.mask_token_id,
            "begin_audio_token_ids": self.begin_audio_token_ids,
            "end_audio_token_ids": self.end_audio_token_ids,
        }


def train_tokenizer(texts: Iterable[str], vocab_size: int, audio_vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer and adds the tokens of ChatML and of audio after the text tokens.

    Words are split as in GPT-2 and digits individually, so that `four`, ` four`, `-` and `4` are separate tokens.
    Training is deterministic.

    Args:
        texts: Training texts.
        vocab_size: Maximum number of text tokens, including the 256 bytes but not the special tokens; small corpora
            give fewer.
        audio_vocab_size: Number of audio codes, the codec's codebook size.

    Returns:
        The tokenizer with TtT's chat template, `<|im_end|>` as end of sequence and left padding with `<|endoftext|>`.

    Raises:
        ValueError: If `vocab_size` is smaller than the number of bytes, or there are no codes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet):
        raise ValueError(f"vocab_size must be at least {len(alphabet)}, one token for each byte, not {vocab_size}.")
    if audio_vocab_size < 1:
        raise ValueError(f"audio_vocab_size must be at least 1, not {audio_vocab_size}.")
    # Byte-level, so that every text can be tokenized; NFC makes equal texts equal bytes.
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    # The initial alphabet holds all bytes, also those that the training texts lack.
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    # After training, so that their ids follow the text; not normalised, so that they match literally.
    bpe.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (PAD_TOKEN, TURN_START_TOKEN, TURN_END_TOKEN)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD_TOKEN,
        eos_token=TURN_END_TOKEN,
        padding_side="left",
        chat_template=default_chat_template(),
    )
    # Audio tokens come last, since all ids from the first of them on count as audio.
    place_audio_tokens(audio_vocab_size, len(tokenizer), tokenizer)
    return tokenizer


def audio_token_ids(tokenizer: PreTrainedTokenizerBase) -> AudioTokenIds:
    """Finds the audio ids of a TtT model's tokenizer by token name, and checks their order.

    Raises:
        ValueError: If a token is missing or out of order.
    """
    vocab = tokenizer.get_vocab()

    def id_of(name: str) -> int:
        if name not in vocab:
            raise ValueError(
                f"The tokenizer has no token {name}: take the tokenizer of a TtT model, or let "
                "TtTForConditionalGeneration.from_text_model(..., tokenizer=...) add the audio tokens."
            )
        return vocab[name]

    # The number of codes follows from the ids around them; checking the first and the last code is enough.
    start, mask = id_of(AUDIO_TOKEN), id_of(MASK_TOKEN)
    size = mask - start - 1
    if size < 1 or id_of(code_token(0)) != start + 1 or id_of(code_token(size - 1)) != mask - 1:
        raise ValueError(
            f"The tokenizer's audio codes must follow {AUDIO_TOKEN} (id {start}) and end before {MASK_TOKEN} (id "
            f"{mask})."
        )
    # The other markers are found by name, and must lie on the right side of the codes.
    begin, begin_last, end_user = TEXT_SIDE_TOKENS
    ids = AudioTokenIds(
        audio_token_start_id=start,
        audio_vocab_size=size,
        mask_token_id=mask,
        begin_audio_token_ids=[id_of(begin), id_of(begin_last)],
        end_audio_token_ids=[id_of(end) for end in END_TOKENS],
        end_user_audio_token_id=id_of(end_user),
    )
    if max(*ids.begin_audio_token_ids, ids.end_user_audio_token_id) > start or min(ids.end_audio_token_ids) < mask:
        raise ValueError(
            f"The tokenizer's markers are out of order: those that open audio must lie below {AUDIO_TOKEN} (id "
            f"{start}), those that end a span above {MASK_TOKEN} (id {mask})."
        )
    _check_no_later_token(tokenizer, max(vocab.values()), ids)
    return ids


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Raises what fails inside of a tokenizer as a `ValueError` of one sentence."""
    try:
        yield
    except UnicodeEncodeError as error:
        letter = f"U+{ord(error.object[error.start]):04X}"
        raise ValueError(f"The text holds {letter}, half a character: decode it with errors='replace'.") from None
    # What fails in Rust is no `Exception`, such as a regular expression of tokenizer.json that takes too long.
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The tokenizer of the checkpoint fails on this text ({reason}): take another one.") from None


def encode_text(
    tokenizer: PreTrainedTokenizerBase, token_ids: AudioTokenIds, text: str, split_special_tokens: bool = True
) -> list[int]:
    """Tokenizes a text.

    Args:
        tokenizer: Tokenizer with the audio tokens.
        token_ids: Their ids.
        text: The text.
        split_special_tokens: Whether names of special tokens are plain text.

    Raises:
        ValueError: If the text is not valid Unicode, the tokenizer fails on it, or a token was added to the tokenizer
            after those of audio.
    """
    with tokenizer_errors():
        # Said here: the tokenizer's own error does not name it.
        text.encode("utf-8")
        encoding = tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
    ids: list[int] = encoding["input_ids"]
    _check_no_later_token(tokenizer, max(ids, default=0), token_ids)
    return ids


def _check_no_later_token(tokenizer: PreTrainedTokenizerBase, token_id: int, ids: AudioTokenIds) -> None:
    # Beyond the last end marker the model takes every id for audio.
    if token_id > max(ids.end_audio_token_ids):
        raise ValueError(
            f"The token {tokenizer.convert_ids_to_tokens(token_id)!r} was added to the tokenizer after the audio "
            "tokens, where the model takes every id for audio: text tokens have to be added to the text model, before "
            "from_text_model(..., text_tokens=[...]) makes it a TtT."
        )


def check_codec(model_config: Any, codec: Any) -> None:
    """Raises a `ValueError` unless `codec.config.codebook_size` is the model's `audio_vocab_size`."""
    if codec.config.codebook_size != model_config.audio_vocab_size:
        raise ValueError(
            f"The codec has {codec.config.codebook_size} codes, the model {model_config.audio_vocab_size}: use the "
            "codec that the model was trained with."
        )
