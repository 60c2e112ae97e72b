"""Audio to codes, once: shards that do not depend on how often the run was interrupted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig, load_codec
from ttt_hf.data import canonical_row, check_fingerprint, codec_fingerprint, encode_row, encode_source, load_source
from ttt_hf.data import open_source as open_rows
from ttt_hf.processing import load_audio
from ttt_hf.processing.audio import resample
from ttt_hf.processing.listening import load_recording


pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra train")
pytest.importorskip("datasets", reason="needs the extra train")
pytestmark = pytest.mark.usefixtures("prepared_data")

QUESTION = Path(__file__).resolve().parents[2] / "examples" / "question.wav"


def make_codec(seed: int, levels: tuple[int, ...] = (5, 5, 3)) -> TtTTinyCodec:
    sizes = ("encoder_frame", "encoder_code", "decoder_frame", "decoder_code", "vocoder")
    config = TtTTinyCodecConfig(
        fsq_levels=levels, **{f"{part}_size": 16 for part in sizes}, **{f"{part}_layers": 1 for part in sizes}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TtTTinyCodec(config).eval()


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    make_codec(seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def codec(codec_folder):
    return load_codec(codec_folder)


@pytest.fixture
def make_source(tmp_path, make_audio):
    """`make_source(7, broken=[2])`: a data set of 7 rows, one of them unreadable."""

    def make(count: int, broken: tuple[int, ...] = ()):
        rows = []
        for number in range(count):
            path = make_audio(f"clips/{number}.wav", pitch=200 + 40 * number, rate=16000 if number % 2 else 22050)
            if number in broken:
                path.write_bytes(b"this is no audio")
            rows.append({"audio": f"clips/{number}.wav", "text": f"tone {number}"})
        file = tmp_path / "data.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return open_rows(file, task="asr")

    return make


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def test_recordings_of_the_user_are_encoded_as_the_model_hears_them(codec):
    trimming = make_codec(seed=0)
    trimming.config.trim_silence = True
    samples, rate = soundfile.read(QUESTION, dtype="float32")
    item = {"type": "audio", "audio": {"array": np.pad(samples, 2 * rate), "sampling_rate": rate}}
    row = {"messages": [{"role": role, "content": [item]} for role in ("user", "assistant")]}
    (heard, said), (whole, same) = (
        [message["content"][0]["codes"] for message in encode_row(row, any_codec)[0]["messages"]]
        for any_codec in (trimming, codec)
    )
    assert said == same == whole
    assert len(heard) <= len(whole) - 48
    # The codes mean the same, so that data that are encoded already stay of use.
    assert codec_fingerprint(trimming) == codec_fingerprint(codec)


def test_a_folder_has_one_way_of_hearing(tmp_path, make_source, codec_folder):
    encode_source(make_source(2), codec_folder, tmp_path / "out")
    trimming = make_codec(seed=0)
    trimming.config.trim_silence = True
    trimming.save_pretrained(tmp_path / "trimming")
    with pytest.raises(ValueError, match=r"holds another encoding \(its trim_silence differs\)"):
        encode_source(make_source(2), tmp_path / "trimming", tmp_path / "out")


def test_rows_come_back_with_the_codes_of_their_audio(tmp_path, make_source, codec, codec_folder):
    report = encode_source(make_source(5), codec_folder, tmp_path / "out", name="tones", shard_size=2)
    assert (report.rows, report.skipped, report.shards) == (5, 0, 3)
    assert report.seconds == pytest.approx(2.5, abs=0.01)
    assert report.fingerprint == codec_fingerprint(codec)
    rows = list(load_source(tmp_path / "out"))
    assert [row["messages"][1]["content"][0]["text"] for row in rows] == [f"tone {number}" for number in range(5)]
    for number, row in enumerate(rows):
        waveform = torch.from_numpy(load_audio(tmp_path / "clips" / f"{number}.wav", None, 16000))
        item = row["messages"][0]["content"][0]
        assert item["codes"] == codec.encode(waveform[None])[0].tolist()
        assert item["path"] is None
    assert len({tuple(row["messages"][0]["content"][0]["codes"]) for row in rows}) > 1
    assert list(load_source(tmp_path / "out", streaming=True)) == rows
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"encoding.json", *(f"shard-0000{number}-of-00003.parquet" for number in range(3))}


def test_the_codec_is_written_beside_the_shards_and_into_them(tmp_path, make_source, codec, codec_folder):
    encode_source(make_source(2), codec_folder, tmp_path / "out", name="tones")
    encoding = json.loads((tmp_path / "out" / "encoding.json").read_text())
    assert encoding["fingerprint"] == codec_fingerprint(codec)
    assert encoding["complete"] is True
    assert (encoding["rows"], encoding["codebook_size"], encoding["frame_rate"]) == (2, 75, 12.5)
    (shard,) = (tmp_path / "out").glob("shard-*.parquet")
    metadata = json.loads(pq.read_schema(shard).metadata[b"ttt_hf"])
    assert metadata["fingerprint"] == codec_fingerprint(codec)


def test_an_interrupted_run_goes_on_and_gives_the_same_shards(tmp_path, make_source, codec_folder, monkeypatch):
    source = make_source(7, broken=(4,))
    whole = encode_source(source, codec_folder, tmp_path / "whole", shard_size=2)

    read = 0

    def read_and_stop(*arguments, **keywords):
        nonlocal read
        read += 1
        if read > 5:
            raise KeyboardInterrupt
        return load_recording(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr("ttt_hf.data.shards.load_recording", read_and_stop)
        with pytest.raises(KeyboardInterrupt):
            encode_source(source, codec_folder, tmp_path / "parts", shard_size=2)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("shard-*")}
    assert len(done) == 2
    with pytest.raises(ValueError, match="not finished"):
        load_source(tmp_path / "parts")

    resumed = encode_source(source, codec_folder, tmp_path / "parts", shard_size=2)
    assert resumed == whole
    assert shards_of(tmp_path / "parts") == shards_of(tmp_path / "whole")
    for name, time in done.items():
        assert (tmp_path / "parts" / name).stat().st_mtime_ns == time
    for name in ("encoding.json", "broken.jsonl"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert not list((tmp_path / "parts").glob(".*"))


@pytest.mark.slow
def test_several_processes_give_the_same_shards(tmp_path, make_source, codec_folder):
    source = make_source(4, broken=(1,))
    one = encode_source(source, codec_folder, tmp_path / "one", shard_size=2)
    two = encode_source(source, codec_folder, tmp_path / "two", shard_size=2, workers=2)
    assert two == one
    assert shards_of(tmp_path / "two") == shards_of(tmp_path / "one")


def test_broken_audio_is_left_out_counted_and_listed(tmp_path, make_source, codec_folder):
    report = encode_source(make_source(6, broken=(1, 4)), codec_folder, tmp_path / "out", shard_size=2)
    assert (report.rows, report.skipped) == (4, 2)
    lines = (tmp_path / "out" / "broken.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [2, 5]
    assert [json.loads(line)["origin"] for line in lines] == [f"{tmp_path}/data.jsonl, line {n}" for n in (2, 5)]
    assert "1.wav is not audio" in json.loads(lines[0])["error"]
    texts = [row["messages"][1]["content"][0]["text"] for row in load_source(tmp_path / "out")]
    assert texts == ["tone 0", "tone 2", "tone 3", "tone 5"]


@pytest.mark.parametrize(("count", "broken", "share"), [(8, 6, None), (4, 2, 0.25), (2, 1, 0.0)])
def test_too_much_broken_audio_stops_the_run(tmp_path, make_source, codec_folder, count, broken, share):
    source = make_source(count, broken=tuple(range(broken)))
    with pytest.raises(ValueError, match=r"data.jsonl, line 1: .*0\.wav is not audio.* max_broken .*--max-broken"):
        encode_source(source, codec_folder, tmp_path / "out", shard_size=1, max_broken=share)
    assert encode_source(source, codec_folder, tmp_path / "out", shard_size=1, max_broken=0.9).skipped == broken


def test_recordings_of_all_rates_and_channels_give_the_codes_of_the_one_that_fits(tmp_path, embedded):
    speech, rate = soundfile.read(QUESTION, dtype="float32")
    assert (rate, speech.ndim) == (16000, 1)
    (tmp_path / "mixed").mkdir()
    soundfile.write(tmp_path / "mixed" / "0.wav", speech, rate)
    for number, other in enumerate((22050, 44100, 48000), start=1):
        left = resample(speech, rate, other)
        channels = [left, left] if other == 44100 else [1.4 * left, 0.6 * left]
        soundfile.write(tmp_path / "mixed" / f"{number}.wav", np.stack(channels, axis=1), other, subtype="FLOAT")
    embedded.codec.save_pretrained(tmp_path / "codec")
    report = encode_source(open_rows(tmp_path / "mixed"), tmp_path / "codec", tmp_path / "out")
    assert (report.rows, report.skipped) == (4, 0)
    assert report.seconds == pytest.approx(4 * len(speech) / rate, abs=0.01)
    expected, *others = (np.array(row["content"][0]["codes"]) for row in load_source(tmp_path / "out"))
    for codes in others:
        assert codes.shape == expected.shape
        assert (codes == expected).mean() > 0.8


def test_no_space_left(tmp_path, make_source, codec_folder, limit_file_size):
    source = make_source(3)
    with limit_file_size(2000), pytest.raises(OSError, match=r"shard-00000-of-00001.parquet cannot be written .*free"):
        encode_source(source, codec_folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["encoding.json"]
    assert encode_source(source, codec_folder, tmp_path / "out").rows == 3


def test_all_that_is_wrong_is_said_before_the_codec_is_loaded(tmp_path, make_audio):
    """Empty transcripts, unknown columns, files that are missing or no audio: one list, under one limit."""
    make_audio("good.wav")
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    names = ["good.wav", "missing.wav", "text.wav", "empty.wav", "good.wav"]
    rows = [{"audio": name, "text": "Hi."} for name in names]
    rows[-1]["text"] = " "
    rows += [{"speech": "good.wav"}, {"audio": "good.wav", "text": "Hi.", "task": "sing"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_rows(tmp_path / "data.jsonl")
    with pytest.raises(ValueError, match="More rows cannot be used than the 2 allowed") as raised:
        encode_source(source, tmp_path / "no codec", tmp_path / "out", max_broken=0.3)
    told = str(raised.value)
    assert "\n" not in told and "line 1: A row with 'audio' and 'text' needs a task" in told
    source = open_rows(tmp_path / "data.jsonl", task="asr")
    with pytest.raises(ValueError, match="More rows cannot be used than the 2 allowed") as raised:
        encode_source(source, tmp_path / "no codec", tmp_path / "out", max_broken=0.3)
    words = ["There is no audio file", ".*text.wav is not audio", ".*empty.wav is empty", ".*its text is empty",
             "Task asr needs"]  # fmt: skip
    for number, word in enumerate(words, start=2):
        assert re.search(f"data.jsonl, line {number}: {word}", str(raised.value)), word
    assert not (tmp_path / "out").exists()


def test_what_only_decoding_shows_counts_under_the_same_limit(tmp_path, make_source, codec_folder):
    source = make_source(4, broken=(0,))
    silent = tmp_path / "clips" / "1.wav"
    soundfile.write(silent, np.zeros(8000), 16000)
    with pytest.raises(ValueError, match=r"than the 1 allowed: .*line 1: .*not audio.*line 2: .*silent"):
        encode_source(source, codec_folder, tmp_path / "out", max_broken=0.25)
    report = encode_source(source, codec_folder, tmp_path / "out", max_broken=0.5)
    assert [entry["row"] for entry in report.broken] == [1, 2]


def test_audio_that_is_left_after_some_shards_is_encoded(tmp_path, make_source, codec_folder):
    source = make_source(4)
    encode_source(source, codec_folder, tmp_path / "out", shard_size=2)
    (tmp_path / "out" / "shard-00001-of-00002.parquet").unlink()
    (tmp_path / "clips" / "0.wav").unlink()  # its codes are there
    assert encode_source(source, codec_folder, tmp_path / "out", shard_size=2, max_broken=0.0).rows == 4


def test_encodings_of_older_versions_are_read(tmp_path, make_source, codec, codec_folder):
    encode_source(make_source(2), codec_folder, tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("shard-*.parquet")
    rows = list(load_source(tmp_path / "out"))
    table = pq.read_table(shard)
    plain = [
        {**row, "messages": [{**message, "content": [{key: value for key, value in item.items() if key != "variants"}
                                                     for item in message["content"]]} for message in row["messages"]]}
        for row in table.to_pylist()
    ]  # fmt: skip
    pq.write_table(table.from_pylist(plain), shard)
    for streaming in (False, True):
        assert list(load_source(tmp_path / "out", streaming)) == rows
    check_fingerprint(load_source(tmp_path / "out"), codec)


def test_nothing_readable_at_all(tmp_path, make_source, codec_folder):
    with pytest.raises(ValueError, match=r"None of the rows can be used: .*line 1: .*line 2: "):
        encode_source(make_source(2, broken=(0, 1)), codec_folder, tmp_path / "out")


def test_text_and_codes_pass_through(tmp_path, make_audio, codec, codec_folder):
    path = make_audio("a.wav")
    rows = [
        {"question": "Hi.", "answer": "Hello."},
        {"messages": [{"role": "user", "content": "<|begin_of_audio|><|audio_7|><|end_of_audio|>"}]},
        {"content": [{"type": "text", "text": "a"}, {"type": "audio", "path": str(path), "span": "last"}]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    encode_source(open_rows(tmp_path / "data.json"), codec_folder, tmp_path / "out")
    text, codes, mixed = load_source(tmp_path / "out")
    assert [message["content"][0]["text"] for message in text["messages"]] == ["Hi.", "Hello."]
    assert codes["messages"][0]["content"][0]["codes"] == [7]
    assert mixed["content"][1]["span"] == "last"
    assert mixed["content"][1]["codes"] == encode_row(canonical_row(rows[2]), codec)[0]["content"][1]["codes"]


@pytest.mark.parametrize("suffix", ["wav", "bytes", "samples"])
def test_audio_in_every_form_gives_the_same_codes(make_audio, codec, suffix):
    path = make_audio("a.wav")
    samples = load_audio(path, None, 16000)
    item = {
        "wav": {"path": str(path)},
        "bytes": {"bytes": path.read_bytes()},
        "samples": {"audio": samples.tolist(), "sampling_rate": 16000},
    }[suffix]
    row, seconds = encode_row({"content": [{"type": "audio", **item}], "task": None}, codec)
    assert row["content"] == [{"type": "audio", "codes": codec.encode(torch.from_numpy(samples)[None])[0].tolist()}]
    assert seconds == pytest.approx(0.5)


# -- variants ---------------------------------------------------------------------------------------------------------


def test_variants_are_those_of_what_is_listened_to(tmp_path, make_audio, codec):
    path = str(make_audio("a.wav"))
    asked = {"question_audio": path, "answer": "Eight.", "answer_audio": path}
    plain, _ = encode_row(canonical_row(asked), codec)
    row, seconds = encode_row(canonical_row(asked), codec, variants=3, seed=1)
    question, (_, answer) = row["messages"][0]["content"][0], row["messages"][1]["content"]
    assert question["codes"] == plain["messages"][0]["content"][0]["codes"]
    assert len({tuple(codes) for codes in question["variants"]}) == 3
    assert answer == plain["messages"][1]["content"][1]
    assert "variants" not in answer
    assert seconds == pytest.approx(1.0)
    assert "variants" not in encode_row(canonical_row({"audio": path}), codec, variants=3)[0]["content"][0]


def test_variants_follow_from_the_seed(make_audio, codec):
    row = canonical_row({"question_audio": str(make_audio("a.wav", seconds=2.0)), "answer": "Eight."})

    def variants(count, seed):
        return encode_row(row, codec, count, seed)[0]["messages"][0]["content"][0]["variants"]

    assert variants(4, 0)[:2] == variants(2, 0)
    assert variants(4, 0) != variants(4, 1)
    two = {"messages": [row["messages"][0], row["messages"][1]] * 2, "task": "chat"}
    first, second = (encode_row(two, codec, 2)[0]["messages"][place]["content"][0]["variants"] for place in (0, 2))
    assert first != second


def test_variants_do_not_depend_on_shards_and_are_read_again(tmp_path, make_source, codec_folder):
    source = make_source(4, broken=(1,))
    encode_source(source, codec_folder, tmp_path / "one", variants=2, seed=5)
    encode_source(source, codec_folder, tmp_path / "two", variants=2, seed=5, shard_size=3)
    rows = list(load_source(tmp_path / "one"))
    assert rows == list(load_source(tmp_path / "two"))
    assert all(len(row["messages"][0]["content"][0]["variants"]) == 2 for row in rows)
    assert rows[0]["messages"][1]["content"][0]["variants"] is None
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(load_source(tmp_path / "rows.jsonl")) == rows


def test_an_encoding_with_other_variants_is_another_encoding(tmp_path, make_source, codec_folder):
    source = make_source(2)
    encode_source(source, codec_folder, tmp_path / "out")
    encoding = json.loads((tmp_path / "out" / "encoding.json").read_text())
    # One that was made before there were variants has none.
    older = {name: value for name, value in encoding.items() if name not in ("variants", "seed")}
    (tmp_path / "out" / "encoding.json").write_text(json.dumps(older))
    assert encode_source(source, codec_folder, tmp_path / "out").rows == 2
    with pytest.raises(ValueError, match=r"another encoding .its variants differs"):
        encode_source(source, codec_folder, tmp_path / "out", variants=1)
    with pytest.raises(ValueError, match=r"another encoding .its seed differs"):
        encode_source(source, codec_folder, tmp_path / "out", seed=1)


# -- fingerprints -----------------------------------------------------------------------------------------------------


def test_fingerprint_is_that_of_configuration_and_weights(tmp_path, codec):
    fingerprint = codec_fingerprint(codec)
    codec.save_pretrained(tmp_path / "copy")
    assert codec_fingerprint(load_codec(tmp_path / "copy")) == fingerprint
    assert codec_fingerprint(make_codec(seed=0)) == fingerprint
    changed = make_codec(seed=0)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-6
    settings = make_codec(seed=0)
    settings.config.mel_floor = 2e-4
    others = [codec_fingerprint(other) for other in (make_codec(seed=1), changed, settings)]
    assert len({fingerprint, *others}) == 4


def test_codes_of_another_codec_are_refused(tmp_path, make_source, codec, codec_folder):
    out = tmp_path / "out"
    encode_source(make_source(2), codec_folder, out)
    other = make_codec(seed=1)
    for data in (out, str(out), load_source(out), load_source(out, streaming=True)):
        check_fingerprint(data, codec)
        with pytest.raises(ValueError, match="encoded by another codec") as raised:
            check_fingerprint(data, other)
        assert "\n" not in str(raised.value)


def test_a_mixture_with_codes_of_another_codec_is_refused(tmp_path, make_source, codec, codec_folder):
    source = make_source(2)
    make_codec(seed=1).save_pretrained(tmp_path / "other")
    encode_source(source, codec_folder, tmp_path / "own")
    encode_source(source, tmp_path / "other", tmp_path / "foreign")
    check_fingerprint(load_source([{"path": tmp_path / "own"}]), codec)
    mixture = load_source([{"path": tmp_path / "own"}, {"path": tmp_path / "foreign"}])
    with pytest.raises(ValueError, match="another codec"):
        check_fingerprint(mixture, codec)


def test_what_is_no_encoding_has_no_fingerprint(tmp_path, codec):
    with pytest.raises(FileNotFoundError, match="holds no encoding"):
        check_fingerprint(tmp_path, codec)
    (tmp_path / "encoding.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        check_fingerprint(tmp_path, codec)


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(tmp_path, make_source, codec_folder):
    source = make_source(2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty"):
        encode_source(source, codec_folder, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    encode_source(source, codec_folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"another encoding .its shard_size differs"):
        encode_source(source, codec_folder, tmp_path / "out", shard_size=1)
    make_codec(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"another encoding .its fingerprint differs"):
        encode_source(source, tmp_path / "other", tmp_path / "out")


def test_a_damaged_shard_is_named(tmp_path, make_source, codec_folder):
    source = make_source(2)
    encode_source(source, codec_folder, tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("shard-*")
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{shard.name} is damaged: delete it"):
        encode_source(source, codec_folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "no audio to encode, their rows have none"),
        ([{"audio": [1, 2]}], "no audio to encode, their audio is codes already"),
    ],
)
def test_data_without_audio(tmp_path, codec_folder, rows, message):
    (tmp_path / "data.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        encode_source(open_rows(tmp_path / "data.json"), codec_folder, tmp_path / "out")


@pytest.mark.parametrize(
    "arguments", [{"workers": 0}, {"shard_size": 0}, {"max_broken": 2.0}, {"variants": -1}, {"seed": -1}]
)
def test_arguments_out_of_range(tmp_path, make_source, codec_folder, arguments):
    with pytest.raises(ValueError, match=r"at least 1|from 0 to 1|must not be negative"):
        encode_source(make_source(1), codec_folder, tmp_path / "out", **arguments)
