// Adds to the pages, in a browser with JavaScript: fresh data, keys, ages, ticking many boxes at once, copying.
// Nothing here is needed: every view and every action also works without it.

const PERIOD = 10_000;
const TYPED = "input:not([type=hidden]):not([type=checkbox]), textarea";
// The value of each field when the page was shown.
const shown = new WeakMap();
const main = document.getElementById("main");
const isField = (element) => element?.closest?.("input:not([type=checkbox]), select, textarea") != null;

// Ages

const STEPS = [
  [60, "second"],
  [60, "minute"],
  [24, "hour"],
  [7, "day"],
  [4.35, "week"],
  [12, "month"],
  [Infinity, "year"],
];
const ages = new Intl.RelativeTimeFormat("en", { style: "short" });

function age(time) {
  let value = (time - Date.now()) / 1000;
  if (Math.abs(value) < 10) return "just now";
  for (const [size, unit] of STEPS) {
    if (Math.abs(Math.round(value)) < size) return ages.format(Math.round(value), unit);
    value /= size;
  }
}

// As the server writes a time, but in the browser's zone, which it names.
const inZone = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  year: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
  timeZoneName: "short",
});

// Where a column tells them apart, the age stands on the page; elsewhere it is found by pointing at the time. The
// tooltip always has the time in UTC too.
function showTimes() {
  for (const time of main.querySelectorAll("time")) {
    time.dataset.utc ??= time.title;
    const at = Date.parse(time.dateTime);
    const [zoned, text] = [inZone.format(at), age(at)];
    const isShort = time.closest(".when, .marks") != null;
    time.textContent = isShort ? text : zoned;
    time.title = `${isShort ? zoned : text}\n${time.dataset.utc}`;
  }
  for (const bar of main.querySelectorAll(".chart a[data-from]")) {
    const title = bar.querySelector("title");
    title.dataset.utc ??= title.textContent;
    title.textContent = `${inZone.format(Date.parse(bar.dataset.from))}\n${title.dataset.utc}`;
  }
}

// The banner is told once, and an action's own answer is not asked for again

// Links and forms are relative to the address, so they are made whole before it changes.
function forgetAction() {
  const instead = main.dataset.instead && new URL(main.dataset.instead, location).href;
  if (!instead) return;
  for (const link of document.querySelectorAll("a[href]:not([href^='#'])")) link.href = link.href;
  // A form's property `action` may be its field of this name.
  for (const form of document.querySelectorAll("form[action]")) {
    form.setAttribute("action", new URL(form.getAttribute("action"), location).href);
  }
  for (const button of document.querySelectorAll("button[formaction]")) button.formAction = button.formAction;
  history.replaceState(history.state, "", instead);
}

function forgetBanner() {
  const address = new URL(location);
  if (!address.searchParams.has("banner")) return;
  address.searchParams.delete("banner");
  // Not the whole of it: with the credentials that an address may have left out it would be refused.
  history.replaceState(history.state, "", address.pathname + address.search + address.hash);
}

// This tab keeps the token of the last run, so that the run's page can continue it, also after a reload of an address
// that has no token.

const RUN = "dead-letters-run";

function keepRun() {
  const next = main.querySelector("form.actions input[name=run]");
  const run = new URL(main.dataset.instead ?? location, location).pathname;
  try {
    if (next) return sessionStorage.setItem(RUN, JSON.stringify([run, next.value]));
    // Its last step leads to this page, or to a banner.
    const ended = [main.querySelector("progress.progress") && run, main.querySelector(".banner a")?.pathname];
    if (ended.includes(keptRun()[0])) sessionStorage.removeItem(RUN);
  } catch {
    // The storage is full. The run continues while the page is open.
  }
}

// The path of a run's page, and the token.
function keptRun() {
  try {
    return JSON.parse(sessionStorage.getItem(RUN)) ?? [];
  } catch {
    return [];
  }
}

function offerRun() {
  const form = main.querySelector("form.continue");
  const [run, token] = form ? keptRun() : [];
  if (!form || run !== location.pathname) return;
  form.elements.run.value = token;
  form.querySelector("button").textContent = "Continue this run";
  form.hidden = false;
}

