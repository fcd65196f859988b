/* What holds the page together: selection, zoom, search, playback, keys, theme. */

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const model = new TreeModel(data);
const frame = $("tree");
const icicle = new Icicle(frame, model);
const panel = new Panel($("panel"), model, (node) => select(node));
const MIN_SEEN = 40;  // pixels a node is brought to when it is selected without pointing at it

let state = model.full, mode = "posterior", selected = 0, timer = 0, found = { hits: [], near: null }, hit = -1;

/* Selection and zoom */

function select(node, pointed) {
  if (!state.present[node]) show(model.last);
  selected = icicle.selected = node;
  panel.show(state, node, (value) => icicle.shade(value));
  describe();
  if (!pointed) bring(node);
  icicle.draw();
}

/* Zoom no further than makes the node visible, then scroll to it. */
function bring(node) {
  const width = (one) => icicle.goal.right[one] - icicle.goal.left[one];
  const inside = node >= icicle.zoomed && node < model.end[icicle.zoomed];
  if (!inside || (width(node) / width(icicle.zoomed)) * icicle.width < Math.min(MIN_SEEN, icicle.width)) {
    const fits = (one) => width(one) > 0 && (width(node) / width(one)) * icicle.width >= MIN_SEEN;
    zoom(model.path(node).find(fits) ?? node);
  }
  icicle.reveal(node);
}

function zoom(node) {
  if (node === icicle.zoomed) return;
  icicle.zoom(node);
  $("out").disabled = node === 0;
}

function zoomOut() {
  const share = state.shares[mode], now = share[icicle.zoomed];
  let node = icicle.zoomed;
  while (node > 0 && share[node] <= now * 1.001) node = model.parent[node];
  zoom(node);
}

/* What assistive technology is told about the selected node. */
function describe() {
  const item = $("item"), above = model.parent[selected], siblings = above < 0 ? [0] : model.children[above].filter((one) => state.present[one]);
  const leaf = model.completion[selected], text = model.text[selected].trim() || (selected ? "end" : "all completions");
  const attributes = { level: model.level[selected] + 1, setsize: siblings.length, posinset: siblings.indexOf(selected) + 1 };
  for (const [name, value] of Object.entries(attributes)) item.setAttribute(`aria-${name}`, value);
  if (leaf === null) item.setAttribute("aria-expanded", "true");
  else item.removeAttribute("aria-expanded");
  item.textContent = `${text}, value ${number(state.value[selected])}, ${percent(state.shares.posterior[selected])} of the posterior`;
}

/* Measures and playback */

function show(count, still) {
  state = count >= model.last ? model.full : model.at(count);
  icicle.fresh = state.complete ? -1 : count - 1;
  icicle.show(state, mode, still);
  $("when").value = count;
  $("count").textContent = `${count} / ${model.last}`;
  $("caption").textContent = caption(count);
  timeline();
}

function caption(count) {
  if (count >= model.last && !timer) return `All ${model.last} completions. Play shows them arrive.`;
  const one = data.completions[count - 1], leaf = model.leaf[count - 1];
  const branch = model.path(leaf).find((node) => node > 0 && model.arrival[node] === count - 1) ?? leaf;
  const shared = model.tokensAbove[branch], written = model.tokensAbove[leaf] + data.nodes.num_tokens[leaf] - shared;
  const before = count > 1 ? Math.max(...data.completions.slice(0, count - 1).map((other) => other.reward)) : -Infinity;
  const news = one.reward > before ? "the best so far" : `the best so far stays ${number(before)}`;
  return `Completion ${count} keeps ${shared} tokens of the tree and writes ${written}: reward ${number(one.reward)}, ${news}.`;
}

function seek(count) {
  stop();
  step(Math.min(model.last, Math.max(1, count)));
}

function step(count, quick) {
  show(count, quick);
  if (quick && count < model.last) icicle.draw();
  else select(count >= model.last && !timer ? selected : model.leaf[count - 1]);
}

function play() {
  if (timer) return stop();
  const pause = Math.min(1100, Math.max(40, 15000 / model.last));
  let count = state.complete ? 0 : state.count;
  $("play").setAttribute("aria-pressed", "true");
  $("play").textContent = "Pause";
  zoom(0);
  const next = () => {
    count += 1;
    step(count, pause < 200);
    if (count >= model.last) stop();
  };
  timer = setInterval(next, pause);
  next();
}

function stop() {
  clearInterval(timer);
  timer = 0;
  $("play").setAttribute("aria-pressed", "false");
  $("play").textContent = "Play";
}

/* Rewards in order of arrival, and the best so far. */
function timeline() {
  const canvas = $("timeline"), context = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !icicle.shades) return;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const rewards = data.completions.map((one) => one.reward), low = Math.min(...rewards), high = Math.max(...rewards);
  const x = (k) => 8 + (model.last > 1 ? (k / (model.last - 1)) * (width - 16) : (width - 16) / 2);
  const y = (reward) => height - 5 - (high > low ? (reward - low) / (high - low) : 0.5) * (height - 10);
  context.strokeStyle = icicle.colours.muted;
  context.beginPath();
  let best = -Infinity;
  rewards.forEach((reward, k) => {
    if (k) context.lineTo(x(k), y(best));
    best = Math.max(best, reward);
    context.lineTo(x(k), y(best));
  });
  context.stroke();
  rewards.forEach((reward, k) => {
    context.globalAlpha = k < state.count ? 1 : 0.25;
    context.fillStyle = icicle.shade(reward).fill;
    context.strokeStyle = icicle.colours.muted;
    context.lineWidth = k === state.count - 1 && !state.complete ? 2.5 : 0.8;
    if (k === state.count - 1 && !state.complete) context.strokeStyle = icicle.colours.accent;
    context.beginPath();
    context.arc(x(k), y(reward), model.last > 200 ? 2 : 4, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  });
  context.globalAlpha = 1;
}

