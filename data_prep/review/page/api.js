// Asks the server, makes elements of text alone, and shows what every answer says.

const LINKS = new Set(["http:", "https:"]);
export const find = (id) => document.getElementById(id);

// An element with attributes and children; a text is text, whatever is in it.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

// A link that leads to another site, or the text alone where it could run something.
export function link(address, text) {
  let url;
  try { url = new URL(address); } catch { return make("span", {}, text); }
  if (!LINKS.has(url.protocol)) return make("span", {}, text);
  return make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

export function picture(address, alt, side = 96) {
  const image = make("img", { loading: "lazy", decoding: "async", alt, width: side, height: side, src: address });
  image.addEventListener("error", () => image.replaceWith(make("span", { class: "missing" }, "no picture")));
  return image;
}

export const count = (number) => number.toLocaleString("en");

let sayTimer = 0;
export function say(text, isError = false) {
  const said = find("said");
  said.textContent = text;
  said.classList.toggle("error", isError);
  said.hidden = !text;
  clearTimeout(sayTimer);
  if (text && !isError) sayTimer = setTimeout(() => { said.hidden = true; }, 4000);
}

export const state = { last: null };

function follow(answer) {
  if ("last" in answer) {
    state.last = answer.last;
    const undo = find("undo");
    undo.disabled = !answer.last;
    undo.textContent = answer.last ? `Undo: ${answer.last.told}` : "Undo";
    undo.title = answer.last ? `${answer.last.told} (u)` : "u";
  }
  if ("changed" in answer) find("changed").hidden = !answer.changed;
  return answer;
}

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("fastlt review does not answer: was it ended?");
  }
  const answer = await response.json().catch(() => ({ error: `the server says ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return follow(answer);
}

export const get = (address, words = {}) => {
  const query = new URLSearchParams(Object.entries(words).filter(([, value]) => value !== "" && value != null));
  return ask(`api/${address}?${query}`);
};

export const post = (address, body) =>
  ask(`api/${address}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

// Runs something that may fail, and says so.
export async function trying(action) {
  try { return await action(); } catch (error) { say(error.message, true); return null; }
}

// What could not be followed, by name.
export function tell(answer, done) {
  const failed = [...(answer.refused ?? []).map((why) => `Refused: ${why}`), ...(answer.gone ?? []).map((what) => `Gone: ${what}`)];
  if (failed.length) say([...failed.slice(0, 5), ...(failed.length > 5 ? [`and ${failed.length - 5} more`] : [])].join("\n"), true);
  else say(answer.error || done, Boolean(answer.error));
}

// Calls for more when the end of a list comes near.
export function atEnd(element, more) {
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "2500px" }).observe(element);
}

// Moves the one place of a list that Tab reaches.
export function moveFocus(before, element) {
  if (before) before.tabIndex = -1;
  element.tabIndex = 0;
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest" });
}