// Rows

const rowKey = (row) => row.id || row.dataset.key || row.querySelector("a")?.getAttribute("href");
const rows = () => [...main.querySelectorAll(".cards tbody tr")];
const boxes = () => [...main.querySelectorAll("tbody input[type=checkbox][name=ids]:not(:disabled)")];
const ticked = () => boxes().filter((box) => box.checked);
let lastTicked = null;

// In the head of the table, and beside the buttons where rows are cards without a head.
function addSelectAll() {
  const [head, bulk] = [main.querySelector("thead .tick"), main.querySelector(".bulk")];
  if (!head || boxes().length === 0) return;
  const box = () => {
    const all = Object.assign(document.createElement("input"), { type: "checkbox", className: "all" });
    all.addEventListener("change", () => {
      for (const box of boxes()) box.checked = all.checked;
      showTicked();
    });
    return all;
  };
  const ofTable = box();
  ofTable.setAttribute("aria-label", "Tick all letters of this page");
  head.append(ofTable);
  const label = Object.assign(document.createElement("label"), { className: "check" });
  label.append(box(), " Tick all");
  bulk?.prepend(label);
}

function showTicked() {
  const count = ticked().length;
  for (const all of main.querySelectorAll("input.all")) {
    all.checked = count > 0 && count === boxes().length;
    all.indeterminate = count > 0 && !all.checked;
  }
  const text = document.getElementById("count");
  if (text) {
    text.dataset.text ||= text.textContent;
    text.textContent = count > 0 ? `${text.dataset.text}, ${count} ticked` : text.dataset.text;
  }
  showLive();
}

main.addEventListener("click", (event) => {
  const box = event.target;
  if (box.name !== "ids" || box.type !== "checkbox") return;
  const all = boxes();
  const [from, to] = [all.indexOf(lastTicked), all.indexOf(box)];
  if (event.shiftKey && from >= 0) {
    for (const between of all.slice(Math.min(from, to), Math.max(from, to) + 1)) between.checked = box.checked;
  }
  lastTicked = box;
  showTicked();
});

// Copying

function addCopying() {
  if (!navigator.clipboard) return;
  for (const text of main.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy the ${text.dataset.copy}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(textOf(text));
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    if (text.matches("dd")) text.previousElementSibling.append(" ", button);
    else text.append(button);
  }
}

const textOf = (element) => {
  const copy = element.cloneNode(true);
  for (const button of copy.querySelectorAll("button")) button.remove();
  return copy.textContent.trimEnd();
};

// Commands: only the browser knows where this is.

const ADDRESS = 'curl "$DEAD_LETTERS_URL"';

function fillCommands() {
  const apps = new URL(document.querySelector(".brand").href);
  const root = apps.origin + apps.pathname.slice(0, apps.pathname.lastIndexOf("/"));
  // One word of a shell, whatever a path has in it.
  const quoted = `'${root.split("'").join("'\\''")}'`;
  for (const command of main.querySelectorAll(".command pre")) {
    const text = command.textContent;
    // At its beginning alone: further on it can stand in a filter's text.
    if (text.startsWith(ADDRESS)) command.textContent = `curl ${quoted}${text.slice(ADDRESS.length)}`;
  }
}

// The filter: a link to what it shows, and times in the browser's zone. The server knows UTC alone.

function addCopyLink() {
  const ranges = main.querySelector(".filter .ranges");
  if (!navigator.clipboard || !ranges || ranges.querySelector(".copy")) return;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "quiet copy", textContent: "Copy link" });
  button.addEventListener("click", async () => {
    const address = new URL(location);
    address.searchParams.delete("banner");
    await navigator.clipboard.writeText(address.href);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy link"), 1500);
  });
  ranges.append(button);
}

// The attribute keeps the time in UTC.
function showLocalTimes() {
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(new Date());
  const zone = parts.find((part) => part.type === "timeZoneName").value;
  for (const input of main.querySelectorAll(".filter input[type=datetime-local]")) {
    input.labels[0].querySelector(".zone").textContent = `(${zone})`;
    const utc = input.defaultValue;
    const time = new Date(`${utc}Z`);
    if (!utc || isNaN(time)) continue;
    const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000);
    input.value = local.toISOString().slice(0, utc.length);
    input.dataset.shown = input.value;
    shown.set(input, input.value);
    input.title = `${utc.replace("T", " ")} UTC`;
  }
}

