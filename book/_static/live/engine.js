// Diffusion-TTA in the browser. The models are the graphs that tools/live exports; this file has what is around them:
// loading, random numbers, Algorithm 1, the Diffusion Classifier and the naive ensemble, as in dtta.core and dtta.methods.
//
//   const engine = await dttaLive.start({ progress: (fraction, text) => ... });
//   const { steps } = await engine.adapt({ pixels, seed: 0 }, (step) => ...);
"use strict";

window.dttaLive = (() => {
  const folder = new URL(".", document.currentScript.src).href;
  const packed = {}; // name -> base64 of gzipped bytes, put here by the scripts that tools/live packs

  function script(name) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = folder + name;
      element.onload = () => resolve(element.remove());
      element.onerror = () => reject(new Error(`${name} does not load; build the book again with make book`));
      document.head.append(element);
    });
  }

  async function unpack(name) {
    const bytes = (await fetch(`data:application/gzip;base64,${packed[name]}`)).body;
    delete packed[name];
    return new Response(bytes.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  // ---- Weights: the float16 numbers of a safetensors file, in its order, as float32

  function numbers(file) {
    const size = Number(new DataView(file).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, size)));
    const halves = Object.entries(header).filter(([, one]) => one.dtype === "F16");
    const start = Math.min(...halves.map(([, one]) => one.data_offsets[0]));
    const end = Math.max(...halves.map(([, one]) => one.data_offsets[1]));
    const view = new DataView(file, 8 + size + start, end - start);
    const values = new Float32Array((end - start) / 2);
    for (let i = 0; i < values.length; i++) values[i] = half(view.getUint16(2 * i, true));
    const slice = (name) => {
      const [from, to] = header[name].data_offsets.map((offset) => (offset - start) / 2);
      return values.slice(from, to);
    };
    return { values, slice };
  }

  function half(bits) {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  }

  // ---- Workers

  class Pool {
    constructor(size, source) {
      this.url = URL.createObjectURL(new Blob(source, { type: "text/javascript" }));
      this.size = size;
      this.free = []; // workers that have loaded and do nothing
      this.waiting = []; // passes that wait for one
      this.all = [];
    }

    async add(files) {
      const worker = new Worker(this.url);
      this.all.push(worker);
      await this.call(worker, "load", files);
      this.release(worker);
    }

    call(worker, call, args) {
      return new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.result));
        worker.onerror = (event) => reject(new Error(event.message || "the worker does not start"));
        worker.postMessage({ call, args });
      });
    }

    release(worker) {
      const next = this.waiting.shift();
      next ? next(worker) : this.free.push(worker);
    }

    async run(graph, inputs) {
      const worker = this.free.shift() ?? (await new Promise((resolve) => this.waiting.push(resolve)));
      try {
        return await this.call(worker, "run", { graph, inputs });
      } finally {
        this.release(worker);
      }
    }

    stop() {
      this.all.forEach((worker) => worker.terminate());
    }
  }

  // ---- Random numbers: the same seed gives the same numbers, though not PyTorch's

  function generator(...key) {
    let state = 2166136261;
    for (const code of key.join("/")) state = Math.imul(state ^ code.codePointAt(0), 16777619); // FNV-1a
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0; // mulberry32
      let z = Math.imul(state ^ (state >>> 15), 1 | state);
      z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
      return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
    };
    const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()); // Box-Muller
    return { uniform, normal, below: (n) => Math.floor(uniform() * n) };
  }

  // Stratified timesteps and fresh noise, as dtta.Sampling("stratified") draws them
  function draw(pairs, size, T, tMin, tMax, random) {
    const low = Math.floor(tMin * T + 1e-6);
    const high = Math.ceil(tMax * T - 1e-6) - 1;
    const t = Array.from({ length: pairs }, (_, k) => {
      const u = (k + random.uniform()) / pairs;
      return Math.min(high, Math.max(low, Math.floor((tMin + u * (tMax - tMin)) * T)));
    });
    return { t, noise: Float32Array.from({ length: pairs * size }, random.normal) };
  }

  // A shifted image; needs no model
  function corrupt(pixels, shift, severity, seed = 0) {
    const { side, shifts } = dttaLive.data;
    if (shift === "clean") return Float32Array.from(pixels);
    const { kind, constants } = shifts.find(({ name }) => name === shift);
    const values = Object.fromEntries(Object.entries(constants).map(([name, row]) => [name, row[severity - 1]]));
    const changed = dttaLive.corruptions[kind](Float32Array.from(pixels), side, generator(seed, shift, severity), values);
    return Float32Array.from(changed, (value) => Math.min(1, Math.max(0, value)));
  }

  // ---- The engine

  class Engine {
    constructor(pool, draws, diffusion, theta) {
      Object.assign(this, dttaLive.data, { pool, theta });
      this.size = this.side ** 2;
      this.embeddings = diffusion.slice(this.table);
      this.width = this.embeddings.length / this.classes.length;
      this.images = this.images.map(({ index, label, pixels }) => {
        return { index, label, pixels: Float32Array.from(bytes(pixels), (level) => level / this.levels) };
      });
      this.presets = Object.fromEntries(Object.entries(dttaLive.data.presets).map(([kind, preset]) => {
        const { t, noise } = draws[kind];
        return [kind, { ...preset, pixels: floats(preset.pixels), draws: { t, noise: floats(noise) } }];
      }));
    }

    async corrupt(...args) {
      return corrupt(...args);
    }

    // Line 2 to 9 of Algorithm 1. Before each step: the belief, its point, the loss of the step; the last one has no loss.
    async adapt(options, onStep = () => {}) {
      const { pixels, seed = 0, draws, ...rest } = options;
      const { tMin, tMax, pairs, steps, rate } = { ...this.defaults.adapt, ...rest };
      const random = generator(seed, "adapt");
      const x = [Float32Array.from(pixels), [1, 1, this.side, this.side]];
      const l = [this.embeddings, [this.classes.length, this.width]];
      let theta = this.theta;
      let velocity = new Float32Array(theta.length);
      const path = [];
      for (let k = 0; k <= steps; k++) {
        const { y, c } = await this.pool.run("network", { theta: [theta, [theta.length]], x, l });
        const belief = softmax(y);
        path.push({ loss: null, belief, point: point(belief) });
        if (k < steps) {
          const drawn = draws ? this.part(draws, k, pairs) : draw(pairs, this.size, this.timesteps, tMin, tMax, random);
          const { losses, gradient } = await this.gradient(pixels, drawn, c);
          path[k].loss = mean(losses);
          if (draws) Object.assign(path[k], { losses, gradient });
          const moved = await this.pool.run("step", {
            theta: [theta, [theta.length]],
            velocity: [velocity, [velocity.length]],
            x,
            l,
            c_grad: [gradient, [1, this.width]],
            rate: [Float32Array.of(rate), []],
          });
          [theta, velocity] = [moved.theta_, moved.velocity_];
        }
        onStep(path[k], k);
      }
      return { steps: path, evaluations: steps * pairs };
    }

    // The pairs of step k of given draws; if these are for one step only, every step takes them
    part({ t, noise }, k, pairs) {
      const from = t.length > pairs ? k * pairs : 0;
      return {
        t: Array.from(t).slice(from, from + pairs),
        noise: Float32Array.from(noise).slice(from * this.size, (from + pairs) * this.size),
      };
    }

    // ∂L/∂c and the loss of every pair
    async gradient(pixels, { t, noise }, c) {
      const outputs = await this.passes(t.length, (pairs) => ({
        graph: "gradient",
        inputs: {
          ...this.pairs(pixels, t, noise, pairs),
          c: [c, [1, this.width]],
          weight: [Float32Array.from(pairs, (b) => (b === null ? 0 : 1 / t.length)), [this.batch]],
        },
      }));
      const gradient = new Float32Array(this.width);
      for (const { c_grad } of outputs) c_grad.forEach((value, i) => (gradient[i] += value));
      return { losses: outputs.flatMap(({ losses }) => [...losses]).slice(0, t.length), gradient };
    }

    async passes(count, pass) {
      const runs = [];
      for (let from = 0; from < count; from += this.batch) {
        const pairs = Array.from({ length: this.batch }, (_, b) => (from + b < count ? from + b : null));
        const { graph, inputs } = pass(pairs);
        runs.push(this.pool.run(graph, inputs));
      }
      return Promise.all(runs);
    }

    // z0, t and noise of one pass; where it has fewer pairs than the graph takes, the first pair fills it up
    pairs(pixels, t, noise, pairs) {
      const { side, size, batch } = this;
      const chosen = new Float32Array(batch * size);
      pairs.forEach((b, i) => chosen.set(noise.subarray((b ?? 0) * size, ((b ?? 0) + 1) * size), i * size));
      return {
        z0: [Float32Array.from(pixels, (value) => 2 * value - 1), [1, 1, side, side]],
        t: [BigInt64Array.from(pairs, (b) => BigInt(t[b ?? 0])), [batch]],
        noise: [chosen, [batch, 1, side, side]],
      };
    }

    // The loss of each class, all under the same pairs -> softmax(-loss · elements / temperature)
    async classify(options) {
      const { pixels, seed = 0, draws, ...rest } = options;
      const { pairs, tMin, tMax, temperature } = { ...this.defaults.classify, ...rest };
      const drawn = draws ?? draw(pairs, this.size, this.timesteps, tMin, tMax, generator(seed, "classify"));
      const t = Array.from(drawn.t);
      const noise = Float32Array.from(drawn.noise);
      const count = this.classes.length * t.length;
      const outputs = await this.passes(count, (pass) => {
        const c = new Float32Array(this.batch * this.width);
        pass.forEach((n, i) => {
          const label = Math.floor((n ?? 0) / t.length);
          c.set(this.embeddings.subarray(label * this.width, (label + 1) * this.width), i * this.width);
        });
        const pair = pass.map((n) => (n === null ? 0 : n % t.length));
        return {
          graph: "losses",
          inputs: { ...this.pairs(pixels, t, noise, pair), c: [c, [this.batch, this.width]] },
        };
      });
      const each = outputs.flatMap(({ losses }) => [...losses]);
      const losses = this.classes.map((_, j) => mean(each.slice(j * t.length, (j + 1) * t.length)));
      const belief = softmax(losses.map((loss) => (-loss * this.size) / temperature));
      return { belief, point: point(belief), losses, evaluations: count };
    }

    // The mean of the beliefs of the network and of a Diffusion Classifier
    async ensemble(options) {
      const second = await this.classify({ ...this.defaults.ensemble, ...options });
      const { steps } = await this.adapt({ pixels: options.pixels, steps: 0 });
      const belief = second.belief.map((p, j) => (p + steps[0].belief[j]) / 2);
      return { belief, point: point(belief), evaluations: second.evaluations };
    }

    stop() {
      this.pool.stop();
    }
  }

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function softmax(logits) {
    const most = Math.max(...logits);
    const powers = Array.from(logits, (value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  }

  // The belief's place among the corners of a regular polygon, one for each class, the first at the top
  function point(belief) {
    const angle = (j) => (2 * Math.PI * j) / belief.length;
    return [
      belief.reduce((sum, p, j) => sum + p * Math.sin(angle(j)), 0),
      belief.reduce((sum, p, j) => sum - p * Math.cos(angle(j)), 0),
    ];
  }

  // What a page needs before the models: classes, images, shifts
  async function prepare() {
    if (!dttaLive.corruptions) await script("corruptions.js");
    if (!dttaLive.data) await script("data.js");
  }

  async function start({ progress = () => {}, workers = Math.min(2, navigator.hardwareConcurrency || 1) } = {}) {
    await prepare();
    const scripts = ["worker.js", "models.js", "runtime.js"];
    for (const [k, name] of scripts.entries()) {
      progress((0.6 * k) / scripts.length, "loading");
      await script(name);
    }
    progress(0.6, "unpacking");
    const text = async (name) => new TextDecoder().decode(await unpack(name));
    const source = [await text("runtime.js"), `;(${dttaLive.worker})();`];
    const files = { module: await text("runtime.mjs"), binary: await unpack("runtime.wasm"), graphs: {} };
    for (const name of ["network", "step", "gradient", "losses"]) files.graphs[name] = await unpack(`${name}.onnx`);
    const diffusion = numbers(await unpack("diffusion.safetensors"));
    const network = numbers(await unpack("network.safetensors"));
    files.weights = diffusion.values.buffer;
    progress(0.75, "preparing the models");
    const pool = new Pool(workers, source);
    const started = Array.from({ length: workers }, () => pool.add(files));
    started.slice(1).forEach((other) => other.catch(() => {})); // one worker is enough
    await started[0];
    const engine = new Engine(pool, JSON.parse(await text("draws.json")), diffusion, network.values);
    progress(0.95, "first run");
    await engine.adapt({ pixels: engine.images[0].pixels, steps: 1, pairs: dttaLive.data.batch }); // compiles what runs often
    progress(1, "ready");
    return engine;
  }

  return { start, corrupt, floats, put: (files) => Object.assign(packed, files) };
})();
