// One environment and its agent in a page. c/page.c is compiled to the module in env.js, which also
// holds the weights and `meta`: names, keys, labels and bounds. This file reads the module's arrays,
// draws its list of shapes, and tells the module who acts. Nothing is fetched, so that the page
// works from a disk. After `#` in the address: seed=5, paused, embed, player=you, fps=30.
"use strict";
const { meta } = shoal;
const $ = (id) => document.getElementById(id);
const options = new URLSearchParams(location.hash.slice(1));
const SPEEDS = [1, 2, 4, 8, 15, 30, 60, 120, 240, 480];
const ARROWS = { left: "←", right: "→", up: "↑", down: "↓", space: "space", return: "enter" };
const VALUES = 240; // steps in the graph of values
const VIEW = (
  "agents max_steps state_size observation_size action_size num_masked params state observations " +
  "actions rewards terminated truncated respawned masks acting gone action_masks returns lengths " +
  "ended logs logits values num_logits weights num_weights canvas pending steps"
).split(" ");
const NUM_LOGS = 16;

let wasm, memory, at; // the module's functions, its memory, and where its arrays are
let before = null, drawing = null, fraction = 1, dirty = true;
let player = "you", holding = false, greedy = false, paused = false, visible = true, agent = 0;
let fps = 15, owed = 0, last = 0, looking = false, seen = [];
const held = new Set(), pressed = new Set();
const count = { steps: 0, frames: 0, episodes: 0, score: 0 };

// -- the module ----------------------------------------------------------------------------------

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const number = (name) => new Int32Array(memory.buffer, at.view, VIEW.length)[VIEW.indexOf(name)];
const array = (Type, name, length, offset = 0) => new Type(memory.buffer, at[name] + offset, length);

async function open() {
  const math = {};
  for (const name of ["sin", "cos", "tan", "asin", "acos", "atan2", "exp", "log", "pow", "tanh"])
    math[name + "f"] = math[name] = Math[name];
  math.fmodf = (x, y) => x % y;
  const { instance } = await WebAssembly.instantiate(bytes(shoal.wasm), { env: math });
  wasm = instance.exports;
  memory = wasm.memory;
  at = { view: wasm.page_view() };
  at.params = number("params");
  array(Float64Array, "params", meta.params.length).set(meta.params);
  const wrong = wasm.page_open();
  if (wrong) throw new Error(text_at(new Uint8Array(memory.buffer, wrong)));
  for (const name of VIEW) at[name] = number(name);
  if (meta.weights) array(Float32Array, "weights", at.num_weights).set(weights(bytes(shoal.weights)));
}

const text_at = (found) => new TextDecoder().decode(found.subarray(0, found.indexOf(0)));

// Numbers of 32 or of 16 bits.
function weights(raw) {
  if (meta.weights === "float32") return new Float32Array(raw.buffer);
  return Float32Array.from(new Uint16Array(raw.buffer), (h) => {
    const exponent = (h >> 10) & 31, share = h & 1023;
    const size = exponent ? (1 + share / 1024) * 2 ** (exponent - 15) : share * 2 ** -24;
    return h & 0x8000 ? -size : size;
  });
}

// -- episodes ------------------------------------------------------------------------------------

function restart(seed) {
  wasm.page_reset(seed >>> 0, 0);
  before = null;
  seen = [];
  owed = 0;
  picture();
}

function advance() {
  const mine = player === "you" || holding;
  wasm.page_act(player === "random" || !meta.weights ? 0 : greedy ? 1 : 2);
  if (number("pending")) before = null;
  else before = drawing;
  if (mine) act();
  if (meta.weights) seen.push(array(Float32Array, "values", at.agents)[agent]);
  if (seen.length > VALUES) seen.shift();
  wasm.page_step();
  pressed.clear();
  count.steps++;
  const ends = array(Uint8Array, "terminated", at.agents), cuts = array(Uint8Array, "truncated", at.agents);
  const logs = array(Float32Array, "logs", at.agents * NUM_LOGS);
  for (let a = 0; a < at.agents; a++)
    if (ends[a] | cuts[a]) {
      count.episodes++;
      count.score += meta.logs.length ? logs[a * NUM_LOGS] : array(Float64Array, "returns", at.agents)[a];
    }
  if (number("pending") && fps <= 60) owed = -0.7 * fps; // time to see how it ended
  picture();
}

