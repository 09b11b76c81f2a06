"use strict";

// The page of a forecast: other runs, simulated here as the sliders move.

(() => {
  const { data, number, percent, minus, view, linearised } = undertow;
  if (!data.live) return;

  const runs = linearised.unpacked(data.live);
  const { own } = data.live;
  const at = (id) => document.getElementById(`live-${id}`);
  const say = (id, text) => { if (at(id)) at(id).textContent = text; };
  const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

  /** A value as it is typed: 0.1, 5e-6. */
  const typed = (value) => (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value));

  /* ---- what the sliders say ------------------------------------------------------------------------------------ */

  const STRENGTH = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5];
  const WEIGHT = [0, 0.1, 0.3, 1, 3, 10];
  const RATES = [0.125, 0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4];
  const times = (value, factor) => (factor === 1 ? value : Number((value * factor).toPrecision(2)));
  const strengthOf = (loss) => ("tau" in data.live.losses[loss] ? "tau" : "beta");
  const shares = [...new Set(runs.filters.map((filter) => filter.percent))];

  /** The run that is asked for: names and numbers as the command gives them. */
  function asked() {
    const loss = at("loss").value;
    const parameters = { ...data.live.losses[loss] };
    const strength = strengthOf(loss);
    parameters[strength] = times(parameters[strength], STRENGTH[at("strength").value]);
    if ("lam" in parameters) parameters.lam = times(parameters.lam || 0.1, WEIGHT[at("weight").value]);
    const [share, by] = [shares[at("share").value], at("by").value];
    const filter = share ? runs.filters.findIndex((one) => one.by === by && one.percent === share) : 0;
    return { loss, parameters, lr: times(data.live.lr, RATES[at("lr").value]), epochs: Number(at("epochs").value), filter, share, by };
  }

  const AS_FORECAST = { strength: STRENGTH.indexOf(1), weight: WEIGHT.indexOf(1), lr: RATES.indexOf(1), epochs: data.live.epochs.indexOf(own.epochs), share: 0 };
  const STOPS = { strength: STRENGTH, weight: WEIGHT, lr: RATES, epochs: data.live.epochs, share: shares };

  function reset() {
    at("loss").value = own.loss;
    for (const [id, stops] of Object.entries(STOPS)) {
      at(id).min = 0;
      at(id).max = stops.length - 1;
      at(id).value = AS_FORECAST[id];
      at(id).disabled = stops.length < 2;
    }
  }

  /* ---- what they give ------------------------------------------------------------------------------------------ */

  const start = { step: 0, all: { chosen: 0, rejected: 0 } };
  let before = null;

  function show() {
    const run = asked();
    const curve = linearised.simulate(runs, run);
    const end = curve.at(-1);
    before ??= end;
    const strength = strengthOf(run.loss);
    at("strength-name").textContent = strength === "tau" ? "\u03c4" : "\u03b2";
    value("strength", typed(run.parameters[strength]));
    at("weight").closest(".slide").hidden = !("lam" in run.parameters);
    value("weight", "lam" in run.parameters ? typed(run.parameters.lam) : "");
    value("lr", minus(typed(run.lr)));
    value("epochs", String(data.live.epochs[run.epochs]));
    value("share", run.filter < 0 ? `${run.share}%: nothing to train on` : `${run.share}%`);
    card("displaced", percent, (point) => point.all.displaced);
    card("chosen", signed, (point) => point.all.chosen);
    card("rejected", signed, (point) => point.all.rejected);
    card("accuracy", percent, (point) => point.all.accuracy);
    card("held-displaced", percent, (point) => point.held_out?.displaced);
    card("held-chosen", signed, (point) => point.held_out?.chosen);
    say("command", command(run));
    draw([start, ...curve]);

    function card(id, shown, get) {
      say(id, shown(get(end)));
      say(`${id}-note`, `as forecast ${shown(get(before))}`);
    }
  }

  function value(id, text) {
    say(`${id}-value`, text);
    at(id).setAttribute("aria-valuetext", text);
  }

  function draw(curve) {
    const rows = curve.flatMap(({ step, all }) => [
      { step, what: "chosen", value: all.chosen, place: 0 },
      { step, what: "rejected", value: all.rejected, place: 1 },
      { step, what: "margin", value: all.chosen - all.rejected, place: 2 }]);
    view("live")?.then((chart) => chart.data("live", rows).runAsync());
  }

  /** What gives these numbers on the command line: only what differs from the forecast's run. */
  function command(run) {
    const words = [data.live.command];
    const changed = run.loss !== own.loss || Number(at("strength").value) !== AS_FORECAST.strength
      || ("lam" in run.parameters && Number(at("weight").value) !== AS_FORECAST.weight);
    if (changed) {
      words.push("--loss", run.loss);
      for (const [name, given] of Object.entries(run.parameters)) {
        words.push(...(name === "beta" ? ["--beta", typed(given)] : ["--loss-args", `${name}=${typed(given)}`]));
      }
    }
    if (run.lr !== data.live.lr) words.push("--lr", typed(run.lr));
    if (run.epochs !== AS_FORECAST.epochs) words.push("--epochs", String(data.live.epochs[run.epochs]));
    if (run.filter > 0) words.push("--filter", `'${run.by} drop-lowest ${run.share}%'`);
    return words.join(" ");
  }

  /* ---- beginning ------------------------------------------------------------------------------------------------ */

  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true; // a drag sends many: one run a frame
    requestAnimationFrame(() => { waiting = false; show(); });
  }

  reset();
  at("controls").hidden = false;
  for (const id of ["loss", "by", ...Object.keys(STOPS)]) at(id).addEventListener("input", soon);
  at("reset").addEventListener("click", () => { reset(); show(); });
  document.addEventListener("undertow:drawn", show);
  show();
})();
