/* The input series, with what a completion claims about them marked where it is claimed. A verdict shows by colour, by line and by
   sign: ✓ solid, ◐ dashed, ✗ dotted. */

const SIGNS = { good: "✓", part: "◐", bad: "✗" };
const QUANTITIES = ["mean", "median", "minimum", "maximum", "start", "end", "reached"];  // numbers in the series' own unit
const PLOT = { width: 360, height: 78, inset: 5, label: 13 };

const verdictOf = (statement) => (statement.verdict === "true" ? "good" : statement.verdict === "partly true" ? "part" : "bad");

const claimed = (value) => String(Number(value.toPrecision(6))).replace("-", "−");  // as it was written

/* Every judged statement in a reward's evidence, wherever the reward put it. */
function statementsOf(evidence) {
  if (evidence === null || typeof evidence !== "object" || Array.isArray(evidence)) return [];
  return Object.entries(evidence).flatMap(([name, value]) =>
    name === "statements" && Array.isArray(value)
      ? value.filter((one) => one && typeof one === "object" && "text" in one)
      : statementsOf(value));
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function seriesFigures(data, statements) {
  return (data.series || []).map((values, index) => {
    const name = data.series_names[index] || `series ${index + 1}`;
    const about = statements.map((one, k) => ({ one, k, verdict: verdictOf(one) }))
      .filter(({ one }) => !one.measured || one.measured.series === undefined || one.measured.series === name || data.series.length === 1);
    return seriesFigure(values, name, about);
  });
}

function seriesFigure(values, name, about) {
  const known = values.filter((one) => one !== null), low = Math.min(...known), high = Math.max(...known);
  const bands = about.filter(({ one }) => one.claimed && one.claimed.place), rows = rowsOf(bands);
  const top = PLOT.inset + PLOT.label * rows.num, bottom = top + PLOT.height;
  const x = (share) => PLOT.inset + share * (PLOT.width - 2 * PLOT.inset);
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * PLOT.height;
  const ofNumber = (...names) => about.filter(({ one }) => one.claimed && one.claimed.kind === "number" && names.includes(one.claimed.value));
  const periods = ofNumber("period");
  const marks = [
    ...bands.map((band, row) => bandMark(band, rows.of[row], x, bottom)),
    ...ofNumber(...QUANTITIES).map((level, k) => levelMark(level, k, y, [top, bottom])),
    ...periods.map((period, k) => periodMark(period, k, (steps) => x(steps / (values.length - 1)), bottom, values.length)),
    ...about.filter(({ one }) => one.measured && one.measured.position !== undefined)
      .map((point) => pointMark(point, values, x, y)),
  ];
  const plot = svg("svg", { viewBox: `0 0 ${PLOT.width} ${bottom + PLOT.inset + PLOT.label * periods.length}`, role: "img",
    "aria-label": `${name}: ${values.length} steps between ${number(low)} and ${number(high)}` },
    ...marks.filter((one) => one.behind).map((one) => one.behind),
    svg("path", { class: "curve", d: curve(values, x, y) }),
    ...marks.map((one) => one.front));
  return h("figure", {}, plot, h("figcaption", {}, h("b", {}, name.replaceAll("_", " ")),
    ` ${values.length} steps, from ${number(low)} to ${number(high)}`));
}

/* Rows for the bands' labels, so that none covers another. */
function rowsOf(bands) {
  const ends = [], of = bands.map(({ one }) => {
    const start = one.claimed.place[0];
    let row = ends.findIndex((end) => end <= start + 1e-9);
    if (row < 0) row = ends.push(0) - 1;
    ends[row] = Math.max(one.claimed.place[1], start + 0.1);
    return row;
  });
  return { num: ends.length, of };
}

function bandMark({ one, k, verdict }, row, x, bottom) {
  const [start, end] = one.claimed.place, y = PLOT.inset + PLOT.label * row;
  const left = x(start), width = Math.max(x(end) - left, 1.5);
  const attributes = { class: verdict, "data-statement": k };
  return {
    behind: svg("g", attributes, end - start > 0.99 ? "" : svg("rect", { class: "band", x: left, y: y + 10, width, height: bottom - y - 10 })),
    front: svg("g", attributes,
      svg("path", { class: "edge", d: `M${left} ${y + 10.5}h${width}` }),
      svg("text", { x: Math.min(left + 1, PLOT.width - 24), y: y + 8 }, `${k + 1}${SIGNS[verdict]}`)),
  };
}

function levelMark({ one, k, verdict }, order, y, [top, bottom]) {
  const value = one.claimed.number, wanted = y(value), at = Math.min(bottom, Math.max(top, wanted));
  const arrow = wanted > bottom + 1 ? "↓" : wanted < top - 1 ? "↑" : "";
  const right = PLOT.width - PLOT.inset - 108 * (order % 3);
  return {
    front: svg("g", { class: verdict, "data-statement": k },
      svg("path", { class: "edge", d: `M${PLOT.inset} ${at}H${PLOT.width - PLOT.inset}` }),
      svg("text", { x: right, y: at - 3 < top + 8 ? at + 10 : at - 3, "text-anchor": "end" },
        `${k + 1}${SIGNS[verdict]} ${one.claimed.value} ${claimed(value)}${arrow}`)),
  };
}

/* A period as a measure of its length. */
function periodMark({ one, k, verdict }, order, x, bottom, numSteps) {
  const steps = one.claimed.number, left = x(0), right = x(Math.min(steps, numSteps - 1)), y = bottom + PLOT.label * (order + 1);
  return { front: svg("g", { class: verdict, "data-statement": k },
    svg("path", { class: "edge ruler", d: `M${left} ${y - 7}v6M${left} ${y - 4}H${right}M${right} ${y - 7}v6` }),
    svg("text", right > PLOT.width - 80 ? { x: right - 6, y: y - 7, "text-anchor": "end" } : { x: right + 5, y },
      `${k + 1}${SIGNS[verdict]} period ${claimed(steps)}`)) };
}

function pointMark({ one, k, verdict }, values, x, y) {
  const share = Math.min(1, Math.max(0, one.measured.position)), index = Math.round(share * (values.length - 1));
  return { front: svg("g", { class: verdict, "data-statement": k },
    svg("circle", { class: "spot", cx: x(share), cy: y(values[index]), r: 4 })) };
}

/* A line; of a long series the lowest and highest value in every pixel. */
function curve(values, x, y) {
  const step = Math.max(1, Math.floor(values.length / PLOT.width)), points = [];
  for (let start = 0; start < values.length; start += step) {
    const part = values.slice(start, start + step).filter((one) => one !== null);
    if (!part.length) continue;
    const at = x(values.length > 1 ? start / (values.length - 1) : 0);
    for (const one of step > 1 ? [Math.min(...part), Math.max(...part)] : part) points.push(`${at.toFixed(1)} ${y(one).toFixed(1)}`);
  }
  return `M${points.join("L")}`;
}