main.addEventListener("formdata", (event) => {
  for (const input of event.target.querySelectorAll("input[type=datetime-local]")) {
    if (!input.value) continue;
    const isSame = input.value === input.dataset.shown;
    event.formData.set(input.name, isSame ? `${input.defaultValue}Z` : new Date(input.value).toISOString());
  }
});

function dressFilter() {
  addCopyLink();
  showLocalTimes();
}

// A refresh may replace the form.
new MutationObserver(dressFilter).observe(main, { childList: true });
dressFilter();

// A replay at a rate continues by itself. Stop also cancels the request under way, and the run ends after its batch.

const STEP_AFTER = 1_000;
const STAGE_AFTER = 5_000;
const LOOK_EVERY = 30_000;
const STOPPED = "dead-letters-stopped";

// A double click sends a form once. Later the form can be sent again: the first request may have been stopped.
const DOUBLE = 3000;
const sentAt = new WeakMap();

document.addEventListener("submit", (event) => {
  if (event.target.method !== "post" || event.defaultPrevented) return;
  if (event.timeStamp - (sentAt.get(event.target) ?? -DOUBLE) < DOUBLE) event.preventDefault();
  else sentAt.set(event.target, event.timeStamp);
});

// A stage of a replay begins when its letters had the time to fail again, which the server checks. At a rate the rest follows at once.
function keepRunning() {
  const form = main.querySelector("form[data-continue]");
  if (!form) return;
  const at = Date.parse(form.dataset.continue);
  const isStage = !Number.isNaN(at);
  const buttons = [...form.querySelectorAll("button")];
  const next = isStage ? buttons[0] : buttons.at(-1);
  const begins = Math.max(isStage ? at : 0, Date.now() + (isStage ? STAGE_AFTER : STEP_AFTER));
  const text = isStage ? "The next stage begins by itself if nothing failed again." : "The run continues by itself.";
  const status = Object.assign(document.createElement("p"), { className: "muted", textContent: text });
  status.setAttribute("role", "status");
  const stop = Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: "Stop" });
  form.addEventListener("submit", () => sessionStorage.removeItem(STOPPED));
  // The page of a stopped run may be loaded again.
  if (sessionStorage.getItem(STOPPED) === location.pathname) return;
  const timers = [];
  const end = () => timers.forEach(clearInterval);
  // The timer would send a value that is half typed.
  const isTouched = () =>
    [...form.querySelectorAll(TYPED)].some((field) => field === document.activeElement || field.value !== field.defaultValue);
  const look = async () => {
    const response = await fetch(location.origin + location.pathname + location.search, { cache: "no-store" }).catch(() => null);
    if (!response?.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!page.querySelector("form[data-continue]")) location.reload();
  };
  timers.push(
    setInterval(() => {
      const says = isTouched() ? "The run waits while its fields are edited." : text;
      if (status.textContent !== says) status.textContent = says;
      if (Date.now() < begins || isTouched()) return;
      end();
      form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "automatic", value: "true" }));
      form.requestSubmit(next);
    }, 500),
  );
  if (isStage && !("instead" in main.dataset)) timers.push(setInterval(look, LOOK_EVERY));
  form.addEventListener("submit", end);
  // A link or another form leads elsewhere.
  addEventListener("beforeunload", end);
  stop.addEventListener("click", () => {
    end();
    sessionStorage.setItem(STOPPED, location.pathname);
    window.stop();
    status.textContent = "Stopped. Continue with the buttons above.";
    stop.remove();
  });
  next.parentElement.after(status, stop);
}

// All of that, of a page that is new or fresh

function dress() {
  for (const field of main.querySelectorAll(TYPED)) shown.set(field, field.value);
  showTimes();
  addSelectAll();
  aimBack();
  fillCommands();
  addCopying();
  offerRun();
}

// The way back to a page: its filter and page are in its address, and this keeps the rest while the tab is open.

