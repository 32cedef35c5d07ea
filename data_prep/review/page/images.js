// The grid of images: shown page by page as one scrolls, selected, kept and dropped.
import { atEnd, count, find, get, link, make, moveFocus, picture, post, say, tell, trying } from "./api.js";
import * as sliders from "./sliders.js";

const grid = find("grid");
const controls = find("image-controls").elements;
const OWN = { all: "all", taken: "taken by encode", left: "left out", hand: "decided by people" };
let asked = {};
let after = null; // where the next page begins; "" at the end, null before the first
let turn = 0; // of what is shown: answers to an older one come too late
let loading = false;
let anchor = null;
let ofTitle = ""; // of the category whose images are shown
let current = null; // the image that the bar tells about: what is decided of where none is selected
const about = new WeakMap(); // of each element, its image

export function show(words) {
  asked = { show: words.show ?? "all", order: words.order ?? "id", category: words.category ?? "" };
  ofTitle = words.title ?? "one category";
  ensureOption(asked.show);
  controls.show.value = asked.show;
  controls.order.value = asked.order;
  const of = find("of-category");
  of.hidden = !asked.category;
  of.textContent = `of ${ofTitle} ✕`;
  reload();
}

export function reload() {
  turn += 1;
  after = null;
  loading = false;
  anchor = null;
  grid.replaceChildren();
  find("image-end").textContent = "";
  tellAbout(null);
  more();
}

export function setOverview(found) {
  const reasons = Object.keys(found.counts).filter((name) => !(name in OWN));
  controls.show.replaceChildren(...[...Object.keys(OWN), ...reasons].map((name) =>
    make("option", { value: name }, `${OWN[name] ?? name} (${count(found.counts[name])})`)));
  ensureOption(asked.show ?? "all");
  controls.show.value = asked.show ?? "all";
  find("image-count").textContent = `${count(found.counts.taken)} of ${count(found.counts.all)} images are taken`;
  sliders.setOverview(found);
}

function ensureOption(name) {
  if (![...controls.show.options].some((option) => option.value === name)) controls.show.append(make("option", { value: name }, name));
}

async function more() {
  if (loading || after === "" || find("images").hidden) return;
  loading = true;
  const mine = turn;
  const answer = await trying(() => get("images", { ...asked, after }));
  if (mine !== turn) return;
  loading = false;
  if (!answer) { after = ""; return; }
  after = answer.after;
  grid.append(...answer.images.map(tile));
  if (!grid.querySelector("[tabindex='0']") && grid.firstElementChild) grid.firstElementChild.tabIndex = 0;
  find("image-end").textContent = after ? "" : grid.childElementCount ? "That is all." : "There are none.";
  if (after && find("image-end").getBoundingClientRect().top < innerHeight + 2500) more();
}

function tile(image) {
  const element = make("div", { role: "option", class: "tile", tabindex: "-1", "aria-selected": "false", "data-id": image.id });
  fill(element, image);
  return element;
}

function fill(element, image) {
  about.set(element, image);
  if (image.gone) {
    element.replaceChildren(make("span", { class: "missing" }, "gone"));
    return;
  }
  const similarity = image.similarity === null ? "" : ` · ${image.similarity.toFixed(3)}`;
  element.className = `tile ${image.kept ? "kept" : "dropped"}${image.hand ? " hand" : ""}`;
  element.setAttribute("aria-label", `${image.title}, ${image.reason}${similarity}`);
  const old = element.querySelector("img, .missing");
  element.replaceChildren(
    old ?? picture(`image/${image.id}`, "", 150),
    make("b", {}, `${image.reason}${similarity}`),
    make("span", {}, image.title),
    make("span", { class: "quiet" }, image.license || "no license"));
}

// Shows images as they are now, where they are; whether all of them are there.
export function refill(changed) {
  const elements = changed.map((image) => grid.querySelector(`.tile[data-id="${Number(image.id)}"]`));
  elements.forEach((element, at) => element && fill(element, changed[at]));
  tellAbout(current);
  return elements.every(Boolean);
}

