/* What there is to say about one node. Every text goes in as text, never as markup. */

const NUM_BELOW = 12;  // completions listed below an inner node

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((one) => one !== null && one !== undefined));
  return element;
}

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value), fixed = size >= 1000 ? value.toFixed(0) : size >= 100 ? value.toFixed(1) : value.toFixed(digits);
  return fixed.replace(/^-(?=[0.]*$)/, "").replace("-", "−");
}

function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.0001) return "below 0.0001 %";
  if (value < 100 && value > 99.99) return "above 99.99 %";
  return `${value > 0 && value < 0.1 ? value.toPrecision(2) : value.toFixed(value < 10 ? 2 : 1)} %`;
}

const nats = (logprob) => `${number(logprob, 2)} nats`;
const FINISH = { eos: "ended by itself", stop: "ended by a stop text", length: "cut at the maximal length" };

class Panel {
  constructor(element, model, select) {
    // What is read aloud stays in the document; only its content changes.
    const said = h("div", { class: "said", "aria-live": "polite" }), more = h("div", {});
    element.append(said, more);
    Object.assign(this, { element, model, select, said, more });
    const light = (event) => {
      const mark = event.target.closest && event.target.closest("[data-statement]");
      const wanted = mark && event.type !== "mouseleave" ? mark.dataset.statement.split(" ") : [];
      for (const one of element.querySelectorAll("[data-statement]")) {
        one.classList.toggle("hot", one.dataset.statement.split(" ").some((k) => wanted.includes(k)));
      }
    };
    for (const kind of ["mouseover", "focusin", "mouseleave"]) element.addEventListener(kind, light);
  }

  show(state, i, shade) {
    const { model } = this, leaf = model.completion[i], completion = leaf === null ? null : model.data.completions[leaf];
    const statements = completion ? statementsOf(completion.evidence || {}) : [];
    this.said.replaceChildren(...this.heading(state, i, completion, shade));
    this.more.replaceChildren(
      this.text(i, completion, statements),
      this.facts(state, i, completion),
      ...(completion ? [] : this.below(state, i, shade)),
      ...this.series(statements),
      ...(completion ? this.reward(completion, statements) : []),
    );
    this.element.parentElement.scrollTop = 0;
  }

  heading(state, i, completion, shade) {
    const { data, completion: at } = this.model, tags = [];
    if (completion && at[i] === data.best) tags.push(h("span", { class: "tag" }, "★ highest reward"));
    if (completion && at[i] === data.returned) tags.push(h("span", { class: "tag" }, `◆ returned by ${data.method}`));
    const what = completion ? `Completion ${at[i] + 1} of ${this.model.last}` : i === 0 ? "All completions" : "A shared beginning";
    const main = completion ? `reward ${number(completion.reward)}` : `value ${number(state.value[i])}`;
    return [
      h("h2", {}, what, ...tags),
      h("p", { class: "lead" }, h("span", { class: "swatch", style: `background:${shade(state.value[i]).fill}` }),
        h("b", {}, main), ` ${percent(state.shares.posterior[i])} of the posterior`),
    ];
  }

  /* What stands above the node, pale; its own piece; and claims underlined. */
  text(i, completion, statements) {
    const { model } = this, above = i > 0 ? model.prefix(model.parent[i]) : "";
    const whole = completion ? completion.text : above + model.text[i];
    if (!whole.trim()) return h("p", { class: "text muted" }, i === 0 ? "Nothing is written yet: the prompt ends here." : "(no text)");
    const edges = new Set([0, Math.min(above.length, whole.length), whole.length]);
    for (const { span } of statements) if (span) for (const one of span) edges.add(Math.min(one, whole.length));
    const cuts = [...edges].sort((a, b) => a - b), pieces = [];
    for (let k = 0; k + 1 < cuts.length; k++) {
      const [start, end] = [cuts[k], cuts[k + 1]], part = k ? whole.slice(start, end) : whole.slice(start, end).trimStart();
      const found = statements.map((one, index) => [one, index]).filter(([{ span }]) => span && span[0] <= start && end <= span[1]);
      const own = end > above.length ? "own" : "above";
      if (!found.length) { pieces.push(h("span", { class: own }, part)); continue; }
      const worst = ["bad", "part", "good"].find((verdict) => found.some(([one]) => verdictOf(one) === verdict));
      const last = found.filter(([{ span }]) => span[1] === end).map(([, index]) => index + 1);
      pieces.push(h("span", { class: `claim ${own} ${worst}`, "data-statement": found.map(([, index]) => index).join(" ") }, part,
        last.length ? h("sup", {}, last.join(",")) : null));
    }
    return h("p", { class: "text" }, ...pieces);
  }