// A list as the server writes its address: a form may have sent empty fields.
const listOf = () => main.querySelector("#rows input[name=back]")?.value ?? location.search;
const keyOf = (list) => `dead-letters-place ${location.pathname}${list}`;
const navigation = () => performance.getEntriesByType("navigation")[0]?.type;

function keepPlace() {
  if (!main.hasAttribute("data-live") || main.querySelector("[data-problem]")) return;
  sessionStorage.setItem(`dead-letters-list ${location.pathname}`, location.search);
  const at = rows().findIndex((row) => row.classList.contains("current"));
  const current = at < 0 ? null : rowKey(rows()[at]);
  const place = { y: scrollY, ticked: ticked().map((box) => box.value), at, current };
  sessionStorage.setItem(keyOf(listOf()), JSON.stringify(place));
}

// To a list: from a letter, a preview, an error or another answer to a form of it. To the overview: from any other page.
function isReturn() {
  if (navigation() === "reload" || !document.referrer) return false;
  const before = new URL(document.referrer);
  const [from, here] = [before.pathname, location.pathname];
  if (before.origin !== location.origin) return false;
  before.searchParams.delete("banner");
  const root = new URL(document.querySelector(".brand").href).pathname.replace(/apps$/, "");
  if (from === here) return before.search === location.search;
  const isOverview = here === `${root}apps`;
  const ofApp = here.replace(/\/groups$/, "");
  return [...(isOverview ? [""] : ["bulk/", "runs/"]).map((part) => root + part), `${ofApp}/`].some((start) => from.startsWith(start));
}

function restorePlace() {
  const kept = JSON.parse(sessionStorage.getItem(keyOf(listOf())) ?? "null");
  if (!kept) return;
  const values = new Set(kept.ticked);
  for (const box of boxes()) box.checked = values.has(box.value);
  showTicked();
  // The row may be closed by now. Then the next one has its place.
  const same = rows().find((row) => rowKey(row) === kept.current);
  const current = kept.at >= 0 && (same ?? rows()[Math.min(kept.at, rows().length - 1)]);
  if (current) current.classList.add("current");
  // A banner says what happened, and can undo it.
  if (!main.querySelector(".banner")) scrollTo(0, kept.y);
}

// A link back leads to the list that this tab showed last.
function aimBack() {
  for (const link of main.querySelectorAll("a[data-back]")) {
    const search = sessionStorage.getItem(`dead-letters-list ${new URL(link.href).pathname}`);
    if (search != null) link.search = search;
  }
}

addEventListener("pagehide", keepPlace);

// Staying fresh

const live = document.createElement("button");
let tag = null;
let timer = null;
let isFetching = false;
let isPaused = sessionStorage.getItem("dead-letters-paused") === "yes";
let isLost = false;

// Why the page stays as it is, although nobody paused it.
function busyWith() {
  const count = ticked().length;
  if (count > 0) return `${count} selected`;
  if (main.contains(document.activeElement) && isField(document.activeElement)) return "typing";
  if ([...main.querySelectorAll(TYPED)].some((field) => field.value !== (shown.get(field) ?? field.value))) return "text entered";
  if (main.querySelector("input[name=anyway]:checked")) return "confirmed";
  if (!document.getSelection().isCollapsed) return "text selected";
}

const isBusy = () => document.hidden || document.querySelector("dialog[open]") != null || busyWith() != null;

function showLive() {
  const busy = busyWith();
  const [state, text, title] = isPaused
    ? ["paused", "Paused", "Refresh every 10 seconds again"]
    : busy != null
      ? ["paused", `Paused: ${busy}`, "Nothing moves meanwhile"]
      : isLost
        ? ["lost", "Offline", "The last refresh failed; the page tries again"]
        : ["live", "Live", "Refreshed every 10 seconds. Press to pause"];
  if (live.textContent === text) return;
  live.dataset.state = state;
  live.textContent = text;
  live.title = title;
}

function found(isFresh) {
  isLost = !isFresh;
  showLive();
}