// The elements of an action: what each key does, what no key does, and their names.
const elements = meta.actions.flatMap((field) =>
  Array.from({ length: field.size }, (_, i) => {
    if (field.float) {
      const pair = (field.keys[i] || "").split("/"), ends = [field.low[i], field.high[i]];
      const label = field.labels[i] || (field.size > 1 ? `${field.name} ${i}` : field.name);
      const keys = pair.length === 2 ? pair.map((key, k) => [key, ends[k]]) : [];
      return { float: true, keys, rest: Math.min(Math.max(0, ends[0]), ends[1]), ends, label };
    }
    const names = i === 0 ? field.keys : [], idle = names.indexOf("-");
    const keys = names.map((key, k) => [key, k]).filter(([key]) => key !== "-");
    const size = field.high[i] + 1;
    const label = field.size > 1 ? `${field.name} ${i}` : field.name;
    const labels = field.labels.length === size ? field.labels : Array.from({ length: size }, (_, k) => `${label} ${k}`);
    return { keys, rest: Math.max(0, idle), waits: keys.length > 0 && idle < 0, size, label, labels };
  }),
);
const known = new Set(elements.flatMap((element) => element.keys.map(([key]) => key)));
const waits = elements.some((element) => element.waits);

function act() {
  const down = new Set([...(waits ? [] : held), ...pressed]);
  const Type = elements[0].float ? Float32Array : BigInt64Array;
  const row = array(Type, "actions", elements.length, agent * at.action_size);
  elements.forEach(({ keys, rest, float }, i) => {
    const found = keys.find(([key]) => down.has(key));
    row[i] = float ? (found ? found[1] : rest) : BigInt(found ? found[1] : rest);
  });
}

// A game without an idle choice waits for a key of the person who plays.
const ready = () =>
  !(waits && (player === "you" || holding)) || number("pending") ||
  !array(Uint8Array, "acting", at.agents)[agent] || [...pressed].some((key) => known.has(key));

// -- the picture ---------------------------------------------------------------------------------

// Copy the list of shapes: 12 numbers each, the first 5 of them integers.
function picture() {
  wasm.page_draw();
  const head = new Int32Array(memory.buffer, at.canvas, 16);
  const shapes = memory.buffer.slice(head[0], head[0] + 48 * head[3]);
  drawing = {
    integers: new Int32Array(shapes),
    floats: new Float32Array(shapes),
    points: new Float32Array(memory.buffer.slice(head[1], head[1] + 8 * head[5])),
    text: new Uint8Array(memory.buffer.slice(head[2], head[2] + head[7])),
    view: [...new Float32Array(memory.buffer, at.canvas + 44, 4)],
    background: head[15],
    keyed: new Map(),
  };
  for (let i = 0; i < drawing.integers.length; i += 12)
    if (drawing.integers[i + 1]) drawing.keyed.set(drawing.integers[i] * 2 ** 32 + drawing.integers[i + 1], i);
  dirty = true;
}

const colors = new Map();
function color(rgba) {
  let found = colors.get(rgba);
  if (!found) {
    found = `rgba(${(rgba >>> 24) & 255},${(rgba >>> 16) & 255},${(rgba >>> 8) & 255},${(rgba & 255) / 255})`;
    colors.set(rgba, found);
  }
  return found;
}

