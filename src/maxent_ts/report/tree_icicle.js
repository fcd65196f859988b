/* The picture: one row per level, a piece as wide as its share of the chosen measure, coloured by value. Drawn on a canvas that
   stays in view while a spacer scrolls beneath it, and only where there is something to see: it costs pixels, not nodes. */

const TOP = 22, LINE = 15, EDGES = 9;  // pixels: the root's row, a line of text, what is above and below text
const MIN_TEXT = 64;                   // pixels a completion must be wide to show more than one row of text
const MAX_LINES = 14;
const FONT = "12px system-ui, sans-serif";

class Icicle {
  constructor(frame, model) {
    this.frame = frame;
    this.model = model;
    this.canvas = frame.querySelector("canvas");
    this.spacer = frame.querySelector(".spacer");
    this.context = this.canvas.getContext("2d");
    this.widths = new Map();  // of words and lines in pixels
    this.kept = [];
    this.view = [0, 1];
    this.zoomed = this.selected = 0;
    this.near = null;
    this.fresh = -1;
    this.motion = 0;
    frame.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.resize()).observe(frame);
  }

  /* Show a state; what is on the screen moves there unless `still`. */
  show(state, mode, still) {
    const goal = this.model.layout(state, mode);
    Object.assign(this, { state, mode });
    this.move(goal, this.window(goal, this.zoomed), still);
  }

  zoom(node, still) {
    this.zoomed = node;
    this.move(this.goal, this.window(this.goal, node), still);
  }

  window(place, node) {
    const width = place.right[node] - place.left[node];
    return width > 0 ? [place.left[node], place.right[node]] : [0, 1];
  }

  move(goal, view, still) {
    cancelAnimationFrame(this.motion);
    const from = this.place, fromView = this.view;
    const rest = () => { this.place = goal; this.view = view; this.draw(); };
    this.goal = goal;
    if (!from || still || matchMedia("(prefers-reduced-motion: reduce)").matches) return rest();
    const start = performance.now(), between = (a, b, t) => a + (b - a) * t;
    const step = (now) => {
      const t = Math.min(1, Math.max(0, (now - start) / 260)), eased = 1 - (1 - t) ** 3;
      if (t >= 1) return rest();
      if (goal !== from) {
        this.place = {
          left: goal.left.map((one, i) => between(from.left[i], one, eased)),
          right: goal.right.map((one, i) => between(from.right[i], one, eased)),
        };
      }
      this.view = [between(fromView[0], view[0], eased), between(fromView[1], view[1], eased)];
      this.draw();
      this.motion = requestAnimationFrame(step);
    };
    this.motion = requestAnimationFrame(step);
  }

  theme(name) {
    this.shades = shades(RAMPS[name]);
    const probe = getComputedStyle(this.frame);
    this.colours = { ink: probe.color, accent: probe.outlineColor, paper: probe.backgroundColor, muted: probe.borderTopColor };
  }

  resize() {
    const box = this.frame, ratio = devicePixelRatio || 1;
    this.width = box.clientWidth;
    this.height = box.clientHeight;
    const coarse = matchMedia("(pointer: coarse)").matches || this.width < 520;
    const fitting = Math.floor((this.height - TOP) / Math.max(1, this.model.numLevels - 1));
    this.row = Math.min(84, Math.max(coarse ? 40 : 24, fitting));
    this.spacer.style.height = `${TOP + (this.model.numLevels - 1) * this.row}px`;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.canvas.style.height = `${this.height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.place) this.draw();
  }

  top(level) { return (level === 0 ? 0 : TOP + (level - 1) * this.row) - this.frame.scrollTop; }

  /* Where a node is drawn, in pixels of the frame. Below a completion there is room for its text. */
  box(i) {
    const scale = this.width / (this.view[1] - this.view[0]), level = this.model.level[i];
    const x = Math.max(0, (this.place.left[i] - this.view[0]) * scale);
    const width = Math.min(this.width, (this.place.right[i] - this.view[0]) * scale) - x;
    let height = level === 0 ? TOP : this.row, lines = null;
    if (this.model.completion[i] !== null && level > 0 && width > MIN_TEXT) {
      const most = Math.floor((this.spacer.offsetHeight - TOP - (level - 1) * this.row - EDGES - LINE) / LINE);
      lines = this.lines(i, this.inner(i, width), Math.max(1, Math.min(most, MAX_LINES)));
      height = Math.max(height, EDGES + LINE * (lines.length + 1));
    }
    return { x, y: this.top(level), width, height, lines };
  }

  at(x, y) {
    const { model, place, view } = this, at = view[0] + (x / this.width) * (view[1] - view[0]);
    let i = 0;
    while (i < model.size) {
      if (!(place.left[i] <= at && at < place.right[i])) { i = model.end[i]; continue; }
      const box = this.box(i);
      if (y >= box.y && y < box.y + box.height) return i;
      i++;
    }
    return -1;
  }

  words(i) { return this.model.text[i].trim() || (this.model.completion[i] === null ? "" : "end"); }

  inner(i, width) { return width - 13 - (this.isBest(i) ? 10 : 0); }

  isBest(i) { return this.model.completion[i] !== null && this.model.completion[i] === this.model.data.best; }

  reveal(i) {
    const box = this.box(i), frame = this.frame;
    if (box.y < TOP) frame.scrollTop += box.y - TOP;
    else if (box.y + box.height > this.height) frame.scrollTop += box.y + box.height - this.height;
  }

  shade(value) {
    const [low, high] = this.model.valueRange;
    return this.shades[high > low ? Math.round(((value - low) / (high - low)) * (NUM_SHADES - 1)) : NUM_SHADES >> 1] || this.shades[0];
  }

  draw() {
    if (!this.place || !this.shades) return;
    const { model, context, state, place, view } = this;
    const scale = this.width / (view[1] - view[0]), line = new Set(model.path(this.selected));
    context.globalAlpha = 1;
    context.clearRect(0, 0, this.width, this.height);
    context.textBaseline = "top";
    const columns = new Int32Array(model.numLevels).fill(-1);  // the last pixel of each level that something thin was drawn in
    let i = 0;
    while (i < model.size) {
      const x0 = (place.left[i] - view[0]) * scale, x1 = (place.right[i] - view[0]) * scale;
      const level = model.level[i], y = this.top(level);
      const column = Math.floor(x0), thin = x1 - x0 < 1;
      if (x1 <= 0 || x0 >= this.width || x1 <= x0 || y > this.height || (thin && columns[level] === column)) { i = model.end[i]; continue; }
      columns[level] = column;
      if (y + this.row > 0 || model.completion[i] !== null) this.piece(i, this.box(i), line.has(i));
      i = thin ? model.end[i] : i + 1;  // what is below a piece of less than a pixel cannot be told apart
    }
    context.globalAlpha = 1;
    context.fillStyle = this.colours.accent;
    for (const node of line) {  // the way to the selection shows however narrow it is
      const { x, y, width, height } = this.box(node);
      if (width < 4 && x >= 0 && x <= this.width && state.present[node]) context.fillRect(Math.min(x, this.width - 2), y, 2, height);
    }
    const box = this.box(this.selected);
    context.lineWidth = 2.5;
    context.strokeStyle = this.colours.accent;
    if (state.present[this.selected]) context.strokeRect(box.x + 1.25, box.y + 1.25, Math.max(1, box.width - 2.5), box.height - 2.5);
  }

  piece(i, { x, y, width, height, lines }, onPath) {
    const { context, model, state } = this, shade = this.shade(state.value[i]), leaf = model.completion[i];
    context.globalAlpha = this.near && !this.near[i] ? 0.16 : 1;
    context.fillStyle = shade.fill;
    const gap = width > 4 ? 1 : 0;
    context.fillRect(x, y, Math.max(width - gap, 0.8), height - 1);
    if (onPath && width > 3) {
      context.fillStyle = this.colours.accent;
      context.fillRect(x, y + height - 4, width - gap, 3);
    }
    if (model.arrival[i] === this.fresh && width > 3) {
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 1.5;
      context.setLineDash([4, 3]);
      context.strokeRect(x + 1, y + 1, width - gap - 2, height - 3);
      context.setLineDash([]);
    }
    context.fillStyle = shade.ink;
    if (this.isBest(i) && width > 16) this.star(x + width - gap - 8, y + 9);
    if (width < 20) return;
    context.font = FONT;
    if (i === 0) return void context.fillText(this.clipped(`all ${state.count} completions`, width - 13), x + 6, y + 4);
    const shown = lines || this.lines(i, this.inner(i, width), Math.max(1, Math.floor((height - EDGES) / LINE)));
    shown.forEach((one, k) => context.fillText(one, x + 6, y + 5 + LINE * k));
    if (lines) {
      context.font = `600 ${FONT}`;
      const one = model.data.completions[leaf];
      context.fillText(this.clipped(`${number(one.reward)}${one.finish_reason === "length" ? " cut" : ""}`, width - 13), x + 6, y + height - 20);
    }
  }

  star(x, y) {
    const { context } = this;
    context.beginPath();
    for (let k = 0; k < 10; k++) {
      const radius = k % 2 ? 2.4 : 5.5, angle = (Math.PI * k) / 5 - Math.PI / 2;
      context.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
    }
    context.fill();
  }

  measure(text) {
    let width = this.widths.get(text);
    if (width === undefined) this.widths.set(text, (width = this.context.measureText(text).width));
    return width;
  }

  /* The lines of a node's text, kept until the node has another width. */
  lines(i, width, most) {
    const kept = this.kept[i];
    if (kept && kept.width === width && kept.most === most) return kept.lines;
    this.context.font = FONT;
    const lines = this.wrapped(this.words(i), width, most);
    this.kept[i] = { width, most, lines };
    return lines;
  }

  clipped(text, width) {
    if (this.measure(text) <= width) return text;
    let count = Math.max(1, Math.floor((text.length * width) / this.measure(text)));
    while (count > 0 && this.measure(`${text.slice(0, count)}…`) > width) count--;
    return count > 0 ? `${text.slice(0, count)}…` : "";
  }

  wrapped(text, width, numLines) {
    const words = text.split(/\s+/), lines = [];
    let line = "";
    for (let k = 0; k < words.length; k++) {
      const longer = line ? `${line} ${words[k]}` : words[k];
      if (this.measure(longer) <= width) { line = longer; continue; }
      if (lines.length === numLines - 1) return [...lines, this.clipped(`${longer} ${words.slice(k + 1, k + 12).join(" ")}`, width)];
      if (line) lines.push(line);
      line = words[k];
      if (this.measure(line) > width) line = this.clipped(line, width);
    }
    return [...lines, line];
  }
}