  facts(state, i, completion) {
    const { model } = this, { nodes } = model.data, bounds = model.bounds(state, i), rows = [];
    const row = (name, value, more) => rows.push(h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, more) : null));
    row("log p", nats(model.pathLogprob[i]), i > 0 ? `${nats(nodes.logprob[i])} of them here` : "of nothing yet");
    if (!completion) {
      row("value", number(state.value[i]), model.data.tilt > 0 ? "log W / λ, a soft mean" : "the mean reward");
      if (bounds) row("bracket", `${number(bounds[0])} to ${number(bounds[1])}`, "what is certain");
      row("best below", number(model.bestBelow(state, i)), "reward");
      row("visits", String(state.visits[i]), "completions below");
      row("not seen", percent(state.open[i]), "of p from here on");
    } else {
      row("ending", FINISH[completion.finish_reason] || completion.finish_reason);
    }
    row("posterior", percent(state.shares.posterior[i]), "of what was evaluated");
    row("prior", percent(state.shares.prior[i]), "by the model alone");
    const start = model.tokensAbove[i], length = nodes.num_tokens[i];
    if (length) row("tokens", length > 1 ? `${start + 1} to ${start + length}` : String(start + 1), "of the completion");
    return h("dl", {}, ...rows);
  }

  reward(completion, statements) {
    const evidence = completion.evidence || {}, found = [];
    if (statements.length) {
      found.push(h("ol", { class: "claims" }, ...statements.map((one, k) => {
        const verdict = verdictOf(one), { series, ...measured } = one.measured || {};
        const name = series !== undefined && this.model.data.series.length > 1 ? `${series.replaceAll("_", " ")}: ` : "";
        return h("li", { class: verdict, "data-statement": k, tabindex: 0 }, h("span", { class: "verdict" }, `${SIGNS[verdict]} ${one.verdict}`),
          h("q", {}, one.text), h("small", {}, name + scalars(measured)));
      })));
    }
    if (evidence.parts && Object.keys(evidence.parts).length) {
      found.push(h("h3", {}, "Reward"), h("div", { class: "parts" },
        ...Object.entries(evidence.parts).flatMap(([name, part]) => this.part(name, part, 0))));
    }
    if (!found.length && Object.keys(evidence).length > 1) {
      found.push(h("h3", {}, "Evidence"), h("pre", {}, JSON.stringify(evidence, null, 2)));
    }
    return found;
  }

  part(name, part, depth) {
    const plain = part === null || typeof part !== "object", value = plain ? part : part.value;
    const { parts, weight, ...rest } = plain ? {} : part;
    delete rest.value;
    const inside = typeof value === "number" && value >= 0 && value <= 1;
    return [
      h("div", { class: `part depth${depth}` }, h("span", {}, name.replaceAll("_", " "), weight === undefined ? null : h("small", {}, ` × ${number(weight, 2)}`)),
        h("span", { class: "bar", "aria-hidden": "true" }, inside ? h("i", { style: `width:${100 * value}%` }) : null),
        h("b", {}, typeof value === "number" ? number(value) : String(value ?? "–")), scalars(rest) ? h("small", {}, scalars(rest)) : null),
      ...(depth < 2 && parts ? Object.entries(parts).flatMap(([inner, one]) => this.part(inner, one, depth + 1)) : []),
    ];
  }

  below(state, i, shade) {
    const found = this.model.below(state, i);
    if (!found.length) return [];
    const rest = found.length > NUM_BELOW ? h("p", { class: "muted" }, `and ${found.length - NUM_BELOW} more`) : null;
    return [h("h3", {}, "Completions below, the heaviest first"), h("ul", { class: "below" }, ...found.slice(0, NUM_BELOW).map((k) => {
      const one = this.model.data.completions[this.model.completion[k]], start = this.model.prefix(i).length;
      return h("li", {}, h("button", { type: "button", onclick: () => this.select(k) },
        h("span", { class: "swatch", style: `background:${shade(state.value[k]).fill}` }), h("b", {}, number(one.reward)),
        h("small", {}, percent(state.shares.posterior[k])), h("span", { class: "words" }, `${start ? "…" : ""}${one.text.slice(start).trim() || "(end)"}`)));
    })), rest].filter(Boolean);
  }

  series(statements) {
    const figures = seriesFigures(this.model.data, statements);
    if (!figures.length) return [];
    const key = statements.length ? h("p", { class: "muted key" }, "Marked: what is claimed (✓ true, ◐ partly, ✗ false); ○ where it was measured.") : null;
    return [h("h3", {}, statements.length ? "The series, and what is claimed about them" : "The series"), ...figures, key].filter(Boolean);
  }
}

/* The plain values of some evidence, in a line. */
function scalars(evidence) {
  return Object.entries(evidence)
    .filter(([, value]) => typeof value === "number" || typeof value === "boolean" || (typeof value === "string" && value))
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" && !Number.isInteger(value) ? number(value) : value}`).join(", ");
}
