"""One second of a tone as the file formats that people send, for the tests of this folder."""

import io

import numpy as np
import soundfile


RATE = 16000
# soundfile's format and subtype
WRITTEN = {
    "wav": ("WAV", "PCM_16"),
    "wav float": ("WAV", "FLOAT"),
    "wav gsm": ("WAV", "GSM610"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg vorbis": ("OGG", "VORBIS"),
    "ogg opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
# PyAV's container, codec, rate and container options; "piped" is written as to a pipe, as browsers record.
ENCODED = {
    "webm": ("webm", "libopus", 48000, {}),
    "webm piped": ("webm", "libopus", 48000, {}),
    "m4a": ("ipod", "aac", 44100, {}),
    "mp4 fragmented": ("mp4", "aac", 44100, {"movflags": "frag_keyframe+empty_moov"}),
    "mp4 fast start": ("mp4", "aac", 44100, {"moov_size": "20000"}),
    "aac": ("adts", "aac", 44100, {}),
    "wma": ("asf", "wmav2", 44100, {}),
    "amr": ("amr", "libopencore_amrnb", 8000, {}),
}


def tone(seconds: float = 1.0, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def recording(kind: str, seconds: float = 1.0) -> bytes:
    """The content of a file of `kind`, a key of `WRITTEN` or `ENCODED`."""
    if kind in ENCODED:
        return _encoded(*ENCODED[kind], seconds=seconds, is_piped=kind.endswith("piped"))
    file = io.BytesIO()
    container, subtype = WRITTEN[kind]
    soundfile.write(file, tone(seconds), RATE, format=container, subtype=subtype)
    return file.getvalue()


class _Pipe:
    """What PyAV writes to without seeking."""

    def __init__(self) -> None:
        self.content = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self.content.write(data)


def _encoded(container: str, codec: str, rate: int, options: dict[str, str], seconds: float, is_piped: bool) -> bytes:
    import av

    pipe = _Pipe()
    with av.open(pipe if is_piped else pipe.content, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        stream.bit_rate = 12200 if codec == "libopencore_amrnb" else 64000
        frame = av.AudioFrame.from_ndarray(tone(seconds, rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return pipe.content.getvalue()


def main_frequency(waveform: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform))
    return float(np.fft.rfftfreq(len(waveform), 1 / rate)[spectrum.argmax()])
