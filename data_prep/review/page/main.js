// Which view is shown, the keys of both, undo, and reading a changed catalog again.
import { find, get, post, say, state, tell, trying } from "./api.js";
import * as categories from "./categories.js";
import * as images from "./images.js";

const VIEWS = { categories, images };
let shown = "";

function route() {
  const [name, words = ""] = location.hash.slice(1).split("?");
  shown = name in VIEWS ? name : "categories";
  for (const view of Object.keys(VIEWS)) {
    find(view).hidden = view !== shown;
    find(`to-${view}`).toggleAttribute("aria-current", view === shown);
  }
  VIEWS[shown].show(Object.fromEntries(new URLSearchParams(words)));
}

async function overview(words = {}) {
  const found = await trying(() => get("overview", words));
  if (!found) return;
  find("catalog").textContent = found.catalog;
  document.title = `${found.catalog} · fastlt review`;
  images.setOverview(found);
  categories.setOverview(found);
}

async function undo() {
  if (!state.last) return;
  const { batch, told } = state.last;
  const answer = await trying(() => post("undo", { batch }));
  if (!answer) return;
  tell(answer, `Undone: ${told}`);
  await overview();
  const isShown = answer.done && (shown === "images" ? answer.images.length && images.refill(answer.images) : answer.categories.length && categories.refill(answer.categories));
  if (!isShown) VIEWS[shown].reload();
}

async function refresh(words = {}) {
  await overview(words);
  VIEWS[shown].reload();
}

function onKey(event) {
  if (document.querySelector("dialog[open]") || event.altKey) return;
  const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
  if (typing) { if (event.key === "Escape") event.target.blur(); return; }
  const plain = !event.ctrlKey && !event.metaKey;
  const keys = { u: undo, 1: () => { location.hash = "categories"; }, 2: () => { location.hash = "images"; }, "?": () => find("keys").showModal() };
  if (plain && keys[event.key]) { event.preventDefault(); keys[event.key](); return; }
  if (VIEWS[shown].onKey(event)) event.preventDefault();
}

find("undo").addEventListener("click", undo);
find("again").addEventListener("click", () => { say(""); refresh({ fresh: 1 }); });
find("help").addEventListener("click", () => find("keys").showModal());
find("keys").querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); find("keys").close(); });
document.addEventListener("keydown", onKey);
document.addEventListener("decided", () => overview());
document.addEventListener("reread", () => refresh());
window.addEventListener("hashchange", route);
window.addEventListener("focus", () => overview());
route();
overview({ fresh: 1 });
