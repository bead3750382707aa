// Elements of the page. Prompts and tokens come from outside: they are only ever put into the
// page as text (textContent) or as the value of an attribute, never as markup.

/** Return a new element with a text, and append it to a parent. */
export function add(parent, tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  parent.append(element);
  return element;
}

/** Return what a cell of a table shows: of a number, four decimals. */
function asText(cell) {
  if (cell === null) return "";
  return typeof cell === "number" && !Number.isInteger(cell) ? cell.toFixed(4) : String(cell);
}

/** Add a table with a caption, a head and rows of texts; return it. */
export function addTable(parent, { caption = "", columns, rows }) {
  const table = add(parent, "table");
  if (caption) add(table, "caption", caption);
  const head = add(add(table, "thead"), "tr");
  for (const name of columns) add(head, "th", name, { scope: "col" });
  const body = add(table, "tbody");
  for (const row of rows) {
    const line = add(body, "tr");
    for (const cell of row) add(line, "td", asText(cell));
  }
  return table;
}

/** Add a labelled list of choices; call `changed` with the value of the one that is chosen. */
export function addChoice(parent, label, options, changed, value = undefined) {
  const select = add(add(parent, "label", `${label} `), "select", "", { "data-control": label });
  for (const [key, text] of options) add(select, "option", text, { value: key });
  if (value !== undefined) select.value = value;
  select.addEventListener("change", () => changed(select.value));
  return select;
}

/** Fill a part of the page again, and keep the keyboard's focus on the control of the same name. */
export function refill(parent, fill) {
  const active = document.activeElement;
  const names = ["data-mode", "data-control", "data-model", "name"];
  const name = parent.contains(active) && names.find((one) => active.hasAttribute(one));
  const value = name && active.getAttribute(name);
  fill();
  if (!name) return;
  [...parent.querySelectorAll(`[${name}]`)].find((one) => one.getAttribute(name) === value)?.focus();
}

/**
 * Add a part that is folded up; call `fill` with its element whenever it is opened. `state.open`
 * remembers whether it is.
 */
export function addFolded(parent, summary, fill, state = {}) {
  const details = add(parent, "details");
  details.open = state.open ?? false;
  add(details, "summary", summary);
  const inside = add(details, "div", "", { class: "wide" });
  const update = () => {
    inside.replaceChildren();
    if (details.open) fill(inside);
  };
  details.addEventListener("toggle", () => {
    state.open = details.open;
    update();
  });
  return update;
}

/** The token under the pointer: parts of the page that show tokens follow it. */
export function makeLink() {
  const followers = [];
  return {
    follow(follower) { followers.push(follower); },
    set(position) { for (const follower of followers) follower(position); },
  };
}

/** Add tokens side by side; the pointer and the keyboard's focus on one link the others. */
export function addTokens(parent, tokens, link, { marked = [], title = null } = {}) {
  const elements = tokens.map((token, position) => {
    const element = add(parent, marked.includes(position) ? "mark" : "span", token, {
      class: "token", tabindex: link ? 0 : null,
      title: title === null ? `position ${position}` : title(position),
    });
    if (link) {
      for (const event of ["mouseenter", "focus"]) {
        element.addEventListener(event, () => link.set(position));
      }
      for (const event of ["mouseleave", "blur"]) element.addEventListener(event, () => link.set(-1));
    }
    return element;
  });
  if (link) {
    link.follow((position) => {
      elements.forEach((element, at) => element.classList.toggle("linked", at === position));
    });
  }
  return elements;
}

/** Count the drawings that are done, for tests and for the time from a key to the picture. */
export function drawn() {
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
}

/** Save a text or a blob as a file of the reader's. */
export function save(name, parts, type) {
  const element = document.createElement("a");
  element.href = URL.createObjectURL(new Blob(parts, { type }));
  element.download = name;
  element.click();
  URL.revokeObjectURL(element.href);
}