function paint() {
  const canvas = $("picture"), pen = canvas.getContext("2d");
  const [left, top, w, h] = drawing.view;
  const room = $("stage").clientWidth, high = options.has("embed") ? 320 : Math.max(240, innerHeight * 0.68);
  const scale = Math.min(room / w, high / h), dots = devicePixelRatio || 1;
  const wide = Math.round(w * scale * dots), tall = Math.round(h * scale * dots);
  if (canvas.width !== wide || canvas.height !== tall) {
    canvas.width = wide;
    canvas.height = tall;
    canvas.style.width = `${wide / dots}px`;
    canvas.style.height = `${tall / dots}px`;
  }
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = color(drawing.background);
  pen.fillRect(0, 0, wide, tall);
  pen.setTransform(wide / w, 0, 0, tall / h, (-left * wide) / w, (-top * tall) / h);
  pen.lineJoin = "round";
  const { integers, floats } = drawing;
  for (let i = 0; i < integers.length; i += 12) {
    let [x, y, sw, sh, angle] = floats.subarray(i + 5, i + 10);
    const old = before && integers[i + 1] ? before.keyed.get(integers[i] * 2 ** 32 + integers[i + 1]) : undefined;
    if (old !== undefined && fraction < 1) {
      const was = before.floats, back = 1 - fraction, turn = angle - was[old + 9];
      x -= back * (x - was[old + 5]);
      y -= back * (y - was[old + 6]);
      sw -= back * (sw - was[old + 7]);
      sh -= back * (sh - was[old + 8]);
      angle -= back * (turn - 2 * Math.PI * Math.round(turn / (2 * Math.PI))); // the short way round
    }
    shape(pen, i, x, y, sw, sh, angle, w / wide);
  }
}

function shape(pen, i, x, y, w, h, angle, pixel) {
  const { integers, floats, points, text } = drawing;
  const [kind, , rgba, first, length] = integers.subarray(i, i + 5);
  const round = floats[i + 10], width = floats[i + 11];
  pen.fillStyle = pen.strokeStyle = color(rgba);
  pen.lineWidth = Math.max(width, pixel);
  pen.beginPath();
  if (kind === 1) {
    w = Math.abs(w);
    h = Math.abs(h);
    if (angle) {
      const c = Math.cos(angle), s = Math.sin(angle);
      for (const [a, b] of [[-w, -h], [w, -h], [w, h], [-w, h]])
        pen.lineTo(x + (a * c - b * s) / 2, y + (a * s + b * c) / 2);
      pen.closePath();
    } else {
      pen.roundRect(x - w / 2, y - h / 2, w, h, Math.min(round, w / 2, h / 2));
    }
  } else if (kind === 2) {
    pen.arc(x, y, Math.abs(w), 0, 2 * Math.PI);
  } else if (kind === 3) {
    pen.lineCap = "round";
    pen.moveTo(x, y);
    pen.lineTo(w, h);
    pen.stroke();
    return;
  } else if (kind === 4) {
    for (let k = first; k < first + length; k++) pen.lineTo(points[2 * k], points[2 * k + 1]);
    pen.closePath();
  } else if (kind === 5) {
    pen.save();
    pen.translate(x, y);
    pen.scale(h / 20, h / 20); // fonts of less than a unit are not drawn well
    pen.font = "20px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(new TextDecoder().decode(text.subarray(first, first + length)), 0, 0);
    pen.restore();
    return;
  } else if (kind === 6) { // where an agent is: a ring around the chosen one
    if (first !== agent || at.agents === 1) return;
    pen.arc(x, y, Math.abs(w), 0, 2 * Math.PI);
    pen.lineWidth = Math.max(2 * pixel, Math.abs(w) / 8);
    pen.stroke();
    return;
  }
  if (width) pen.stroke();
  else pen.fill();
}

// -- what the agent sees -------------------------------------------------------------------------

const TYPES = { uint8: Uint8Array, int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array, float32: Float32Array };