/* Search */

function search(query) {
  found = query.trim().length > 1 ? model.search(query.trim()) : { hits: [], near: null };
  hit = -1;
  icicle.near = found.near;
  $("found").textContent = found.near ? `${found.hits.length} ${found.hits.length === 1 ? "place" : "places"}` : "";
  icicle.draw();
}

function nextHit(direction) {
  if (!found.hits.length) return;
  hit = (hit + direction + found.hits.length) % found.hits.length;
  select(found.hits[hit]);
  $("found").textContent = `${hit + 1} of ${found.hits.length}`;
}

/* Theme */

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  const dark = name ? name === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  icicle.theme(dark ? "dark" : "light");
  $("theme").textContent = dark ? "Light" : "Dark";
  $("ramp").style.background = `linear-gradient(to right, ${RAMPS[dark ? "dark" : "light"].join(", ")})`;
  panel.show(state, selected, (value) => icicle.shade(value));
  icicle.draw();
  timeline();
}

/* Pointer */

frame.addEventListener("click", (event) => {
  const node = under(event);
  if (node >= 0) select(node, true);
});
frame.addEventListener("dblclick", (event) => { if (under(event) >= 0) zoom(under(event)); });
frame.addEventListener("pointermove", (event) => {
  const node = event.pointerType === "mouse" ? under(event) : -1, tip = $("tip");
  tip.hidden = node < 0;
  if (node < 0) return;
  const text = node ? model.text[node].trim() || "end" : "all completions";
  tip.replaceChildren(h("span", {}, text.length > 160 ? `${text.slice(0, 160)}…` : text),
    h("small", {}, `value ${number(state.value[node])}, ${percent(state.shares[mode][node])} by ${mode}`));
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : event.clientY + 18}px`;
});
frame.addEventListener("pointerleave", () => { $("tip").hidden = true; });

function under(event) {
  const box = frame.getBoundingClientRect();
  return icicle.at(event.clientX - box.left - frame.clientLeft, event.clientY - box.top - frame.clientTop);
}

/* Controls and keys */

for (const one of document.getElementsByName("mode")) one.addEventListener("change", () => setMode(one.value));
$("best").addEventListener("click", () => best());
$("in").addEventListener("click", () => zoom(selected));
$("out").addEventListener("click", () => zoomOut());
$("play").addEventListener("click", () => play());
$("when").addEventListener("input", () => seek(Number($("when").value)));
$("theme").addEventListener("click", () => theme($("theme").textContent.toLowerCase()));
$("timeline").addEventListener("click", (event) => {
  const box = $("timeline").getBoundingClientRect();
  seek(1 + Math.round(((event.clientX - box.left - 8) / (box.width - 16)) * (model.last - 1)));
});
$("search").addEventListener("input", () => search($("search").value));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") nextHit(event.shiftKey ? -1 : 1);
  else if (event.key === "Escape") { $("search").value = ""; search(""); frame.focus(); }
  else return;
  event.preventDefault();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(document.documentElement.dataset.theme));
addEventListener("resize", () => timeline());

function setMode(name) {
  mode = name;
  document.querySelector(`[name=mode][value=${name}]`).checked = true;
  icicle.show(state, mode);
}

function best(pointed) {
  const one = model.best(state);
  if (one >= 0) select(model.leaf[one], pointed);
}

function besides(direction) {
  const siblings = model.parent[selected] < 0 ? [0] : model.children[model.parent[selected]].filter((one) => state.present[one]);
  return siblings[siblings.indexOf(selected) + direction] ?? selected;
}

const MOVES = {
  ArrowUp: () => Math.max(0, model.parent[selected]),
  ArrowDown: () => model.children[selected].find((one) => state.present[one]) ?? selected,
  ArrowLeft: () => besides(-1),
  ArrowRight: () => besides(1),
  Home: () => 0,
};
const ACTIONS = {
  "/": () => $("search").focus(), " ": play, b: best, Enter: () => zoom(selected), "?": () => { $("keys").open = !$("keys").open; },
  Escape: () => (icicle.zoomed ? zoomOut() : ($("search").value = "", search(""))),
  ",": () => seek(state.count - 1), ".": () => seek(state.count + 1),
};
MODES.forEach((name, k) => { ACTIONS[k + 1] = () => setMode(name); });

document.addEventListener("keydown", (event) => {
  const free = event.target === document.body || event.target === frame;
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], input[type=range]")) return;
  if (!free && (event.key === " " || event.key === "Enter" || event.key in MOVES)) return;  // belongs to what has the focus
  if (event.key in MOVES) select(MOVES[event.key]());
  else if (event.key in ACTIONS) ACTIONS[event.key]();
  else return;
  event.preventDefault();
});

icicle.resize();
theme();
show(model.last, true);
best(true);
window.treePage = { model, icicle, get state() { return state; }, get selected() { return selected; } };
