// Passes sound on as 16-bit samples, 40 ms at a time. Faster sampling is averaged down to the rate asked for.
const PACKET_S = 0.04;

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.step = sampleRate / rate;
    this.packet = new Int16Array(PACKET_S * rate);
    this.filled = this.phase = this.sum = this.count = 0;
  }

  process([input]) {
    for (const sample of input[0] ?? []) {
      this.sum += sample;
      this.count += 1;
      this.phase += 1;
      while (this.phase >= this.step) {
        this.phase -= this.step;
        this.add(this.count ? this.sum / this.count : sample);
        this.sum = this.count = 0;
      }
    }
    return true;
  }

  add(sample) {
    this.packet[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
    if (this.filled === this.packet.length) {
      this.port.postMessage(this.packet.buffer.slice(0));
      this.filled = 0;
    }
  }
}
registerProcessor("microphone", Microphone);
