// Sound in the browser: playing samples as they arrive, and WAV files.

let context;

/** The page's one AudioContext, made by the first click: browsers refuse sound before one. */
export function output() {
  context ??= new AudioContext();
  if (context.state === "suspended") context.resume();
  return context;
}

/** Plays pieces of samples one after the other, without gaps as long as they arrive in time. */
export class Player {
  constructor(rate) {
    this.rate = rate;
    this.until = 0;
    this.sources = [];
  }

  add(samples) {
    const audio = output();
    const buffer = audio.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const source = audio.createBufferSource();
    source.buffer = buffer;
    source.connect(audio.destination);
    // a piece that comes too late begins now; 50 ms ahead, so that its start is not cut
    this.until = Math.max(this.until, audio.currentTime + 0.05);
    source.start(this.until);
    this.until += buffer.duration;
    this.sources.push(source);
  }

  /** Seconds until all that was added has been heard. */
  get left() {
    return Math.max(0, this.until - output().currentTime);
  }

  stop() {
    for (const source of this.sources) source.stop();
    this.sources = [];
  }
}

/** 16-bit little-endian bytes to samples from -1 to 1; an odd byte at the end is given back. */
export function decode(bytes) {
  const count = bytes.length >> 1;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const samples = new Float32Array(count);
  for (let i = 0; i < count; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
  return [samples, bytes.subarray(2 * count)];
}

export function join(pieces) {
  const all = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** A WAV file of one channel with 16 bits a sample. */
export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  for (let i = 0; i < samples.length; i++) {
    view.setInt16(44 + 2 * i, Math.round(Math.max(-1, Math.min(1, samples[i])) * 32767), true);
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Scales both to the loudness (root mean square) of the softer one; peaks only get lower. */
export function matched(pair) {
  const level = (samples) => Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
  const levels = pair.map(level);
  const target = Math.min(...levels);
  return pair.map((samples, i) => samples.map((x) => (x * target) / (levels[i] || 1)));
}

/** A recording of the microphone; `stop` gives its samples and rate. */
export class Recorder {
  static async start(onLevel) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser gives no microphone to this address; open the page by localhost or https.");
    }
    const recorder = new Recorder();
    recorder.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    recorder.media = new MediaRecorder(recorder.stream);
    recorder.pieces = [];
    recorder.media.ondataavailable = (event) => recorder.pieces.push(event.data);
    const analyser = output().createAnalyser();
    output().createMediaStreamSource(recorder.stream).connect(analyser);
    const block = new Float32Array(analyser.fftSize);
    recorder.timer = setInterval(() => {
      analyser.getFloatTimeDomainData(block);
      onLevel(Math.max(...block.map(Math.abs)));
    }, 100);
    recorder.media.start();
    return recorder;
  }

  async stop() {
    clearInterval(this.timer);
    const ended = new Promise((resolve) => (this.media.onstop = resolve));
    this.media.stop();
    await ended;
    this.stream.getTracks().forEach((track) => track.stop());
    const bytes = await new Blob(this.pieces).arrayBuffer();
    const audio = await output().decodeAudioData(bytes);
    return [audio.getChannelData(0), audio.sampleRate];
  }
}
