// Passes sound on as 16-bit samples, 40 ms at a time.
const PACKET = 960;

class Microphone extends AudioWorkletProcessor {
  packet = new Int16Array(PACKET);
  filled = 0;

  process([input]) {
    for (const sample of input[0] ?? []) {
      this.packet[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === PACKET) {
        this.port.postMessage(this.packet.buffer.slice(0));
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("microphone", Microphone);