function observe() {
  const parts = $("observation").children;
  meta.observations.forEach((field, f) => {
    const raw = array(TYPES[field.dtype], "observations", field.size, agent * at.observation_size + field.offset);
    const values = Array.from(raw, Number);
    const low = field.low ?? Math.min(...values), high = field.high ?? Math.max(...values);
    const share = (v) => Math.min(1, Math.max(0, (v - low) / (high - low || 1)));
    if (field.list) {
      bars(parts[f].lastChild, values.map((v, i) => ({ label: field.labels[i] || `${field.name} ${i}`, share: share(v), text: v.toPrecision(3) })));
      return;
    }
    const [planes, rows, columns] = field.planes, canvas = parts[f].lastChild;
    canvas.width = planes * (columns + 1) - 1;
    canvas.height = rows;
    const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, rows);
    values.forEach((v, i) => {
      const plane = Math.floor(i / (rows * columns)), row = Math.floor(i / columns) % rows;
      const k = 4 * (row * canvas.width + plane * (columns + 1) + (i % columns)), s = share(v);
      image.data.set([27 + 230 * s * s, 35 + 178 * s, 48 + 100 * s, 255], k);
    });
    pen.putImageData(image, 0, 0);
  });
  choices();
  graph();
}

function bars(list, entries) {
  while (list.children.length < entries.length) {
    const item = document.createElement("li");
    item.innerHTML = '<span></span><span class="bar"><i></i></span><span></span>';
    list.append(item);
  }
  entries.forEach(({ label, share, text, chosen }, i) => {
    const item = list.children[i];
    item.className = chosen ? "chosen" : "";
    item.children[0].textContent = label;
    item.children[1].firstChild.style.width = `${100 * share}%`;
    item.children[2].textContent = text;
  });
}

