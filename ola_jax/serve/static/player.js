// Plays 16-bit PCM as it comes: each part begins at the sample where the one before it ends.

export const RATE = 24000; // Hz, of the server's audio
const LEAD = 0.08; // seconds before the first sample, so that the parts that follow are in time

export class Player {
  constructor() {
    this.context = null;
    this.output = null; // the node that all audio goes through
    this.sources = new Set();
    this.reset();
  }

  // Browsers allow sound once the user has done something: call it from a click or a key.
  async unlock() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: RATE });
      this.output = this.context.createGain();
      this.output.connect(this.context.destination);
    }
    await this.context.resume();
  }

  reset() {
    this.next = 0; // sample of the context's time where the next part begins
    this.played = 0; // samples that were given to be played
    this.gaps = 0; // times that audio came too late
  }

  add(bytes) {
    const samples = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(Float32Array.from(samples, (value) => value / 32768), 0);
    const now = Math.ceil(this.context.currentTime * RATE);
    if (this.next < now) {
      this.gaps += this.played ? 1 : 0;
      this.next = now + Math.round(LEAD * RATE);
    }
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.output);
    source.start(this.next / RATE);
    source.onended = () => this.sources.delete(source);
    this.sources.add(source);
    this.next += samples.length;
    this.played += samples.length;
  }

  get playing() {
    return this.context !== null && this.next > this.context.currentTime * RATE;
  }

  // Silence at once, whatever is queued; how many seconds had been heard.
  stop() {
    const left = this.context ? Math.max(0, this.next - this.context.currentTime * RATE) : 0;
    const heard = Math.max(0, this.played - left) / RATE;
    for (const source of this.sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.sources.clear();
    this.reset();
    return heard;
  }
}
