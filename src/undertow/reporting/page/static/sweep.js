"use strict";

// The table of runs: sorted here; the best value of a column is told by a word.

addEventListener("DOMContentLoaded", () => {
  const { data, element, table, rowsHere } = undertow;
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
    { name: "gained", label: "gained most", kind: "text", sorts: false },
  ];
  table(document.getElementById("arms"), columns, rowsHere(columns, data.rows), { label: "All numbers", count: 50 });
});
