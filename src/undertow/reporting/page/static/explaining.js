"use strict";

// Waits for the page of a pair that is being made, and shows it.

(() => {
  const { data } = undertow;
  const says = document.getElementById("explaining-says");
  const share = document.getElementById("explaining-share");

  async function ask() {
    const response = await fetch(`explain.json?row=${data.row}`).catch(() => null);
    if (!response?.ok) {
      says.textContent = response ? (await response.text()).trim() : "The server does not answer: is `undertow view` still running?";
      share.hidden = true;
      return;
    }
    const found = await response.json();
    if (found.state === "done") {
      location.reload();
      return;
    }
    if (found.state === "failed") {
      says.textContent = found.says;
      share.hidden = true;
      return;
    }
    says.textContent = found.row === data.row ? `Now: ${found.phase}.` : `Row ${found.row} is first: ${found.phase}.`;
    if (found.share === null) share.removeAttribute("value");
    else share.value = found.share;
    setTimeout(ask, 700);
  }

  ask();
})();
