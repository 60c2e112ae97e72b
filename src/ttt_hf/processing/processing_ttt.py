"""The processor of TtT: conversations of text and audio to token ids, and replies to text and waveforms."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from ..codecs import load_codec, output_sampling_rate
from ..modeling.growing_ttt import AUDIO_TOKEN
from ..modeling.official_ttt import hub_arguments
from ..names import CODEC_FOLDER, CODEC_KEY
from .audio_inputs import AudioSource, is_one_audio
from .batches import make_batch
from .conversation import AUDIO_KEYS, SYSTEM_PROMPTS, Conversation, normalise_conversation, row_errors
from .fetching import USER, Access
from .listening import MAX_SECONDS_KEY, check_limit, load_recording
from .replies import REPLACEMENT_CHARACTER, Reply, as_codes, reply_segments, rows_of  # noqa: F401
from .templates import render_prompts
from .tokenization import audio_token_ids, check_codec, default_chat_template, encode_text, tokenizer_errors


# Encloses the index of a text that must not be parsed for special tokens. A Unicode noncharacter, which valid texts do
# not contain; a text that does is replaced, too.
GUARD = "\ufdd0"


class TtTProcessor(ProcessorMixin):
    """Converts conversations to token ids, and generated ids to text and audio.

    Args:
        tokenizer: Tokenizer with the audio tokens.
        codec: Codec with as many codes as the tokenizer; without one the processor handles text only.
        chat_template: Jinja source; TtT's own template by default.

    Attributes:
        codec_reference: Folder or Hub id of the codec. If set, it is saved with the processor instead of the codec.
        max_audio_seconds: Longest recording that the model was trained on; longer ones are refused. `None`: no limit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        codec: PreTrainedAudioTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template or default_chat_template())
        self.audio_token = AUDIO_TOKEN
        self.token_ids = audio_token_ids(tokenizer)
        # Tokens of the chat format, too: no text of a message may be tokenized to them.
        self._control_ids = frozenset(tokenizer.added_tokens_decoder)
        self.codec = codec
        self.codec_reference: str | None = None
        self.max_audio_seconds: float | None = None

    def __repr__(self) -> str:
        # That of ProcessorMixin lists every audio token, and runs whenever a processor is loaded.
        codec = type(self.codec).__name__ if self.codec is not None else None
        tokenizer = type(self.tokenizer).__name__
        return f"{type(self).__name__}(tokenizer={tokenizer}, codec={codec}, codes={self.token_ids.audio_vocab_size})"

    @property
    def codec(self) -> PreTrainedAudioTokenizerBase | None:
        """The audio codec, if any."""
        return self._codec

    @codec.setter
    def codec(self, codec: PreTrainedAudioTokenizerBase | None) -> None:
        if codec is not None:
            check_codec(self.token_ids, codec)
        self._codec = codec

    # -- saving and loading ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Content of processor_config.json; tokenizer, codec and template have their own files."""
        own = {CODEC_KEY: self.codec_reference, MAX_SECONDS_KEY: self.max_audio_seconds}
        return {"processor_class": type(self).__name__, **{key: value for key, value in own.items() if value}}

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list:
        """Saves tokenizer, chat template and codec, the latter into the subfolder `codec`.

        With a `codec_reference` it is saved instead of the codec.

        Args:
            save_directory: Folder, created if missing.
            push_to_hub: Whether to upload the folder to the Hub.
            **kwargs: Arguments of `push_to_hub`.

        Returns:
            List with the path of processor_config.json.
        """
        files = super().save_pretrained(save_directory)
        if self.codec is not None and self.codec_reference is None:
            self.codec.save_pretrained(os.path.join(save_directory, CODEC_FOLDER))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory))), **kwargs)
        return files

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        codec: PreTrainedAudioTokenizerBase | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> TtTProcessor:
        """Loads a processor and its codec.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            *args: Arguments of `ProcessorMixin.from_pretrained`.
            codec: A codec, or its folder or Hub id, for checkpoints without one. By default the codec in the subfolder
                `codec`, or the one named in processor_config.json, if any.
            **kwargs: Arguments of `ProcessorMixin.from_pretrained` (`revision`, `token`, `cache_dir`, ...).

        Returns:
            The processor; its `codec` is `None` if the checkpoint has none.
        """
        trust = bool(kwargs.pop("trust_remote_code", False))  # not None, for which transformers would ask on stdin
        with tokenizer_errors():
            processor = super().from_pretrained(
                pretrained_model_name_or_path, *args, trust_remote_code=trust, **kwargs
            )
        hub = hub_arguments(kwargs)
        # The codec lies inside the processor's own subfolder, if there is one.
        codec_folder = os.path.join(hub.pop("subfolder", ""), CODEC_FOLDER)
        if codec is None:
            config_file = cached_file(
                pretrained_model_name_or_path,
                "config.json",
                subfolder=codec_folder,
                _raise_exceptions_for_missing_entries=False,
                **hub,
            )
            # A codec saved with the processor comes before a reference.
            if config_file is not None:
                codec = load_codec(pretrained_model_name_or_path, trust, subfolder=codec_folder, **hub)
            elif processor.codec_reference is not None:
                # Another repository, to which revision, subfolder and trust in this one do not apply.
                codec = load_codec(processor.codec_reference)
        elif isinstance(codec, (str, os.PathLike)):
            codec = load_codec(codec, trust)
        processor.codec = codec
        return processor

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Creates a processor from its parts, see `ProcessorMixin.from_args_and_dict`."""
        if "processor_class" not in processor_dict:
            # Not saved by this class, e.g. an official checkpoint, whose template is that of its text model and does
            # not support audio.
            processor_dict = {key: value for key, value in processor_dict.items() if key != "chat_template"}
        others = {key: value for key, value in processor_dict.items() if key not in (CODEC_KEY, MAX_SECONDS_KEY)}
        loaded = super().from_args_and_dict(args, others, **kwargs)
        # With return_unused_kwargs it is a tuple.
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        processor.codec_reference = processor_dict.get(CODEC_KEY)
        processor.max_audio_seconds = check_limit(processor_dict.get(MAX_SECONDS_KEY))
        return loaded

    # -- audio and codes -------------------------------------------------------------------------------------------

    def load_recording(
        self, source: AudioSource, sampling_rate: int | None = None, access: Access = USER, is_heard: bool = True
    ) -> np.ndarray:
        """Reads a recording for `encode_audio`, as the model hears it.

        Args:
            source: See `read_audio`.
            sampling_rate: Rate in Hz of samples; files have their own rate.
            access: See `read_audio`.
            is_heard: Whether the user speaks. Speech of the assistant is taken as it is, however long.

        Returns:
            Float32 of shape `(samples,)` at the codec's sampling rate.

        Raises:
            OSError, ValueError: See `listening.load_recording`.
        """
        config = self._require_codec().config
        return load_recording(source, sampling_rate, config, access, is_heard, self.max_audio_seconds)

    def encode_audio(self, waveforms: Sequence[np.ndarray | torch.Tensor]) -> list[torch.Tensor]:
        """Encodes waveforms in one batch.

        Args:
            waveforms: Float arrays of shape `(samples,)` at the codec's sampling rate.

        Returns:
            Codes of each waveform, `torch.long` of shape `(frames,)`, on the CPU.

        Raises:
            ValueError: If the processor has no codec.
        """
        codec = self._require_codec()
        if not waveforms:
            return []
        rows = [torch.as_tensor(waveform, dtype=torch.float32, device=codec.device) for waveform in waveforms]
        batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=codec.device)
        codes = codec.encode(batch, lengths).cpu()
        # Without the -1 after the end of shorter rows.
        return [row[row >= 0] for row in codes]

    def decode_audio(self, codes: torch.Tensor) -> np.ndarray:
        """Decodes codes to a waveform.

        Args:
            codes: `torch.long` of shape `(frames,)`.

        Returns:
            Float32 of shape `(samples,)` at the codec's output sampling rate.

        Raises:
            ValueError: If the processor has no codec, or a code is not in the codebook.
        """
        codec = self._require_codec()
        self._check_codes(codes)
        # Not every codec can decode an empty row.
        if codes.numel() == 0:
            return np.zeros(0, dtype=np.float32)
        return codec.decode(codes.long()[None].to(codec.device))[0].float().cpu().numpy()

    def codes_to_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Token ids of audio codes, of the same shape; raises a `ValueError` if a code is not in the codebook."""
        codes = torch.as_tensor(codes)
        self._check_codes(codes)
        return codes.long() + self.token_ids.audio_code_offset

    def ids_to_codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Audio codes of token ids, of the same shape; raises a `ValueError` if an id is not that of a code."""
        codes = torch.as_tensor(ids).long() - self.token_ids.audio_code_offset
        self._check_codes(codes)
        return codes

    # -- conversations to ids --------------------------------------------------------------------------------------

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: str | None = None,
        task: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str | None = "pt",
        padding: bool = True,
        padding_side: str | None = None,
        access: Access = USER,
        **kwargs: Any,
    ) -> Any:
        """Converts one or several conversations to token ids.

        The content of a message is a string or a list of items: `{"type": "text", "text": ...}` or `{"type": "audio",
        ...}` with one of `path` (a file), `url`, `bytes` (of a file), `audio` (any form that `read_audio` takes, such
        as samples, with `sampling_rate`) or `codes`; OpenAI's items `input_audio` and `audio_url` are taken, too.
        Special tokens that occur in a text are tokenized as text.

        Args:
            conversation: Messages with `role` and `content`, or a list of such conversations.
            chat_template: Jinja source; the processor's own template by default.
            task: Selects the system prompt of conversations without a system message: `asr`, `chat`, `tts`, `audio` or
                `text`.
            add_generation_prompt: Whether to open the assistant's turn.
            tokenize: Whether to return ids rather than text, in which `<|audio|>` is a placeholder for audio.
            return_dict: Whether to return the attention mask, too.
            return_tensors: `"pt"` for tensors, `None` for lists.
            padding: Whether to pad rows to the longest one.
            padding_side: `"left"` (default), for generation, or `"right"`.
            access: What audio items may name, see `read_audio`: `fetching.STRANGER` for conversations of a request.
            **kwargs: Variables for the template, and `continue_final_message`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask`, `torch.long` of shape `(batch, length)`, also for a
            single conversation; only `input_ids` without `return_dict`. With `tokenize=False` a string or a list.

        Raises:
            ValueError: If a conversation is malformed, an audio cannot be used, or audio comes without a codec. Like
                all errors of audio it names the row of a batch.
            OSError: If an audio cannot be opened or fetched.
        """
        if isinstance(conversation, Mapping):
            raise ValueError("A conversation is a list of messages: give [message], or the messages of the mapping.")
        single = bool(conversation) and isinstance(conversation[0], Mapping)
        conversations: Sequence[Any] = [conversation] if single else conversation
        if not conversations or not all(conversations):
            raise ValueError("The conversation is empty: it needs at least one message.")
        if task is not None and task not in SYSTEM_PROMPTS:
            raise ValueError(f"There is no task {task!r}: choose one of {', '.join(SYSTEM_PROMPTS)}.")

        # 1. Render every conversation, with placeholders for audio and for texts that contain special tokens
        guarded: list[str] = []
        audio_items: list[list[dict[str, Any]]] = []
        rendered = []
        for row, messages in enumerate(conversations):
            with row_errors(row, len(conversations)):
                normalised, items = normalise_conversation(messages, task, lambda text: self._guard(text, guarded))
            rendered.append(normalised)
            audio_items.append(items)
        variables = {**self.tokenizer.special_tokens_map, "add_generation_prompt": add_generation_prompt, **kwargs}
        prompts = render_prompts(rendered, chat_template or self.chat_template, **variables)
        if not tokenize:
            # The guard serves tokenization only, so the guarded texts are put back.
            texts = [re.sub(f"{GUARD}(\\d+){GUARD}", lambda hit: guarded[int(hit[1])], text) for text in prompts]
            return texts[0] if single else texts

        # 2. Encode the audio of all conversations in one batch
        codes = self._collect_codes(audio_items, access)
        # 3. Replace the placeholders by ids
        rows = self._encode_prompts(prompts, guarded, codes)
        batch = make_batch(rows, self.tokenizer.pad_token_id, return_tensors, padding, padding_side)
        return batch if return_dict else batch["input_ids"]

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        audio: Any = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        padding: bool = True,
        padding_side: str | None = None,
        access: Access = USER,
    ) -> BatchFeature:
        """Converts complete prompts to token ids.

        Unlike `apply_chat_template`, it adds nothing, and special tokens in a prompt are tokenized as such.

        Args:
            text: Prompts, with `<|audio|>` as a placeholder for audio.
            audio: Recordings for the placeholders, in order, in any form that `read_audio` takes.
            sampling_rate: Rate of samples in Hz.
            return_tensors: As in `apply_chat_template`.
            padding: As in `apply_chat_template`.
            padding_side: As in `apply_chat_template`.
            access: As in `apply_chat_template`.

        Returns:
            `input_ids` and `attention_mask`, `torch.long` of shape `(batch, length)`.

        Raises:
            ValueError: If the numbers of placeholders and audios differ, or an audio cannot be used.
        """
        prompts = [text] if isinstance(text, str) else list(text)
        sources = [] if audio is None else [audio] if is_one_audio(audio) else list(audio)
        counts = [prompt.count(AUDIO_TOKEN) for prompt in prompts]
        if sum(counts) != len(sources):
            raise ValueError(
                f"The text has {sum(counts)} placeholders for audio ({AUDIO_TOKEN}), but there are {len(sources)}."
            )
        rest = iter(sources)
        items = [[{"audio": next(rest), "sampling_rate": sampling_rate} for _ in range(count)] for count in counts]
        rows = self._encode_prompts(prompts, [], self._collect_codes(items, access))
        return make_batch(rows, self.tokenizer.pad_token_id, return_tensors, padding, padding_side)

    # -- ids to replies --------------------------------------------------------------------------------------------

    def decode_reply(self, out: Any, row: int = 0) -> Reply:
        """Decodes one row of the output of `generate(..., return_dict_in_generate=True)` to text and audio.

        Args:
            out: The output, of which `segments` and `finish_reason` are used.
            row: Index of the row in the batch.

        Raises:
            IndexError: If there is no such row.
            TypeError: If it is no such output.
            ValueError: If the reply holds audio and the processor has no codec.
        """
        rows = rows_of(out)
        if not 0 <= row < len(rows):
            raise IndexError(f"There is no row {row} in a batch of {len(rows)}.")
        pieces, finish_reason = rows[row]
        segments = reply_segments(pieces, self.tokenizer, self.codec.config.frame_rate if self.codec else None)
        # All spans are decoded at once, since each would otherwise start without the context of the one before.
        spans = [segment["codes"] for segment in segments if segment["type"] == "audio"]
        return Reply(
            text="".join(segment.get("text", "") for segment in segments).strip(),
            audio=self.decode_audio(torch.cat(spans)) if spans else np.zeros(0, dtype=np.float32),
            sampling_rate=output_sampling_rate(self.codec.config) if self.codec is not None else 0,
            segments=segments,
            finish_reason=finish_reason,
        )

    def decode_replies(self, out: Any) -> list[Reply]:
        """Decodes all rows, see `decode_reply`."""
        return [self.decode_reply(out, row) for row in range(len(rows_of(out)))]

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """What `pipeline("any-to-any")` makes of the output of `generate`.

        Args:
            generated_outputs: Ids, or for audio the output with `segments`.
            skip_special_tokens: Whether to leave out markers and codes.
            generation_mode: `"audio"` for speech and text, `"text"` or `None` for text alone.
            **kwargs: As in `ProcessorMixin.post_process_multimodal_output`.

        Returns:
            Texts, or for audio `{"audio", "sampling_rate", "text"}`, as pipelines for speech return it.
        """
        if generation_mode != "audio":
            return super().post_process_multimodal_output(
                generated_outputs, skip_special_tokens=skip_special_tokens, generation_mode=generation_mode, **kwargs
            )
        replies = self.decode_replies(generated_outputs)
        return [{"audio": reply.audio, "sampling_rate": reply.sampling_rate, "text": reply.text} for reply in replies]

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _require_codec(self) -> Any:
        if self.codec is None:
            raise ValueError(
                "This processor has no codec, so it can handle text only: load the processor with codec=..., the "
                "folder or Hub id of the codec that the model was trained with."
            )
        return self.codec

    def _check_codes(self, codes: torch.Tensor) -> None:
        size = self.token_ids.audio_vocab_size
        if codes.is_floating_point():
            raise ValueError(f"Audio codes are integers, not {codes.dtype}.")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(
                f"Audio codes must lie in [0, {size}), but these reach from {int(codes.min())} to {int(codes.max())}."
            )

    def _guard(self, text: str, guarded: list[str]) -> str:
        """Replaces a text that contains special tokens by a reference, to be tokenized as plain text later."""
        # Most texts contain no special token and stay in the prompt, where they are tokenized with their context.
        if GUARD not in text:
            ids = encode_text(self.tokenizer, self.token_ids, text, split_special_tokens=False)
            if self._control_ids.isdisjoint(ids):
                return text
        guarded.append(text)
        return f"{GUARD}{len(guarded) - 1}{GUARD}"

    def _collect_codes(self, audio_items: list[list[dict[str, Any]]], access: Access) -> list[list[torch.Tensor]]:
        """Codes of every audio item by row; all waveforms are encoded in one batch."""
        waveforms = []
        for row, items in enumerate(audio_items):
            with row_errors(row, len(audio_items)):
                for item in items:
                    if item.get("codes") is None:
                        source: Any = next((item[key] for key in AUDIO_KEYS if item.get(key) is not None), None)
                        rate, is_heard = item.get("sampling_rate"), item.get("role") != "assistant"
                        waveforms.append(self.load_recording(source, rate, access, is_heard))
                    else:
                        item["codes"] = as_codes(item["codes"])
                        self._check_codes(item["codes"])
        # Items with waveforms take the encoded rows in the same order; the others bring their codes.
        encoded = iter(self.encode_audio(waveforms) if waveforms else [])
        return [
            [item["codes"] if item.get("codes") is not None else next(encoded) for item in items]
            for items in audio_items
        ]

    def _encode_prompts(
        self, prompts: list[str], guarded: list[str], codes: list[list[torch.Tensor]]
    ) -> list[list[int]]:
        rows = []
        for row, prompt in enumerate(prompts):
            with row_errors(row, len(prompts)):
                rows.append(self._encode_prompt(prompt, guarded, codes[row]))
        return rows

    def _encode_prompt(self, prompt: str, guarded: list[str], codes: list[torch.Tensor]) -> list[int]:
        """Ids of a rendered prompt, with codes for `<|audio|>` and guarded texts tokenized as plain text."""
        if prompt.count(AUDIO_TOKEN) != len(codes):
            raise ValueError(
                f"The chat template wrote {prompt.count(AUDIO_TOKEN)} placeholders ({AUDIO_TOKEN}) for {len(codes)} "
                "audios: it must write one for each audio item."
            )
        separators = re.escape(AUDIO_TOKEN) + (f"|{GUARD}\\d+{GUARD}" if guarded else "")
        ids: list[int] = []
        rest = iter(codes)
        # The capturing group keeps the separators among the parts.
        for part in re.split(f"({separators})", prompt):
            if part == AUDIO_TOKEN:
                ids += self.codes_to_ids(next(rest)).tolist()
            elif guarded and part.startswith(GUARD):
                ids += encode_text(self.tokenizer, self.token_ids, guarded[int(part.strip(GUARD))])
            elif part:
                ids += encode_text(self.tokenizer, self.token_ids, part, split_special_tokens=False)
        return ids
