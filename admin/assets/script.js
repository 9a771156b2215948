// Adds to the pages, in a browser with JavaScript: fresh data, keys, ages, ticking many boxes at once, copying.
// Nothing here is needed: every view and every action also works without it.

const PERIOD = 10_000;
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

// Where a column tells them apart, the age stands on the page; elsewhere it is found by pointing at the time.
function showAges() {
  for (const time of main.querySelectorAll("time")) {
    time.dataset.text ??= time.textContent;
    const text = age(Date.parse(time.dateTime));
    const isShort = time.closest(".when, .marks") != null;
    time.textContent = isShort ? text : time.dataset.text;
    time.title = isShort ? time.dataset.text : text;
  }
}

// The banner is told once, and an action's own answer is not asked for again

// Links and forms are relative to the address, so they are made whole before it changes.
function forgetAction() {
  const instead = main.dataset.instead && new URL(main.dataset.instead, location).href;
  if (!instead) return;
  for (const link of document.querySelectorAll("a[href]")) link.href = link.href;
  for (const form of document.querySelectorAll("form[action]")) form.action = form.action;
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

// Rows

const rows = () => [...main.querySelectorAll(".cards tbody tr")];
const boxes = () => [...main.querySelectorAll("tbody input[type=checkbox][name=ids]:not(:disabled)")];
let lastTicked = null;

function addSelectAll() {
  const head = main.querySelector("thead .tick");
  if (!head || boxes().length === 0) return;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Tick all letters of this page");
  all.addEventListener("change", () => {
    for (const box of boxes()) box.checked = all.checked;
    showTicked();
  });
  head.append(all);
}

function showTicked() {
  const ticked = boxes().filter((box) => box.checked).length;
  const all = main.querySelector("thead .tick input");
  if (all) {
    all.checked = ticked > 0 && ticked === boxes().length;
    all.indeterminate = ticked > 0 && !all.checked;
  }
  const count = document.getElementById("count");
  if (!count) return;
  count.dataset.text ??= count.textContent;
  count.textContent = ticked > 0 ? `${count.dataset.text}, ${ticked} ticked` : count.dataset.text;
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

// A replay at a rate continues by itself. Stop also cancels the request under way, and the run ends after its batch.

const STEP_AFTER = 1_000;
const STAGE_AFTER = 5_000;
const LOOK_EVERY = 30_000;

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
  const timers = [];
  const end = () => timers.forEach(clearInterval);
  const look = async () => {
    const response = await fetch(location.origin + location.pathname + location.search, { cache: "no-store" }).catch(() => null);
    if (!response?.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!page.querySelector("form[data-continue]")) location.reload();
  };
  timers.push(
    setInterval(() => {
      if (Date.now() < begins) return;
      end();
      form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "automatic", value: "true" }));
      form.requestSubmit(next);
    }, 500),
  );
  if (isStage && !("instead" in main.dataset)) timers.push(setInterval(look, LOOK_EVERY));
  form.addEventListener("submit", end);
  stop.addEventListener("click", () => {
    end();
    window.stop();
    status.textContent = "Stopped. Continue with the buttons above.";
    stop.remove();
  });
  next.parentElement.after(status, stop);
}

// All of that, of a page that is new or fresh

function dress() {
  showAges();
  addSelectAll();
  fillCommands();
  addCopying();
}

// Staying fresh

const live = document.createElement("button");
let tag = null;
let timer = null;
let isFetching = false;

const isPaused = () => live.getAttribute("aria-pressed") !== "true";
const isBusy = () =>
  document.hidden ||
  document.querySelector("dialog[open]") != null ||
  boxes().some((box) => box.checked) ||
  main.querySelector("input[name=anyway]:checked") != null ||
  isField(document.activeElement) ||
  !document.getSelection().isCollapsed;

// As a whole only where somebody asked for it: else no row that is shown moves, since one may be about to be clicked.
async function refresh(isWhole) {
  if (isFetching || isBusy()) return;
  isFetching = true;
  try {
    // Without the credentials that an address may have: fetch refuses one with them.
    const address = location.origin + location.pathname + location.search;
    const headers = tag ? { "If-None-Match": tag } : {};
    const response = await fetch(address, { headers, cache: "no-store" });
    if (response.status === 304) return found(true);
    // A problem does not take the place of what was seen before it.
    if (!response.ok) return found(false);
    if (main.querySelector("[data-problem]")) return location.reload();
    const html = await response.text();
    if (isBusy()) return;
    tag = response.headers.get("ETag");
    const page = new DOMParser().parseFromString(html, "text/html");
    const fresh = page.getElementById("main");
    if (fresh && (isWhole || rows().length === 0)) replace(page, fresh);
    else if (fresh) update(page, fresh);
    found(true);
  } catch {
    found(false);
  } finally {
    isFetching = false;
  }
}