function tellAbout(element) {
  const image = element && about.get(element);
  current = element;
  const selected = chosen();
  find("selected").textContent = selected.length ? `${count(selected.length)} selected` : "";
  if (!image || image.gone) { find("about").textContent = "No image in focus."; return; }
  const nearest = image.nearest ? `nearest to ${image.nearest}` : "";
  const parts = [image.title, image.reason, nearest, image.size, image.license || "no license", image.attribution].filter(Boolean);
  find("about").replaceChildren(parts.join(" · "), " ", link(image.link, image.url));
}

const chosen = () => [...grid.querySelectorAll("[aria-selected='true']")];
const focused = () => grid.querySelector(".tile[tabindex='0']");
const select = (element, yes) => element.setAttribute("aria-selected", String(yes));

function focus(element) {
  moveFocus(focused(), element);
  tellAbout(element);
}

function selectTo(element) {
  const tiles = [...grid.children];
  const ends = [tiles.indexOf(anchor?.isConnected ? anchor : element), tiles.indexOf(element)].sort((a, b) => a - b);
  tiles.forEach((tile, at) => select(tile, at >= ends[0] && at <= ends[1]));
}

grid.addEventListener("click", (event) => {
  const element = event.target.closest(".tile");
  if (!element) return;
  if (event.shiftKey) selectTo(element);
  else {
    const others = event.ctrlKey || event.metaKey || event.pointerType === "touch";
    const was = element.getAttribute("aria-selected") === "true";
    if (!others) chosen().forEach((tile) => select(tile, false));
    select(element, !(was && others));
    anchor = element;
  }
  focus(element);
});
grid.addEventListener("focusin", (event) => { const element = event.target.closest(".tile"); if (element) tellAbout(element); });

async function decide(verdict) {
  const selected = chosen();
  const here = current;
  const elements = (selected.length ? selected : here ? [here] : []).filter((element) => !about.get(element).gone);
  if (!elements.length) { say("Select images first."); return; }
  const answer = await trying(() => post("decide", { images: elements.map((element) => about.get(element).id), verdict }));
  if (!answer) return;
  const now = new Map(answer.images.map((image) => [image.id, image]));
  for (const element of elements) {
    const { id } = about.get(element);
    fill(element, now.get(id) ?? { id, gone: true });
    select(element, false);
  }
  tell(answer, `${verdict === "keep" ? "Kept" : "Dropped"} ${count(answer.done)}.`);
  if (selected.length === 0 && here.nextElementSibling) focus(here.nextElementSibling);
  else tellAbout(here);
  document.dispatchEvent(new Event("decided"));
}

function columns() {
  const tiles = grid.children;
  let number = 1;
  while (number < tiles.length && tiles[number].offsetTop === tiles[0].offsetTop) number += 1;
  return number;
}

export function onKey(event) {
  if (event.target.matches("input, button, a") && [" ", "Enter", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return false;
  const here = focused();
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -Infinity, End: Infinity };
  if (event.key in steps && here) {
    const tiles = [...grid.children];
    const at = tiles.indexOf(here) + (document.activeElement === here ? steps[event.key] : 0);
    const next = tiles[Math.max(0, Math.min(tiles.length - 1, at))];
    if (event.shiftKey) { anchor = anchor?.isConnected ? anchor : here; selectTo(next); } else anchor = null;
    focus(next);
    return true;
  }
  if ((event.ctrlKey || event.metaKey) && event.key === "a") {
    [...grid.children].forEach((tile) => select(tile, true));
    tellAbout(current);
    return true;
  }
  if (event.ctrlKey || event.metaKey) return false;
  if (event.key === "k" || event.key === "d") { decide(event.key === "k" ? "keep" : "drop"); return true; }
  if (event.key === " " && here) {
    select(here, here.getAttribute("aria-selected") !== "true");
    anchor = here;
    tellAbout(here);
    return true;
  }
  if (event.key === "Escape") { chosen().forEach((tile) => select(tile, false)); tellAbout(current); return true; }
  return false;
}

function change() {
  const words = new URLSearchParams({ show: controls.show.value, order: controls.order.value });
  if (asked.category) { words.set("category", asked.category); words.set("title", ofTitle); }
  location.hash = `images?${words}`;
}

find("image-controls").addEventListener("submit", (event) => event.preventDefault());
find("image-controls").addEventListener("change", change);
find("of-category").addEventListener("click", () => { asked.category = ""; change(); });
find("keep").addEventListener("click", () => decide("keep"));
find("drop").addEventListener("click", () => decide("drop"));
atEnd(find("image-end"), more);
