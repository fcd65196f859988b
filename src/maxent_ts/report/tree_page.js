/* What holds the page together: selection, zoom, search, playback, keys, theme. */

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const model = new TreeModel(data);
const frame = $("tree");
const icicle = new Icicle(frame, model);
const panel = new Panel($("panel"), model, (node) => select(node));
const MIN_SEEN = 40;  // pixels a node is brought to when it is selected without pointing at it

let state = model.full, mode = "posterior", selected = 0, found = { hits: [], near: null }, hit = -1;

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
  if (!icicle.place) return;  // nothing is shown yet that would have to change its colours
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
  icicle.reveal(selected);
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
