"""TtT as a model of lmms-eval, speech to text: `lmms-eval --model ttt --model_args pretrained=ttt-tiny --tasks ...`.

lmms-eval finds `model_manifest` through the entry-point group `lmms_eval.models`, and the class through the manifest.
Its audio tasks provide recordings and an instruction. TtT was trained with a system prompt per task (`prompt=asr`,
`chat`, `audio`), so the instruction is left out unless `instruct=True`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...names import EMBEDDED_NAME
from ..concepts import DatasetSource, Response, Sample, Task


if TYPE_CHECKING:
    from .ttt import TtTModel


logger = logging.getLogger(__name__)

MODEL_ID = "ttt"
CLASS_NAME = "TtTForLmmsEval"
# Decoding settings of lmms-eval's tasks that `generate` takes; `num_beams` 1 and `temperature` 0 mean greedy.
GENERATION_KEYS = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k")


def model_manifest() -> Any:
    """Makes the manifest of the model `ttt` for lmms-eval's registry; the entry point."""
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("lmms-eval is not installed: pip install 'lmms-eval>=0.7'.") from error
    return ModelManifest(model_id=MODEL_ID, simple_class_path=f"{__name__}.{CLASS_NAME}")


def __getattr__(name: str) -> Any:
    # Made on first use: its base class exists only if lmms-eval is installed.
    if name == CLASS_NAME:
        return _make_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _make_class() -> type:
    # In here, because this module has to be importable without lmms-eval.
    from lmms_eval.api.model import lmms

    class TtTForLmmsEval(lmms):
        """TtT behind lmms-eval's interface, in one process.

        Args:
            pretrained: Name of the model, as of `load_ttt`.
            prompt: Name of the system prompt.
            instruct: Whether the task's instruction follows the audio.
            batch_size: Samples generated together.
            max_batch_size: Ignored; lmms-eval passes it to every model.
            **settings: Further settings of `load_ttt`.
        """

        is_simple = True

        def __init__(
            self,
            pretrained: str = EMBEDDED_NAME,
            prompt: str = "asr",
            instruct: bool = False,
            batch_size: int | str = 1,
            max_batch_size: Any = None,
            **settings: Any,
        ) -> None:
            super().__init__()
            from .ttt import load_ttt

            self.speech_model = load_ttt(pretrained, **settings)
            self.prompt = prompt
            self.instruct = instruct
            self.batch_size = int(batch_size)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Answers the requests, in order; those that fail get an empty text."""
            arguments = [request.args for request in requests]
            return answer_requests(
                self.speech_model, arguments, self.task_dict, self.prompt, self.instruct, self.batch_size
            )

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Not supported: speech tasks are generative."""
            raise NotImplementedError("ttt answers tasks of the output type generate_until only.")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            """Not supported: speech tasks have one round."""
            raise NotImplementedError("ttt answers tasks of the output type generate_until only.")

    # Without `_make_class.<locals>`: messages show the name that the manifest has.
    TtTForLmmsEval.__qualname__ = CLASS_NAME
    return TtTForLmmsEval


def answer_requests(
    model: TtTModel,
    requests: Sequence[tuple[Any, ...]],
    task_dict: Mapping[str, Any],
    prompt: str,
    instruct: bool,
    batch_size: int,
) -> list[str]:
    """Answers lmms-eval's requests of the type `generate_until`.

    Args:
        model: The model.
        requests: `(context, generation settings, doc_to_visual, document, task, split)` of each.
        task_dict: Documents by task and split.
        prompt: Name of the system prompt.
        instruct: Whether the context follows the audio.
        batch_size: Samples answered together.

    Returns:
        The texts, in order; "" for those that failed.
    """
    answers = [""] * len(requests)
    groups: dict[str, list[tuple[int, Sample, Task]]] = {}
    for number, (context, settings, doc_to_visual, document, task_name, split) in enumerate(requests):
        # 1. Turn each request into a sample. A question without a recording is asked in writing.
        recordings = list(doc_to_visual(task_dict[task_name][split][document]) or [])
        waveform, rate = _waveform(recordings[0]) if recordings else (None, Response.sampling_rate)
        task = _task(task_name, prompt, settings, context if instruct and recordings else "")
        sample = Sample(f"{task_name}/{split}/{document}", waveform, rate, "" if recordings else context, ())
        # Only requests with the same settings can be in one batch.
        groups.setdefault(repr(task), []).append((number, sample, task))
    for group in groups.values():
        # 2. The longest first, as the cache is made for them.
        group.sort(key=lambda entry: 0 if entry[1].audio is None else -len(entry[1].audio))
        samples = {number: sample for number, sample, _ in group}
        for number, reply in model.respond_each(samples.items(), group[0][2], batch_size):
            if reply.error:
                logger.warning("%s has no answer: %s", samples[number].id, reply.error)
            # 3. Back to the order of the requests, cut at the task's endings as lmms-eval expects.
            answers[number] = _cut(reply.text, requests[number][1].get("until"))
    return answers


def _task(name: str, prompt: str, settings: Mapping[str, Any], instruction: str) -> Task:
    # Settings that are named but None are not set, and those of other models are not passed on.
    generation = {key: settings[key] for key in GENERATION_KEYS if settings.get(key) is not None}
    # No temperature counts as 0. Greedy decoding has no use for sampling settings, so that they are dropped.
    if not generation.get("do_sample", True) or not generation.get("temperature", 0):
        generation = {key: value for key, value in generation.items() if key == "max_new_tokens"}
        generation["do_sample"] = False
    elif "do_sample" not in generation:
        generation["do_sample"] = True
    # lmms-eval loads and scores the data itself: source and scorer are placeholders.
    source = DatasetSource(path="lmms-eval", columns={})
    return Task(
        name, 1, source, prompt, "text", scorer="lmms-eval", generation=generation, instruction=instruction.strip()
    )


def _waveform(recording: Any) -> tuple[np.ndarray, int]:
    """Mono samples of a cell of an audio column of `datasets`: a dictionary, or a decoder of torchcodec."""
    if hasattr(recording, "get_all_samples"):
        samples = recording.get_all_samples()
        # (channels, samples) -> (samples,)
        return np.asarray(samples.data, dtype=np.float32).mean(axis=0), int(samples.sample_rate)
    if isinstance(recording, Mapping) and recording.get("array") is not None:
        array = np.asarray(recording["array"], dtype=np.float32)
        # `datasets` gives (samples,), or two dimensions in either order: the shorter one is the channels.
        return (array if array.ndim == 1 else array.mean(axis=int(array.shape[0] > array.shape[1]))), int(
            recording["sampling_rate"]
        )
    raise ValueError("The task gives no audio that can be read: ttt answers tasks of recorded speech.")


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """The text before the earliest of the endings."""
    for ending in [until] if isinstance(until, str) else until or []:
        if ending:
            text = text.split(ending)[0]
    return text.strip()
