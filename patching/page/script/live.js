// The live page: a form, what is said about it at once, and the pages that the server sends.
import { add, addTokens, drawn, makeLink, save } from "./dom.js";
import { addForm, addressOf, fieldsOf, stateOf } from "./form.js";
import { addProvenance, addViews } from "./page.js";

const SLOW = 1000;  // milliseconds after which a bar is shown

/** Call `take` with each line of JSON of a response, as it comes. */
async function readLines(response, take) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value ?? new Uint8Array(), { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) await take(JSON.parse(line));
    if (done) return;
  }
}

/** Show the live page. */
export function showLive(root, given) {
  const live = { state: stateOf(location.hash) };
  if (!location.hash && given.examples[0].length) {
    Object.assign(live.state, fieldsOf(given.examples[0][0]));
  }
  const tab = [...crypto.getRandomValues(new Uint8Array(8))].map((x) => x.toString(16)).join("");
  const links = [];  // of each model: the token under the pointer
  const looks = new Map();  // what the reader has chosen in a view, over all answers
  let shownMode = "";  // of the answer that is shown
  let asking = null;  // ends the request that is under way
  let typed = 0;  // when the last change came
  document.title = given.title;

  const header = add(root, "header", "", { class: "live" });
  add(header, "h1", given.title);
  for (const note of given.notes) add(header, "p", note, { class: "remark" });
  const fillForm = addForm(header, given, live, change);
  const said = add(root, "section", "", { class: "said", "aria-live": "polite" });
  const status = add(root, "p", "", { class: "status", role: "status" });
  const bar = add(root, "progress", "", { max: 1, value: 0, hidden: "" });
  const results = add(root, "div", "", { class: "results" });
  const foot = add(root, "section", "", { class: "foot" });

  /** Change the state, and follow. */
  function change(fields) {
    Object.assign(live.state, fields);
    typed = performance.now();
    history.replaceState(null, "", addressOf(live.state));
    ask();
  }

  // ------------------------------------------------------------------- questions and answers

  function request(more = {}) {
    return { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...live.state, tab, ...more }) };
  }

  /** Ask for what the state describes; whatever was asked before is given up. */
  async function ask() {
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    const since = typed;
    let fresh = false;
    const slow = setTimeout(() => { bar.hidden = false; }, SLOW);
    try {
      const response = await fetch("/api/run", { ...request(), signal: mine.signal });
      if (!response.ok) throw new Error((await response.json()).error);
      const pages = [];
      await readLines(response, async (message) => {
        if (mine.signal.aborted) return;
        if (message.said) showSaid(message.said);
        if (message.waiting) status.textContent = `waiting for ${message.waiting} other request(s)`;
        if (message.progress !== undefined) bar.value = message.progress;
        if (message.error || message.page) {
          pages.push({ place: message.model ?? 0, error: message.error, ...message.page });
        }
      });
      if (mine.signal.aborted) return;
      if (pages.length) {
        await showPages(pages, mine.signal);
        fresh = true;
      }
      if (mine.signal.aborted) return;
      if (!fresh) putAside();
      const took = performance.now() - since;
      status.textContent = fresh && since ? `${Math.round(took)} ms` : "";
      document.body.dataset.milliseconds = String(took);
    } catch (error) {
      if (mine.signal.aborted) return;
      status.textContent = error.message === "Failed to fetch" ? "the server does not answer"
        : error.message;
      putAside();
    } finally {
      clearTimeout(slow);
      if (asking === mine) {
        bar.hidden = true;
        document.body.dataset.answered = String(Number(document.body.dataset.answered ?? 0) + 1);
      }
    }
  }

  /** Make the last answer faint where there is no new one, or take it away in another view. */
  function putAside() {
    if (shownMode !== live.state.mode) results.replaceChildren();
    results.classList.add("stale");
    foot.replaceChildren();
  }

  /** Show tokens, lengths and problems, of each model. */
  function showSaid(all) {
    said.replaceChildren();
    all.forEach((one, at) => {
      if (all.length > 1) add(said, "h3", given.models[live.state.models[at]]);
      links[at] = makeLink();
      for (const prompt of one.prompts) {
        const line = add(said, "p", "", { class: "prompt" });
        add(line, "strong", `${prompt.name} `);
        addTokens(line, prompt.tokens, links[at], { marked: prompt.marked });
        add(line, "em", ` ${prompt.tokens.length} tokens`);
      }
      const words = add(said, "p", "", { class: "answers" });
      for (const answer of one.answers) {
        add(words, "span", `${answer.name}: `);
        add(words, "span", answer.text, { class: answer.is_token ? "token" : "wrong" });
        add(words, "span", " ");
      }
      for (const problem of one.problems) add(said, "p", problem, { class: "wrong problem" });
      if (one.words.length) {
        const line = add(said, "p", "words that would fit: ", { class: "fitting" });
        for (const { word, prompt } of one.words) {
          add(line, "button", word, { type: "button" }).addEventListener("click", () => {
            change({ corrupt: prompt });
            fillForm();
          });
          add(line, "span", " ");
        }
      }
    });
  }

  /** Draw pages beside one another, out of sight; then put them in the place of the old ones. */
  async function showPages(pages, signal) {
    const places = pages.map(() => document.createElement("article"));
    await Promise.all(pages.map(async (page, at) => {
      const place = places[at];
      if (page.error) {
        add(place, "p", page.error, { class: "wrong problem" });
        if (live.state.models.length > 1) {
          add(place, "p", `model ${modelOf(page)}`, { class: "subtitle" });
        }
        return;
      }
      add(place, "h2", page.title);
      add(place, "p", page.subtitle, { class: "subtitle" });
      for (const note of page.notes) add(place, "p", note, { class: "remark" });
      if (!looks.has(page.place)) looks.set(page.place, new Map());
      await addViews(place, page, links[page.place], looks.get(page.place), append);
      addProvenance(place, page);
    }));
    if (signal.aborted) return;
    const hadDrawn = results.contains(document.activeElement)
      && document.activeElement.classList.contains("drawn");
    results.replaceChildren(...places);
    if (hadDrawn) results.querySelector(".drawn")?.focus();  // to go on with the next token
    results.classList.remove("stale");
    shownMode = live.state.mode;
    results.dataset.count = String(pages.length);
    foot.replaceChildren();
    for (const page of pages) if (!page.error) addFoot(page);
    drawn();
  }

  /** Append a token to the prompt that is read. */
  function append(text) {
    change({ [live.state.run]: live.state[live.state.run] + text });
    fillForm();
  }

  /** Return the name of a page's model. */
  function modelOf(page) {
    return given.models[live.state.models[page.place]];
  }

  /** Offer the command, the Python and the files of a page. */
  function addFoot(page) {
    const whose = live.state.models.length > 1 ? `: ${modelOf(page)}` : "";
    add(foot, "h2", `The same elsewhere${whose}`);
    for (const [label, text] of [["command", page.command], ["Python", page.python]]) {
      const line = add(foot, "div", "", { class: "copied" });
      add(line, "pre", text);
      const button = add(line, "button", `copy the ${label}`, { type: "button", class: "save" });
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      });
    }
    if (["next", "tokens"].includes(live.state.mode)) return;
    const line = add(foot, "p");
    for (const [format, label] of [["html", "save as a page"], ["png", "save the figure (PNG)"],
      ["npz", "save the numbers (.npz)"]]) {
      const button = add(line, "button", label,
        { type: "button", class: "save", "data-format": format });
      button.addEventListener("click", () => saveFile(format, live.state.models[page.place]));
      add(line, "span", " ");
    }
  }

  async function saveFile(format, model) {
    const response = await fetch("/api/save", request({ format, models: [model] }));
    if (!response.ok) {
      status.textContent = (await response.json()).error;
      return;
    }
    save(`${live.state.mode}.${format}`, [await response.blob()], response.headers.get("Content-Type"));
  }

  window.addEventListener("hashchange", () => {
    live.state = stateOf(location.hash);
    fillForm();
    ask();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ask);
  history.replaceState(null, "", addressOf(live.state));
  ask();
}