// The address without the credentials that it may have: fetch refuses one with them.
// A view is answered within 15 seconds.
const ask = (address, headers = {}) =>
  fetch(location.origin + address, { headers, cache: "no-store", signal: AbortSignal.timeout(20_000) });
const parse = (html) => new DOMParser().parseFromString(html, "text/html");

// As a whole only where somebody asked for it: else no row that is shown moves, since one may be about to be clicked.
async function refresh(isWhole) {
  if (isFetching || isBusy()) return;
  isFetching = true;
  try {
    const response = await ask(location.pathname + location.search, tag ? { "If-None-Match": tag } : {});
    if (response.status === 304) return found(true);
    // A problem does not take the place of what was seen before it.
    if (!response.ok) return found(false);
    if (main.querySelector("[data-problem]")) return location.reload();
    const page = parse(await response.text());
    const fresh = page.getElementById("main");
    // Another page, such as the one to log in on after a session has ended.
    if (!fresh || new URL(response.url).pathname !== location.pathname) return found(false);
    if (isBusy()) return;
    tag = response.headers.get("ETag");
    if (isWhole || rows().length === 0) replace(page, fresh);
    else update(page, fresh);
    found(true);
  } catch {
    found(false);
  } finally {
    isFetching = false;
  }
}

// Keeps every row where it is. A link announces new letters, and letters that were closed elsewhere are marked.
function update(page, fresh) {
  const found = new Map([...fresh.querySelectorAll(".cards tbody tr")].map((row) => [rowKey(row), row]));
  const shown = rows();
  const last = shown.findLastIndex((row) => found.has(rowKey(row)));
  const isFull = fresh.querySelector("a[rel=next]") != null;
  const changed = [];
  for (const [at, row] of shown.entries()) {
    const same = found.get(rowKey(row));
    // An app that fails again is a new one.
    if (same?.dataset.nothing == null && row.dataset.nothing != null) continue;
    // Larger groups may have taken its place.
    if (!same && row.closest(".groups") && fresh.querySelector("[data-full]")) continue;
    // Behind the last that is still there, new ones may have pushed it to the next page.
    if (!same && isFull && at > last) continue;
    const isChanged = !same || (row.id !== "" && outcome(same) !== outcome(row));
    mark(row, isChanged);
    if (isChanged) changed.push(row);
    if (same && !same.id) takeOverRow(row, same);
    found.delete(rowKey(row));
  }
  const pills = [...main.querySelectorAll(".tabs .pill")];
  for (const [at, pill] of [...fresh.querySelectorAll(".tabs .pill")].entries()) {
    if (pills[at]) pills[at].textContent = pill.textContent;
  }
  const [chart, freshChart] = [main.querySelector("figure"), fresh.querySelector("figure")];
  if (chart && freshChart) chart.replaceChildren(...freshChart.childNodes);
  tellCounts(fresh);
  document.title = page.title;
  showNew([...found.keys()]);
  showTimes();
  showTicked();
  tellChanges(changed);
}

// Returns the parts of a letter's row that an action changes: its button, and how the letter was resolved, by whom and
// when.
function outcome(row) {
  const texts = [...row.querySelectorAll(".marks .pill:not(.amber), .marks .muted bdi")].map((part) => part.textContent);
  const button = row.querySelector(".act button");
  const at = row.querySelector(".marks time")?.dateTime;
  return [button?.getAttribute("formaction"), button?.value, at, ...texts].join("\n");
}

// The apps in which the buttons of a group act, and the links of its apps.
const APPS = [
  [".act form", "input[name=app], p"],
  [".marks", ".letter ~ *"],
];

// Takes over the row of a group or of an app: cells of one line, and a group's links and apps. Buttons stay.
function takeOverRow(row, same) {
  for (const cell of same.querySelectorAll(".number, .when, .trend")) {
    const shown = row.children[cell.cellIndex];
    if (shown) takeOver(shown, [...shown.childNodes], [...cell.childNodes]);
  }
  for (const link of ["a.letter", ".what > a"]) {
    const [shown, now] = [row.querySelector(link), same.querySelector(link)];
    if (shown && now) shown.setAttribute("href", now.getAttribute("href"));
  }
  for (const [place, parts] of APPS) {
    const [shown, now] = [row.querySelector(place), same.querySelector(place)];
    if (shown && now) takeOver(shown, [...shown.querySelectorAll(parts)], [...now.querySelectorAll(parts)]);
  }
}

