"""The HTML report: needs nothing else, takes no model's word for markup, and works in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile

from recorded_run import Answer, change_results, write_questions, write_recognition, write_tone
from ttt_hf.evaluation.report import write_html


EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script></dd></article>\" onload='alert(3)"
SENTENCE = "the quick brown fox jumps over the lazy dog"
# What cannot be fetched and holds no content.
EMPTY_ELEMENTS = {"meta", "link", "br", "wbr", "img", "line", "rect"}


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text; complains where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recognition of recordings that are there, a limited part of it, and questions answered in speech."""
    folder = tmp_path_factory.mktemp("report")
    answers = [
        Answer(f"clip-{number}", SENTENCE, " ".join(["so", *SENTENCE.split()[: 9 - number]][number == 0 :]))
        for number in range(8)
    ] + [Answer("damaged", "good morning", "", finish_reason="error", error="The recording is damaged.")]
    rows = []
    for answer in answers:
        write_tone(folder / "data" / f"{answer.id}.wav", 1.0)
        rows.append({"id": answer.id, "audio": f"{answer.id}.wav", "text": answer.reference})
    data = folder / "data" / "clips.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_recognition(folder / "run" / "reading", answers, data=str(data))
    write_recognition(folder / "run" / "reading_part", answers[:3], limited=True, data=str(folder / "gone.jsonl"))
    asked = [
        Answer(f"q{number}", "Paris", "It is Paris." if number % 2 else EVIL, "The capital of France?", "it is paris")
        for number in range(12)
    ]
    write_questions(folder / "run" / "questions", asked, data=str(folder / "moved" / "questions.jsonl"))
    return folder / "run"


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return write_html(run)


