"use strict";

// What every page shares: charts, tables, differences between texts, copying, light and dark.
// Text of the data enters the page by textContent alone.

window.undertow = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const charts = read("undertow-charts");
  const NARROW = 640;

  /* ---- elements ---------------------------------------------------------------------------------------------- */

  /** An element: its class, its text, what it holds. `attributes` are set as such; a function listens. */
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (typeof value === "function") made.addEventListener(key, value);
      else if (key === "text") made.textContent = value;
      else made.setAttribute(key === "className" ? "class" : key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  /** A text of the data, kept as it stands: line breaks, and its own direction. */
  function textOfData(text) {
    return element("div", { className: "text-of-data", dir: "auto", text });
  }

  /** Where a row leads to: the page of this pair, or the command that makes it; `how` has its url and its command. */
  function why(row, how) {
    if (!how) return null;
    return element("p", { className: "why" }, how.url
      ? element("a", { href: `${how.url}?row=${row}`, text: "Why? Explain this pair" })
      : element("span", {}, "Why: ", element("code", { text: `${how.command} --row ${row}` })));
  }

  /* ---- numbers ----------------------------------------------------------------------------------------------- */

  const minus = (text) => text.replaceAll("-", "\u2212");

  /** A number for people: whole ones in full, others with so many significant digits; a dash where there is none. */
  function number(value, digits = 3) {
    if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (Number.isInteger(value)) return minus(value.toLocaleString("en-US"));
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-4)) return minus(value.toExponential(digits - 1));
    return minus(value.toLocaleString("en-US", { minimumSignificantDigits: digits, maximumSignificantDigits: digits }));
  }

  /** A share in percent; only none and all are written as 0% and 100%. */
  function percent(share, digits = 0) {
    if (share === null || share === undefined || Number.isNaN(share)) return "\u2013";
    const least = 0.5 * 10 ** -(digits + 2);
    if (share > 0 && share <= least) return `less than ${(100 * 2 * least).toFixed(digits)}%`;
    if (share < 1 && share >= 1 - least) return `more than ${(100 * (1 - 2 * least)).toFixed(digits)}%`;
    return `${(100 * share).toFixed(digits)}%`;
  }

  /* ---- charts ------------------------------------------------------------------------------------------------ */

  /** The specification with each colour as the page's variable of that role, so that it follows the theme. */
  function coloured(value) {
    if (typeof value === "string") return charts.colours[value.toLowerCase()] ?? value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, key === "values" ? inner : coloured(inner)]));
    }
    return value;
  }

  /** What Vega shows at the pointer, as text. */
  function tip(handler, event, item, value) {
    const box = document.getElementById("tip");
    if (value === null || value === undefined || value === "") {
      box.hidden = true;
      return;
    }
    const lines = typeof value === "object" ? Object.entries(value) : [["", value]];
    box.replaceChildren(...lines.map(([name, shown]) =>
      element("div", {}, name ? element("b", { text: name }) : null, minusNumbers(String(shown)))));
    box.hidden = false;
    const [x, y] = [event.clientX + 14, event.clientY + 14];
    box.style.left = `${Math.max(4, Math.min(x, innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${y + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : y}px`;
  }

  const minusNumbers = (text) => (/^-[\d.,]+(e-?\d+)?$/.test(text) ? minus(text) : text);

  /** Draw a chart into an element. Resolves to Vega's view. */
  async function draw(place, spec) {
    const found = await vegaEmbed(place, coloured(spec), {
      actions: false,
      ast: true, // expressions are interpreted: the page's policy has no eval
      config: coloured(charts.config),
      defaultStyle: false,
      renderer: "svg",
      tooltip: tip,
      mode: "vega-lite",
    });
    // The element around it is the image, with a text of its own.
    for (const inner of place.querySelectorAll("[role], [aria-label], [aria-roledescription]")) {
      for (const name of ["role", "aria-label", "aria-roledescription"]) inner.removeAttribute(name);
    }
    return found.view;
  }

  const drawn = new Map();

  async function drawAll() {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const chart = charts.figures[place.dataset.chart];
      const width = place.clientWidth;
      if (!width) continue; // inside something closed: drawn when it opens
      const narrow = chart.narrow !== null && width < NARROW;
      const before = drawn.get(place);
      if (before && before.narrow === narrow) continue;
      drawn.set(place, { narrow });
      if (before) (await before.view)?.finalize();
      const view = draw(place, narrow ? chart.narrow : chart.wide);
      drawn.set(place, { narrow, view });
      await view;
    }
    document.dispatchEvent(new Event("undertow:drawn"));
  }

  /** A promise of the view of the page's chart of that name, once it is drawn (`undertow:drawn`); else undefined. */
  const view = (name) => drawn.get(document.querySelector(`[data-chart="${name}"]`))?.view;

  /* ---- theme ------------------------------------------------------------------------------------------------- */

  const store = {
    get() { try { return localStorage.getItem("undertow-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("undertow-theme", value); } catch { /* a page without storage forgets */ } },
  };

  function themeButton() {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const label = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Show this page ${isDark() ? "light" : "dark"}`);
    };
    const chosen = store.get();
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      store.set(document.documentElement.dataset.theme);
      label();
    });
    system.addEventListener("change", label);
    button.hidden = false;
    label();
  }

  /* ---- copying ----------------------------------------------------------------------------------------------- */

  /** Make a button copy what `text()` gives. */
  function copies(button, text) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const before = button.dataset.label ?? (button.dataset.label = button.textContent);
      button.textContent = (await copy(text())) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = before; }, 1600);
    });
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = element("textarea", { className: "unseen", readonly: true });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  /* ---- what differs between two texts ------------------------------------------------------------------------- */

  const LARGEST = 4_000_000; // words times words
  const words = (text) => text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];

  /**
   * Two texts as runs of words, `[[text, same], …]` for each: by a longest common subsequence. Words that differ are
   * `same = false`. Where the texts are too long for that, all between their common beginning and end counts as other.
   */
  function diff(left, right) {
    const [a, b] = [words(left), words(right)];
    let start = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
    let end = 0;
    while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
    const [sameA, sameB] = [new Uint8Array(a.length), new Uint8Array(b.length)];
    for (const [same, length] of [[sameA, a.length], [sameB, b.length]]) {
      same.fill(1, 0, start);
      same.fill(1, length - end);
    }
    common(a.slice(start, a.length - end), b.slice(start, b.length - end), (i, j) => {
      sameA[start + i] = 1;
      sameB[start + j] = 1;
    });
    return [runs(a, sameA), runs(b, sameB)];
  }

  function common(a, b, found) {
    const [n, m] = [a.length, b.length];
    if (!n || !m || n * m > LARGEST) return;
    const ids = new Map();
    const number = (word) => ids.get(word) ?? (ids.set(word, ids.size), ids.size - 1);
    const [x, y] = [a.map(number), b.map(number)];
    const width = m + 1;
    const length = new Uint16Array((n + 1) * width);
    for (let i = n - 1; i >= 0; i -= 1) {
      for (let j = m - 1; j >= 0; j -= 1) {
        length[i * width + j] = x[i] === y[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
      }
    }
    for (let i = 0, j = 0; i < n && j < m;) {
      if (x[i] === y[j]) found(i++, j++);
      else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i += 1;
      else j += 1;
    }
  }

  function runs(list, same) {
    const found = [];
    list.forEach((word, index) => {
      const is = same[index] === 1;
      const last = found.at(-1);
      if (last && last[1] === is) last[0] += word;
      else found.push([word, is]);
    });
    // A space between two words that differ belongs to the difference: one mark instead of many.
    for (let i = 1; i < found.length - 1; i += 1) {
      if (found[i][1] && /^\s+$/.test(found[i][0])) found[i][1] = false;
    }
    return found.reduce((joined, [text, is]) => {
      if (joined.at(-1)?.[1] === is) joined.at(-1)[0] += text;
      else joined.push([text, is]);
      return joined;
    }, []);
  }

  /** Two texts beside each other, what differs marked: `sides([["chosen", "Chosen", text], ["rejected", …]])`. */
  function sides([left, right]) {
    const marked = diff(left[2], right[2]);
    const column = ([kind, title, , note], parts, mark) => element("div", { className: `side ${kind}` },
      element("h4", { text: note ? `${title} \u00b7 ${note}` : title }),
      element("div", { className: "text-of-data scrolls", dir: "auto", tabindex: 0, "aria-label": title },
        ...parts.map(([text, same]) => (same ? text : element(mark, { text })))));
    return element("div", { className: "sides" }, column(left, marked[0], "ins"), column(right, marked[1], "del"));
  }

  /* ---- tables ------------------------------------------------------------------------------------------------ */

  /** Rows that are all on the page, sorted and searched here. Missing values come last, whichever way. */
  function rowsHere(columns, rows, search) {
    const at = new Map(columns.map((column, index) => [column.name, index]));
    const searched = search ? rows.map((row) => search(row).toLowerCase()) : null;
    return {
      async query({ sort, down, search: wanted, first, count }) {
        const needle = wanted.toLowerCase();
        let found = rows;
        if (needle && searched) found = rows.filter((_, index) => searched[index].includes(needle));
        if (sort) {
          const column = at.get(sort);
          found = [...found].sort((one, other) => compare(one[column], other[column], down));
        }
        return { total: found.length, rows: found.slice(first, first + count) };
      },
    };
  }

  function compare(one, other, down) {
    const [missing, alsoMissing] = [one === null || one === undefined, other === null || other === undefined];
    if (missing || alsoMissing) return missing - alsoMissing;
    const order = typeof one === "string" || typeof other === "string"
      ? String(one).localeCompare(String(other)) : one - other;
    return down ? -order : order;
  }

  /**
   * A table that can be sorted, searched and paged, whose rows open.
   *
   * columns: [{name, label, kind: "number" | "text" | "label" | "tag" | "percent", title, digits, shown(value, row) -> text or Node,
   *            sorts: false}]; rows are arrays in that order.
   * source:  {query({sort, down, search, first, count}) -> Promise of {total, rows}}; `rowsHere` makes one.
   * options: {label, count, sort, down, search: "placeholder" or none, opens(row) -> Node or Promise of one,
   *           filter: extra controls, shows: names of columns in their order (all), empty: what to say of no rows}
   */
  function table(place, columns, source, options) {
    const state = { sort: options.sort ?? null, down: options.down ?? false, search: "", first: 0, count: options.count ?? 20 };
    const body = element("tbody");
    const visible = options.shows ? options.shows.map((name) => columns.find((column) => column.name === name)) : columns;
    const heads = visible.map((column) => headOf(column, state, refresh));
    const status = element("span", { className: "count", role: "status" });
    const [back, on] = [["Previous", -1], ["Next", 1]].map(([text, way]) => element("button", {
      type: "button", text, click: () => { state.first += way * state.count; refresh(); } }));
    const tools = element("div", { className: "controls" }, options.search ? searchBox(options, state, refresh) : null,
      ...(options.filter ?? []));
    place.replaceChildren(...(tools.childElementCount ? [tools] : []),
      element("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": options.label },
        element("table", {}, element("caption", { className: "unseen", text: options.label }),
          element("thead", {}, element("tr", {}, ...heads.map((head) => head.cell))), body)),
      element("div", { className: "pages" }, status, back, on));
    let asked = 0;

    async function refresh() {
      const turn = (asked += 1);
      const found = await source.query({ ...state });
      if (turn !== asked) return; // a later question was asked meanwhile
      if (state.first >= found.total && state.first > 0) {
        state.first = Math.max(0, Math.ceil(found.total / state.count) - 1) * state.count;
        refresh();
        return;
      }
      heads.forEach((head) => head.update());
      body.replaceChildren(...found.rows.map((row) => rowOf(row, columns, visible, options)));
      const last = Math.min(state.first + found.rows.length, found.total);
      status.textContent = found.total
        ? `${(state.first + 1).toLocaleString("en-US")}\u2013${last.toLocaleString("en-US")} of ${found.total.toLocaleString("en-US")}`
        : options.empty ?? "Nothing found";
      back.disabled = state.first === 0;
      on.disabled = last >= found.total;
    }
    refresh();
    return { refresh, state, reset() { state.first = 0; refresh(); } };
  }

  function headOf(column, state, refresh) {
    const cell = element("th", { scope: "col", className: column.kind === "number" || column.kind === "percent" ? null : "text", title: column.title });
    if (column.sorts === false) {
      cell.textContent = column.label;
      return { cell, update() {} };
    }
    cell.append(element("button", { type: "button", text: column.label, click: () => {
      state.down = state.sort === column.name ? !state.down : column.kind === "number" && column.down !== false;
      state.sort = column.name;
      state.first = 0;
      refresh();
    } }));
    return {
      cell,
      update() {
        if (state.sort === column.name) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      },
    };
  }

  function searchBox(options, state, refresh) {
    let waiting;
    const input = element("input", { type: "search", placeholder: options.search, "aria-label": options.search, autocomplete: "off",
      spellcheck: "false", input: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => { state.search = input.value.trim(); state.first = 0; refresh(); }, 150);
      } });
    return input;
  }

  function rowOf(row, columns, visible, options) {
    const made = element("tr", {}, ...visible.map((column) => cellOf(row[columns.indexOf(column)], column, row)));
    if (options.opens) makeOpen(made, row, visible.length, options.opens);
    return made;
  }

  function cellOf(value, column, row) {
    const numeric = column.kind === "number" || column.kind === "percent";
    const cell = element("td", { className: numeric ? null : column.kind === "label" ? "label" : "text" });
    const shown = column.shown ? column.shown(value, row)
      : column.kind === "percent" ? percent(value, column.digits) : column.kind === "number" ? number(value, column.digits) : value ?? "\u2013";
    if (shown instanceof Node) cell.append(shown);
    else if (column.kind === "text") cell.append(element("span", { className: "clip", dir: "auto", text: shown }));
    else cell.textContent = shown;
    return cell;
  }

  function makeOpen(made, row, width, opens) {
    let detail = null;
    const toggle = element("button", { type: "button", className: "toggle", "aria-expanded": "false" },
      element("span", { className: "unseen", text: "Open this row" }));
    made.classList.add("opens");
    made.firstElementChild.prepend(toggle);
    made.addEventListener("click", async (event) => {
      if (event.target.closest("a, button") && event.target.closest("button") !== toggle) return;
      if (String(getSelection())) return; // text is being selected
      const open = toggle.getAttribute("aria-expanded") !== "true";
      toggle.setAttribute("aria-expanded", String(open));
      made.classList.toggle("opened", open);
      if (!open) {
        detail?.remove();
        return;
      }
      detail ??= element("tr", { className: "below" }, element("td", { className: "detail", colspan: width }, await opens(row)));
      if (toggle.getAttribute("aria-expanded") === "true") made.after(detail);
    });
  }

  /**
   * The table of runs or arms side by side: sorted here; the best value of a column is told by a word.
   * `undertow.data` has the noun, the columns of numbers, and rows whose last entry says how their cells are written.
   */
  function runsTable(place, data) {
    const best = (cell) => (cell.best
      ? element("span", {}, element("strong", { text: cell.text }), " ", element("small", { text: "best" }))
      : document.createTextNode(cell.text));
    const columns = [
      { name: "name", label: data.noun, kind: "tag" },
      { name: "loss", label: "loss", kind: "text" },
      { name: "steps", label: "steps", kind: "number" },
      { name: "pairs", label: "pairs", kind: "number" },
      ...data.columns.map((column, index) => ({
        ...column, kind: "number", shown: (_, row) => best(row[row.length - 1][index]),
      })),
      ...(data.gained ? [{ name: "gained", label: "gained most", kind: "text", sorts: false }] : []),
    ];
    table(place, columns, rowsHere(columns, data.rows), { label: "All numbers", count: 50 });
  }

  /** A coloured square and a word: the colour is never alone. */
  function tag(text, role) {
    const made = element("span", { className: "tag", text });
    made.style.setProperty("--tag", `var(--${role})`);
    return made;
  }

  /** The tag of a pair's case, by its code. */
  function caseTag(code) {
    return tag(...(charts.cases[code] ?? charts.cases[-1]));
  }

  /* ---- start ------------------------------------------------------------------------------------------------- */

  let resizing;
  function start() {
    themeButton();
    for (const button of document.querySelectorAll("[data-copy]")) {
      copies(button, () => button.parentElement.querySelector("code").textContent);
    }
    // Without this the two responses of a pair stand side by side all the same, unmarked.
    for (const place of document.querySelectorAll("[data-diff]")) {
      const [chosen, rejected] = [...place.querySelectorAll(".text-of-data")].map((text) => text.textContent);
      place.replaceWith(sides([["chosen", "Chosen", chosen], ["rejected", "Rejected", rejected]]));
    }
    const all = drawAll().finally(() => { document.documentElement.dataset.ready = "true"; });
    addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 150); });
    document.addEventListener("toggle", drawAll, true);
    document.addEventListener("scroll", () => { document.getElementById("tip").hidden = true; }, { passive: true });
    return all;
  }

  return { data: read("undertow-data"), element, textOfData, number, minus, percent, draw, view, diff, sides, copies, table, why, rowsHere, runsTable, tag, caseTag, start };
})();

addEventListener("DOMContentLoaded", () => undertow.start());
