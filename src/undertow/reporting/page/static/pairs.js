"use strict";

// The table of all pairs: sorted, searched and paged by the server, over Parquet.

(() => {
  const { data, element, number, sides, table, caseTag, textOfData, why } = undertow;
  const TEXTS = ["prompt", "chosen", "rejected"];
  const ALWAYS = ["case", "displaced"];
  const problem = document.getElementById("pairs-problem");
  const known = new Map(data.columns.map((column) => [column.name, column]));
  const isCase = (name) => name === "case" || name.endsWith("_case");

  /** Numbers that JSON has no way to write come by name. */
  const NAMED = { NaN: "not a number", Infinity: "\u221e", "-Infinity": "\u2212\u221e" };
  const value = (given) => (typeof given === "string" ? NAMED[given] ?? given : number(given, 4));

  async function ask(address, parameters) {
    const response = await fetch(`${address}?${new URLSearchParams(parameters)}`).catch(() => {
      throw new Error("The server does not answer: is `undertow view` still running?");
    });
    if (!response.ok) throw new Error((await response.text()).trim() || `The server answered ${response.status}.`);
    return response.json();
  }

  function say(error) {
    problem.textContent = error ? `${error.message}` : "";
    problem.hidden = !error;
  }

  /* The columns on the page: the score that was picked, a few that help to read it, and the texts. */
  function columnsFor(score) {
    const names = ["row", score, ...ALWAYS, ...[...known.keys()].filter((name) => name.startsWith("by:"))];
    const shown = [...new Set(names)].filter((name) => known.has(name)).map((name) => {
      const column = known.get(name);
      if (isCase(name)) {
        return { name, label: column.label, kind: "tag", shown: (code) => (code === null ? value(null) : caseTag(code)) };
      }
      return { name, label: column.label, kind: column.number ? "number" : "text", down: name !== "row", shown: (given) => value(given ?? null) };
    });
    return data.texts ? [...shown, ...TEXTS.map((name) => ({ name, label: name, kind: "text", sorts: false }))] : shown;
  }

  function sourceFor(columns) {
    return {
      async query({ sort, down, search, first, count }) {
        try {
          const order = down ? "descending" : "ascending";
          const found = await ask("pairs.json", { sort: sort ?? "row", order, search: search.slice(0, data.limits.search), first, count });
          say(null);
          return { total: found.total, rows: found.rows.map((row) => columns.map((column) => row[column.name] ?? null)) };
        } catch (error) {
          say(error);
          return { total: 0, rows: [] };
        }
      },
    };
  }

  /** One pair: its prompt, both responses with what differs between them, and all its numbers. */
  async function open(row) {
    const pair = await ask("pair.json", { row: row[0] }).catch((error) => ({ error }));
    if (pair.error) return element("p", { className: "note", text: pair.error.message });
    const { texts, numbers } = pair;
    const tokens = (side) => (numbers[`${side}_tokens`] === undefined ? null : `${number(numbers[`${side}_tokens`])} tokens`);
    const facts = Object.entries({ ...pair.by, ...numbers }).map(([name, given]) => element("div", {},
      element("dt", { text: name }),
      element("dd", { text: Array.isArray(given) ? given.map(value).join(", ") : value(given) })));
    return element("div", { className: "pair" }, why(row[0], data.explains),
      texts.prompt === undefined ? null
        : element("div", { className: "prompt" }, element("h4", { text: "Prompt" }), scrolling(textOfData(texts.prompt), "Prompt")),
      texts.chosen === undefined ? null
        : sides([["chosen", "Chosen", texts.chosen, tokens("chosen")], ["rejected", "Rejected", texts.rejected, tokens("rejected")]]),
      element("details", { className: "numbers" }, element("summary", { text: "All numbers of this pair" }),
        element("dl", { className: "facts" }, ...facts)));
  }

  function scrolling(text, label) {
    text.classList.add("scrolls");
    text.setAttribute("tabindex", "0");
    text.setAttribute("aria-label", label);
    return text;
  }

  /** The table, sorted by a score; made anew when another one is picked. */
  function show(score, down) {
    const columns = columnsFor(score);
    table(document.getElementById("pairs-table"), columns, sourceFor(columns), {
      label: "All pairs",
      search: data.texts ? "Search prompts and responses" : null,
      sort: score,
      down,
      count: 25,
      opens: open,
      filter: [picker(score)],
      empty: "No pair fits.",
    });
  }

  function picker(score) {
    const select = element("select", { id: "pairs-score", change: () => {
      show(select.value, select.value === data.sort ? data.down : true);
      document.getElementById("pairs-score").focus();
    } }, ...data.columns.map((column) => element("option", { value: column.name, text: column.label, selected: column.name === score })));
    return element("label", { className: "field" }, "Sort by", select);
  }

  show(data.sort, data.down);
})();
