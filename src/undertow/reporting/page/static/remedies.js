"use strict";

addEventListener("DOMContentLoaded", () => undertow.runsTable(document.getElementById("arms"), undertow.data));