def test_page_needs_nothing_else(report: Path) -> None:
    page = Page(report)
    for tag, attributes in page.elements:
        for name in ("src", "href", "poster", "data", "action", "srcset"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "script" not in policy
    assert "url(" not in report.read_text(encoding="utf-8") and "@import" not in report.read_text(encoding="utf-8")


def test_model_text_is_text(report: Path) -> None:
    page = Page(report)
    assert not page.of("script") and not page.of("img")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL in page.words


def test_ids_are_unique_and_links_lead_somewhere(report: Path) -> None:
    page = Page(report)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in page.of("a"):
        assert str(link["href"]).removeprefix("#") in ids


def test_contents_list_every_task(report: Path) -> None:
    contents = report.read_text(encoding="utf-8").split('aria-label="Contents"')[1].split("</nav>")[0]
    assert re.findall('href="#([^"]+)">([^<]+)', contents) == [
        ("results", "Results"),
        ("task-1", "questions"),
        ("task-2", "reading"),
        ("task-3", "reading_part"),
    ]


def test_every_cell_of_the_table_names_its_column(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    columns = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', text)
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall('data-name="([^"]+)"', row) for row in body.split("<tr")[1:]]
    assert rows and all(row == columns for row in rows), "on a phone, the names stand beside the values"
    assert "attr(data-name)" in text


def test_recordings_are_in_the_page(report: Path) -> None:
    players = Page(report).of("audio")
    heard = [player for player in players if str(player["aria-label"]).startswith("Audio of the question")]
    said = [player for player in players if str(player["aria-label"]).startswith("Audio of the reply")]
    assert len(heard) == 9 and len(said) == 6, "all spoken answers are right, so that none is among the worst"
    for player, seconds in ((heard[0], 1.0), (said[0], 0.5)):
        assert "controls" in player
        content = base64.b64decode(str(player["src"]).removeprefix("data:audio/flac;base64,"))
        assert soundfile.info(io.BytesIO(content)).duration == pytest.approx(seconds)


def test_limited_task_shows_its_number_and_what_it_is(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    card = text.split('class="card" href="#task-3"')[1].split("</a>")[0]
    note = "first 3 of 6: not the benchmark&#39;s number"
    assert '<span class="number">' in card and "withheld" not in card and "3 of 6 samples" in card
    assert note in card
    assert f'<td data-name="note">{note}</td>' in text and f"Limited run, {note}." in text


def test_report_of_one_task_and_of_data_that_changed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reading"
    shutil.copytree(run / "reading", folder)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    data = tmp_path / "clips.jsonl"
    rows = [
        {"id": key, "audio": str(run.parent / "data" / f"{key}.wav"), "text": "other words"}
        for key in settings["samples"]
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings["task"]["source"]["path"] = str(data)
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    page = Page(write_html(folder))
    assert not page.of("audio")
    assert "reading" in page.words


def test_results_without_any_number(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reading"
    shutil.copytree(run / "reading", folder)
    change_results(folder, metrics={}, counts={}, headline=None, n_scored=0)
    assert "withheld" in Page(write_html(folder)).words


def test_full_disk_leaves_the_old_page(run: Path, tmp_path: Path, limit_file_size: Any) -> None:
    folder = tmp_path / "reading"
    shutil.copytree(run / "reading", folder)
    (folder / "report.html").write_text("old", encoding="utf-8")
    with limit_file_size(5000), pytest.raises(OSError, match=r"report\.html cannot be written"):
        write_html(folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == "old"
    assert not list(folder.glob(".*.part"))


# -- in a browser -----------------------------------------------------------------------------------------------------

CONTRAST = """
selector => {
  const numbers = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = color => {
    const linear = c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(color).map(c => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const surface = element => {
    const color = getComputedStyle(element).backgroundColor;
    return color !== 'rgba(0, 0, 0, 0)' ? color : surface(element.parentElement);
  };
  return [...document.querySelectorAll(selector)].map(element => {
    const pair = [light(getComputedStyle(element).color), light(surface(element))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  });
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: Debian's, or the one that Playwright has installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    arguments = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    arguments.append("--autoplay-policy=no-user-gesture-required")
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not run as root
    with sync_api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        except sync_api.Error as error:
            pytest.skip(f"needs Chromium: apt-get install chromium, or playwright install chromium ({error.message})")
        yield chromium
        chromium.close()


def open_page(browser: Any, report: Path, **options: Any) -> tuple[Any, list[str], list[str]]:
    """A tab with the report, what its console says, and what it fetches."""
    page = browser.new_page(**options)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("[...document.querySelectorAll('audio')].every(player => player.readyState > 0)")
    return page, complaints, requests


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 360])
def test_page_in_a_browser(browser: Any, report: Path, tmp_path: Path, scheme: str, width: int) -> None:
    page, complaints, requests = open_page(
        browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    assert complaints == []
    assert [address for address in requests if not address.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out of the screen"
    plots = page.locator("figure.plot")
    titles = plots.locator("h3").all_inner_texts()
    assert titles[:3] == ["Error rates by task", "Kinds of errors", "Accuracy by task"]
    assert "wer (%) by length of the reference" in titles
    for plot in plots.all():
        area = plot.bounding_box()
        assert plot.is_visible() and area["width"] >= min(width - 60, 300)
        bars = [bar.bounding_box() for bar in plot.locator("rect").all()]
        assert any(bar and bar["width"] > 5 and bar["height"] > 5 for bar in bars)
        assert all(bar is None or bar["x"] + bar["width"] <= area["x"] + area["width"] + 1 for bar in bars)
    for selector in ("body", ".muted", "small", ".notes li", ".warning", "a", "del", "ins", ".badge", "dt", "summary"):
        ratios = page.evaluate(CONTRAST, selector)
        assert ratios and min(ratios) >= 4.5, selector
    luminous = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 127")
    assert luminous == (scheme == "light")
    shot = tmp_path / "report.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000
    page.close()


@pytest.mark.slow
def test_recordings_play_in_a_browser(browser: Any, report: Path) -> None:
    page, complaints, _ = open_page(browser, report)
    assert page.locator("audio").count() == 15
    durations = page.evaluate("[...document.querySelectorAll('audio')].map(player => player.duration)")
    assert sorted({round(seconds, 2) for seconds in durations}) == [0.5, 1.0]
    played = page.evaluate(
        """async () => {
            const players = [...document.querySelectorAll('audio')];
            for (const player of [players[0], players[players.length - 1]]) {
                await player.play();
                await new Promise(resolve => player.onended = resolve);
                if (player.error || player.currentTime < player.duration) return false;
            }
            return true;
        }"""
    )
    assert played and complaints == []
    page.close()


@pytest.mark.slow
def test_page_by_keyboard(browser: Any, report: Path) -> None:
    page, _, _ = open_page(browser, report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0, "seen when it has the focus"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "card"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.url.endswith("#task-1")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details pre").first.is_visible()
    page.close()
