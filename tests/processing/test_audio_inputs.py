"""Every form in which Python hands over audio gives the same waveform; what is none is refused by a sentence."""

import io
import pathlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recordings import RATE, recording, tone

from ttt_hf.processing.audio import read_audio


class Decoder:
    """What `datasets` gives for decoded audio: an AudioDecoder of torchcodec, by the method that is used."""

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.tensor(tone())[None], sample_rate=RATE)


FORMS = {
    "memoryview": lambda: memoryview(recording("wav float")),
    "open file": lambda: io.BytesIO(recording("wav float")),
    "array and rate": lambda: {"array": tone(), "sampling_rate": RATE, "path": None},
    "list and rate": lambda: {"array": tone().tolist(), "sampling_rate": RATE},
    "audio and rate": lambda: {"audio": tone(), "sampling_rate": RATE, "text": "a tone"},
    "raw and rate": lambda: {"raw": tone(), "sampling_rate": np.int64(RATE)},
    "bytes and path": lambda: {"bytes": recording("wav float"), "path": "name-only.wav"},
    "bytes alone": lambda: {"bytes": recording("wav float")},
    "rate first": lambda: (RATE, tone()),
    "rate last": lambda: (tone()[None], RATE),
    "rate as a tensor": lambda: (torch.tensor(tone()), torch.tensor(RATE)),
    "torchcodec": Decoder,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_with_their_rate(form: str) -> None:
    waveform, rate = read_audio(FORMS[form]())
    assert rate == RATE
    np.testing.assert_allclose(waveform, tone(), atol=1e-7)


@pytest.mark.parametrize("form", [tone().tolist(), [tone().tolist()] * 2, tone().astype(">f4"), tone().astype(">f8")])
def test_forms_without_their_rate(form: Any) -> None:
    np.testing.assert_allclose(read_audio(form, RATE)[0], tone(), atol=1e-7)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "<i4", ">i4"])
def test_integers_of_either_byte_order(kind: str) -> None:
    integers = (tone() * np.iinfo(kind).max).astype(kind)
    np.testing.assert_allclose(read_audio((RATE, integers))[0], tone(), atol=1e-4)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(recording("wav"))
    for form in ({"path": str(path), "bytes": None}, {"url": path.as_uri()}, pathlib.PurePath(path)):
        assert read_audio(form)[1] == RATE
    with open(path, "rb") as file:
        assert read_audio(file)[1] == RATE
    with open(path, encoding="latin-1") as file, pytest.raises(ValueError, match="open it in binary mode"):
        read_audio(file)


def test_rates_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="come with a rate of 16000 Hz, but sampling_rate is 8000"):
        read_audio((RATE, tone()), 8000)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.tensor(tone()).to_sparse(), "no plain array: give a dense tensor"),
        (torch.empty(RATE, device="meta"), "no plain array"),
        (torch.tensor(0.5), r"shape \(samples,\)"),
        (torch.tensor(tone()).to(torch.complex64), "no agreed range"),
        (np.float32(0.5), r"shape \(samples,\)"),
        ([tone().tolist(), [0.5]], "rows of equal length"),
        (list(range(RATE)), "no agreed range"),
        ([], "no samples"),
        (io.BytesIO(), "is empty"),
        (np.full(RATE, 1e300), "infinite"),
        (np.full(RATE, 0.5), "is silent .all samples are about 0.5"),
        (0.5 + 1e-5 * tone(), "is silent"),
    ],
)
def test_unusable_samples(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_audio(source, RATE)


@pytest.mark.parametrize(
    "source",
    [None, 5, object(), {}, {"path": 5}, {"bytes": "text"}, {"codes": [1]}, ["a.wav"], [None] * 9, [b"x"], {1, 2}],
)
def test_what_is_no_audio(source: Any) -> None:
    with pytest.raises(TypeError, match="Audio must be a file name") as raised:
        read_audio(source, RATE)
    assert len(str(raised.value)) < 300


def test_constant_added_by_a_microphone() -> None:
    np.testing.assert_allclose(read_audio(0.3 + 0.01 * tone(), RATE)[0], 0.3 + 0.01 * tone(), atol=1e-6)
