// Sound in and out, as 16 bit samples (Int16Array) at 24 kHz.
export const RATE = 24000;

// The microphone from start to stop, in pieces of 40 ms. It may be stopped while the browser still asks for permission.
export class Microphone {
  async start(receive) {
    if (!navigator.mediaDevices) throw new Error("browsers give it to pages of https, and of this machine, alone");
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    if (this.isStopped) return this.release();
    this.context = new AudioContext(); // at the rate of the device, which not every browser converts
    await this.context.audioWorklet.addModule("microphone.js");
    if (this.isStopped) return;
    const node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => this.isStopped || receive(data);
    this.context.createMediaStreamSource(this.stream).connect(node);
    await this.context.resume();
  }

  stop() {
    this.isStopped = true;
    this.release();
  }

  release() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.stream = this.context = null;
  }
}

// Plays pieces one after the other, from the first one on.
export class Player {
  constructor(changed) {
    this.changed = changed; // is called when it begins and when it has ended
    this.sources = new Set();
    this.pieces = [];
    this.end = 0;
  }

  // Browsers let a page sound only after it was touched: to be called then.
  wake() {
    this.context ??= new AudioContext({ sampleRate: RATE });
    this.context.resume();
  }

  // Begins with another reply.
  begin() {
    this.stop();
    this.pieces = [];
  }

  push(samples) {
    this.wake();
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    // A little later than now, so that the next piece is there before this one has ended.
    const start = Math.max(this.end, this.context.currentTime + 0.05);
    source.start(start);
    this.end = start + buffer.duration;
    this.pieces.push([start, buffer.duration]);
    this.sources.add(source);
    source.onended = () => {
      this.sources.delete(source);
      if (!this.sources.size) this.changed(false);
    };
    this.changed(true);
  }

  get isPlaying() {
    return this.sources.size > 0;
  }

  // Seconds of the reply that were heard.
  get played() {
    const now = this.context?.currentTime ?? 0;
    return this.pieces.reduce((sum, [start, seconds]) => sum + Math.max(0, Math.min(now - start, seconds)), 0);
  }

  stop() {
    for (const source of this.sources) {
      source.onended = null;
      source.stop();
    }
    this.sources.clear();
    this.end = 0;
    this.changed(false);
  }
}

// A recording in any format that the browser reads, mixed to one channel.
export async function decode(content) {
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(content);
  const samples = new Int16Array(audio.length);
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  for (let index = 0; index < samples.length; index += 1) {
    const mean = channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length;
    samples[index] = Math.max(-1, Math.min(1, mean)) * 32767;
  }
  return samples;
}

// What was said, without the silence around it, which a model need not have seen in training; empty if nothing was said.
export function trim(samples) {
  const frame = RATE / 50;
  const levels = [];
  for (let start = 0; start + frame <= samples.length; start += frame) {
    let sum = 0;
    for (let index = start; index < start + frame; index += 1) sum += (samples[index] / 32768) ** 2;
    levels.push(Math.sqrt(sum / frame));
  }
  // 26 dB below the loudest moment, and not less than -50 dB of full scale
  const least = Math.max(0.003, levels.reduce((most, level) => Math.max(most, level), 0) / 20);
  const isLoud = levels.map((level) => level >= least);
  const first = isLoud.indexOf(true);
  if (first < 0) return samples.slice(0, 0);
  const margin = 0.3 * RATE;
  return samples.slice(Math.max(0, first * frame - margin), (isLoud.lastIndexOf(true) + 1) * frame + margin);
}

export function concatenate(pieces) {
  const samples = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let start = 0;
  for (const piece of pieces) {
    samples.set(piece, start);
    start += piece.length;
  }
  return samples;
}

export function wav(samples) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (offset, letters) => [...letters].forEach((letter, index) => header.setUint8(offset + index, letter.charCodeAt(0)));
  text(0, "RIFF"), text(8, "WAVEfmt "), text(36, "data");
  header.setUint32(4, 36 + samples.byteLength, true);
  header.setUint32(16, 16, true); // length of the format
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, RATE, true);
  header.setUint32(28, RATE * 2, true); // bytes a second
  header.setUint16(32, 2, true); // bytes a frame
  header.setUint16(34, 16, true); // bits
  header.setUint32(40, samples.byteLength, true);
  return new Blob([header, samples], { type: "audio/wav" });
}

export function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) {
    text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  }
  return btoa(text);
}

export function fromBase64(text) {
  return new Int16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}
