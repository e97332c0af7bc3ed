// The page "Try it live": draw or choose a digit, shift it, adapt to it with dttaLive (engine.js), look at every step.
// A classic script, because a page that is opened from a folder (file://) cannot load modules.
(() => {
  "use strict";
  const root = document.getElementById("dtta-live");
  const live = globalThis.dttaLive;
  if (!live?.data) {
    const file = !live ? "engine.js" : !live.corruptions ? "corruptions.js" : "data.js";
    root.innerHTML = `<p class="live-error" role="alert">Could not load <code>_static/live/${file}</code>, so this page
      cannot compute anything. It is made when the book is built; build the book again.</p>`;
    return;
  }
  const { classes, shifts, images, levels, side: SIDE } = live.data;
  const defaults = { ...live.data.defaults.adapt, seed: 0 };
  const PRESETS = Object.entries(live.data.presets); // [what adaptation does, {image, shift, severity, pixels}]
  const NAMES = { success: "One it corrects", "no change": "One it leaves", harm: "One where it fails" };

  // --- state: what a link restores ---------------------------------------------------------------------------------

  const GRID = 32; // a drawing is a bitmap of 32 x 32 cells, as the data set's scans are
  const WIDEST = 26; // the widest digit, in cells
  const FIELDS = {
    tMin: { key: "t0", name: "Lowest t", low: 0, high: 1 },
    tMax: { key: "t1", name: "Highest t", low: 0, high: 1 },
    pairs: { key: "b", name: "Pairs per step", low: 1, high: 96, whole: true },
    steps: { key: "n", name: "Steps", low: 1, high: 20, whole: true },
    rate: { key: "lr", name: "Learning rate", low: 0, high: 0.5 },
    seed: { key: "r", name: "Seed", low: 0, high: 999999, whole: true },
  };
  const initial = () => ({
    drawing: null, image: images[0].index, label: null, shift: "", severity: 3, step: null, ...defaults,
  });
  let state = initial();
  let result = null; // of the last adaptation: {steps, label, methods}
  let engine = null;
  let busy = false;
  let run = 0; // a change of the input abandons the run in progress

  const picture = (index) => images.find((one) => one.index === Number(index));
  const check = (field, text) => {
    const { name, low, high, whole } = FIELDS[field];
    const value = Number(text);
    const valid = String(text).trim() !== "" && value >= low && value <= high && (!whole || Number.isInteger(value));
    return valid ? "" : `${name} must be a ${whole ? "whole " : ""}number from ${low} to ${high}.`;
  };
  const checkRange = ({ tMin, tMax }) => (tMin < tMax ? "" : "Lowest t must be below highest t.");

  const pack = (bits) => {
    const bytes = Array.from({ length: bits.length / 8 }, (_, i) =>
      bits.slice(8 * i, 8 * i + 8).reduce((byte, bit) => 2 * byte + bit, 0));
    return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  };
  const unpack = (text) => {
    if (!/^[\w-]+$/.test(text)) return null;
    try {
      const bytes = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
      if (bytes.length !== (GRID * GRID) / 8) return null;
      return Uint8Array.from({ length: GRID * GRID }, (_, i) => (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1);
    } catch {
      return null;
    }
  };
  const toHash = () => {
    const parts = new URLSearchParams();
    if (state.drawing) parts.set("d", pack(state.drawing));
    else parts.set("i", state.image);
    if (state.drawing && state.label !== null) parts.set("y", state.label);
    if (state.shift) parts.set("s", `${state.shift}.${state.severity}`);
    for (const [field, { key }] of Object.entries(FIELDS)) {
      if (state[field] !== initial()[field]) parts.set(key, state[field]);
    }
    if (state.step !== null) parts.set("k", state.step);
    return `#${parts}`;
  };
  // Return the state that a link describes, and what is wrong with the link.
  const fromHash = (hash) => {
    const parts = new URLSearchParams(hash.slice(1));
    const restored = initial();
    const wrong = [];
    const take = (key, valid, set) => {
      if (!parts.has(key)) return;
      const text = parts.get(key);
      if (valid(text)) set(text);
      else wrong.push(`${key}=${text.slice(0, 20)}`);
    };
    const index = (list) => (text) => /^\d+$/.test(text) && +text < list.length;
    take("i", (text) => picture(text), (text) => { restored.image = +text; });
    take("d", unpack, (text) => { restored.drawing = unpack(text); });
    take("y", index(classes), (text) => { restored.label = +text; });
    take("s", (text) => {
      const [name, severity] = text.split(".");
      return shifts.some((one) => one.name === name && severity >= 1 && severity <= one.severities);
    }, (text) => { restored.shift = text.split(".")[0]; restored.severity = +text.split(".")[1]; });
    for (const [field, { key }] of Object.entries(FIELDS)) {
      take(key, (text) => !check(field, text), (text) => { restored[field] = +text; });
    }
    if (checkRange(restored)) {
      wrong.push(`t0=${restored.tMin}, t1=${restored.tMax}`);
      Object.assign(restored, { tMin: defaults.tMin, tMax: defaults.tMax });
    }
    take("k", (text) => /^\d+$/.test(text) && +text <= restored.steps, (text) => { restored.step = +text; });
    return [restored, wrong];
  };

  // --- images ------------------------------------------------------------------------------------------------------

  // The data set scales each scan to the full height and counts the black cells in blocks of 4 x 4; so does this.
  const counts = (bits) => {
    const pixels = new Float32Array(SIDE * SIDE);
    const set = [...bits.keys()].filter((i) => bits[i]);
    if (!set.length) return pixels;
    const [xs, ys] = [set.map((i) => i % GRID), set.map((i) => Math.floor(i / GRID))];
    const [left, top] = [Math.min(...xs), Math.min(...ys)];
    const [width, height] = [Math.max(...xs) - left + 1, Math.max(...ys) - top + 1];
    const wide = Math.min((width * GRID) / height, WIDEST);
    for (let y = 0; y < GRID; y++) {
      for (let x = 0; x < GRID; x++) {
        const column = Math.floor(((x + 0.5 - (GRID - wide) / 2) * width) / wide);
        const row = Math.floor(((y + 0.5) * height) / GRID);
        if (column < 0 || column >= width || !bits[(top + row) * GRID + left + column]) continue;
        pixels[(y >> 2) * SIDE + (x >> 2)] += 1 / 16;
      }
    }
    return pixels;
  };
  const empty = () => state.drawing && !state.drawing.includes(1);
  const decode = (text) => Float32Array.from(atob(text), (character) => character.charCodeAt(0) / levels);
  const clean = () => (state.drawing ? counts(state.drawing) : decode(picture(state.image).pixels));
  const truth = () => (state.drawing ? state.label : picture(state.image).label);
  // A preset is a stored run of Python: the same shifted image and, with the same settings, the same pairs.
  const isPreset = ([, { image, shift, severity }]) => !state.drawing && state.seed === defaults.seed
    && image === state.image && shift === state.shift && severity === state.severity;
  const shifted = () => {
    const preset = PRESETS.find(isPreset);
    if (preset) return live.floats(preset[1].pixels);
    return state.shift ? live.corrupt(clean(), state.shift, state.severity, state.seed) : clean();
  };
  const storedDraws = () => {
    const preset = PRESETS.find(isPreset);
    const changed = Object.keys(FIELDS).some((field) => state[field] !== defaults[field]);
    return preset && !changed ? engine.presets[preset[0]].draws : undefined;
  };
  const paint = (canvas, pixels) => {
    const context = canvas.getContext("2d");
    const data = context.createImageData(SIDE, SIDE);
    pixels.forEach((value, i) => {
      const grey = 255 * Math.min(Math.max(value, 0), 1);
      data.data.set([grey, grey, grey, 255], 4 * i);
    });
    context.putImageData(data, 0, 0);
  };

  // --- markup ------------------------------------------------------------------------------------------------------

  const words = (name) => name.replaceAll("_", " ");
  const option = (value, text) => `<option value="${value}">${text}</option>`;
  const numberInput = (field, step) => {
    const { name, low, high } = FIELDS[field];
    return `<label>${name}<input type="number" name="${field}" min="${low}" max="${high}" step="${step}"
      inputmode="decimal" aria-describedby="live-wrong" autocomplete="off"></label>`;
  };
  const megabytes = (live.data.bytes / 1e6).toFixed(live.data.bytes < 1e7 ? 1 : 0);
  root.innerHTML = `
    <div class="live-row" role="group" aria-label="Examples">
      ${PRESETS.map(([kind]) => `<button type="button" data-preset="${kind}">${NAMES[kind]}</button>`).join("")}
    </div>
    <div class="live-columns">
      <fieldset class="live-card live-digit">
        <legend>1. A digit</legend>
        <div class="live-row">
          <label><input type="radio" name="source" value="draw"> Draw</label>
          <label><input type="radio" name="source" value="image"> Test image</label>
        </div>
        <div data-part="draw">
          <canvas class="live-paper" width="${8 * GRID}" height="${8 * GRID}" tabindex="0" role="application"
            aria-label="Drawing" aria-describedby="live-keys"></canvas>
          <p id="live-keys" class="live-note">By keyboard: arrow keys move, space puts the pen down or lifts it.</p>
          <div class="live-row">
            <button type="button" data-do="erase" aria-pressed="false">Eraser</button>
            <button type="button" data-do="undo">Undo</button>
            <button type="button" data-do="clear">Clear</button>
            <label>It is a <select name="label">${option("", "?")}
              ${classes.map((name, j) => option(j, name)).join("")}</select></label>
          </div>
          <output class="live-hidden" data-part="cursor" aria-live="polite"></output>
        </div>
        <div data-part="image" class="live-thumbs" role="radiogroup" aria-label="Test images">
          ${images.map(({ index, label }) => `<label><input type="radio" name="image" value="${index}"
            aria-label="test image ${index}, a ${classes[label]}"><canvas width="${SIDE}" height="${SIDE}"></canvas></label>`).join("")}
        </div>
      </fieldset>
      <fieldset class="live-card live-shift">
        <legend>2. A shift</legend>
        <div class="live-row">
          <label>Shift <select name="shift">${option("", "none")}
            ${shifts.map(({ name }) => option(name, words(name))).join("")}</select></label>
          <label class="live-grow">Severity <input type="range" name="severity" min="1" max="5" step="1"
            autocomplete="off"><span data-part="severity" aria-hidden="true"></span></label>
          <button type="button" data-do="again">Other random numbers</button>
        </div>
        <div class="live-seen">
          <figure><canvas width="${SIDE}" height="${SIDE}" role="img" data-part="clean"></canvas>
            <figcaption>without shift</figcaption></figure>
          <span aria-hidden="true">→</span>
          <figure><canvas width="${SIDE}" height="${SIDE}" role="img" data-part="seen"></canvas>
            <figcaption>what the models see</figcaption></figure>
        </div>
      </fieldset>
    </div>
    <div class="live-row live-action">
      <button type="button" class="live-main" data-do="adapt"></button>
      <button type="button" data-do="link">Copy link</button>
      <progress max="1" value="0" aria-label="Loading the models" hidden></progress>
      <output data-part="note" class="live-note"></output>
    </div>
    <details class="live-settings"><summary>Settings</summary>
      <div class="live-row">
        ${numberInput("tMin", 0.05)}${numberInput("tMax", 0.05)}${numberInput("pairs", 1)}${numberInput("steps", 1)}
        ${numberInput("rate", "any")}${numberInput("seed", 1)}
        <button type="button" data-do="reset">Reset</button>
      </div>
      <p class="live-note">t is a fraction of the range of noise levels. A pair is one noise level and one noise. The seed
        fixes the shift and the pairs.</p>
    </details>
    <p id="live-wrong" class="live-error" role="alert"></p>
    <div class="live-result">
      <p class="live-verdict"><span data-part="verdict"></span></p>
      <label class="live-row live-step">Step <input type="range" name="step" min="0" step="1" autocomplete="off">
        <span data-part="step" aria-hidden="true"></span></label>
      <div class="live-columns">
        <figure class="live-card"><figcaption>Belief
          <span class="live-key"><i class="live-before"></i>before <i class="live-now"></i><span data-part="now"></span>
          <span data-part="star">★ true class</span></span></figcaption>
          <svg viewBox="0 0 340 190" role="img" data-part="bars"></svg></figure>
        <figure class="live-card live-tall"><figcaption>The belief as a point</figcaption>
          <svg viewBox="0 0 340 310" role="img" data-part="plane"></svg>
          <p class="live-note">Each corner is a digit. The point is the mean of the corners, weighted by the belief. This
            flattens ten dimensions into two, so different beliefs can share a point.</p></figure>
        <figure class="live-card"><figcaption>Loss at each step</figcaption>
          <svg viewBox="0 0 340 150" role="img" data-part="loss"></svg>
          <p class="live-note">Each step draws new pairs, so the loss need not fall evenly.</p></figure>
      </div>
      <div class="live-scroll"><table><caption class="live-hidden">The answers of four methods</caption>
        <thead><tr><th scope="col">Method</th><th scope="col">Answer</th><th scope="col">Belief</th>
          <th scope="col">Evaluations of the diffusion model</th></tr></thead><tbody></tbody></table></div>
    </div>
    <p class="live-summary live-hidden" role="status"></p>`;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const action = (name) => root.querySelector(`[data-do="${name}"]`);
  const input = (name) => root.querySelector(`[name="${name}"]`);
  const paper = root.querySelector(".live-paper");
  const progress = root.querySelector("progress");
  const wrong = root.querySelector("#live-wrong");
  const summary = root.querySelector(".live-summary");
  root.querySelectorAll(".live-thumbs canvas").forEach((canvas, i) => {
    paint(canvas, decode(images[i].pixels));
  });

  // --- drawing -----------------------------------------------------------------------------------------------------

  let cursor = null; // [x, y]: where the keyboard's pen is; null: hidden
  let penDown = false;
  let erasing = false;
  let last = null; // the pointer's last cell
  const undone = [];

  const drawPaper = () => {
    const context = paper.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, paper.width, paper.height);
    context.fillStyle = "#fff";
    state.drawing?.forEach((bit, i) => bit && context.fillRect(8 * (i % GRID), 8 * Math.floor(i / GRID), 8, 8));
    if (!cursor) return;
    context.strokeStyle = penDown ? "#e69f00" : "#56b4e9";
    context.lineWidth = 3;
    context.strokeRect(8 * (cursor[0] - 2), 8 * (cursor[1] - 2), 40, 40);
  };
  const dab = ([x, y]) => {
    for (let dy = -2; dy <= 2; dy++) {
      for (let dx = -2; dx <= 2; dx++) {
        const [column, row] = [Math.round(x) + dx, Math.round(y) + dy];
        if (dx * dx + dy * dy > 6 || column < 0 || row < 0 || column >= GRID || row >= GRID) continue;
        state.drawing[row * GRID + column] = erasing ? 0 : 1;
      }
    }
  };
  const stroke = (from, to) => {
    const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 0; i <= count; i++) {
      dab([from[0] + ((to[0] - from[0]) * i) / count, from[1] + ((to[1] - from[1]) * i) / count]);
    }
  };
  const keepForUndo = () => { undone.push(state.drawing.slice()); undone.splice(0, undone.length - 50); };
  const drawn = () => { drop(); showInput(); };

  const cell = (event) => {
    const box = paper.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * GRID - 0.5, ((event.clientY - box.top) / box.height) * GRID - 0.5];
  };
  paper.onpointerdown = (event) => {
    if (event.button) return;
    paper.setPointerCapture(event.pointerId);
    [cursor, penDown] = [null, false];
    keepForUndo();
    last = cell(event);
    stroke(last, last);
    drawn();
  };
  paper.onpointermove = (event) => {
    if (!last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const next = cell(one);
      stroke(last, next);
      last = next;
    }
    drawn();
  };
  paper.onpointerup = paper.onpointercancel = () => { if (last) save(); last = null; };
  paper.onfocus = () => { if (paper.matches(":focus-visible") && !last) { cursor ??= [16, 4]; drawPaper(); } };
  paper.onblur = () => { [cursor, penDown] = [null, false]; drawPaper(); };
  paper.onkeydown = (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if ((!move && ![" ", "Escape"].includes(event.key)) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    cursor ??= [16, 4];
    if (move) {
      const far = event.shiftKey ? 4 : 1;
      const next = cursor.map((place, i) => Math.min(Math.max(place + far * move[i], 0), GRID - 1));
      if (penDown) stroke(cursor, next);
      cursor = next;
    } else {
      penDown = event.key === " " && !penDown;
      if (penDown) { keepForUndo(); dab(cursor); }
    }
    part("cursor").textContent = `column ${cursor[0] + 1}, row ${cursor[1] + 1}, pen ${penDown ? "down" : "up"}`;
    if (penDown) { drawn(); save(); } else drawPaper();
  };

  // --- the result --------------------------------------------------------------------------------------------------

  const percent = (value) => `${Math.round(100 * value)}%`;
  const best = (belief) => belief.reduce((top, value, j) => (value > belief[top] ? j : top), 0);
  const answer = (belief) => `${classes[best(belief)]} (${percent(belief[best(belief)])})`;
  const spoken = (belief) => [...belief.keys()].sort((a, b) => belief[b] - belief[a]).slice(0, 3)
    .map((j) => `${classes[j]} ${percent(belief[j])}`).join(", ");
  const corner = (j, radius) => {
    const angle = (2 * Math.PI * j) / classes.length - Math.PI / 2;
    return [170 + radius * Math.cos(angle), 155 + radius * Math.sin(angle)];
  };
  const point = (belief) => [0, 1].map((axis) =>
    belief.reduce((sum, value, j) => sum + value * corner(j, 125)[axis], 0).toFixed(1));
  const text = (x, y, words_, kind = "") => `<text x="${x}" y="${y}" class="${kind}">${words_}</text>`;

  const bars = (before, now, label) => {
    const [x, y] = [(j, offset) => 38 + 30 * j + offset, (value) => 160 - 140 * value];
    const lines = [0, 0.5, 1].map((value) => `<line x1="38" x2="340" y1="${y(value)}" y2="${y(value)}" class="grid"/>`
      + text(34, y(value) + 4, percent(value), "end"));
    const bar = (value, j, offset, kind) => `<rect x="${x(j, offset)}" y="${y(value ?? 0)}" width="11"
      height="${140 * (value ?? 0)}" class="${kind}"/>`;
    const groups = classes.map((name, j) => bar(before?.[j], j, 4, "before") + bar(now?.[j], j, 15.5, "now")
      + text(x(j, 15.5), 178, j === label ? `★${name}` : name, j === label ? "middle strong" : "middle"));
    return lines.join("") + groups.join("");
  };
  const plane = (steps, index) => {
    const outline = classes.map((_, j) => corner(j, 125).join(",")).join(" ");
    const path = steps.map(({ belief }) => point(belief));
    const dots = path.map(([x, y], k) => `<circle cx="${x}" cy="${y}" r="3" class="${k <= index ? "past" : "later"}"/>`);
    const ring = path.length ? `<circle cx="${path[0][0]}" cy="${path[0][1]}" r="7" class="start"/>` : "";
    const here = path[index] ? `<circle cx="${path[index][0]}" cy="${path[index][1]}" r="7" class="now"/>` : "";
    return `<polygon points="${outline}" class="grid"/>`
      + classes.map((name, j) => text(corner(j, 142)[0], corner(j, 142)[1] + 5, name, "middle strong")).join("")
      + `<polyline points="${path.map((xy) => xy.join(",")).join(" ")}" class="path"/>${dots.join("")}${ring}${here}`;
  };
  const lossLine = (steps, index, count) => {
    const all = steps.map(({ loss }) => loss).filter((loss) => loss !== null && loss !== undefined);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const room = high > low ? (high - low) * 0.15 : Math.max(high, 1) * 0.05;
    const x = (k) => 56 + (270 * k) / Math.max(count, 1);
    const y = (loss) => 15 + 95 * (1 - (loss - low + room) / (high - low + 2 * room));
    const every = Math.ceil((count + 1) / 11);
    const ticks = Array.from({ length: count + 1 }, (_, k) => (k % every ? "" : text(x(k), 130, k, "middle")));
    const levels = all.length ? [...new Set([low, high])].map((loss) =>
      `<line x1="48" x2="336" y1="${y(loss)}" y2="${y(loss)}" class="grid"/>${text(44, y(loss) + 4, loss.toFixed(3), "end")}`) : [];
    const marks = steps.map(({ loss }, k) => (loss === null || loss === undefined ? ""
      : `<circle cx="${x(k)}" cy="${y(loss)}" r="${k === index ? 7 : 3.5}" class="${k === index ? "now" : "past"}"/>`));
    const line = steps.map(({ loss }, k) => (loss === null || loss === undefined ? "" : `${x(k)},${y(loss)}`)).join(" ");
    return `<line x1="48" x2="336" y1="114" y2="114" class="grid"/>${levels.join("")}${ticks.join("")}`
      + text(192, 146, "step", "middle") + `<polyline points="${line}" class="path"/>${marks.join("")}`;
  };
  const judge = (before, after, label) => {
    const [from, to] = [best(before), best(after)];
    if (label === null) return from === to ? ["same", "Unchanged"] : ["moved", "Changed"];
    if (from === to) return from === label ? ["same", "Unchanged: right before and after"] : ["same", "Unchanged: wrong before and after"];
    if (to === label) return ["good", "Corrected"];
    return from === label ? ["bad", "Made wrong"] : ["moved", "Changed from one wrong answer to another"];
  };
  const MARKS = { good: "✓", bad: "✗", same: "=", moved: "→" };
  const strip = (belief) => `<svg viewBox="0 0 100 24" class="live-strip" role="img" aria-label="${spoken(belief)}">
    <line x1="0" x2="100" y1="23.5" y2="23.5" class="grid"/>${[...belief].map((value, j) =>
      `<rect x="${10 * j + 1}" y="${23 - 22 * value}" width="8" height="${22 * value}" class="now"/>`).join("")}</svg>`;

  const showResult = () => {
    const steps = result?.steps ?? [];
    const count = result ? result.count : state.steps;
    const index = Math.min(state.step ?? Infinity, Math.max(steps.length - 1, 0));
    const [before, now] = [steps[0]?.belief, steps[index]?.belief];
    const label = truth();
    root.querySelector(".live-result").dataset.empty = !steps.length;
    input("step").max = Math.max(steps.length - 1, 0);
    input("step").disabled = steps.length < 2;
    input("step").value = index;
    const where = index ? `after step ${index}` : "before adaptation";
    part("step").textContent = steps.length ? `${index} of ${count}` : "";
    input("step").setAttribute("aria-valuetext", now ? `${where}: ${spoken(now)}` : "no result yet");
    part("now").textContent = index ? where : "after";
    part("star").hidden = label === null;
    part("bars").innerHTML = bars(before, index ? now : null, label);
    part("bars").setAttribute("aria-label", now ? `Belief ${where}: ${spoken(now)}; before: ${spoken(before)}` : "No belief yet");
    part("plane").innerHTML = plane(steps, index);
    part("plane").setAttribute("aria-label", now ? `The point is nearest to ${classes[best(now)]} ${where}` : "No point yet");
    part("loss").innerHTML = lossLine(steps, index, count);
    const losses = steps.map(({ loss }) => loss).filter(Number.isFinite).map((loss) => loss.toFixed(3));
    part("loss").setAttribute("aria-label", losses.length ? `Losses: ${losses.join(", ")}` : "No loss yet");
    const verdict = part("verdict");
    verdict.className = "";
    if (now) {
      const [kind, sentence] = judge(before, now, label);
      verdict.className = `live-${kind}`;
      const change = index ? `${answer(before)} → ${answer(now)}` : answer(before);
      verdict.textContent = index ? `${MARKS[kind]} ${sentence}: ${change}` : `Before adaptation: ${change}`;
    } else {
      verdict.textContent = "The result appears here.";
    }
    const rows = steps.length ? [{ name: "Classifier, not adapted", belief: before, evaluations: 0 },
      ...(result.done ? [{ name: `Diffusion-TTA, ${count} step${count > 1 ? "s" : ""}`,
        belief: steps.at(-1).belief, evaluations: result.evaluations, gradients: true }] : []), ...result.methods] : [];
    root.querySelector("tbody").innerHTML = rows.map(({ name, belief, evaluations: number, gradients }) => {
      const right = label === null ? "" : best(belief) === label
        ? '<span class="live-good">✓<span class="live-hidden"> right</span></span>'
        : '<span class="live-bad">✗<span class="live-hidden"> wrong</span></span>';
      return `<tr><th scope="row">${name}</th><td>${answer(belief)} ${right}</td><td>${strip(belief)}</td>
        <td>${number.toLocaleString("en")}${gradients ? ", with gradients" : ""}</td></tr>`;
    }).join("");
  };
  const sentence = () => {
    const [before, after] = [result.steps[0].belief, result.steps.at(-1).belief];
    const label = truth();
    const known = label === null ? "" : ` The true class is ${classes[label]}.`;
    const others = result.methods.map(({ name, belief, evaluations: number }) =>
      `${name}: ${answer(belief)}, with ${number} evaluations.`).join(" ");
    return `${judge(before, after, label)[1]}. Before adaptation the answer is ${answer(before)}; after ${result.count} `
      + `step${result.count > 1 ? "s" : ""} it is ${answer(after)}.${known} ${others}`;
  };

  // --- the input ---------------------------------------------------------------------------------------------------

  const showInput = () => {
    for (const [name, visible] of [["draw", !!state.drawing], ["image", !state.drawing]]) {
      part(name).hidden = !visible;
      root.querySelector(`[name="source"][value="${name}"]`).checked = visible;
    }
    const chosen = root.querySelector(`[name="image"][value="${state.image}"]`);
    if (chosen) chosen.checked = true;
    input("label").value = state.label ?? "";
    input("shift").value = state.shift;
    input("severity").value = state.severity;
    input("severity").disabled = action("again").disabled = !state.shift;
    part("severity").textContent = state.shift ? state.severity : "";
    action("undo").disabled = !undone.length;
    for (const field of Object.keys(FIELDS)) {
      if (document.activeElement !== input(field)) input(field).value = state[field];
    }
    for (const button of root.querySelectorAll("[data-preset]")) {
      button.setAttribute("aria-pressed", isPreset([0, live.data.presets[button.dataset.preset]]));
    }
    drawPaper();
    const name = empty() ? "nothing drawn yet" : state.drawing ? "the drawing" : `test image ${state.image}, a ${classes[truth()]}`;
    paint(part("clean"), clean());
    part("clean").setAttribute("aria-label", `8 by 8 pixels: ${name}`);
    paint(part("seen"), shifted());
    const what = state.shift ? `${words(state.shift)}, severity ${state.severity}` : "no shift";
    part("seen").setAttribute("aria-label", `What the models see: ${name}, ${what}`);
    showButton();
  };
  const showButton = () => {
    const button = action("adapt");
    if (!busy) button.textContent = engine ? "Adapt" : `Load the models (${megabytes} MB)`;
    button.setAttribute("aria-disabled", busy);
  };
  const complain = (sentences) => { wrong.textContent = sentences.join(" "); };
  const save = () => {
    try {
      history.replaceState(null, "", toHash());
    } catch {
      location.hash = toHash();
    }
  };
  // Drop the result, which no longer belongs to the input.
  const drop = () => {
    run += 1;
    [result, state.step] = [null, null];
    summary.textContent = part("note").textContent = "";
    complain([]);
    showResult();
  };
  const change = (values) => {
    Object.assign(state, values);
    drop();
    showInput();
    save();
  };
  const validate = () => {
    const values = Object.fromEntries(Object.keys(FIELDS).map((field) => [field, input(field).value]));
    const messages = Object.keys(FIELDS).map((field) => [field, check(field, values[field])]);
    if (messages.every(([, message]) => !message) && +values.tMin >= +values.tMax) {
      messages.push(["tMin", checkRange({ tMin: +values.tMin, tMax: +values.tMax })]);
    }
    for (const field of Object.keys(FIELDS)) {
      input(field).setAttribute("aria-invalid", messages.some(([one, message]) => one === field && message));
    }
    complain(messages.map(([, message]) => message).filter(Boolean));
    return wrong.textContent ? null : Object.fromEntries(Object.entries(values).map(([field, value]) => [field, +value]));
  };

  // --- adaptation --------------------------------------------------------------------------------------------------

  const load = async () => {
    progress.hidden = false;
    const report = (fraction, message) => {
      progress.value = fraction;
      part("note").textContent = message ?? "";
    };
    try {
      engine = await live.start({ progress: report });
    } finally {
      progress.hidden = true;
      part("note").textContent = "";
    }
  };
  const adapt = async () => {
    if (busy) return;
    if (!validate()) {
      root.querySelector("details").open = true;
      root.querySelector('[aria-invalid="true"]').focus();
      return;
    }
    if (empty()) return complain(["Draw a digit first, or choose a test image."]);
    busy = true;
    const button = action("adapt");
    let mine = ++run;
    try {
      button.textContent = engine ? "Adapting …" : "Loading …";
      showButton();
      if (!engine) {
        await load();
        button.textContent = "Adapting …";
      }
      mine = run; // what was changed while the models were loading counts
      const wanted = state.step;
      const { tMin, tMax, pairs, steps, rate, seed } = state;
      const [pixels, draws] = [shifted(), storedDraws()];
      result = { steps: [], methods: [], count: steps, done: false };
      showResult();
      const mineOnly = (action_) => { if (run === mine) { action_(); showResult(); } };
      const onStep = (step) => mineOnly(() => {
        result.steps.push(step);
        state.step = result.steps.length - 1;
        button.textContent = `Adapting: step ${state.step} of ${steps} …`;
      });
      const adapted = await engine.adapt({ pixels, tMin, tMax, pairs, steps, rate, seed, draws }, onStep);
      mineOnly(() => {
        Object.assign(result, { steps: adapted.steps, evaluations: adapted.evaluations, done: true });
        state.step = Math.min(wanted ?? steps, steps);
        button.textContent = "Comparing …";
      });
      for (const [name, method] of [["Diffusion Classifier", "classify"], ["Ensemble", "ensemble"]]) {
        if (run !== mine) break;
        const one = await engine[method]({ pixels, tMin, tMax, pairs, seed });
        mineOnly(() => result.methods.push({ name, ...one }));
      }
      mineOnly(() => { summary.textContent = sentence(); });
      if (run === mine) save();
    } catch (error) {
      if (run === mine && result && !result.done) drop();
      complain([`${engine ? "The computation failed" : "The models could not be loaded"}: ${error.message}.`,
        "Press the button to try again."]);
    } finally {
      busy = false;
      showButton();
    }
  };

  // --- events ------------------------------------------------------------------------------------------------------

  action("adapt").onclick = adapt;
  action("erase").onclick = () => {
    erasing = !erasing;
    action("erase").setAttribute("aria-pressed", erasing);
  };
  action("undo").onclick = () => { if (undone.length) change({ drawing: undone.pop() }); };
  action("clear").onclick = () => { keepForUndo(); change({ drawing: new Uint8Array(GRID * GRID) }); };
  action("again").onclick = () => change({ seed: (state.seed + 1) % 1000000 });
  action("reset").onclick = () => {
    change(Object.fromEntries(Object.keys(FIELDS).map((field) => [field, initial()[field]])));
    validate();
  };
  action("link").onclick = async () => {
    save();
    try {
      await navigator.clipboard.writeText(location.href);
      part("note").textContent = "Copied.";
    } catch {
      part("note").textContent = "Copy the address of this page: it is the link.";
    }
  };
  const show = ({ image, shift, severity }) => {
    Object.assign(state, initial(), { image, shift, severity });
    drop();
    showInput();
  };
  for (const button of root.querySelectorAll("[data-preset]")) {
    button.onclick = () => {
      show(live.data.presets[button.dataset.preset]);
      save();
      if (engine) adapt();
    };
  }
  let putAway = new Uint8Array(GRID * GRID); // the drawing, while a test image is shown
  for (const radio of root.querySelectorAll('[name="source"]')) {
    radio.onchange = () => {
      if (state.drawing) putAway = state.drawing;
      change({ drawing: radio.value === "draw" ? putAway : null });
    };
  }
  for (const radio of root.querySelectorAll('[name="image"]')) radio.onchange = () => change({ image: +radio.value });
  input("label").onchange = () => {
    state.label = input("label").value === "" ? null : +input("label").value;
    showResult(); // the result stays: no method sees the label
    if (result?.done) summary.textContent = sentence();
    save();
  };
  input("shift").onchange = () => change({ shift: input("shift").value });
  input("severity").oninput = () => change({ severity: +input("severity").value });
  for (const field of Object.keys(FIELDS)) {
    input(field).onchange = () => { const values = validate(); if (values) change(values); };
  }
  input("step").oninput = () => { state.step = +input("step").value; showResult(); };
  input("step").onchange = save;
  const restore = () => {
    const [restored, ignored] = fromHash(location.hash);
    drop();
    Object.assign(state, restored);
    complain(ignored.length ? [`The link has values that are not valid; the usual ones replace them: ${ignored.join(", ")}.`] : []);
    showResult();
    showInput();
  };
  const ours = () => /^#[id]=/.test(location.hash); // otherwise the name of a heading
  if (ours()) restore();
  else show(PRESETS[0][1]);
  addEventListener("hashchange", () => ours() && restore());
})();
