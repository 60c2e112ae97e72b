"""Configuration of TtT: a decoder-only text backbone whose vocabulary includes the codes of an audio codec."""

import os
import sys
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .official_ttt import OFFICIAL_MASK_KEY, OFFICIAL_START_KEY, added_token_ids, official_marker_ids


# Further keys of the official implementation's flat config.json, and the value its code falls back to when
# `audio_token_id_start` is absent.
OFFICIAL_TRAINING_KEYS = ("unmasked_audio_prob", "prefix_preservation_ratio")
OFFICIAL_AUDIO_TOKEN_START_ID = 151684

AUDIO_FIELDS = (
    "audio_token_start_id",
    "audio_vocab_size",
    "mask_token_id",
    "begin_audio_token_ids",
    "end_audio_token_ids",
    "audio_attention",
    "audio_block_length",
)


@strict
class TtTConfig(PreTrainedConfig):
    r"""Configuration of a `TtTForConditionalGeneration`.

    Ids below `audio_token_start_id` are text. **Every** id from there on counts as audio: `audio_token_start_id`
    itself is the `<|audio|>` token, code `c` has the id `audio_token_start_id + 1 + c`, and the mask token and the end
    markers follow the codes. The defaults are those of the official TtT checkpoints.

    Args:
        text_config: Configuration of the backbone, any decoder-only text model. Defaults to Qwen2.
        audio_token_start_id: First audio id, that of `<|audio|>`.
        audio_vocab_size: Number of audio codes, the size of the codec's codebook.
        mask_token_id: Id of the mask token of audio diffusion.
        begin_audio_token_ids: Text ids that open a span of audio: `[<|begin_of_audio|>, <|begin_of_quad|>]`.
        end_audio_token_ids: Audio ids that end a span of audio:
            `[<|end_of_audio_new|>, <|end_of_audio_span_last|>]`.
        audio_attention: `"span"`: all tokens of a span see each other (the official model). `"block_causal"`: only
            tokens of the same block of `audio_block_length` do, and later blocks stay hidden.
        audio_block_length: Number of tokens that are denoised together.
        tie_word_embeddings: Whether the output layer shares its weights with the input embeddings. Defaults to the
            backbone's value.

    Raises:
        ValueError: If the ids contradict each other or do not fit the vocabulary.
    """

    model_type = "ttt"
    # All but the logits, so that those are the predictions of a Trainer.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *("cache", "past_key_values", "hidden_states", "attentions", "text_loss", "audio_loss", "text_correct"),
        *("audio_correct", "num_text_targets", "num_audio_targets", "num_samples"),
    ]
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2", init_kwargs={"vocab_size": 168072})
    }

    text_config: dict | PreTrainedConfig | None = None
    audio_token_start_id: int = OFFICIAL_AUDIO_TOKEN_START_ID
    audio_vocab_size: int = 16384
    mask_token_id: int = 168069
    begin_audio_token_ids: list[int] | None = None
    end_audio_token_ids: list[int] | None = None
    audio_attention: Literal["span", "block_causal"] = "span"
    audio_block_length: int = 32
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # The begin markers do not follow from the other ids; `generate` raises if they are missing.
        if self.begin_audio_token_ids is None:
            self.begin_audio_token_ids = []
        # The official vocabulary has the end markers right after the mask token.
        if self.end_audio_token_ids is None:
            self.end_audio_token_ids = [self.mask_token_id + 1, self.mask_token_id + 2]
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        # Kept equal in both configs, whichever of them is read.
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        self._check_audio_tokens()

    def _check_audio_tokens(self) -> None:
        # Not a `validate_...` method: `strict` wraps their errors in an exception that is not a ValueError.
        start, mask, vocab_size = self.audio_token_start_id, self.mask_token_id, self.text_config.vocab_size
        if self.audio_block_length < 1:
            raise ValueError(f"audio_block_length must be at least 1, got {self.audio_block_length}.")
        if self.audio_vocab_size < 1:
            raise ValueError(f"audio_vocab_size must be at least 1, got {self.audio_vocab_size}.")
        if start < 1:
            raise ValueError(f"audio_token_start_id must be at least 1, got {start}: there is no text below it.")
        if self.audio_code_offset + self.audio_vocab_size > mask:
            raise ValueError(
                f"{self.audio_vocab_size} audio codes from id {self.audio_code_offset} on do not fit below "
                f"mask_token_id {mask}: lower audio_vocab_size or raise mask_token_id."
            )
        if not self.end_audio_token_ids:
            raise ValueError("end_audio_token_ids must hold at least one id: without it no span of audio can end.")
        # `<|audio|>` at `start` is included: end markers must not coincide with it either.
        codes = range(start, self.audio_code_offset + self.audio_vocab_size)
        # The highest ids are among these: begin markers and codes lie below the mask token.
        for name, ids in (("mask_token_id", [mask]), ("end_audio_token_ids", self.end_audio_token_ids)):
            if max(ids) >= vocab_size:
                raise ValueError(
                    f"{name} {max(ids)} does not fit a vocabulary of {vocab_size} tokens: raise "
                    "text_config.vocab_size."
                )
        for token_id in self.end_audio_token_ids:
            if token_id < start or token_id in codes or token_id == mask:
                raise ValueError(
                    f"end_audio_token_ids must lie at or above audio_token_start_id {start} and be neither codes nor "
                    f"the mask token, got {token_id}."
                )
        for token_id in self.begin_audio_token_ids:
            if not 0 <= token_id < start:
                raise ValueError(
                    f"begin_audio_token_ids must be text ids, below audio_token_start_id {start}, got {token_id}."
                )

    def to_dict(self) -> dict[str, Any]:
        """See `PreTrainedConfig.to_dict`; PEFT learns on the way which layers of the backbone get an adapter."""
        # PEFT looks default layers up by model type, right after it has read the configuration by this method.
        for name, defaults in vars(sys.modules.get("peft.utils.constants", object)).items():
            if name.endswith("_MODULES_MAPPING") and self.text_config.model_type in defaults:
                defaults[self.model_type] = defaults[self.text_config.model_type]
        return super().to_dict()

    @property
    def audio_code_offset(self) -> int:
        """Id of code 0: `id = audio_code_offset + code`."""
        return self.audio_token_start_id + 1

    @property
    def attention_block_length(self) -> int | None:
        """Length in tokens of the groups that see each other inside a span; `None` if the full span does."""
        return self.audio_block_length if self.audio_attention == "block_causal" else None

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads config.json like `PreTrainedConfig.get_config_dict`, including the flat official format.

        The flat format lacks the ids that open and end a span; they are looked up by name in the tokenizer, if any.
        """
        # `super()` returns the arguments without those of the Hub, which the tokenizer's files need, too.
        hub_kwargs = dict(kwargs)
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            # The flat format has the model type of the backbone.
            marker_ids = official_marker_ids(added_token_ids(pretrained_model_name_or_path, **hub_kwargs), config_dict)
            config_dict = {**_from_flat_config(config_dict, kwargs), **marker_ids}
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "TtTConfig":
        """Instantiates the configuration from a dictionary, in the format of this class or the flat official one.

        Args:
            config_dict: Content of a config.json.
            **kwargs: Fields to override, e.g. `begin_audio_token_ids`, which the official format does not hold.

        Returns:
            The configuration; with `return_unused_kwargs=True` a tuple with the unused arguments.

        Raises:
            ValueError: If the dictionary is that of a text model and the audio ids are not given.
        """
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            # A dictionary that did not come through `get_config_dict`.
            config_dict = _from_flat_config(config_dict, kwargs)
        # Before construction rather than after it, so that the checks see the final values.
        given = {name: kwargs.pop(name) for name in AUDIO_FIELDS if name in kwargs}
        return super().from_dict({**config_dict, **given}, **kwargs)


def _from_flat_config(config_dict: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Converts the flat config.json of an official TtT checkpoint, or of a text model, to that of a `TtTConfig`.

    The flat format gives the number of audio codes only implicitly: the mask token follows the last code, and the two
    end markers follow the mask token.
    """
    text_config = dict(config_dict)
    mask = overrides.get("mask_token_id", text_config.pop(OFFICIAL_MASK_KEY, None))
    if mask is None:
        raise ValueError(
            f"config.json describes a '{config_dict['model_type']}' text model without audio tokens: pass "
            "mask_token_id, audio_token_start_id and audio_vocab_size, or grow a TtT with "
            "TtTForConditionalGeneration.from_text_model(...)."
        )
    start = text_config.pop(OFFICIAL_START_KEY, OFFICIAL_AUDIO_TOKEN_START_ID)
    start = overrides.get("audio_token_start_id", start)
    # The rest is the backbone's config, apart from keys that describe training or the class.
    for key in (*OFFICIAL_TRAINING_KEYS, "architectures", "auto_map", "transformers_version"):
        text_config.pop(key, None)
    return {
        "model_type": TtTConfig.model_type,
        "text_config": text_config,
        "audio_token_start_id": start,
        # The codes fill the ids between `<|audio|>` and the mask token.
        "audio_vocab_size": mask - start - 1,
        "mask_token_id": mask,
        # Older versions of transformers write `torch_dtype`.
        "dtype": text_config.get("dtype", text_config.get("torch_dtype")),
    }


TtTConfig.register_for_auto_class()

__all__ = ["TtTConfig"]
