/* The tree as it was after any number of completions. Nodes come depth first, so a node's subtree is a range of indices.

   W(s) = Σ p(a|s) W(sa) / Σ p(a|s), a leaf's is exp(λ r); see maxent_ts/tree.py. In a node that holds a chain of tokens the
   siblings compare by the first token's p (`first`), while the prior mass below it counts the whole chain (`logprob`). */

const MODES = ["posterior", "prior", "visits", "value"];

function logAdd(a, b) {
  if (a < b) [a, b] = [b, a];
  return b === -Infinity ? a : a + Math.log1p(Math.exp(b - a));
}

class TreeModel {
  constructor(data) {
    const nodes = data.nodes, size = nodes.parent.length;
    Object.assign(this, { data, size, text: nodes.text, parent: nodes.parent, completion: nodes.completion });
    this.last = data.completions.length;
    this.level = new Int32Array(size);
    this.end = new Int32Array(size);          // one behind the last node of the subtree
    this.tokensAbove = new Int32Array(size);
    this.arrival = new Int32Array(size).fill(this.last);  // the first completion at or below the node
    this.pathLogprob = new Float64Array(size);
    this.children = Array.from({ length: size }, () => []);
    this.leaf = new Array(this.last).fill(0);
    for (let i = 1; i < size; i++) {
      const above = this.parent[i];
      this.children[above].push(i);
      this.level[i] = this.level[above] + 1;
      this.tokensAbove[i] = this.tokensAbove[above] + nodes.num_tokens[above];
      this.pathLogprob[i] = this.pathLogprob[above] + nodes.logprob[i];
    }
    for (let i = size - 1; i >= 0; i--) {
      this.end[i] = Math.max(this.end[i], i + 1);
      if (this.completion[i] !== null) { this.arrival[i] = this.completion[i]; this.leaf[this.completion[i]] = i; }
      if (i > 0) {
        const above = this.parent[i];
        this.end[above] = Math.max(this.end[above], this.end[i]);
        this.arrival[above] = Math.min(this.arrival[above], this.arrival[i]);
      }
    }
    // One order for all measures and all moments, so that a piece stays where it is: the heaviest first.
    for (const found of this.children) found.sort((a, b) => nodes.mass[b] - nodes.mass[a]);
    this.numLevels = this.level.reduce((most, one) => Math.max(most, one), 0) + 1;
    this.full = this.at(this.last);
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < size; i++) {
      low = Math.min(low, this.full.value[i]);
      high = Math.max(high, this.full.value[i]);
    }
    this.valueRange = [low, high];
  }

  /* The state after the first `count` completions. The last state is the stored one, unless it is to be computed here. */
  at(count, stored = true) {
    const { nodes, tilt, completions } = this.data, size = this.size, complete = count >= this.last;
    const column = () => new Float64Array(size);
    const state = {
      count, complete, present: new Uint8Array(size), visits: new Int32Array(size), value: column(),
      logValue: column(), logKnown: column().fill(-Infinity), open: column().fill(1),
      shares: { posterior: column(), prior: column(), visits: column(), value: column() },
    };
    const { present, visits, value, logValue, logKnown, open } = state;
    const first = nodes.first_logprob, whole = nodes.logprob;
    for (let i = size - 1; i >= 0; i--) {
      const leaf = this.completion[i];
      if (leaf !== null) {
        if (leaf >= count) continue;
        const reward = completions[leaf].reward;
        present[i] = visits[i] = 1;
        logValue[i] = logKnown[i] = tilt * reward;
        value[i] = reward;
        open[i] = 0;
        continue;
      }
      let norm = -Infinity, sum = -Infinity, known = -Infinity, mass = 0, inside = 0, mean = 0;
      for (const c of this.children[i]) {
        if (!present[c]) continue;
        norm = logAdd(norm, first[c]);
        sum = logAdd(sum, first[c] + logValue[c]);
        known = logAdd(known, whole[c] + logKnown[c]);
        const p = Math.exp(whole[c]), q = Math.exp(first[c]);
        mass += p;
        inside += p * open[c];
        mean += q * value[c];
        visits[i] += visits[c];
      }
      if (norm === -Infinity) continue;
      present[i] = 1;
      logValue[i] = sum - norm;
      logKnown[i] = known;
      open[i] = Math.max(0, 1 - mass) + inside;
      value[i] = tilt > 0 ? logValue[i] / tilt : mean / Math.exp(norm);  // the limit of log W / λ at λ = 0
    }
    present[0] = 1;
    if (complete && stored) this.useStored(state);
    this.share(state);
    if (complete && stored) state.shares.posterior.set(nodes.mass);
    return state;
  }

  /* What the search itself computed, more exactly than it can be done from rounded numbers. */
  useStored(state) {
    const { nodes, tilt } = this.data, number = (log) => (log === null ? -Infinity : log);
    for (let i = 0; i < this.size; i++) {
      state.visits[i] = nodes.visits[i];
      state.logValue[i] = number(nodes.log_value[i]);
      state.logKnown[i] = number(nodes.log_known[i]);
      state.open[i] = Math.exp(number(nodes.log_open[i]));
      if (tilt > 0) state.value[i] = state.logValue[i] / tilt;
    }
  }

  share(state) {
    const first = this.data.nodes.first_logprob, { shares, present, logValue, visits } = state;
    for (const mode of MODES) shares[mode][0] = 1;
    for (let i = 0; i < this.size; i++) {
      let posterior = -Infinity, prior = -Infinity, value = -Infinity;
      for (const c of this.children[i]) {
        if (!present[c]) continue;
        posterior = logAdd(posterior, first[c] + logValue[c]);
        prior = logAdd(prior, first[c]);
        value = logAdd(value, logValue[c]);
      }
      for (const c of this.children[i]) {
        if (!present[c]) continue;
        shares.posterior[c] = shares.posterior[i] * Math.exp(first[c] + logValue[c] - posterior);
        shares.prior[c] = shares.prior[i] * Math.exp(first[c] - prior);
        shares.value[c] = shares.value[i] * Math.exp(logValue[c] - value);
        shares.visits[c] = visits[c] / visits[0];
      }
    }
  }

  /* Left and right edge of every node, between 0 and 1. What has not been seen yet has no width. */
  layout(state, mode) {
    const left = new Float64Array(this.size), right = new Float64Array(this.size);
    right[0] = 1;
    for (let i = 0; i < this.size; i++) {
      let x = left[i];
      for (const c of this.children[i]) {
        left[c] = x;
        if (state.present[c]) x = Math.min(x + state.shares[mode][c], right[i]);
        right[c] = x;
      }
    }
    return { left, right };
  }

  /* Bounds of log W / λ from what is known: [log(K + M exp(λ r_min)), log(K + M exp(λ r_max))] / λ. */
  bounds(state, i) {
    const { tilt, reward_range: [low, high] } = this.data;
    if (tilt === 0) return null;
    const known = state.logKnown[i], unknown = Math.log(state.open[i]);
    if (unknown === -Infinity) return [known / tilt, known / tilt];
    return [
      (low === null ? known : logAdd(known, unknown + tilt * low)) / tilt,
      (high === null ? Infinity : logAdd(known, unknown + tilt * high)) / tilt,
    ];
  }

  path(i) {
    const found = [];
    for (; i >= 0; i = this.parent[i]) found.push(i);
    return found.reverse();
  }

  prefix(i) { return this.path(i).map((one) => this.text[one]).join(""); }

  /* Completions below a node that there are in a state, the heaviest first. */
  below(state, i) {
    const found = [];
    for (let k = i; k < this.end[i]; k++) if (this.completion[k] !== null && state.present[k]) found.push(k);
    return found.sort((a, b) => state.shares.posterior[b] - state.shares.posterior[a]);
  }

  bestBelow(state, i) {
    let best = -Infinity;
    for (let k = i; k < this.end[i]; k++) {
      const leaf = this.completion[k];
      if (leaf !== null && state.present[k]) best = Math.max(best, this.data.completions[leaf].reward);
    }
    return best;
  }

  /* The best completion in a state: the highest reward, the likelier of equals. */
  best(state) {
    let best = -1;
    const all = this.data.completions;
    for (let c = 0; c < state.count; c++) {
      const better = best < 0 || all[c].reward > all[best].reward;
      if (better || (all[c].reward === all[best].reward && all[c].logprob > all[best].logprob)) best = c;
    }
    return best;
  }

  /* The nodes in whose piece of text a match ends, and which nodes are above, at or below one. */
  search(query) {
    const wanted = query.toLowerCase(), hits = [], near = new Uint8Array(this.size), tail = new Array(this.size);
    for (let i = 0; i < this.size; i++) {
      const before = i > 0 ? tail[this.parent[i]] : "";
      const here = before + this.text[i].toLowerCase();
      tail[i] = wanted.length > 1 ? here.slice(-(wanted.length - 1)) : "";
      if (here.includes(wanted)) {
        hits.push(i);
        for (const above of this.path(i)) near[above] = 1;
        near.fill(1, i, this.end[i]);
      }
    }
    return { hits, near };
  }
}