function found(isFresh) {
  live.classList.toggle("lost", !isFresh);
  live.textContent = isFresh ? "Live" : "Offline";
  live.title = isFresh ? "Refreshed every 10 seconds" : "The last refresh failed; the page tries again";
}

// Keeps every row where it is. A link announces new letters, and letters that were closed elsewhere are marked.
function update(page, fresh) {
  const key = (row) => row.id || row.querySelector("a")?.getAttribute("href");
  const found = new Map([...fresh.querySelectorAll(".cards tbody tr")].map((row) => [key(row), row]));
  const shown = rows();
  const last = shown.findLastIndex((row) => found.has(key(row)));
  const isFull = fresh.querySelector("a[rel=next]") != null;
  for (const [at, row] of shown.entries()) {
    const same = found.get(key(row));
    // Behind the last that is still there, new ones may have pushed it to the next page.
    if (!same && isFull && at > last) continue;
    const action = (row) => row.querySelector(".act button")?.getAttribute("formaction");
    mark(row, !same || action(same) !== action(row));
    // Cells of one line, whatever they say. Buttons are none of them.
    for (const cell of same?.id ? [] : (same?.querySelectorAll(".number, .when, .trend") ?? [])) {
      row.children[cell.cellIndex]?.replaceChildren(...cell.childNodes);
    }
    found.delete(key(row));
  }
  const pills = [...main.querySelectorAll(".tabs .pill")];
  for (const [at, pill] of [...fresh.querySelectorAll(".tabs .pill")].entries()) {
    if (pills[at]) pills[at].textContent = pill.textContent;
  }
  const [chart, freshChart] = [main.querySelector("figure"), fresh.querySelector("figure")];
  if (chart && freshChart) chart.replaceChildren(...freshChart.childNodes);
  document.title = page.title;
  showNew(found.size);
  showAges();
  showTicked();
}

function mark(row, isGone) {
  row.classList.toggle("gone", isGone);
  for (const control of row.querySelectorAll("input, button")) control.disabled = isGone;
  const button = row.querySelector(".act button");
  if (button) {
    button.dataset.text ??= button.textContent;
    button.textContent = isGone ? "Changed" : button.dataset.text;
  }
  row.title = isGone ? "Changed elsewhere since this page was loaded" : "";
}

// It stands above the page, and so moves nothing.
const news = document.createElement("a");
news.className = "button news";
news.setAttribute("role", "status");

function showNew(count) {
  const what = main.querySelector(".letters") ? "letter" : main.querySelector(".groups") ? "group" : "app";
  news.textContent = `${count} new ${what}${count === 1 ? "" : "s"}`;
  news.href = location.pathname + location.search;
  if (count > 0) document.body.append(news);
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
  if (current?.id) document.getElementById(current.id)?.classList.add("current");
  if (place) {
    const same = (element) => `${element.localName} ${key(element)} ${element.textContent}` === place;
    [...main.querySelectorAll("a, button, summary, [tabindex]")].find(same)?.focus({ preventScroll: true });
  }
}

function keepFresh() {
  if (!main.hasAttribute("data-live")) return;
  live.type = "button";
  live.className = "quiet live";
  const set = (isLive) => {
    live.setAttribute("aria-pressed", isLive);
    sessionStorage.setItem("dead-letters-paused", isLive ? "" : "yes");
    clearInterval(timer);
    if (isLive) timer = setInterval(() => refresh(false), PERIOD);
  };
  live.addEventListener("click", () => {
    set(isPaused());
    if (!isPaused()) refresh(true);
  });
  set(sessionStorage.getItem("dead-letters-paused") !== "yes");
  found(main.querySelector("[data-problem]") == null);
  document.querySelector(".tools").prepend(live);
  document.addEventListener("visibilitychange", () => !isPaused() && refresh(false));
}

// After Back the browser shows the page, and its boxes, as they were left.
addEventListener("pageshow", (event) => {
  const isBack = event.persisted || performance.getEntriesByType("navigation")[0]?.type === "back_forward";
  if (!isBack || !main.hasAttribute("data-live")) return;
  for (const box of boxes()) box.checked = false;
  showTicked();
  refresh(true);
});

// Keys

const KEYS = [
  ["/", "focus the filter"],
  ["j, k", "next, previous row"],
  ["x", "tick the row"],
  ["Enter", "open the row"],
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

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || isField(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const current = main.querySelector("tr.current");
  const does = {
    "/": () => main.querySelector(".filter input:not([type=hidden])")?.focus(),
    "?": showHelp,
    j: () => move(1),
    k: () => move(-1),
    x: () => current?.querySelector("input[type=checkbox]")?.click(),
  }[event.key];
  if (does) {
    event.preventDefault();
    does();
  } else if (event.key === "Enter" && current && !event.target.closest("a, button, summary, input")) {
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

forgetAction();
forgetBanner();
dress();
showTicked();
addHelp();
keepRunning();
keepFresh();
setInterval(showAges, 30_000);
