// The shifts of the digits, by the formulas of dtta/problems/corruptions.py and digits/shifts.py; data.js has the constants.
// Each takes an image (a Float32Array, row by row), its side, a generator and the constants of one severity.
dttaLive.corruptions = (() => {
  const map = (side, value) => Float32Array.from({ length: side * side }, (_, i) => value(i % side, Math.floor(i / side)));

  // Sample bilinearly at a x + b y, c x + d y from the centre; 0 outside
  function affine(x, side, a, b, c, d) {
    const middle = (side - 1) / 2;
    const at = (u, v) => (u >= 0 && u < side && v >= 0 && v < side ? x[v * side + u] : 0);
    return map(side, (i, j) => {
      const u = a * (i - middle) + b * (j - middle) + middle;
      const v = c * (i - middle) + d * (j - middle) + middle;
      const [left, top] = [Math.floor(u), Math.floor(v)];
      const [p, q] = [u - left, v - top];
      const upper = (1 - p) * at(left, top) + p * at(left + 1, top);
      return (1 - q) * upper + q * ((1 - p) * at(left, top + 1) + p * at(left + 1, top + 1));
    });
  }

  // Weights of `from` pixels in each of `to` pixels: bilinear, with antialiasing where the image shrinks
  function bilinear(from, to) {
    const scale = from / to;
    const support = Math.max(scale, 1);
    return Array.from({ length: to }, (_, i) => {
      const centre = (i + 0.5) * scale;
      const row = Array.from({ length: from }, (_, k) => Math.max(0, 1 - Math.abs(k + 0.5 - centre) / support));
      const sum = row.reduce((a, b) => a + b, 0);
      return row.map((weight) => weight / sum);
    });
  }

  function resize(x, from, to) {
    const weights = bilinear(from, to);
    return map(to, (i, j) => {
      let sum = 0;
      weights[j].forEach((q, v) => weights[i].forEach((p, u) => (sum += q * p * x[v * from + u])));
      return sum;
    });
  }

  const sign = (random) => (random.uniform() < 0.5 ? 1 : -1);
  const radians = (degrees) => (degrees * Math.PI) / 180;

  function poisson(mean, random) {
    const limit = Math.exp(-mean);
    let count = -1;
    for (let product = 1; product > limit; count++) product *= random.uniform();
    return Math.max(count, 0);
  }

  // The grey table of JPEG (ITU-T T.81, Table K.1)
  const TABLE = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
    80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
    95, 98, 112, 100, 103, 99,
  ];
  const cosine = (k, i) => (k ? 0.5 : Math.SQRT1_2 / 2) * Math.cos(((2 * i + 1) * k * Math.PI) / 16);
  const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value)); // as NumPy rounds

  return {
    gaussian_noise: (x, side, random, { deviation }) => x.map((value) => value + deviation * random.normal()),
    shot_noise: (x, side, random, { photons }) => x.map((value) => poisson(value * photons, random) / photons),
    impulse_noise: (x, side, random, { share }) =>
      x.map((value) => (random.uniform() < share ? Number(random.uniform() < 0.5) : value)),

    gaussian_blur(x, side, random, { sigma }) {
      const row = [-3, -2, -1, 0, 1, 2, 3].map((d) => Math.exp(-0.5 * (d / sigma) ** 2));
      const sum = row.reduce((a, b) => a + b, 0);
      const mirror = (i) => (i < 0 ? -i : i >= side ? 2 * side - 2 - i : i);
      return map(side, (i, j) => {
        let total = 0;
        row.forEach((q, v) => row.forEach((p, u) => (total += q * p * x[mirror(j + v - 3) * side + mirror(i + u - 3)])));
        return total / sum ** 2;
      });
    },

    contrast(x, side, random, { factor }) {
      const mean = x.reduce((a, b) => a + b, 0) / x.length;
      return x.map((value) => mean + factor * (value - mean));
    },

    grey_brightness: (x, side, random, { amount }) => x.map((value) => value + amount),

    coarse_fog(x, side, random, { strength }) {
      const veil = new Float32Array(x.length);
      for (const [n, divisor] of [[2, 2], [3, 3], [5, 5]]) {
        const layer = resize(Float32Array.from({ length: n * n }, random.uniform), n, side);
        layer.forEach((value, i) => (veil[i] += value / divisor));
      }
      const [low, high] = [Math.min(...veil), Math.max(...veil)];
      return x.map((value, i) => (value + (strength * (veil[i] - low)) / (high - low)) / (1 + strength));
    },

    pixelate_to(x, side, random, { side: small }) {
      const shrunk = resize(x, side, small);
      const at = (i) => Math.floor((i * small) / side);
      return map(side, (i, j) => shrunk[at(j) * small + at(i)]);
    },

    // One block of 8 x 8 pixels: quantise its cosine transform
    jpeg(x, side, random, { quality }) {
      const scale = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality;
      const grey = x.map((value) => even(value * 255) - 128);
      const transformed = map(8, (k, m) => {
        let sum = 0;
        grey.forEach((value, n) => (sum += value * cosine(k, n % 8) * cosine(m, Math.floor(n / 8))));
        const step = Math.min(255, Math.max(1, Math.floor((TABLE[m * 8 + k] * scale + 50) / 100)));
        return Math.round(sum / step) * step;
      });
      return map(8, (i, j) => {
        let sum = 0;
        transformed.forEach((value, n) => (sum += value * cosine(n % 8, i) * cosine(Math.floor(n / 8), j)));
        return Math.min(255, Math.max(0, Math.round(sum + 128))) / 255;
      });
    },

    rotation(x, side, random, { degrees }) {
      const angle = radians(sign(random) * degrees);
      return affine(x, side, Math.cos(angle), -Math.sin(angle), Math.sin(angle), Math.cos(angle));
    },

    shear: (x, side, random, { degrees }) => affine(x, side, 1, Math.tan(radians(sign(random) * degrees)), 0, 1),

    erasing(x, side, random, { share, grey }) {
      const square = even(share * side);
      const [top, left] = [random.below(side - square + 1), random.below(side - square + 1)];
      const inside = (i, j) => i >= left && i < left + square && j >= top && j < top + square;
      return map(side, (i, j) => (inside(i, j) ? grey : x[j * side + i]));
    },
  };
})();
