// Thresholds: what they would keep is counted here, from the similarities that came with the overview.
import { count, find, post, say, trying } from "./api.js";

const form = find("sliders");
const { gamma1, gamma2, labels } = form.elements;
let sums = null; // {plain, like}: how many images lie below each bin
let about = null;

export function setOverview(found) {
  const { histogram } = found;
  const isNew = JSON.stringify([found.gamma1, found.gamma2, found.labels]) !== JSON.stringify(about && [about.gamma1, about.gamma2, about.labels]);
  about = found;
  sums = { plain: running(histogram.plain), like: running(histogram.like_another) };
  form.hidden = histogram.plain.length + histogram.like_another.length === 0;
  if (form.hidden) return;
  const bins = Math.max(histogram.plain.length, histogram.like_another.length);
  const places = [found.gamma1, found.gamma2].filter((value) => value !== null).map((value) => Math.round(value / histogram.step));
  const low = Math.min(Math.floor(histogram.low / 2) - 1, ...places);
  const high = Math.max(Math.ceil((histogram.low + bins) / 2) + 1, ...places);
  for (const slider of [gamma1, gamma2]) { slider.min = low; slider.max = high; slider.step = 1; }
  if (isNew) {
    labels.checked = found.labels;
    gamma1.value = found.gamma1 === null ? low : Math.round(found.gamma1 / histogram.step);
    gamma2.value = found.gamma2 === null ? high : Math.round(found.gamma2 / histogram.step);
  }
  find("labels").hidden = !found.labels;
  update();
}

function running(counts) {
  const found = new Float64Array(counts.length + 1);
  counts.forEach((number, at) => { found[at + 1] = found[at] + number; });
  return found;
}

const below = (sum, bin) => sum[Math.max(0, Math.min(sum.length - 1, bin - about.histogram.low))];
const all = (sum) => sum[sum.length - 1];
const chosen = () => ({
  gamma1: labels.checked ? null : (gamma1.value * about.histogram.step),
  gamma2: gamma2.value * about.histogram.step,
});

function update() {
  const low = 2 * gamma1.value + 1; // the first bin above the threshold
  const high = 2 * gamma2.value; // the bin on it
  const { plain, like } = sums;
  const kept = labels.checked
    ? below(plain, high)
    : Math.max(0, below(plain, high) + below(like, high) - below(plain, low) - below(like, low));
  const parts = [`${count(kept + about.histogram.kept)} of ${count(about.histogram.all)} kept`];
  if (labels.checked) parts.push(`${count(all(like))} look like another category`);
  else parts.push(`${count(Math.min(below(plain, low) + below(like, low), all(plain) + all(like)))} too far`);
  parts.push(`${count(all(plain) - below(plain, high) + (labels.checked ? 0 : all(like) - below(like, high)))} too near`);
  find("preview").textContent = parts.join(", ");
  gamma1.disabled = labels.checked;
  find("told1").textContent = labels.checked ? "–" : Number(chosen().gamma1).toFixed(3);
  find("told2").textContent = chosen().gamma2.toFixed(3);
  const same = labels.checked === about.labels && closeTo(chosen().gamma2, about.gamma2) && (labels.checked || closeTo(chosen().gamma1, about.gamma1));
  find("apply").disabled = same || (!labels.checked && Number(gamma1.value) >= Number(gamma2.value));
}

const closeTo = (value, other) => other !== null && Math.abs(value - other) <= about.histogram.step / 2;

async function apply() {
  const answer = await trying(() => post("thresholds", chosen()));
  if (!answer) return;
  say(`${count(answer.changed_images)} images were judged anew.`);
  document.dispatchEvent(new Event("reread"));
}

form.addEventListener("input", update);
form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
