// The list of categories, each beside a target: accepted, rejected, renamed, moved, added.
import { atEnd, count, find, get, make, moveFocus, picture, post, say, tell, trying } from "./api.js";

const list = find("category-list");
const controls = find("category-controls").elements;
const dialog = find("ask");
const about = new WeakMap(); // of each element, its category
let asked = {};
let after = 0;
let listing = "";
let turn = 0;
let loading = false;
let pictures = true;

export function show(words) {
  asked = { order: words.order ?? "doubt", show: words.show ?? "all", text: words.text ?? "" };
  for (const [name, value] of Object.entries(asked)) if (document.activeElement !== controls[name]) controls[name].value = value;
  reload();
}

export function reload() {
  turn += 1;
  after = 0;
  listing = "";
  loading = false;
  list.replaceChildren();
  find("category-end").textContent = "";
  more();
}

export function setOverview(found) {
  pictures = !found.no_pictures;
  find("no-pictures").textContent = found.no_pictures;
  find("no-pictures").hidden = pictures;
}

async function more() {
  if (loading || after === null || find("categories").hidden) return;
  loading = true;
  const mine = turn;
  const answer = await trying(() => get("categories", { ...asked, from: after, listing }));
  if (mine !== turn) return;
  loading = false;
  if (!answer) { after = null; return; }
  ({ after, listing } = answer);
  find("category-count").textContent = `${count(answer.total)} shown`;
  for (const category of answer.categories) {
    const target = category.beside?.name ?? "";
    if (asked.order === "target" && list.lastElementChild?.dataset.target !== target) {
      list.append(make("h2", { "data-target": target }, category.beside?.title ?? "no target"));
    }
    list.append(article(category));
  }
  const first = list.querySelector("article");
  if (first && !list.querySelector("article[tabindex='0']")) first.tabIndex = 0;
  find("category-end").textContent = after !== null ? "" : first ? "That is all." : "There are none.";
  if (after !== null && find("category-end").getBoundingClientRect().top < innerHeight + 2500) more();
}

function article(category) {
  const element = make("article", { tabindex: "-1", "data-target": category.beside?.name ?? "" });
  fill(element, category);
  return element;
}

function fill(element, category) {
  about.set(element, category);
  element.className = category.state;
  element.setAttribute("aria-label", `${category.title}, ${category.state}`);
  const beside = category.beside;
  const numbers = [...Array(category.pictures).keys()];
  const own = numbers.map((number) => picture(`target/${number}/${encodeURIComponent(beside.name)}`, "", 64));
  const state = category.decided ? `${category.state} by hand` : category.state;
  const told = [`${count(category.taken)} of ${count(category.images)} images taken`];
  if (category.similarity !== null) told.push(`similarity ${category.similarity.toFixed(3)}`);
  const others = category.targets.map((target) => target.title).join(", ");
  element.replaceChildren(
    make("div", { class: "beside" }, make("h3", {}, beside?.title ?? "no target"),
      make("div", { class: "pictures" }, ...own, own.length || !beside ? "" : make("span", { class: "quiet" }, "no pictures"))),
    make("div", { class: "own" },
      make("h3", {}, category.title, " ", make("b", { class: "state" }, state)),
      make("p", { class: "quiet" }, `${told.join(" · ")}${others ? ` · beside ${others}` : ""}`),
      category.state === "rejected" && category.reason && !category.decided ? make("p", { class: "doubt" }, category.reason) : "",
      ...category.doubts.map((doubt) => make("p", { class: "doubt" }, doubt)),
      make("div", { class: "pictures" }, ...category.samples.map((image) => picture(`image/${image}`, "", 96))),
      make("div", { class: "actions" }, ...ACTIONS.map(([key, name, told]) => make("button", { type: "button", "data-key": key, title: `${told} (${key})` }, name)))));
}

// Shows categories as they are now, where they are; whether all of them are there.
export function refill(changed) {
  const articles = [...list.querySelectorAll("article")];
  return changed.map(({ name, category }) => {
    const found = articles.filter((element) => about.get(element).name === name);
    found.forEach((element) => (category ? fill(element, category) : element.remove()));
    return found.length > 0 || !category;
  }).every(Boolean);
}

async function send(element, body, done) {
  const beside = element ? about.get(element).beside?.name : null;
  const answer = await trying(() => post("decide", { ...body, beside }));
  if (!answer) return false;
  tell(answer, done);
  if (answer.category && element) fill(element, answer.category);
  else if (answer.category) { list.prepend(article(answer.category)); focus(list.firstElementChild); }
  document.dispatchEvent(new Event("decided"));
  return answer.done > 0;
}

function verdict(element, what, done) {
  const { name, title } = about.get(element);
  return send(element, { category: name, verdict: what }, `${done} ${title}.`);
}

