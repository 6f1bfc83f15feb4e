// Waveform and spectrogram of samples, drawn on canvases.

const WINDOW = 512; // samples of a spectrum: 21 ms at 24 kHz
const TOP = 8000; // Hz that are drawn
const FLOOR = -90; // dB that are drawn black, and CEILING white; the same for every take
const CEILING = -20;

export function waveform(canvas, samples, colour) {
  const [width, height] = size(canvas);
  const draw = canvas.getContext("2d");
  draw.clearRect(0, 0, width, height);
  draw.fillStyle = colour;
  const step = Math.max(1, samples.length / width);
  for (let x = 0; x < width; x++) {
    let low = 0;
    let high = 0;
    for (let i = Math.floor(x * step); i < (x + 1) * step && i < samples.length; i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    draw.fillRect(x, (1 - high) * height / 2, 1, Math.max(1, (high - low) * height / 2));
  }
}

export function spectrogram(canvas, samples, rate) {
  const [width, height] = size(canvas);
  const draw = canvas.getContext("2d");
  const image = draw.createImageData(width, height);
  const hann = Float32Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));
  const gain = hann.reduce((sum, w) => sum + w, 0);
  const bins = Math.min(WINDOW / 2, Math.floor((TOP / rate) * WINDOW));
  for (let x = 0; x < width; x++) {
    const start = Math.floor((x / width) * samples.length) - WINDOW / 2;
    const real = new Float32Array(WINDOW);
    const imaginary = new Float32Array(WINDOW);
    for (let i = 0; i < WINDOW; i++) real[i] = (samples[start + i] ?? 0) * hann[i];
    transform(real, imaginary);
    for (let y = 0; y < height; y++) {
      const bin = Math.floor(((height - 1 - y) / height) * bins);
      const power = (real[bin] ** 2 + imaginary[bin] ** 2) / gain ** 2;
      const level = (10 * Math.log10(power + 1e-12) - FLOOR) / (CEILING - FLOOR);
      image.data.set(shade(Math.max(0, Math.min(1, level))), 4 * (y * width + x));
    }
  }
  draw.putImageData(image, 0, 0);
}

function size(canvas) {
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  return [canvas.width, canvas.height];
}

/** Black over violet and orange to yellow, as brightness grows. */
function shade(level) {
  return [255 * Math.min(1, 1.6 * level), 255 * level ** 2, 255 * Math.max(0, Math.sin(3.1 * level) * 0.6), 255];
}

/** The discrete Fourier transform in place (Cooley and Tukey 1965); lengths are powers of two. */
function transform(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < n; half *= 2) {
    for (let k = 0; k < half; k++) {
      const cos = Math.cos((-Math.PI * k) / half);
      const sin = Math.sin((-Math.PI * k) / half);
      for (let i = k; i < n; i += 2 * half) {
        const a = real[i + half] * cos - imaginary[i + half] * sin;
        const b = real[i + half] * sin + imaginary[i + half] * cos;
        real[i + half] = real[i] - a;
        imaginary[i + half] = imaginary[i] - b;
        real[i] += a;
        imaginary[i] += b;
      }
    }
  }
}
