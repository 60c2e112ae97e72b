// Runs in the audio thread: the microphone at its own rate to 16 bit samples at 24 kHz.
const RATE = 24000;
const CHUNK = 960; // 40 ms

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE; // input samples that make one of ours
    this.sum = 0; // of the part of the next sample that was heard already
    this.weight = 0;
    this.chunk = new Int16Array(CHUNK);
    this.length = 0;
  }

  process([input]) {
    if (!input.length) return true;
    for (let index = 0; index < input[0].length; index += 1) {
      let sample = 0;
      for (const channel of input) sample += channel[index] / input.length;
      this.take(sample);
    }
    return true;
  }

  // Each of our samples is the mean over the time that it stands for.
  take(sample) {
    let left = 1;
    while (left > 1e-9) {
      const part = Math.min(left, this.step - this.weight);
      this.sum += sample * part;
      this.weight += part;
      left -= part;
      if (this.step - this.weight > 1e-9) continue;
      this.put(this.sum / this.step);
      this.sum = 0;
      this.weight = 0;
    }
  }

  put(sample) {
    this.chunk[this.length] = Math.max(-1, Math.min(1, sample)) * 32767;
    this.length += 1;
    if (this.length < CHUNK) return;
    this.port.postMessage(this.chunk, [this.chunk.buffer]);
    this.chunk = new Int16Array(CHUNK);
    this.length = 0;
  }
}

registerProcessor("recorder", Recorder);
