"use strict";

// Marks what differs between the two responses of a pair; without it they stand side by side all the same.

addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("[data-diff]")) {
    const [chosen, rejected] = [...place.querySelectorAll(".text-of-data")].map((text) => text.textContent);
    place.replaceWith(undertow.sides([["chosen", "Chosen", chosen], ["rejected", "Rejected", rejected]]));
  }
});
