// The dialogue as it is shown: what was said, with players.
import { wav } from "./sound.js";

export class Dialogue {
  constructor(list) {
    this.list = list;
    this.turns = new Map(); // by the id of their item
  }

  clear() {
    for (const audio of this.list.querySelectorAll("audio")) URL.revokeObjectURL(audio.src);
    this.list.replaceChildren();
    this.turns.clear();
  }

  // Adds a turn of the user or the assistant; returns what it is shown in.
  add(role, id, text = "") {
    const turn = document.createElement("li");
    turn.className = role;
    const words = document.createElement("p");
    words.textContent = text;
    turn.append(words);
    this.list.append(turn);
    if (id) this.turns.set(id, turn);
    turn.scrollIntoView({ block: "nearest" });
    return turn;
  }

  // Adds text to a turn.
  write(id, text) {
    const words = this.turns.get(id)?.querySelector("p");
    if (words) words.textContent = (words.textContent + text).trimStart();
  }

  // Puts a player below a turn, and a link that keeps the recording.
  play(turn, samples, name) {
    if (!samples.length) return;
    const row = document.createElement("div");
    row.className = "sound";
    const audio = document.createElement("audio");
    audio.controls = true;
    audio.src = URL.createObjectURL(wav(samples));
    const link = document.createElement("a");
    link.href = audio.src;
    link.download = name;
    link.textContent = "Save";
    row.append(audio, link);
    turn.append(row);
    turn.scrollIntoView({ block: "nearest" });
  }

  note(id, text) {
    const note = document.createElement("small");
    note.textContent = text;
    this.turns.get(id)?.append(note);
  }
}