// Replaces some nodes of an element. The focus stays on the link that leads to the same page.
function takeOver(element, old, fresh) {
  const focused = old.some((node) => node.contains(document.activeElement)) ? document.activeElement.href : null;
  for (const node of old) node.remove();
  element.append(...fresh);
  if (focused == null) return;
  const same = [...element.querySelectorAll("a")].find((link) => link.href === focused);
  (same ?? element.closest("tr").querySelector("a"))?.focus({ preventScroll: true });
}

// Takes over what the page says about all letters: in its heading, below its rows, on its buttons, and by hour.
function tellCounts(fresh) {
  for (const place of [".head p", "#count", "#hours table"]) {
    const [shown, now] = [main.querySelector(place), fresh.querySelector(place)];
    if (shown && now) shown.replaceChildren(...now.childNodes);
  }
  document.getElementById("count")?.removeAttribute("data-text");
  for (const button of main.querySelectorAll(".bulk input[name=filter] ~ button")) {
    const now = fresh.querySelector(`.bulk input[name=filter] ~ button[value=${button.value}]`);
    if (now) button.textContent = now.textContent;
  }
}

function mark(row, isGone) {
  row.classList.toggle("gone", isGone);
  for (const control of row.querySelectorAll("input, button")) control.disabled = isGone;
  if (!isGone) row.querySelector(".change")?.remove();
  row.title = isGone ? "Changed elsewhere since this page was loaded" : "";
}

// How many letters are asked about at once, so that an address stays short.
const CHANGES = 20;
// A refresh asks about no more than this.
const MOST_CHANGES = 100;
let isTelling = false;

// Writes on each row what happened to its letter, or to the newest open letter of its group, and who did it.
async function tellChanges(changed) {
  if (isTelling) return;
  isTelling = true;
  const lists = new Map();
  const untold = changed.filter((row) => !row.querySelector(".change"));
  for (const row of untold.slice(0, MOST_CHANGES)) {
    const path = row.querySelector("a.letter")?.pathname;
    if (!path) continue;
    const end = path.lastIndexOf("/letters/");
    const list = path.slice(0, end);
    lists.set(list, [...(lists.get(list) ?? []), [row, path.slice(end + "/letters/".length)]]);
  }
  for (const [list, letters] of lists) {
    for (let at = 0; at < letters.length; at += CHANGES) await tellChangesOf(list, letters.slice(at, at + CHANGES));
  }
  isTelling = false;
}

async function tellChangesOf(list, letters) {
  try {
    const response = await ask(`${list}?state=any&ids=${letters.map(([, letter]) => letter).join(",")}`);
    if (!response.ok || response.redirected) return;
    const page = parse(await response.text());
    for (const [row, letter] of letters) {
      if (!row.classList.contains("gone")) continue;
      const text = changeOf(page.getElementById(letter));
      // A group may also leave the page because others are larger.
      if (!row.id && text === REOPENED) continue;
      row.querySelector(".what")?.append(Object.assign(document.createElement("span"), { className: "pill change", textContent: text }));
    }
  } catch {
    // The rows are marked, and the next look asks again.
  }
}

const REOPENED = "Reopened";

function changeOf(fresh) {
  if (!fresh) return "Deleted";
  const resolution = fresh.querySelector(".marks .pill:not(.amber)")?.textContent;
  if (!resolution) return REOPENED;
  const by = fresh.querySelector(".marks .muted bdi")?.textContent;
  return resolution[0].toUpperCase() + resolution.slice(1) + (by ? ` by ${by}` : "");
}

// It stands above the page, and so moves nothing. A screen reader tells what comes into a status that is there.
const told = document.createElement("div");
told.setAttribute("role", "status");
document.body.append(told);
const news = Object.assign(document.createElement("a"), { className: "button news" });