// Asks for a title, for targets, or for both; null where it is left.
function askFor(heading, title, targets) {
  const form = dialog.querySelector("form");
  const chosen = new Map((targets ?? []).map((target) => [target.name, target.title]));
  find("ask-title").textContent = heading;
  find("ask-name").hidden = title === null;
  find("ask-targets").hidden = targets === null;
  form.elements.title.value = title ?? "";
  form.elements.target.value = "";
  const draw = () => find("chips").replaceChildren(...[...chosen].map(([name, said]) => {
    const chip = make("button", { type: "button", class: "chip", "aria-label": `not ${said}` }, `${said} ✕`);
    chip.addEventListener("click", () => { chosen.delete(name); draw(); form.elements.target.focus(); });
    return chip;
  }));
  draw();
  const suggest = async () => {
    const text = form.elements.target.value;
    const found = (await trying(() => get("targets", { text }))) ?? [];
    const exact = found.find((target) => text && (target.title === text || target.name === text));
    if (exact) { chosen.set(exact.name, exact.title); form.elements.target.value = ""; draw(); }
    find("found-targets").replaceChildren(...found.map((target) => make("option", { value: target.title })));
    return exact;
  };
  dialog.showModal();
  form.elements[title === null ? "target" : "title"].focus(); // and not a target, which a key would take away
  return new Promise((resolve) => {
    const end = (value) => { form.onsubmit = form.oninput = dialog.onclose = null; dialog.close(); resolve(value); };
    form.oninput = (event) => { if (event.target.name === "target") suggest(); };
    form.onsubmit = async (event) => {
      event.preventDefault();
      if (form.elements.target.value && !(await suggest())) { say(`There is no target class ${form.elements.target.value}.`, true); return; }
      end({ title: form.elements.title.value, targets: [...chosen.keys()] });
    };
    form.querySelector("[value=cancel]").onclick = () => end(null);
    dialog.onclose = () => end(null);
  });
}

async function rename(element) {
  const { name, title } = about.get(element);
  const said = await askFor(`Rename ${title}`, title, null);
  if (said) await send(element, { category: name, verdict: "rename", title: said.title }, `${title} is ${said.title} now.`);
  focus(element);
}

async function move(element) {
  const { name, title, targets } = about.get(element);
  const said = await askFor(`Move ${title}`, null, targets);
  if (said) await send(element, { category: name, verdict: "move", targets: said.targets }, `Moved ${title}.`);
  focus(element);
}

async function add() {
  const here = focused() && about.get(focused()).beside;
  const said = await askFor("Add a category", "", here ? [here] : []);
  if (said) await send(null, { verdict: "add", ...said }, `Added ${said.title}.`);
}

function images(element) {
  const { id, title } = about.get(element);
  location.hash = `images?${new URLSearchParams({ category: id, title })}`;
}

const ACTIONS = [
  ["a", "Accept", "Keep it, and doubt it no more", (element) => verdict(element, "accept", "Accepted")],
  ["r", "Reject", "Neither crawl nor encode it", (element) => verdict(element, "reject", "Rejected")],
  ["e", "Rename", "Give it another title", rename],
  ["m", "Move", "Put it beside other targets", move],
  ["i", "Images", "Look at all its images", images],
];

const focused = () => list.querySelector("article[tabindex='0']");

let current = null; // where a person has been: keys decide about nothing that nobody has gone to

const focus = (element) => moveFocus(focused(), element);

list.addEventListener("focusin", (event) => { current = event.target.closest("article"); });

async function act(key, element) {
  const [, , , action] = ACTIONS.find(([name]) => name === key);
  const done = await action(element);
  const articles = [...list.querySelectorAll("article")];
  const next = articles[articles.indexOf(element) + 1];
  if (done && "ar".includes(key) && next) focus(next);
}

export function onKey(event) {
  if (event.ctrlKey || event.metaKey) return false;
  if (event.key === "n") { add(); return true; }
  const here = focused();
  if (!here) return false;
  const articles = [...list.querySelectorAll("article")];
  const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };
  if (event.key in steps) {
    const isThere = here.contains(document.activeElement);
    const at = articles.indexOf(here) + (isThere ? steps[event.key] : 0);
    focus(articles[Math.max(0, Math.min(articles.length - 1, at))]);
    return true;
  }
  if (!ACTIONS.some(([key]) => key === event.key)) return false;
  if (current?.isConnected) act(event.key, current); else focus(here);
  return true;
}

list.addEventListener("click", (event) => {
  const element = event.target.closest("article");
  if (!element) return;
  focus(element);
  const button = event.target.closest("button[data-key]");
  if (button) act(button.dataset.key, element);
});

let typed = 0;
function change() {
  const words = { order: controls.order.value, show: controls.show.value, text: controls.text.value };
  location.hash = `categories?${new URLSearchParams(words)}`;
}
find("category-controls").addEventListener("submit", (event) => event.preventDefault());
find("category-controls").addEventListener("change", change);
controls.text.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(change, 250); });
find("add").addEventListener("click", add);
atEnd(find("category-end"), more);
