// Attention: every head small, drawn pixel by pixel; one of them large; what a token reads.
import { addCharts } from "./chart.js";
import { add, addChoice, addTokens } from "./dom.js";

const MOST_NAMED = 5;  // tokens in the sentence about what one reads
const READS = "0, 114, 178";  // Okabe and Ito's blue and orange
const READ_BY = "213, 94, 0";

/** Return the weights as a function of head, position and what it reads. */
function unpacked(view) {
  const bytes = Uint8Array.from(atob(view.weights), (char) => char.charCodeAt(0));
  const whole = new DataView(bytes.buffer);
  const T = view.tokens.length;
  const each = (T * (T + 1)) / 2;
  return (head, t, s) => (s > t ? 0
    : whole.getUint16(2 * (head * each + (t * (t + 1)) / 2 + s), true) / view.steps);
}

/** Draw a head's weights on a canvas, a pixel each: the darker, the more. */
function paint(canvas, weight, head, T) {
  canvas.width = T;
  canvas.height = T;
  const context = canvas.getContext("2d");
  const image = context.createImageData(T, T);
  for (let t = 0; t < T; t += 1) {
    for (let s = 0; s < T; s += 1) {
      const value = weight(head, t, s);
      image.data.set([0, 70, 140, s > t ? 0 : 20 + 235 * Math.sqrt(value)], 4 * (t * T + s));
    }
  }
  context.putImageData(image, 0, 0);
}

/** Add the view of all heads. */
export function addAttention(parent, view, link, state = {}) {
  const T = view.tokens.length;
  const weight = unpacked(view);
  state.head ??= 0;
  if (state.head >= view.layers * view.heads) state.head = 0;
  add(parent, "p", "A square for each head, a row for each position: the darker, the more it"
    + " reads. Click one to see it large.", { class: "remark" });
  const grid = add(add(parent, "div", "", { class: "wide" }), "div", "", { class: "heads" });
  grid.style.gridTemplateColumns = `auto repeat(${view.heads}, minmax(28px, 72px))`;
  const buttons = [];
  add(grid, "span", "layer");
  for (let head = 0; head < view.heads; head += 1) add(grid, "span", String(head));
  for (let layer = 0; layer < view.layers; layer += 1) {
    add(grid, "span", String(layer));
    for (let head = 0; head < view.heads; head += 1) {
      const at = layer * view.heads + head;
      const button = add(grid, "button", "", {
        type: "button", class: "head", title: `${layer}.${head}`,
        "aria-label": `head ${layer}.${head}`,
      });
      paint(add(button, "canvas"), weight, at, T);
      button.addEventListener("click", () => choose(at));
      buttons.push(button);
    }
  }
  const name = () => `${Math.floor(state.head / view.heads)}.${state.head % view.heads}`;
  const title = add(parent, "h3");
  const controls = add(parent, "form", "", { class: "controls" });
  addChoice(controls, "head", buttons.map((button, at) => [at, button.title]), (value) => {
    choose(Number(value));
  }, state.head);
  const strip = add(parent, "p", "", { class: "prompt" });
  const said = add(parent, "p", "", { class: "reads", "aria-live": "polite" });
  const own = { follow: () => {}, set: (position) => link.set(position) };
  const tokens = addTokens(strip, view.tokens, own);
  const large = addCharts(parent, { charts: [chartOf()], caption: "" }, link, state);

  function chartOf() {
    const rows = [];
    for (let t = 0; t < T; t += 1) {
      for (let s = 0; s <= t; s += 1) rows.push([t, s, weight(state.head, t, s)]);
    }
    return { ...view.chart, rows };
  }

  /** Tint the tokens: what the token at `position` reads, and the later ones that read it. */
  function tint(position) {
    const read = [];
    const readers = [];
    tokens.forEach((element, at) => {
      element.classList.toggle("linked", at === position);
      const value = position < 0 ? 0 : weight(state.head, Math.max(at, position),
        Math.min(at, position));
      const colour = at <= position ? READS : READ_BY;
      element.style.background = position < 0 ? "" : `rgba(${colour}, ${value})`;
      if (position >= 0) (at <= position ? read : readers).push([value, view.tokens[at]]);
    });
    const words = (list) => list.sort((a, b) => b[0] - a[0]).slice(0, MOST_NAMED)
      .map(([value, token]) => `${token} ${value.toFixed(3)}`).join(", ");
    said.textContent = position < 0 ? "Point at a token, or move to it with the Tab key."
      : `${view.tokens[position]} reads ${words(read)}${
        readers.length ? `; it is read by ${words(readers)}` : ""}.`;
  }

  function choose(at) {
    state.head = at;
    buttons.forEach((button, other) => button.classList.toggle("chosen", other === at));
    controls.querySelector("select").value = at;
    title.textContent = `head ${name()}`;
    tint(-1);
    return large.replace({ charts: [chartOf()], caption: "" });
  }

  link.follow(tint);
  return { draw: () => choose(state.head) };
}
