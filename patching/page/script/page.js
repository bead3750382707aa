// A page: title, prompts, views one below the other, and how it was made.
import { addAttention } from "./attention.js";
import { addCharts } from "./chart.js";
import { add, addFolded, addTable, addTokens, drawn, makeLink, save } from "./dom.js";
import { addBeams, addNext, addPairs, addSamples } from "./samples.js";

/** Add tables side by side. */
function addTables(parent, view) {
  const place = add(parent, "div", "", { class: "tables" });
  for (const table of view.tables) addTable(place, table);
}

const DRAWERS = {
  charts: addCharts, attention: addAttention, samples: addSamples, beams: addBeams,
  pairs: addPairs, tables: addTables, next: addNext,
};

/** Add prompts, a line each, with what differs marked. */
export function addPrompts(parent, prompts, link) {
  for (const prompt of prompts) {
    const line = add(parent, "p", "", { class: "prompt" });
    add(line, "strong", `${prompt.name} `);
    addTokens(line, prompt.tokens, link, { marked: prompt.marked });
    if (prompt.answers.length) add(line, "em", ` ${prompt.answers.join(", ")}?`);
  }
}

/**
 * Add the views of a page. `states` (heading -> what the reader has chosen there) outlives a
 * page, so that the next one is shown in the same way. `append` takes the text of a token that
 * is chosen to follow the prompt.
 */
export async function addViews(parent, page, link, states = new Map(), append = () => {}) {
  const waiting = [];
  const views = [];
  for (const view of page.views) {
    const key = `${view.kind} ${view.title}`;
    if (!states.has(key)) states.set(key, {});
    const section = add(parent, "section", "", { class: `view-${view.kind}` });
    add(section, "h2", view.title);
    const made = DRAWERS[view.kind](section, view, link, states.get(key), append);
    views.push({ view, made });
    if (made?.draw) waiting.push(made.draw());
  }
  await Promise.all(waiting);
  drawn();
  return views;
}

/** Add the facts about the run, the command that repeats it, and a button that saves it. */
export function addProvenance(parent, page) {
  addFolded(parent, "how it was made", (inside) => {
    if (page.command) add(add(inside, "p"), "code", page.command);
    addTable(inside, { columns: ["what", "value"], rows: page.provenance });
    const button = add(inside, "button", "save the numbers (JSON)", { type: "button", class: "save" });
    button.addEventListener("click", () => {
      save(`${page.name}.json`, [JSON.stringify(page, null, 1)], "application/json");
    });
  });
}

/** Show a page. */
export function showPage(root, page) {
  const states = new Map();
  document.title = page.title;
  const header = add(root, "header");
  add(header, "h1", page.title);
  add(header, "p", page.subtitle, { class: "subtitle" });
  if (page.notes.length) {
    const notes = add(header, "ul");
    for (const note of page.notes) add(notes, "li", note);
  }
  const place = add(root, "div");
  const redraw = () => {
    const link = makeLink();
    place.replaceChildren();
    addPrompts(add(place, "section", "", { class: "prompts" }), page.prompts, link);
    return addViews(place, page, link, states);
  };
  addProvenance(root, page);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return redraw();
}
