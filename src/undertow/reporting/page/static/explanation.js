"use strict";

// One pair: its tokens coloured by what moves them, and the heat map of their gradients.

(() => {
  const { data, element, number } = undertow;
  const TITLES = ["Chosen", "Rejected"];
  const sign = (value) => `${value > 0 ? "+" : ""}${number(value, 3)}`;
  const seen = (piece) => (piece === "" ? "\u22ef" : piece);
  const quoted = (piece) => `\u201c${seen(piece).replaceAll("\n", "\u21b5").replaceAll(" ", "\u2423")}\u201d`;

  /** A colour by sign and size; the size is told by the words beside it as well. */
  function colour(value, largest) {
    if (!Number.isFinite(value) || !largest || value === 0) return "transparent";
    const share = Math.round(75 * Math.min(1, Math.abs(value) / largest) ** 0.6);
    return `color-mix(in srgb, var(--${value > 0 ? "chosen" : "rejected"}) ${share}%, transparent)`;
  }

  /** What is as large as all but a few: one outlier does not leave the others pale. */
  function scaleOf(values) {
    const sizes = values.map(Math.abs).filter(Number.isFinite).sort((a, b) => a - b);
    return sizes.length ? sizes[Math.floor(0.97 * (sizes.length - 1))] || sizes.at(-1) : 0;
  }

  /** Arrow keys between neighbours, of which one is in the tab order. */
  function walks(place, to) {
    place.addEventListener("keydown", (event) => {
      const next = to(event.key, document.activeElement);
      if (!next) return;
      event.preventDefault();
      document.activeElement.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  /* ---- tokens -------------------------------------------------------------------------------------------------- */

  const says = document.getElementById("token-says");

  function tokenSays(side, index) {
    const own = data.sides[side];
    const parts = data.measures.map(({ name, label }) => `${label} ${sign(own[name][index])}`);
    says.textContent = `${TITLES[side]}, token ${index + 1} ${quoted(own.pieces[index])}: ${parts.join(", ")}`;
  }

  function showTokens(measure) {
    const largest = scaleOf(data.sides.flatMap((side) => side[measure.name]));
    const columns = data.sides.map((side, at) => {
      const sum = side[measure.name].reduce((one, other) => one + (other ?? NaN), 0);
      const tokens = side.pieces.map((piece, index) => {
        const made = element("span", { className: "tok", tabindex: index || at ? -1 : 0, text: seen(piece),
          title: `${sign(side[measure.name][index])}`,
          focus: () => tokenSays(at, index), mouseenter: () => tokenSays(at, index) });
        made.style.background = colour(side[measure.name][index], largest);
        return made;
      });
      return element("div", { className: `side ${TITLES[at].toLowerCase()}` },
        element("h3", { text: `${TITLES[at]} \u00b7 ${sign(sum)}` }),
        element("div", { className: "text-of-data scrolls", dir: "auto", role: "group", "aria-label": `${TITLES[at]}, token by token` }, ...tokens));
    });
    const place = document.getElementById("tokens");
    place.replaceChildren(element("p", { className: "lead", text: `Coloured by ${measure.says}.` }),
      element("div", { className: "tokens" }, ...columns));
  }

  walks(document.getElementById("tokens"), (key, now) => {
    const all = [...document.querySelectorAll("#tokens .tok")];
    const at = all.indexOf(now);
    const move = { ArrowRight: 1, ArrowLeft: -1 }[key];
    return at < 0 || !move ? null : all[at + move];
  });

  function picker(label, id, choices, change) {
    const select = element("select", { id, change: () => change(Number(select.value)) },
      ...choices.map((text, index) => element("option", { value: index, text })));
    return element("div", { className: "controls" }, element("label", { className: "field" }, label, select));
  }

  document.getElementById("measures").replaceChildren(
    picker("Colour by", "measure", data.measures.map((measure) => measure.label), (index) => showTokens(data.measures[index])));
  showTokens(data.measures[0]);

  /* ---- heat map ------------------------------------------------------------------------------------------------ */

  if (!data.heat) return;
  const n = data.sides[0].pieces.length;
  const pieces = data.sides.flatMap((side) => side.pieces);
  const { values } = data.heat;
  const ranges = [[0, n], [n, pieces.length]];
  const BLOCKS = [["chosen by rejected", 0, 1], ["chosen by chosen", 0, 0], ["rejected by rejected", 1, 1]];
  const state = { block: 0, raw: 0 };
  const heatSays = document.getElementById("heat-says");

  function value(row, column) {
    if (state.raw) return values[row][column];
    const bound = Math.sqrt(Math.max(0, values[row][row]) * Math.max(0, values[column][column]));
    return bound > 0 ? values[row][column] / bound : 0;
  }

  function showHeat() {
    const [name, down, across] = BLOCKS[state.block];
    const rows = Array.from({ length: ranges[down][1] - ranges[down][0] }, (_, k) => k + ranges[down][0]);
    const columns = Array.from({ length: ranges[across][1] - ranges[across][0] }, (_, k) => k + ranges[across][0]);
    const largest = scaleOf(rows.flatMap((row) => columns.map((column) => value(row, column))));
    const tell = (row, column) => {
      heatSays.textContent = `${TITLES[down]} ${row - ranges[down][0] + 1} ${quoted(pieces[row])} and ${TITLES[across].toLowerCase()} `
        + `${column - ranges[across][0] + 1} ${quoted(pieces[column])}: ${state.raw ? "product" : "cosine"} ${sign(value(row, column))}`;
    };
    const label = (index) => quoted(pieces[index]).slice(1, -1).slice(0, 16);
    const head = element("tr", {}, element("th", { "aria-label": `${TITLES[down]} down, ${TITLES[across].toLowerCase()} across` }),
      ...columns.map((column) => element("th", { scope: "col", text: label(column) })));
    const body = rows.map((row, r) => element("tr", {}, element("th", { scope: "row", text: label(row) }),
      ...columns.map((column, c) => {
        const cell = element("td", { tabindex: r || c ? -1 : 0, "aria-label": sign(value(row, column)),
          focus: () => tell(row, column), mouseenter: () => tell(row, column) });
        cell.style.background = colour(value(row, column), largest);
        return cell;
      })));
    document.getElementById("heat-map").replaceChildren(
      element("div", { className: "heat", role: "region", "aria-label": `Heat map, ${name}` },
        element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))));
  }

  walks(document.getElementById("heat-map"), (key, now) => {
    const row = now.closest("#heat-map tbody tr");
    if (!row) return null;
    const at = [...row.children].indexOf(now);
    if (key === "ArrowRight") return now.nextElementSibling;
    if (key === "ArrowLeft") return at > 1 ? now.previousElementSibling : null;
    const other = key === "ArrowDown" ? row.nextElementSibling : key === "ArrowUp" ? row.previousElementSibling : null;
    return other?.children[at];
  });

  document.getElementById("heat-controls").replaceChildren(
    picker("Tokens", "heat-block", BLOCKS.map(([name]) => name), (index) => { state.block = index; showHeat(); }),
    picker("Show", "heat-kind", ["cosines", "products"], (index) => { state.raw = index; showHeat(); }));
  showHeat();
})();
