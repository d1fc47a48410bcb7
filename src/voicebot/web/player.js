// Plays an answer's pieces without a gap, and knows how much of it was heard.
export class Player {
  constructor(context, rate) {
    this.context = context;
    this.rate = rate;
    this.stop();
  }

  add(item, bytes) {
    if (item !== this.item) {
      this.item = item;
      this.played = [];
    }
    const samples = new Int16Array(bytes);
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.ends = Math.max(this.context.currentTime + 0.02, this.ends);
    source.start(this.ends);
    this.played.push({ source, begins: this.ends, seconds: buffer.duration });
    this.ends += buffer.duration;
  }

  get playing() {
    return this.item !== null && this.context.currentTime < this.ends;
  }

  get heardMs() {
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    const seconds = this.played.map((piece) => Math.min(Math.max(0, now - piece.begins), piece.seconds));
    return Math.floor(1000 * seconds.reduce((a, b) => a + b, 0));
  }

  stop() {
    for (const { source } of this.played ?? []) source.stop();
    this.item = null;
    this.played = [];
    this.ends = 0;
  }
}