function showNew(keys) {
  const groups = keys.filter((key) => key.startsWith("group ")).length;
  const what = main.querySelector(".letters") ? "letter" : groups > 0 ? "group" : "app";
  const count = groups || keys.length;
  news.textContent = `${count} new ${what}${count === 1 ? "" : "s"}`;
  news.href = location.pathname + location.search;
  if (count > 0) told.append(news);
  else news.remove();
}

// Keeps where one is: what is open, what is focused, which row.
function replace(page, fresh) {
  news.remove();
  const open = new Map([...main.querySelectorAll("details[id]")].map((details) => [details.id, details.open]));
  const current = rows().find((row) => row.classList.contains("current"));
  const key = (element) => element && (element.id || element.getAttribute("formaction") || element.getAttribute("href"));
  const focused = main.contains(document.activeElement) ? document.activeElement : null;
  const place = focused ? `${focused.localName} ${key(focused)} ${focused.textContent}` : null;
  // It is told until somebody goes on.
  const banner = main.querySelector(".banner");
  main.replaceChildren(...(banner ? [banner] : []), ...fresh.childNodes);
  main.toggleAttribute("data-live", fresh.hasAttribute("data-live"));
  document.title = page.title;
  dress();
  for (const details of main.querySelectorAll("details[id]")) details.open = open.get(details.id) ?? details.open;
  if (current) rows().find((row) => rowKey(row) === rowKey(current))?.classList.add("current");
  if (place) {
    const same = (element) => `${element.localName} ${key(element)} ${element.textContent}` === place;
    [...main.querySelectorAll("a, button, summary, [tabindex]")].find(same)?.focus({ preventScroll: true });
  }
}

function keepFresh() {
  if (!main.hasAttribute("data-live")) return;
  live.type = "button";
  live.className = "quiet live";
  const set = (paused) => {
    isPaused = paused;
    sessionStorage.setItem("dead-letters-paused", paused ? "yes" : "");
    clearInterval(timer);
    if (!paused) timer = setInterval(() => refresh(false), PERIOD);
    showLive();
  };
  live.addEventListener("click", () => {
    set(!isPaused);
    if (!isPaused) refresh(true);
  });
  isLost = main.querySelector("[data-problem]") != null;
  set(isPaused);
  document.querySelector(".tools").prepend(live);
  document.addEventListener("visibilitychange", () => !isPaused && refresh(false));
  for (const event of ["selectionchange", "focusin", "focusout"]) document.addEventListener(event, showLive);
}

// After Back the browser shows the page, and its boxes, as they were left. Fresh rows come first, and then what was ticked.
addEventListener("pageshow", async (event) => {
  if (!main.hasAttribute("data-live")) return;
  const isBack = event.persisted || navigation() === "back_forward";
  if (isBack) {
    for (const box of boxes()) box.checked = false;
    for (const field of main.querySelectorAll(TYPED)) field.value = shown.get(field) ?? field.value;
    showTicked();
    await refresh(true);
  }
  if (isBack || isReturn()) restorePlace();
});

// Keys

const KEYS = [
  ["/", "focus the filter, or the search for an id"],
  ["j, k", "next, previous row"],
  ["x", "tick the row"],
  ["Enter", "open the row"],
  ["o", "open the row in a new tab"],
  ["e", "ignore the row, the ticked letters, the letter or the rest of a run; go to a preview's note"],
  ["r", "replay the row or the ticked letters after a preview; go to the Replay button of a letter or a preview"],
  ["u", "reopen the row or the ticked letters, or undo what the banner says; on a run's page, go to Undo"],
  ["n, ]", "next page"],
  ["p, [", "previous page; the first one if this tab does not know it"],
  ["?", "this help"],
];
let help = null;

function showHelp() {
  if (!help) {
    help = document.createElement("dialog");
    help.setAttribute("aria-labelledby", "help");
    const title = Object.assign(document.createElement("h2"), { id: "help", textContent: "Keys" });
    const list = document.createElement("dl");
    for (const [keys, meaning] of KEYS) {
      const names = document.createElement("dt");
      for (const name of keys.split(", ")) names.append(Object.assign(document.createElement("kbd"), { textContent: name }), " ");
      list.append(names, Object.assign(document.createElement("dd"), { textContent: meaning }));
    }
    const form = Object.assign(document.createElement("form"), { method: "dialog" });
    form.append(Object.assign(document.createElement("button"), { className: "button", textContent: "Close" }));
    help.append(title, list, form);
    document.body.append(help);
  }
  help.showModal();
}

