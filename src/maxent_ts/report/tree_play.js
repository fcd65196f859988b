/* The search played completion by completion, and the rewards in the order of their arrival. */

const CROWD = 200;  // completions from which on their dots are drawn small
const PLAYTIME = 15000;  // milliseconds; what is too much for one by one in this time leaps
let timer = 0;

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
  else select(count >= model.last && !timer ? selected : model.leaf[count - 1], true);
}

function play() {
  if (timer) return stop();
  const pause = Math.min(1100, Math.max(40, PLAYTIME / model.last)), quick = pause < 200;
  const begin = state.complete ? 0 : state.count, start = performance.now();
  let count = begin;
  $("play").setAttribute("aria-pressed", "true");
  $("play").textContent = "Pause";
  zoom(0);
  quiet(true);
  const next = () => {
    const due = begin + Math.floor(((performance.now() - start) / PLAYTIME) * model.last);
    count = Math.min(model.last, quick ? Math.max(count + 1, due) : count + 1);
    step(count, quick);
    if (count >= model.last) stop();
  };
  timer = setInterval(next, pause);
  next();
}

/* Nobody wants every step of the playback read aloud. */
function quiet(on) {
  for (const one of [$("caption"), panel.said]) one.setAttribute("aria-live", on ? "off" : "polite");
}

function stop() {
  clearInterval(timer);
  timer = 0;
  quiet(false);
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
    context.arc(x(k), y(reward), model.last > CROWD ? 2 : 4, 0, 2 * Math.PI);
    context.fill();
    if (model.last <= CROWD || k === state.count - 1) context.stroke();
  });
  context.globalAlpha = 1;
}