// The probability of each choice, by the logits and the masks; of numbers, the numbers.
function choices() {
  const Type = elements[0].float ? Float32Array : BigInt64Array;
  const row = array(Type, "actions", elements.length, agent * at.action_size);
  const logits = array(Float32Array, "logits", at.num_logits, 4 * agent * at.num_logits);
  const legal = array(Uint8Array, "action_masks", at.num_masked, agent * at.num_masked);
  let k = 0;
  elements.forEach((element, e) => {
    const list = $("bars").children[e];
    if (element.float) {
      const [low, high] = element.ends;
      bars(list, [{ label: element.label, share: (row[e] - low) / (high - low), text: row[e].toFixed(2) }]);
      return;
    }
    const part = Array.from({ length: element.size }, (_, i) => (legal[k + i] ? logits[k + i] : -Infinity));
    const most = Math.max(...part), powers = part.map((v) => Math.exp(v - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    bars(list, powers.map((p, i) => ({ label: element.labels[i], share: p / sum, text: (p / sum).toFixed(2), chosen: Number(row[e]) === i })));
    k += element.size;
  });
}

function graph() {
  const canvas = $("value"), pen = canvas.getContext("2d");
  canvas.width = VALUES;
  canvas.height = 60;
  if (!seen.length) return;
  const low = Math.min(...seen), high = Math.max(...seen), range = high - low || 1;
  pen.strokeStyle = "#2ec4b6";
  pen.lineWidth = 1.5;
  pen.beginPath();
  seen.forEach((v, i) => pen.lineTo(i, 56 - (52 * (v - low)) / range));
  pen.stroke();
  $("range").textContent = `now ${seen.at(-1).toPrecision(3)}, from ${low.toPrecision(3)} to ${high.toPrecision(3)}`;
}

// -- the rest of the page ------------------------------------------------------------------------

const shown = new Map();
function numbers() {
  const returns = array(Float64Array, "returns", at.agents), lengths = array(Int32Array, "lengths", at.agents);
  const logs = array(Float32Array, "logs", meta.logs.length, 4 * agent * NUM_LOGS);
  const name = meta.logs.length ? meta.logs[0][0] : "return";
  const ended = array(Int32Array, "ended", at.agents)[agent];
  const rows = [["Return", +returns[agent].toPrecision(4)], ["Length", lengths[agent]], ["Episodes", count.episodes]];
  rows.push([`Mean ${name}`, count.episodes ? (count.score / count.episodes).toPrecision(3) : "–"]);
  meta.logs.forEach(([log], i) => rows.push([`Last ${log}`, ended ? +logs[i].toPrecision(4) : "–"]));
  for (const [key, value] of rows) {
    if (!shown.has(key)) {
      const term = document.createElement("dt"), data = document.createElement("dd");
      term.textContent = key;
      $("numbers").append(term, data);
      shown.set(key, data);
    }
    shown.get(key).textContent = value;
  }
  $("agent").textContent = `${agent + 1} of ${at.agents}`;
  const over = number("pending") ? "episode over" : "";
  const wait = !paused && !ready() ? "press a key" : "";
  const gone = array(Uint8Array, "gone", at.agents)[agent] && !number("pending") ? "this agent is gone" : "";
  const who = player === "you" || holding ? "you play" : player === "agent" ? "the agent plays" : "random actions";
  $("note").textContent = [who, paused ? "paused" : "", wait, over, gone].filter(Boolean).join(" · ");
}

function press(id, on) {
  $(id).setAttribute("aria-pressed", on);
}

function choose_player(name) {
  player = name;
  for (const button of document.querySelectorAll("[data-player]"))
    button.setAttribute("aria-pressed", button.dataset.player === name);
  dirty = true;
}

function set_paused(on) {
  paused = on;
  press("pause", on);
  $("pause").textContent = on ? "Play" : "Pause";
  owed = 0;
  dirty = true;
}

function set_speed(steps) {
  fps = steps;
  $("speed").textContent = `${fps} steps/s`;
}

function set_holding(on) {
  holding = on;
  press("hold", on);
  dirty = true;
}

function choose_agent(number) {
  agent = (number + at.agents) % at.agents;
  seen = [];
  dirty = true;
}

const faster = (by) => set_speed(SPEEDS[Math.min(Math.max(SPEEDS.indexOf(fps) + by, 0), SPEEDS.length - 1)]);
const again = () => restart(Math.random() * 2 ** 32);
const one_step = () => {
  set_paused(true);
  if (ready()) advance();
};

// Take the agent whose place is nearest to a click.
function click(event) {
  const box = $("picture").getBoundingClientRect(), [left, top, w, h] = drawing.view;
  const x = left + ((event.clientX - box.left) / box.width) * w, y = top + ((event.clientY - box.top) / box.height) * h;
  let nearest = -1, least = w / 8;
  for (let i = 0; i < drawing.integers.length; i += 12) {
    const away = Math.hypot(drawing.floats[i + 5] - x, drawing.floats[i + 6] - y);
    if (drawing.integers[i] === 6 && away < least) [nearest, least] = [drawing.integers[i + 3], away];
  }
  if (nearest >= 0) choose_agent(nearest);
}

function key_of(event) {
  const names = { arrowleft: "left", arrowright: "right", arrowup: "up", arrowdown: "down", " ": "space", enter: "return" };
  if (event.code.startsWith("Digit")) return event.code.slice(5); // with Shift, too
  const key = event.key.toLowerCase();
  return names[key] || key;
}

function key_down(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = key_of(event), mine = player === "you" || holding;
  if (event.key === "Shift") set_holding(true);
  else if (known.has(key) && mine) {
    held.add(key);
    pressed.add(key);
    event.preventDefault();
  } else if (known.has(key)) held.add(key);
  else if (key === "p" && !event.repeat) set_paused(!paused);
  else if (key === ".") one_step();
  else if (key === "backspace") again();
  else if (key === "-") faster(-1);
  else if (key === "=" || key === "+") faster(1);
}

function key_up(event) {
  const key = key_of(event);
  held.delete(key);
  if (event.key === "Shift") set_holding(false);
  else if (known.has(key) && (player === "you" || holding)) event.preventDefault();
}

// A button that does something while it is held.
function hold(button, down, up) {
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    down();
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, up);
  button.addEventListener("contextmenu", (event) => event.preventDefault());
}

function build() {
  const [first] = meta.text.split("\n");
  document.title = `${meta.name} · Shoal`;
  $("name").textContent = meta.name;
  $("summary").textContent = first;
  $("rules").textContent = meta.text.slice(first.length + 1);
  document.body.classList.toggle("embed", options.has("embed"));
  for (const element of elements)
    for (const [key, value] of element.keys) {
      const button = document.createElement("button");
      const label = element.float ? `${element.label} ${value === element.ends[0] ? "−" : "+"}` : element.labels[value];
      button.textContent = label === key ? ARROWS[key] || key : `${ARROWS[key] || key} ${label}`;
      button.setAttribute("aria-label", `${label}, key ${key}`);
  
      hold(button, () => {
        if (player !== "you") set_holding(true); // on a touch screen, too, a key takes over
        held.add(key);
        pressed.add(key);
      }, () => {
        held.delete(key);
        set_holding(false);
      });
      $("keys").append(button);
    }
  if (!known.size) $("keys").hidden = true;
  for (const field of meta.observations) {
    const figure = document.createElement("figure"), list = document.createElement(field.list ? "ul" : "canvas");
    figure.innerHTML = "<h2></h2>";
    figure.firstChild.textContent = `Observation: ${field.name}`;
    figure.title = field.text;
    if (field.list) list.className = "bars";
    else list.setAttribute("role", "img");
    list.setAttribute("aria-label", field.text || field.name);
    figure.append(list);
    $("observation").append(figure);
  }
  for (const element of elements) {
    const list = document.createElement("ul");
    list.className = "bars";
    list.setAttribute("aria-label", element.label);
    $("bars").append(list);
  }
  $("agents").hidden = at.agents === 1;
  for (const id of ["greedy", "choice", "estimate", "hold"]) $(id).hidden = !meta.weights;
  for (const button of document.querySelectorAll("[data-player]")) {
    button.addEventListener("click", () => choose_player(button.dataset.player));
    if (button.dataset.player === "agent") button.hidden = !meta.weights;
  }
  $("pause").addEventListener("click", () => set_paused(!paused));
  $("step").addEventListener("click", one_step);
  $("restart").addEventListener("click", again);
  $("slower").addEventListener("click", () => faster(-1));
  $("faster").addEventListener("click", () => faster(1));
  $("previous").addEventListener("click", () => choose_agent(agent - 1));
  $("next").addEventListener("click", () => choose_agent(agent + 1));
  $("picture").addEventListener("click", click);
  $("greedy").addEventListener("click", () => press("greedy", (greedy = !greedy)));
  $("look").addEventListener("click", () => {
    looking = !looking;
    $("sees").hidden = !looking;
    press("look", looking);
    $("look").setAttribute("aria-expanded", looking);
    dirty = true;
  });
  hold($("hold"), () => set_holding(true), () => set_holding(false));
  addEventListener("keydown", key_down);
  addEventListener("keyup", key_up);
  addEventListener("blur", () => {
    held.clear();
    set_holding(false);
  });
  addEventListener("resize", () => (dirty = true));
  new IntersectionObserver(([entry]) => (visible = entry.isIntersecting)).observe($("picture"));
}

function frame(now) {
  requestAnimationFrame(frame);
  const passed = Math.min(now - last, 100);
  last = now;
  if (!visible) return;
  count.frames++;
  if (!paused) owed += (passed * fps) / 1000;
  for (const until = performance.now() + 14; !paused && owed >= 1 && performance.now() < until; owed--)
    if (ready()) advance();
  if (owed >= 1) owed = 1; // the processor is too slow for this speed
  fraction = paused || fps > 60 ? 1 : Math.min(1, Math.max(0, owed));
  const stepped = dirty;
  if (dirty || (before && !paused && drawing.keyed.size)) paint();
  dirty = false;
  if (!stepped) return;
  numbers();
  if (looking) observe();
}

async function main() {
  await open();
  build();
  set_speed(Number(options.get("fps")) || meta.fps);
  choose_player(options.get("player") || (meta.weights ? "agent" : "random"));
  set_paused(options.has("paused") || matchMedia("(prefers-reduced-motion: reduce)").matches);
  restart(options.has("seed") ? Number(options.get("seed")) : Math.random() * 2 ** 32);
  requestAnimationFrame(frame);
}

main().catch((error) => ($("summary").textContent = `This page can't run: ${error.message}`));
