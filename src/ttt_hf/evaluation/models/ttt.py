"""TtT models under evaluation: spoken or written questions to text, and to speech for tasks with spoken replies.

A reply depends on its own sample only: recordings are encoded one by one, each row is generated with its own seed, and
padding is masked, so that every batch size gives the same predictions. (On a CPU, layers in 8 bits share one scale
among the rows of a batch, so that a few replies differ.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ...loading import (
    OtherModelError,
    base_folder,
    find_checkpoint,
    find_codec,
    is_adapter,
    load_checkpoint,
    read_json,
    read_shapes,
    weight_files,
)
from ...modeling import TextSegment, TtTGenerateOutput
from ...modeling.decoding_ttt import DecodingRow
from ...modeling.seeds_ttt import derive_seed
from ...names import ADAPTER_CONFIG_FILE, CODEC_FOLDER
from ...processing import SYSTEM_PROMPTS
from ..concepts import Response, Sample, Task
from ..identity import identify, identify_loaded
from .continuous import ContinuousBatch, Request
from .failing import SAMPLE_ERRORS, failed_response


# For checkpoints whose generation_config.json sets no limit; transformers' default of 20 would cut every reply.
DEFAULT_MAX_NEW_TOKENS = 2048


class TtTModel:
    """A TtT checkpoint that answers samples.

    For tasks with `output="text"` the model may still interleave speech, which is not decoded: a model that was
    trained to speak while it writes answers worse if that is suppressed.

    Args:
        model: The model, in evaluation mode.
        processor: Its processor; without a codec, questions and replies have to be in writing.
        identity: Identifies the model in results: name, revision, adapter, codec.
        generation: Keyword arguments of `generate`; they override the task's and the checkpoint's own.

    Raises:
        ValueError: If a generation setting is unknown or out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        identity: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.identity = dict(identity)
        # Every sample derives its own from it and from its id, so that a reply does not depend on its batch.
        self._defaults: dict[str, Any] = {"seed": 0}
        if model.generation_config.max_new_tokens is None:
            self._defaults["max_new_tokens"] = DEFAULT_MAX_NEW_TOKENS
        self.generation = dict(generation or {})
        # Settings that passed `_try_settings`: each is tried once.
        self._tested: list[dict[str, Any]] = []
        # Right away: a misspelt argument must not wait for the data to be loaded.
        self._try_settings({**self._defaults, **self.generation})

    @property
    def description(self) -> dict[str, Any]:
        """All that the replies depend on: model, codec, generation settings, data type, versions."""
        import transformers

        from ... import __version__

        # The checkpoint's own settings count, too: somebody may edit them without touching the weights.
        own = self.model.generation_config.to_diff_dict()
        own = {key: value for key, value in own.items() if key != "transformers_version" and not key.startswith("_")}
        return {
            "kind": "ttt",
            **self.identity,
            "generation": {**own, **self._defaults, **self.generation},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "versions": {
                "ttt-hf": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Answers a batch, see `respond_each`; returns one response per sample, in order."""
        responses = dict(
            self.respond_each(((index, sample) for index, sample in enumerate(samples)), task, len(samples))
        )
        return [responses[index] for index in range(len(samples))]

    def respond_each(
        self, samples: Iterable[tuple[int, Sample]], task: Task, batch_size: int
    ) -> Iterator[tuple[int, Response]]:
        """Answers samples with continuous batching: when a reply has ended, the next sample takes its place.

        Args:
            samples: Recordings or written questions of any lengths, each with a number; the longest should come first.
            task: `prompt` selects the system prompt, `output` whether speech is decoded, and `generation` overrides
                the checkpoint's settings.
            batch_size: Samples that are answered together.

        Yields:
            The number of each sample and its response, in the order in which they end. Samples that cannot be answered
            (silence, too long, out of memory) have `finish_reason="error"` and do not affect the others.

        Raises:
            ValueError: If the model cannot do the task at all.
        """
        # 1. Settings: the user's override the task's, which override the defaults.
        settings = {**self._defaults, **task.generation, **self.generation}
        self._check_task(task)
        self._try_settings(settings)
        # 2. Prompts are made one by one when their turn comes; a recording that cannot be encoded fails alone.
        failed: list[tuple[int, Response]] = []
        requests = self._requests(samples, task, settings, failed)
        # 3. Decode. Adapters are inside of the modules, so that the model in a wrapper of PEFT has them, too.
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        for request, row in ContinuousBatch(model, requests, batch_size).replies():
            yield request.key, self._response(request, row, speaks=task.output == "speech")
            yield from failed
            failed.clear()
        yield from failed

    def _requests(
        self,
        samples: Iterable[tuple[int, Sample]],
        task: Task,
        settings: Mapping[str, Any],
        failed: list[tuple[int, Response]],
    ) -> Iterator[Request[int]]:
        """Makes the prompts; responses of samples that have none are appended to `failed`."""
        for number, sample in samples:
            started = time.perf_counter()
            try:
                ids = self._prompt(sample, task)
            # Tokenizers raise errors of no particular type.
            except Exception as error:
                failed.append((number, failed_response(error, time.perf_counter() - started)))
                continue
            generation = {**settings, "seed": derive_seed(settings["seed"], str(sample.id))}
            yield Request(number, ids, generation, time.perf_counter() - started)

    def _check_task(self, task: Task) -> None:
        if task.prompt not in SYSTEM_PROMPTS:
            raise ValueError(
                f"Task {task.name} wants the prompt {task.prompt!r}, which a TtT model does not know: choose one of "
                f"{', '.join(SYSTEM_PROMPTS)}."
            )
        if task.output == "speech" and self.processor.codec is None:
            raise ValueError(
                f"Task {task.name} wants speech, and the model has no codec: name the one that it was trained with, "
                "codec=FOLDER_OR_ID."
            )

    def _try_settings(self, settings: dict[str, Any]) -> None:
        """Generates one token with new settings, so that wrong ones fail at once and not for every sample."""
        if settings not in self._tested:
            prompt = self.processor.apply_chat_template([{"role": "user", "content": "Hello."}], task="text")
            # One token is enough: `generate` checks all settings before its first step.
            once = {**settings, "max_new_tokens": 1}
            self.model.generate(**prompt.to(self.model.device), return_dict_in_generate=True, **once)
            self._tested.append(settings)

    def _prompt(self, sample: Sample, task: Task) -> list[int]:
        """Makes the prompt of one sample; raises some error if it cannot."""
        content: list[dict[str, Any]]
        if sample.audio is not None:
            content = [{"type": "audio", "audio": sample.audio, "sampling_rate": sample.sampling_rate}]
        elif sample.question.strip():
            content = [{"type": "text", "text": sample.question}]
        else:
            raise ValueError("The sample has neither audio nor a question.")
        if task.instruction:
            content.append({"type": "text", "text": task.instruction})
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            task=task.prompt,
            add_generation_prompt=True,
            return_tensors=None,
        )
        ids = inputs["input_ids"][0]
        # A full context leaves no position for a reply.
        limit = self.model.config.get_text_config().max_position_embeddings
        if len(ids) >= limit:
            raise ValueError(f"The question has {len(ids)} tokens, and the model reads less than {limit}.")
        return ids

    def _response(self, request: Request[int], row: DecodingRow | Exception, speaks: bool) -> Response:
        started = time.perf_counter()
        if isinstance(row, Exception):
            return failed_response(row, request.seconds)
        # Without audio segments, `decode_reply` decodes no speech.
        segments = [piece for piece in row.segments if speaks or isinstance(piece, TextSegment)]
        output = TtTGenerateOutput(segments=[segments], finish_reason=[row.finish_reason])
        try:
            decoded = self.processor.decode_reply(output)
        # Codes that cannot be decoded fail their own sample only.
        except SAMPLE_ERRORS as error:
            return failed_response(error, request.seconds + time.perf_counter() - started)
        spans = [segment["codes"].tolist() for segment in decoded.segments if segment["type"] == "audio"]
        return Response(
            text=decoded.text,
            audio=np.asarray(decoded.audio, dtype=np.float32) if len(decoded.audio) else None,
            sampling_rate=decoded.sampling_rate or Response.sampling_rate,
            codes=tuple(code for codes in spans for code in codes),
            finish_reason=row.finish_reason,
            tokens=len(row.ids) - len(request.ids),
            forward_passes=row.num_forward_passes,
            seconds=request.seconds + time.perf_counter() - started,
        )


def wrap_loaded(model: Any, processor: Any, generation: Mapping[str, Any] | None = None) -> TtTModel:
    """Makes a loaded model answer samples. It is put into evaluation mode.

    Args:
        model: A [`TtTForConditionalGeneration`], or a model of PEFT around it.
        processor: Its [`TtTProcessor`].
        generation: Keyword arguments of `generate`.
    """
    if not (isinstance(model, torch.nn.Module) and callable(getattr(model, "generate", None))):
        raise TypeError(
            f"A {type(model).__name__} cannot be evaluated: give the name of a model, a loaded "
            "TtTForConditionalGeneration with its processor, or an object with the methods of SpeechModel."
        )
    if processor is None:
        raise TypeError("A loaded model needs its processor: give processor=TtTProcessor.from_pretrained(...).")
    identity = {
        **asdict(identify_loaded(model, processor)),
        "base": None,
        "codec": {"class": type(processor.codec).__name__ if processor.codec is not None else None},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return TtTModel(model.eval(), processor, identity, generation)


def load_ttt(
    name: str,
    revision: str | None = None,
    codec: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    bits: int | None = None,
    **generation: Any,
) -> TtTModel:
    """Loads a TtT model for evaluation.

    Args:
        name: Folder or Hub id of a model or adapter, or `"ttt-tiny"`.
        revision: Branch, tag or commit on the Hub.
        codec: Folder or Hub id of a codec, for checkpoints that come without one.
        device, dtype, bits: As of `loading.load_checkpoint`.
        **generation: Keyword arguments of `generate`.
    """
    try:
        folder = find_checkpoint(name, revision)
    except OtherModelError as error:
        raise ValueError(f"{error} Speech recognisers of transformers are named hf-asr:{name}.") from error
    codec_folder = find_codec(base_folder(folder), codec)
    model, processor = load_checkpoint(folder, codec_folder, device, dtype, bits=bits)
    # An adapter is identified together with its base model, on which its replies depend as much.
    own_codec = base_folder(folder) / CODEC_FOLDER
    base = None
    if is_adapter(folder):
        base = identify(base_folder(folder), read_json(folder, ADAPTER_CONFIG_FILE)["base_model_name_or_path"])
    identity = {
        **asdict(identify(folder, name)),
        "base": asdict(base) if base else None,
        "codec": {
            "class": type(processor.codec).__name__ if processor.codec is not None else None,
            # One that comes with the model has the model's revision.
            **(asdict(identify(codec_folder, codec)) if codec_folder not in (None, own_codec) else {}),
        },
        # Of the files: quantised layers have none that PyTorch counts.
        "parameters": sum(
            math.prod(shape) for file in weight_files(base_folder(folder)) for shape in read_shapes(file).values()
        ),
        # Named only where it differs, so that records of other runs keep their fingerprint.
        **({} if bits is None else {"bits": bits}),
    }
    return TtTModel(model, processor, identity, generation)