// A page has no link to the page before it, so the link that leads on leaves this page's address.
const keyOfPage = (page) => `dead-letters-before ${page.pathname}${page.search}`;

document.addEventListener("click", (event) => {
  const next = event.target.closest("a[rel=next]");
  if (next) sessionStorage.setItem(keyOfPage(next), location.href);
});

function goBack() {
  const before = sessionStorage.getItem(keyOfPage(location));
  if (before) location.assign(before);
  else main.querySelector("a[rel=first]")?.click();
}

function move(step) {
  const all = rows();
  const at = all.findIndex((row) => row.classList.contains("current"));
  const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step];
  if (!next) return;
  all[at]?.classList.remove("current");
  next.classList.add("current");
  next.querySelector("a")?.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

const buttonOfTicked = (action) => main.querySelector(`button[form=rows][value=${action}]`);

const click = (selector) => main.querySelector(selector)?.click();

// Each does what a click on a button of the page does. Ticked letters come before the row.
function ignore() {
  if (ticked().length > 0) return buttonOfTicked("ignored")?.click();
  // A preview takes a note, and then a second key.
  const note = main.querySelector(".action-card input[name=token] ~ div textarea");
  if (note) return note.focus();
  click("tr.current .act button[value=ignored], .action-card button[value=ignored], .rest button[value=ignored]");
}

function replay() {
  const ofRow = main.querySelector("tr.current .act button[value=replayed]");
  if (ofRow) return ofRow.click();
  const ofTicked = buttonOfTicked("replayed");
  // A replay has no undo, so the button of a letter or of a preview takes a second key.
  if (!ofTicked) {
    return main.querySelector(".action-card button[formaction$='/replay'], .action-card input[name=token] ~ .buttons .first")?.focus();
  }
  const box = main.querySelector("tr.current input[name=ids]:not(:disabled)");
  if (ticked().length === 0 && box) {
    box.checked = true;
    showTicked();
  }
  if (ticked().length > 0) ofTicked.click();
}

function undo() {
  if (ticked().length > 0 && buttonOfTicked("reopened")) return buttonOfTicked("reopened").click();
  const reopen = main.querySelector("tr.current .act button[formaction*='/reopen']");
  const banner = main.querySelector(".banner form button");
  if (reopen ?? banner) (reopen ?? banner).click();
  // A run may have thousands of letters.
  else main.querySelector("section[aria-labelledby=undo] form button")?.focus();
}

function openInTab() {
  const link = main.querySelector("tr.current a");
  if (link) open(link.href, "_blank", "noopener");
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || isField(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  // A key that stays down would act on the next page as well.
  if (event.repeat && !"jk".includes(event.key)) return;
  const current = main.querySelector("tr.current");
  const does = {
    "/": () => (main.querySelector(".filter input:not([type=hidden])") ?? document.getElementById("find"))?.focus(),
    "?": showHelp,
    j: () => move(1),
    k: () => move(-1),
    x: () => current?.querySelector("input[type=checkbox]")?.click(),
    o: openInTab,
    e: ignore,
    r: replay,
    u: undo,
    n: () => main.querySelector("a[rel=next]")?.click(),
    "]": () => main.querySelector("a[rel=next]")?.click(),
    p: goBack,
    "[": goBack,
  }[event.key];
  if (does) {
    event.preventDefault();
    does();
  } else if (event.key === "Enter" && current && !event.repeat && !event.target.closest("a, button, summary, input, .banner")) {
    event.preventDefault();
    current.querySelector("a")?.click();
  }
});

function addHelp() {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet keys";
  button.textContent = "?";
  button.setAttribute("aria-label", "Keys");
  button.addEventListener("click", showHelp);
  document.querySelector(".tools").prepend(button);
}

keepRun();
forgetAction();
forgetBanner();
dress();
showTicked();
addHelp();
keepRunning();
keepFresh();
setInterval(showTimes, 30_000);
