// Samples: tokens coloured by probability, with what else could have come; beams as a tree; pairs.
import { add, addFolded, addTable, addTokens } from "./dom.js";

const INK = "0, 114, 178";

/** Return the probability of a token in words. */
function chance(logProb) {
  return logProb === null ? "p = 0" : `p = ${Math.exp(logProb).toPrecision(3)}`;
}

/** Add a prompt's samples. */
export function addSamples(parent, view) {
  add(parent, "p", "The darker a token, the likelier it was. Point at one, or move to it with the"
    + " Tab key, to see what else could have come.", { class: "remark" });
  const details = document.createElement("section");
  details.className = "cell";
  details.setAttribute("aria-live", "polite");
  for (const sample of view.samples) {
    const line = add(parent, "p", "", { class: "prompt sample" });
    add(line, "strong", `${sample.name} `);
    const link = { follow: () => {}, set: (position) => { if (position >= 0) tell(sample, position); } };
    const elements = addTokens(line, sample.tokens, link, {
      title: (position) => chance(sample.log_probs[position]),
    });
    elements.forEach((element, at) => {
      const value = sample.log_probs[at] === null ? 0 : Math.exp(sample.log_probs[at]);
      element.style.background = `rgba(${INK}, ${0.75 * value})`;
    });
    add(line, "em", ` ${sample.about}`);
  }
  parent.append(details);
  const rows = view.samples.flatMap((sample) => sample.tokens.map((token, at) => [
    sample.name, at, token, sample.log_probs[at] === null ? "" : sample.log_probs[at].toFixed(4),
    sample.log_probs[at] === null ? "0" : Math.exp(sample.log_probs[at]).toPrecision(4),
  ]));
  addFolded(parent, "numbers of the tokens", (inside) => {
    addTable(inside, { columns: ["sample", "step", "token", "ln p", "p"], rows });
  });

  function tell(sample, position) {
    details.replaceChildren();
    add(details, "h3", `${sample.name}, step ${position + 1}: ${sample.tokens[position]}`);
    add(details, "p", `${chance(sample.log_probs[position])} by the model alone`);
    const step = sample.steps[position];
    if (step) addTable(details, { caption: "what could have come", columns: view.columns, rows: step });
  }
}

/** Add beams as a tree of tokens. */
export function addBeams(parent, view) {
  add(parent, "p", "Each token follows the one above it; those in grey were dropped.",
    { class: "remark" });
  const root = add(add(parent, "div", "", { class: "wide" }), "ul", "", { class: "tree" });
  const grow = (list, nodes) => {
    for (const node of nodes) {
      const item = add(list, "li", "", { class: node.is_kept ? "" : "dropped" });
      add(item, "span", node.token, { class: "token" });
      add(item, "span", ` p = ${node.p.toPrecision(3)}${node.is_kept ? "" : ", dropped"}`);
      for (const note of node.notes) add(item, "em", ` ${note}`);
      if (node.next.length) grow(add(item, "ul"), node.next);
    }
  };
  grow(root, view.nodes);
}

/** Add a table of pairs; a click on a column's head sorts it. */
export function addPairs(parent, view) {
  addFolded(parent, "show the pairs", (inside) => {
    const table = addTable(inside, view);
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const order = view.rows.map((row, at) => at).sort((a, b) => {
          const [x, y] = [view.rows[a][column], view.rows[b][column]];
          const less = typeof x === "number" && typeof y === "number" ? x - y
            : String(x).localeCompare(String(y));
          return up ? less : -less;
        });
        const body = table.querySelector("tbody");
        const lines = order.map((at) => sortable[at]);
        body.replaceChildren(...lines);
      });
    });
    const sortable = [...table.querySelectorAll("tbody tr")];
  });
}

/** Add the candidates for the next token; a click on one appends it to the prompt. */
export function addNext(parent, view, link, state, append) {
  add(parent, "p", view.caption, { class: "remark" });
  const step = add(parent, "p");
  const button = add(step, "button", `append the drawn token: ${view.drawn_as}`,
    { type: "button", class: "drawn" });
  button.disabled = view.drawn === null;
  button.addEventListener("click", () => append(view.drawn));
  const columns = ["token", "probability", "", "cumulative", "drawn with", "logit", "cut by"];
  const table = add(add(parent, "div", "", { class: "wide" }), "table", "", { class: "next" });
  const head = add(add(table, "thead"), "tr");
  for (const name of columns) add(head, "th", name, { scope: "col" });
  const body = add(table, "tbody");
  for (const row of view.rows) {
    const line = add(body, "tr", "", { class: row.cut ? "cut" : "" });
    const token = add(add(line, "td"), "button", row.token, { type: "button", class: "token" });
    token.disabled = row.text === null;
    token.addEventListener("click", () => append(row.text));
    add(line, "td", row.probability);
    const bars = add(add(line, "td"), "div", "", { class: "shares" });
    for (const [name, share] of [["before", row.p], ["after", row.drawn]]) {
      add(bars, "div", "", { class: name }).style.width = `${100 * share}%`;
    }
    for (const text of [row.cumulative, row.drawn_with, row.logit, row.cut]) add(line, "td", text);
  }
}
