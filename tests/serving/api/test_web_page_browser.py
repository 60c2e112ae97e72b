"""The web page in Chromium: from a fake microphone to what comes out of the loudspeakers, understood by Whisper."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from local_server import LocalServer

from ttt_hf.evaluation.recognizers.whisper import WhisperTranscriber
from ttt_hf.processing import load_audio


playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
pytestmark = pytest.mark.slow

QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"
RATE = 48_000
HEARD, ANSWER = "Please tell me what a carrot is.", "The carrot is a vegetable."
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 30_000  # in milliseconds, for what takes a moment on an idle machine
# Keeps what goes to the loudspeakers.
TAP = """
window.heard = [];
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...others) {
  if (target instanceof AudioDestinationNode && target.context instanceof AudioContext) {
    const tap = (target.context.tap ??= target.context.createScriptProcessor(16384, 1, 1));
    tap.onaudioprocess = (event) => {
      for (const sample of event.inputBuffer.getChannelData(0)) window.heard.push(Math.round(sample * 32767));
    };
    connect.call(tap, target);
    connect.call(this, tap);
  }
  return connect.call(this, target, ...others);
};
"""


@pytest.fixture(scope="module")
def site(embedded: tuple[Any, Any]) -> Iterator[LocalServer]:
    with LocalServer(embedded, has_page=True) as running:
        yield running


@pytest.fixture
def open_page(site: LocalServer, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`open_page(microphone, is_repeated, is_allowed, **context)`: the page, where the microphone hears samples."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as driver:
        if executable is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        browsers = []

        def open_it(
            microphone: np.ndarray | None = None, is_repeated: bool = False, is_allowed: bool = True, **context: Any
        ) -> Any:
            recording = tmp_path / "microphone.wav"
            samples = np.zeros(RATE, dtype=np.float32) if microphone is None else microphone
            soundfile.write(recording, samples, RATE, subtype="PCM_16")
            options = [
                f"--use-fake-ui-for-media-stream{'' if is_allowed else '=deny'}",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}{'' if is_repeated else '%noloop'}",
            ]
            browser = driver.chromium.launch(executable_path=executable, args=options, chromium_sandbox=False)
            browsers.append(browser)
            page = browser.new_context(**context).new_page()
            page.set_default_timeout(SECONDS)
            page.requests, page.errors = [], []
            page.on("request", lambda request: page.requests.append(request.url))
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            page.add_init_script(TAP)
            page.goto(site.url)
            page.get_by_text("ready", exact=True).wait_for()
            return page

        yield open_it
        for browser in browsers:
            browser.close()


def speech(*parts: float | str) -> np.ndarray:
    """Samples for the microphone: seconds of silence, and questions."""
    question = load_audio(str(QUESTION), None, RATE)
    pieces = [question if part == "question" else np.zeros(round(part * RATE)) for part in parts]
    return np.concatenate(pieces).astype(np.float32)


def heard_from(page: Any) -> np.ndarray:
    """What came out of the loudspeakers once it is quiet again; float32 of shape `(samples,)` at 24 kHz."""
    page.get_by_text("ready", exact=True).or_(page.get_by_text("the line is open")).wait_for()
    time.sleep(1.5)  # until the last piece has passed the tap
    return np.array(page.evaluate("window.heard"), dtype=np.float32) / 32767


def turns(page: Any, role: str) -> list[str]:
    return page.locator(f"#dialogue li.{role} p").all_inner_texts()


def test_press_and_speak(open_page: Callable, site: LocalServer, whisper_tiny_en: WhisperTranscriber) -> None:
    started = time.monotonic()
    page = open_page(speech(1, "question", 20))
    page.click("#speak")
    page.locator("#speak[aria-pressed=true]").wait_for()
    time.sleep(4)  # as long as the question takes
    page.click("#speak")
    page.locator("li.assistant audio").wait_for()
    sound = heard_from(page)
    assert whisper_tiny_en.transcribe(sound, 24_000).strip() == ANSWER
    assert turns(page, "assistant") == [ANSWER] and turns(page, "user") == [HEARD]
    assert page.locator("li.user audio").count() == 1
    assert "forwards a second of speech" in page.inner_text("#numbers")
    assert page.errors == [] and page.inner_text("#notice") == ""
    # Nothing but its own server was asked.
    addresses = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert len(addresses) > 5 and all(url.startswith(site.url) for url in addresses)
    assert time.monotonic() - started < 60


def test_an_open_line(open_page: Callable, whisper_tiny_en: WhisperTranscriber) -> None:
    page = open_page(speech(1, "question", 60))
    page.click("#line")
    page.locator("li.assistant audio").wait_for()
    assert whisper_tiny_en.transcribe(heard_from(page), 24_000).strip() == ANSWER
    assert turns(page, "user") == [HEARD]
    # The player has the turn, without the silence around it.
    with page.expect_download() as download:
        page.locator("li.user a").click()
    samples, rate = soundfile.read(download.value.path())
    assert len(samples) / rate == pytest.approx(len(speech("question")) / RATE, abs=0.8)
    assert whisper_tiny_en.transcribe(samples.astype(np.float32), rate).strip().startswith("Please tell me what a")
    page.click("#line")
    page.locator("#line[aria-pressed=false]").wait_for()


def test_speaking_over_a_reply_stops_it(open_page: Callable) -> None:
    # The question again and again, with pauses that are long enough for the beginning of an answer.
    page = open_page(speech(1.2, "question"), is_repeated=True)
    page.click("#line")
    page.locator("li.user").nth(4).wait_for()
    page.click("#line")
    page.locator("li.assistant audio").nth(3).wait_for()
    sound = heard_from(page)
    said = 0.0
    for link in page.locator("li.assistant a").all():
        with page.expect_download() as download:
            link.click()
        said += soundfile.info(download.value.path()).duration
    # Some of the answers were heard, and not all of them.
    assert 1.0 < np.count_nonzero(sound) / 24_000 < said - 1.0


def test_files_keys_and_replies_that_are_stopped(open_page: Callable, tmp_path: Path) -> None:
    page = open_page()
    page.set_input_files("#upload", QUESTION)
    page.get_by_text("speaking", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("ready", exact=True).wait_for()
    page.locator("li.assistant audio").wait_for()
    assert turns(page, "user") == [HEARD] and turns(page, "assistant") == [ANSWER]
    with page.expect_download() as download:
        page.locator("li.assistant a").click()
    assert download.value.suggested_filename == "reply.wav"
    assert soundfile.info(download.value.path()).duration > 1
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    page.set_input_files("#upload", broken)
    page.get_by_text("The recording cannot be used").wait_for()
    # By the keyboard alone: Enter sends, the space bar begins to listen and ends it.
    page.fill("#words", "What is two plus three?")
    page.press("#words", "Enter")
    page.get_by_text("Two plus three is five.").wait_for()
    assert page.inner_text("#notice") == ""
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    page.get_by_text("listening", exact=True).wait_for()
    page.keyboard.press("Space")
    page.get_by_text("Nothing was heard").wait_for()
    page.click("#fresh")
    page.get_by_text("Ask something: speak").wait_for()


def test_a_microphone_that_is_refused(open_page: Callable) -> None:
    page = open_page(is_allowed=False)
    page.click("#line")
    page.get_by_text("The microphone cannot be used: Permission denied. Write, or upload a recording.").wait_for()
    assert page.locator("button[aria-pressed=true]").count() == 0 and page.errors == []


def test_settings_reach_the_model_and_the_picture_is_drawn(open_page: Callable) -> None:
    page = open_page()
    page.click("summary")
    for name, value in {"audio_steps_per_block": 5, "audio_confidence_threshold": 1, "seed": 1}.items():
        page.fill(f"#{name}", str(value))
    page.get_by_text("What is two plus three?").click()
    page.get_by_text("in 5 denoising steps").wait_for()
    # 32 positions and 5 steps, each at its place: committed cells fill theirs, the others show the panel.
    time.sleep(1)
    label = page.locator("#picture").get_attribute("aria-label")
    assert "in 5 denoising steps" in label
    colours = page.evaluate("""() => {
        const canvas = document.querySelector("#picture");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let index = 0; index < pixels.length; index += 4) {
            if (pixels[index + 3] === 255) seen.add([...pixels.slice(index, index + 3)].join());
        }
        return [...seen];
    }""")
    panel = "16,20,26"
    assert panel in colours and len(colours) > 8
    with page.expect_download() as download:
        page.click("#keep")
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"
    # A text alone has no speech.
    page.select_option("#task", "text")
    page.fill("#words", "What is the capital of France?")
    page.click("#send")
    page.get_by_text("text alone, no speech").wait_for()
    assert page.locator("li.assistant").nth(1).locator("audio").count() == 0


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_overflows(width: int, open_page: Callable) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    page.click("#recording")
    page.locator("li.assistant audio").wait_for()
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_that_ends_is_told(embedded: tuple[Any, Any], open_page: Callable) -> None:
    with LocalServer(embedded, has_page=True) as short_lived:
        page = open_page()
        page.goto(short_lived.url)
        page.get_by_text("ready", exact=True).wait_for()
        assert httpx.get(f"{short_lived.url}/health").status_code == 200
    page.get_by_text("not connected").wait_for()
