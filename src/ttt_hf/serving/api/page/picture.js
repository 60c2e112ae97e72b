// The picture of a reply being made: tokens of text above, blocks of speech below, as `ttt_hf.processing.reply_pictures`
// draws them.
const COLOURS = [
  "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
];
const BOUNDS = [0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98];
const PITCH = 14, CHIP = 20, GAP = 3, TRACK_GAP = 6, LINE_GAP = 12, LABEL = 20;
const FONT = "12px ui-monospace, monospace";
// Milliseconds for which a step is shown at least; forwards are quicker than eyes.
const PACE = 25, SLOW_PACE = 120;

const colour = (confidence) => COLOURS[BOUNDS.filter((bound) => confidence >= bound).length];

export function drawScale(element) {
  for (const value of COLOURS) {
    const part = document.createElement("span");
    part.style.background = value;
    element.append(part);
  }
}

export class Picture {
  constructor(canvas, told) {
    this.canvas = canvas;
    this.told = told; // is given the numbers in words
    this.isCalm = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.clear();
  }

  clear() {
    clearTimeout(this.timer);
    this.timer = null;
    this.events = []; // all of the reply
    this.shown = 0; // how many of them are drawn
    this.pace = PACE;
    this.draw();
  }

  text(text) {
    this.push({ kind: "text", text });
  }

  // Whether each position is committed, and the confidences.
  draft(committed, confidences) {
    this.push({ kind: "draft", committed, confidences });
  }

  // The block is finished; number of its codes.
  block(codes) {
    this.push({ kind: "block", codes });
  }

  push(event) {
    this.events.push(event);
    this.timer ??= setTimeout(() => this.advance());
  }

  replay() {
    clearTimeout(this.timer);
    this.shown = 0;
    this.pace = SLOW_PACE;
    this.advance();
  }

  advance() {
    this.shown += 1;
    // The end of a block adds no step of its own.
    while (this.events[this.shown]?.kind === "block") this.shown += 1;
    if (this.isCalm.matches) this.shown = this.events.length;
    this.draw();
    const isAll = this.shown >= this.events.length;
    this.timer = isAll ? null : setTimeout(() => this.advance(), this.pace);
    if (isAll) this.pace = PACE;
  }

  // Tokens and blocks as far as they are shown.
  parts() {
    const parts = [];
    let open = null;
    for (const event of this.events.slice(0, this.shown)) {
      if (event.kind === "text") parts.push({ text: event.text });
      if (event.kind === "draft") {
        if (!open) parts.push((open = { steps: [], final: [] }));
        // The confidence that counts is the one with which a position was committed.
        event.committed.forEach((is, index) => {
          if (is) open.final[index] ??= event.confidences[index];
        });
        const confidences = event.confidences.map((value, index) => open.final[index] ?? value);
        open.steps.push({ committed: event.committed, confidences });
      }
      if (event.kind === "block" && open) {
        // Its codes and the end marker, if there is one; what follows that is dropped.
        Object.assign(open, { length: event.codes + 1, codes: event.codes });
        open = null;
      }
    }
    return parts;
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    const width = this.canvas.parentElement.clientWidth;
    const ratio = window.devicePixelRatio || 1;
    pen.font = FONT;
    const lines = layOut(this.parts(), width, (text) => pen.measureText(text).width);
    const height = Math.max(96, lines.reduce((sum, line) => sum + line.height + LINE_GAP, 0));
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    pen.scale(ratio, ratio);
    pen.font = FONT; // the new size has reset it
    const style = getComputedStyle(document.documentElement);
    const ink = Object.fromEntries(["ink", "faint", "line", "chip", "panel"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
    let top = 0;
    for (const line of lines) {
      for (const part of line.parts) {
        if (part.steps) drawBlock(pen, part, top + line.text + (line.text ? TRACK_GAP : 0), ink);
        else drawToken(pen, part, top, ink);
      }
      top += line.height + LINE_GAP;
    }
  }

  // What was made, in words; `rate` is the number of codes a second.
  tell(rate) {
    const drafts = this.events.filter((event) => event.kind === "draft").length;
    const codes = this.events.reduce((sum, event) => sum + (event.codes ?? 0), 0);
    const seconds = codes / rate;
    const words = seconds
      ? `${seconds.toFixed(1)} s of speech in ${drafts} denoising steps: ${(drafts / seconds).toFixed(1)} forwards a second` +
        ` of speech (one code a forward: ${rate})`
      : "text alone, no speech";
    this.canvas.setAttribute("aria-label", words);
    this.told(words);
  }
}

function layOut(parts, width, measure) {
  const lines = [];
  let line = null, left = 0;
  for (const part of parts) {
    part.pitch = part.steps ? Math.min(PITCH, (width - 8) / part.steps[0].committed.length) : 0;
    part.width = part.steps ? part.steps[0].committed.length * part.pitch + 6 : Math.max(8, measure(part.text)) + 8;
    if (!line || left + part.width > width) {
      lines.push((line = { parts: [], text: 0, speech: 0 }));
      left = 0;
    }
    part.left = left;
    left += part.width + GAP;
    line.parts.push(part);
    if (part.steps) line.speech = Math.max(line.speech, part.steps.length * part.pitch + LABEL);
    else line.text = CHIP;
    line.height = line.text + line.speech + (line.text && line.speech ? TRACK_GAP : 0);
  }
  return lines;
}

function drawToken(pen, part, top, ink) {
  pen.fillStyle = ink.chip;
  pen.strokeStyle = ink.line;
  pen.beginPath();
  pen.roundRect(part.left + 0.5, top + 0.5, part.width - 1, CHIP - 1, 3);
  pen.fill();
  pen.stroke();
  pen.fillStyle = ink.ink;
  pen.fillText(part.text, part.left + 4, top + 14);
}

function drawBlock(pen, part, top, ink) {
  const pitch = part.pitch, cell = pitch * (8 / 9), dot = pitch * (4 / 9);
  const bottom = part.steps.length * pitch + 4;
  pen.fillStyle = ink.panel;
  pen.beginPath();
  pen.roundRect(part.left, top, part.width, bottom, 3);
  pen.fill();
  part.steps.forEach((step, row) => {
    step.committed.forEach((is, column) => {
      const size = is ? cell : dot, margin = (cell - size) / 2;
      pen.globalAlpha = column < (part.length ?? Infinity) ? 1 : 0.2;
      pen.fillStyle = colour(step.confidences[column]);
      pen.fillRect(part.left + 3 + column * pitch + margin, top + 2 + row * pitch + margin, size, size);
    });
  });
  pen.globalAlpha = 1;
  pen.fillStyle = ink.faint;
  const count = `${part.steps.length} step${part.steps.length > 1 ? "s" : ""}`;
  pen.fillText(part.codes === undefined ? `step ${part.steps.length}` : `${part.codes} codes in ${count}`, part.left, top + bottom + 14);
}
