// The connection to /v1/realtime: events there and back.
import { toBase64 } from "./sound.js";

export class Realtime {
  // `handlers` maps kinds of events to functions; `changed` is told whether there is a connection.
  constructor(handlers, changed) {
    this.handlers = handlers;
    this.changed = changed;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/realtime`, "realtime");
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      this.handlers[event.type]?.(event);
    };
    this.socket.onclose = () => {
      this.changed(false);
      setTimeout(() => this.connect(), 2000);
    };
    this.socket.onopen = () => this.changed(true);
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(type, content = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...content }));
  }

  hear(samples) {
    this.send("input_audio_buffer.append", { audio: toBase64(samples) });
  }

  // A message of the user, and its answer.
  ask(part) {
    this.send("conversation.item.create", { item: { type: "message", role: "user", content: [part] } });
    this.send("response.create");
  }
}
