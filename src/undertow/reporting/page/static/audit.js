"use strict";

// The report of an audit: the slider, which only looks up what was computed, and the table of pairs.

(() => {
  const { data, element, number, percent, sides, table, rowsHere, caseTag, textOfData, view, why } = undertow;
  const { pairs, dropping } = data;

  /* ---- leaving pairs out --------------------------------------------------------------------------------------- */

  const at = (id) => document.getElementById(`slider-${id}`);
  const say = (id, text) => { if (at(id)) at(id).textContent = text; };
  const of = (part, whole) => `${number(part)} of ${number(whole)}`;

  function slide() {
    const index = Number(at("share").value);
    const by = at("by").value;
    const found = dropping.by[by];
    const share = dropping.percents[index];
    const [dropped, tokens] = [found.dropped[index], found.tokens[index]];
    const kept = dropping.pairs - dropped;
    say("percent", `${share}%`);
    at("share").setAttribute("aria-valuetext", `${share}% left out, ${number(kept)} pairs kept`);
    say("pairs", number(kept));
    say("pairs-note", `of ${number(dropping.pairs)}; ${number(dropped)} left out`);
    say("tokens", number(tokens));
    say("tokens-note", `${percent(tokens / dropping.tokens)} of ${number(dropping.tokens)}`);
    falling(found, index, kept);
    const threshold = found.thresholds[index];
    say("threshold", threshold === null ? "\u2013" : number(threshold, 4));
    say("threshold-note", threshold === null ? "nothing is left out" : `${by} ${found.kind === "drop-highest" ? "at or above" : "at or below"} goes`);
    say("command", found.command.join(`${share}%`));
    groups(found, index);
    view("what-if")?.then((chart) => chart.signal("share", Number(share) / 100).runAsync());
  }

  function falling(found, index, kept) {
    const measure = at("measure")?.value ?? Object.keys(found.falling)[0];
    if (!measure) return;
    const counts = found.falling[measure];
    say("falling", kept ? percent(counts[index] / kept, 1) : "\u2013");
    say("falling-note", `${of(counts[index], kept)} pairs; ${percent(counts[0] / dropping.pairs, 1)} with all kept`);
    if (at("pull")) at("pull").hidden = measure !== "pull";
  }

  /** The part that goes, by the columns that were asked for. */
  function groups(found, index) {
    at("groups").replaceChildren(...Object.entries(dropping.groups).map(([name, { labels, sizes }]) => element("div", {},
      element("h3", { text: `Left out, by ${name}` }),
      ...labels.map((label, n) => {
        const gone = found.groups[name][index][n];
        const bar = element("i");
        bar.style.width = `${(100 * gone) / Math.max(sizes[n], 1)}%`;
        return element("div", { className: "share" },
          element("span", { className: "label", dir: "auto", title: label, text: label }),
          element("span", { className: "track", "aria-hidden": "true" }, bar),
          element("span", { className: "count", text: `${of(gone, sizes[n])} (${percent(gone / Math.max(sizes[n], 1))})` }));
      }))));
  }

  function startSlider() {
    document.getElementById("slider").hidden = false;
    for (const id of ["share", "by", "measure"]) at(id)?.addEventListener("input", slide);
    slide();
  }

  /* ---- the pairs ------------------------------------------------------------------------------------------------ */

  const columns = [
    { name: "row", label: "row", kind: "number", down: false },
    ...(pairs.case ? [{ name: "case", label: "case", kind: "tag", shown: caseTag }] : []),
    ...pairs.numbers.map((name) => ({ name, label: pairs.headings[name][0], title: pairs.headings[name][1], kind: "number" })),
    ...pairs.by.map((name) => ({ name: `by:${name}`, label: name, kind: "label" })),
    ...["prompt", "chosen", "rejected"].map((name) => ({ name, label: name, kind: "text", sorts: false })),
  ];
  const index = Object.fromEntries(columns.map((column, n) => [column.name, n]));
  // A row of the table shows the prompt; the responses are there to be searched and opened.
  const SHOWN = ["row", ...(pairs.texts ? ["prompt"] : []), ...columns.map((column) => column.name).slice(1, -3)];
  const SEARCHED = ["prompt", "chosen", "rejected"];

  function open(row) {
    const text = (name) => row[index[name]];
    const tokens = (side) => `${number(row[index[`${side}_tokens`]])} tokens`;
    if (text("prompt") === null) return element("p", { className: "soft", text: "No texts were kept for this pair." });
    const prompt = textOfData(text("prompt"));
    prompt.classList.add("scrolls");
    prompt.setAttribute("tabindex", "0");
    prompt.setAttribute("aria-label", "Prompt");
    return element("div", {}, why(row[index.row], data.explains),
      element("div", { className: "prompt" }, element("h4", { text: "Prompt" }), prompt),
      sides([["chosen", "Chosen", text("chosen"), tokens("chosen")], ["rejected", "Rejected", text("rejected"), tokens("rejected")]]));
  }

  function startPairs() {
    const search = pairs.texts ? (row) => SEARCHED.map((name) => row[index[name]] ?? "").concat(pairs.by.map((name) => row[index[`by:${name}`]] ?? "")).join("\n") : null;
    table(document.getElementById("pairs-table"), columns, rowsHere(columns, pairs.rows, search), {
      label: "Pairs",
      search: pairs.texts ? "Search prompts and responses" : null,
      sort: pairs.sort,
      down: pairs.down,
      count: 15,
      opens: open,
      shows: SHOWN,
      empty: "No pair fits.",
    });
  }

  document.addEventListener("undertow:drawn", slide);
  startSlider();
  startPairs();
})();
