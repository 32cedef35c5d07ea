// Thresholds: what they would keep is counted here, from the similarities that came with the overview.
import { count, find, post, say, trying } from "./api.js";

const form = find("sliders");
const { gamma1, gamma2, labels } = form.elements;
let sums = null; // {plain, like}: how many images lie below each bin
let about = null;
let top = 0; // the last place of the upper slider

export function setOverview(found) {
  const { histogram } = found;
  const isNew = JSON.stringify([found.gamma1, found.gamma2, found.labels]) !== JSON.stringify(about && [about.gamma1, about.gamma2, about.labels]);
  about = found;
  sums = { plain: running(histogram.plain), like: running(histogram.like_another) };
  form.hidden = histogram.plain.length + histogram.like_another.length === 0;
  if (form.hidden) return;
  const bins = Math.max(histogram.plain.length, histogram.like_another.length);
  const places = [found.gamma1, found.gamma2].filter((value) => value !== null).map(place);
  const low = Math.min(Math.floor(histogram.low / 2) - 1, ...places);
  top = Math.max(Math.ceil((histogram.low + bins) / 2) + 1, ...places);
  for (const slider of [gamma1, gamma2]) { slider.min = low; slider.max = top; slider.step = 1; }
  if (isNew) {
    labels.checked = found.labels;
    gamma1.value = found.gamma1 === null ? low : place(found.gamma1);
    gamma2.value = found.gamma2 === null ? top : place(found.gamma2);
  }
  find("labels").hidden = !found.labels;
  update();
}

function running(counts) {
  const found = new Float64Array(counts.length + 1);
  counts.forEach((number, at) => { found[at + 1] = found[at] + number; });
  return found;
}

// Where the slider stands for a threshold that lies on no place: the one below, up to which labels are judged.
const place = (value) => Math.floor(value / about.histogram.step + 1e-6);
const stands = (slider, value) => value !== null && Number(slider.value) === place(value);
const below = (sum, bin) => sum[Math.max(0, Math.min(sum.length - 1, bin - about.histogram.low))];
const all = (sum) => sum[sum.length - 1];
const chosen = () => ({
  gamma1: labels.checked ? null : (gamma1.value * about.histogram.step),
  gamma2: gamma2.value * about.histogram.step,
});

// How many images the places of the sliders would keep, and leave out for which reason.
function counted() {
  const low = 2 * gamma1.value + 1; // the first bin above the threshold
  const high = 2 * gamma2.value; // the bin on it
  const { plain, like } = sums;
  if (labels.checked) return { kept: below(plain, high), like: all(like), near: all(plain) - below(plain, high) };
  return {
    kept: Math.max(0, below(plain, high) + below(like, high) - below(plain, low) - below(like, low)),
    far: below(plain, low) + below(like, low),
    near: all(plain) - below(plain, high) + all(like) - below(like, high),
  };
}

function update() {
  gamma2.max = labels.checked && about.below !== null ? place(about.below) : top;
  const same = labels.checked === about.labels && stands(gamma2, about.gamma2) && (labels.checked || stands(gamma1, about.gamma1));
  const now = same ? about.histogram.now : counted();
  const parts = [`${count(now.kept + about.histogram.kept)} of ${count(about.histogram.all)} kept`];
  parts.push(labels.checked ? `${count(now.like)} look like another category` : `${count(now.far)} too far`);
  parts.push(`${count(now.near)} too near`);
  if (about.labels && !labels.checked) parts.push("and only `fastlt filter` brings labels back");
  find("preview").textContent = parts.join(", ");
  gamma1.disabled = labels.checked;
  const told = same ? about : chosen();
  find("told1").textContent = labels.checked ? "–" : told.gamma1.toFixed(3);
  find("told2").textContent = told.gamma2.toFixed(3);
  find("apply").disabled = same || (!labels.checked && Number(gamma1.value) >= Number(gamma2.value));
}

async function apply() {
  const answer = await trying(() => post("thresholds", chosen()));
  if (!answer) return;
  say(`${count(answer.changed_images)} images were judged anew.`);
  document.dispatchEvent(new Event("reread"));
}

form.addEventListener("input", update);
form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
