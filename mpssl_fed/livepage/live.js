// Asks for the pieces of the page once a second and puts those in place that have changed.
"use strict";

const EVERY_MS = 1000;
const shown = new Map();

function place(id, html) {
  const element = document.getElementById(id);
  if (!element || shown.get(id) === html) return;
  shown.set(id, html);
  const across = [...element.querySelectorAll(".wide")].map((wide) => wide.scrollLeft);
  element.innerHTML = html;
  element.querySelectorAll(".wide").forEach((wide, n) => { wide.scrollLeft = across[n] || 0; });
}

async function look() {
  const gone = document.getElementById("gone");
  try {
    const answer = await fetch("state", { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    for (const [id, html] of Object.entries(await answer.json())) place(id, html);
    document.title = document.querySelector("h1").textContent;
    gone.hidden = true;
    gone.dataset.since = "";
  } catch {
    if (!gone.dataset.since) gone.dataset.since = new Date().toLocaleTimeString();
    gone.textContent = `No answer since ${gone.dataset.since}: mpssl-fed watch has ended. What stands here is of then.`;
    gone.hidden = false;
  }
  setTimeout(look, EVERY_MS);
}

look();
