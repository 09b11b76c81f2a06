"use strict";

// Training on the linearised model, as the Python module undertow.maths.linearised simulates it: the same recurrence, on
// inner products that the page holds in 16 bits. Rows 2i and 2i + 1 are the chosen and the rejected response of pair i.

undertow.linearised = (() => {
  const LEVELS = 32767;
  const BENT = 0.5; // see undertow.maths.linearised.errors
  const DRAWS = 2;

  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer;
  const floats = (text) => Float64Array.from(new Float32Array(bytes(text)));
  const integers = (text) => new Int16Array(bytes(text));

  /** `K` of all rows with those of the trained pairs, `columns` of them: `of[j][i]` is row i with row j. */
  function matrix({ values, norms }, columns) {
    const [given, sizes] = [integers(values), floats(norms)];
    const of = Array.from({ length: columns }, () => new Float64Array(sizes.length));
    let at = 0;
    for (let i = 0; i < sizes.length; i += 1) {
      for (let j = 0; j < Math.min(i + 1, columns); j += 1, at += 1) {
        const value = (given[at] / LEVELS) * sizes[i] * sizes[j];
        of[j][i] = value;
        if (i < columns) of[i][j] = value;
      }
    }
    return { of, squares: sizes.map((size) => size * size) };
  }

  /** The page's numbers, unpacked once. */
  function unpacked(data) {
    const columns = 2 * data.pairs;
    return {
      ...data,
      columns,
      rows: columns + 2 * data.held_out,
      products: matrix(data.products, columns),
      norms: matrix(data.norms, columns),
      logps: floats(data.logps),
      reference: floats(data.reference),
      tokens: floats(data.tokens),
      curvature: data.curvature && {
        here: floats(data.curvature.here), elsewhere: floats(data.curvature.elsewhere), length: data.curvature.length,
      },
      filters: data.filters.map((filter) => ({
        ...filter,
        kept: integers(filter.kept),
        shares: floats(filter.shares),
        orders: filter.orders.map(({ pairs, own }) => ({ pairs: integers(pairs), own: own && integers(own) })),
      })),
    };
  }

  /* ---- losses ------------------------------------------------------------------------------------------------- */

  const sigmoid = (u) => 1 / (1 + Math.exp(-u));

  /** `(d_w, d_l)` of a pair: see the classes of these names in undertow.maths.losses. */
  const WEIGHTS = {
    dpo: ({ beta }, pair) => { const d = beta * sigmoid(-beta * corrected(pair)); return [d, d]; },
    ipo: ({ tau }, pair) => { const d = 2 * (0.5 / tau - corrected(pair)); return [d, d]; },
    simpo: ({ beta, gamma }, { a, b, n, m }) => {
      const d = beta * sigmoid(gamma - beta * (a / n - b / m));
      return [d / n, d / m];
    },
    cpo: ({ beta, lam }, { a, b }) => { const d = beta * sigmoid(-beta * (a - b)); return [d + lam, d]; },
    rpo: ({ beta, lam, averaged }, pair) => {
      const d = beta * sigmoid(-beta * corrected(pair));
      return [d + (averaged ? lam / pair.n : lam), d];
    },
  };
  const corrected = ({ a, b, refA, refB }) => a - refA - (b - refB);

  /** A pair with its responses changed by so many nats. */
  function pairOf(data, i, chosen, rejected) {
    return {
      a: data.logps[2 * i] + chosen, b: data.logps[2 * i + 1] + rejected,
      refA: data.reference[2 * i], refB: data.reference[2 * i + 1],
      n: data.tokens[2 * i], m: data.tokens[2 * i + 1],
    };
  }

  /* ---- the recurrence ------------------------------------------------------------------------------------------ */

  /** `c_t` of undertow.maths.linearised.scale, step by step. */
  function runningScale({ name, alpha, betas }) {
    let [v, step] = [0, 0];
    const momentum = name === "adamw" ? betas[0] : 0;
    return {
      momentum,
      advance(square) {
        step += 1;
        if (name === "sgd") return 1;
        const decay = name === "rmsprop" ? alpha : betas[1];
        v = decay * v + (1 - decay) * square;
        const now = name === "rmsprop" ? v : v / (1 - decay ** step);
        return now > 0 ? 1 / Math.sqrt(now) : 0;
      },
      correction: () => (momentum ? 1 - momentum ** step : 1),
    };
  }

  /** `K v` of a pair's own block, and `vᵀ K v`. */
  const block = ({ of }, i, [v, w]) => [
    of[2 * i][2 * i] * v + of[2 * i + 1][2 * i] * w, of[2 * i][2 * i + 1] * v + of[2 * i + 1][2 * i + 1] * w];
  const square = (products, i, [v, w]) => { const [x, y] = block(products, i, [v, w]); return v * x + w * y; };

  /**
   * One run in one order. `watched(step)` says after which steps `stand` is told; the last one always is.
   * A pair that stands in for another acts on all but itself.
   */
  function train(data, { filter, order, rates, lr, weights, nats }, stand) {
    const { products, norms, columns, rows } = data;
    const scale = runningScale(data.optimiser);
    const state = new Float64Array(rows);
    const heading = scale.momentum ? new Float64Array(rows) : null;
    const standsIn = order.own !== null;
    // What the pairs did as themselves, and as stand-ins; with momentum also the average of what they do.
    const [taken, average] = [0, 1].map(() => [new Float64Array(columns), new Float64Array(columns)]);
    const apart = { length: 0, crossed: 0, moving: 0 };
    let [length, at] = [0, 0];
    const bend = (row) => (nats && data.curvature.length ? (nats[row] * length) / data.curvature.length : 0);

    const ownRemoved = (i, own) => block(products, i, [0, 1].map((side) =>
      taken[1][2 * i + side] + (own ? 0 : taken[0][2 * i + side])));

    rates.forEach((rate, step) => {
      const size = filter.sizes[step];
      const pairs = Array.from(order.pairs.subarray(at, at + size));
      const own = standsIn ? Array.from(order.own.subarray(at, at + size)) : pairs.map(() => 1);
      const a = pairs.map((i, k) => {
        const share = filter.shares[at + k];
        let [chosen, rejected] = [state[2 * i], state[2 * i + 1]];
        if (standsIn) {
          const mine = ownRemoved(i, own[k]);
          chosen -= mine[0];
          rejected -= mine[1];
        }
        const [d, e] = weights(pairOf(data, i, chosen + bend(2 * i), rejected + bend(2 * i + 1)));
        return [share * d, -share * e];
      });
      at += size;
      const entries = pairs.flatMap((i, k) => [[2 * i, a[k][0]], [2 * i + 1, a[k][1]]]);
      let squared = 0;
      for (const [i, x] of entries) for (const [j, y] of entries) squared += x * y * norms.of[j][i];
      squared = Math.max(squared, 0);
      const norm = Math.sqrt(squared);
      const kept = data.clip !== null && norm > 0 ? Math.min(1, data.clip / norm) : 1;
      const c = scale.advance((kept * kept * squared) / data.mean_square);
      const move = (lr * rate * c) / scale.correction();

      const toward = heading ?? state;
      const factor = heading ? (1 - scale.momentum) * kept : move * kept;
      if (heading) {
        for (let r = 0; r < rows; r += 1) heading[r] *= scale.momentum;
        for (const side of average) for (let r = 0; r < columns; r += 1) side[r] *= scale.momentum;
      }
      entries.forEach(([row, x], k) => {
        const of = products.of[row];
        for (let r = 0; r < rows; r += 1) toward[r] += factor * x * of[r];
        (heading ? average : taken)[own[k >> 1] ? 0 : 1][row] += factor * x;
      });
      if (heading) {
        for (let r = 0; r < rows; r += 1) state[r] += move * heading[r];
        taken.forEach((side, s) => { for (let r = 0; r < columns; r += 1) side[r] += move * average[s][r]; });
      }
      length = 0;
      for (let r = 0; r < columns; r += 1) length += (taken[0][r] + taken[1][r]) * state[r];
      if (standsIn) length -= movedApart(data, taken, apart, { pairs, own, a, kept, move, momentum: scale.momentum });
      stand(step + 1, () => standing(data, state, taken, standsIn, bend, length));
    });
  }

  /** What `wᵀKw` counts of a pair's parts together, though they stand for pairs that differ. */
  function movedApart(data, taken, apart, { pairs, own, a, kept, move, momentum }) {
    let squares = 0;
    pairs.forEach((i, k) => { if (!own[k]) squares += kept * kept * square(data.products, i, a[k]); });
    apart.moving = momentum ** 2 * apart.moving + (1 - momentum) ** 2 * squares;
    apart.crossed *= momentum;
    apart.length += 2 * move * apart.crossed + move ** 2 * apart.moving;
    apart.crossed += move * apart.moving;
    let together = 0;
    for (let i = 0; i < data.pairs; i += 1) {
      const [mine, other] = taken.map((side) => [side[2 * i], side[2 * i + 1]]);
      together += square(data.products, i, [mine[0] + other[0], mine[1] + other[1]]) - square(data.products, i, mine);
    }
    return together - apart.length;
  }

  /** Changes of all rows in nats, and how probable it is that each stands lower than at the start. */
  function standing(data, state, taken, standsIn, bend, length) {
    const linear = Float64Array.from(state);
    if (standsIn) {
      for (let i = 0; i < data.pairs; i += 1) {
        const mine = block(data.products, i, [taken[1][2 * i], taken[1][2 * i + 1]]);
        linear[2 * i] -= mine[0];
        linear[2 * i + 1] -= mine[1];
      }
    }
    const changes = linear.map((change, row) => change + bend(row));
    const below = changes.map((change, row) => {
      const drawn = data.sketch
        ? (DRAWS * (data.products.squares[row] * Math.max(length, 0) + linear[row] ** 2)) / data.sketch : 0;
      const error = Math.sqrt(drawn + (BENT * bend(row)) ** 2);
      return error > 0 ? normal(-change / error) : Number(change < 0);
    });
    return { changes, below };
  }

  /** The standard normal distribution up to z, to 1.5e-7 (Abramowitz and Stegun 7.1.26). */
  function normal(z) {
    const x = Math.abs(z) / Math.SQRT2;
    const t = 1 / (1 + 0.3275911 * x);
    const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    const tail = 0.5 * series * Math.exp(-x * x);
    return z < 0 ? tail : 1 - tail;
  }

  /* ---- what a page asks ----------------------------------------------------------------------------------------- */

  const POINTS = 60;

  /**
   * A run of the page's numbers: `{loss, parameters, lr, epochs, filter}`, the last two by their place in the lists.
   * Means over all pairs, trained on or left out, and over the held-out ones, after steps at even distances.
   */
  function simulate(data, { loss, parameters, lr, epochs, filter: number }) {
    const filter = data.filters[number];
    const rates = filter.rates[epochs];
    const nats = data.curvature && (number ? data.curvature.elsewhere : data.curvature.here);
    const weights = (pair) => WEIGHTS[loss](parameters, pair);
    const count = Math.min(POINTS, rates.length);
    const watched = new Set(Array.from({ length: count }, (_, k) => Math.round((rates.length * (k + 1)) / count)));
    const curve = new Map();
    for (const order of filter.orders) {
      train(data, { filter, order, rates, lr, weights, nats }, (step, standingNow) => {
        if (!watched.has(step)) return;
        const { changes, below } = standingNow();
        const point = { step, all: means(data, changes, below, 0, data.pairs) };
        if (data.held_out) point.held_out = means(data, changes, below, data.pairs, data.pairs + data.held_out);
        curve.set(step, [...(curve.get(step) ?? []), point]);
      });
    }
    return [...curve.values()].map(meanOf);
  }

  function means(data, changes, below, from, to) {
    const sum = { chosen: 0, rejected: 0, displaced: 0, accuracy: 0 };
    for (let i = from; i < to; i += 1) {
      const [chosen, rejected] = [changes[2 * i], changes[2 * i + 1]];
      sum.chosen += chosen;
      sum.rejected += rejected;
      sum.displaced += below[2 * i];
      sum.accuracy += Number(corrected(pairOf(data, i, chosen, rejected)) > 0);
    }
    return Object.fromEntries(Object.entries(sum).map(([name, value]) => [name, value / (to - from)]));
  }

  /** The mean over the orders. */
  function meanOf(points) {
    const mean = (group) => Object.fromEntries(Object.keys(points[0][group]).map((name) =>
      [name, points.reduce((sum, point) => sum + point[group][name], 0) / points.length]));
    return { step: points[0].step, all: mean("all"), ...(points[0].held_out ? { held_out: mean("held_out") } : {}) };
  }

  return { unpacked, simulate, WEIGHTS };
})();
