// The form of the live page: its state, the address that holds it, and the controls of each view.
import { add, addChoice, refill } from "./dom.js";

// Field -> its value at the start. The address holds those that differ from it.
const START = {
  mode: "patch", models: [0], clean: "", corrupt: "", target: "", foil: "", run: "clean",
  site: "resid_post", direction: "denoise", metric: "logit_diff", window: 1, by_position: false,
  heads: "", temperature: 1, top_k: null, top_p: null, seed: 0,
};
const MODE_NAMES = {
  patch: "patch", explain: "explain", attention: "attention", next: "next token", tokens: "tokens",
};
const SHOWN = {  // mode -> the controls that it has
  patch: ["site", "direction", "metric", "window", "by_position", "heads"],
  explain: ["run"], attention: ["run"], next: ["run", "temperature", "top_k", "top_p", "seed"],
  tokens: [],
};

/** Return the state that an address holds. */
export function stateOf(hash) {
  const state = { ...START };
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!Object.hasOwn(START, name)) continue;
    const kind = START[name];
    if (name === "models") state.models = text.split(",").map(Number);
    else if (typeof kind === "boolean") state[name] = text === "true";
    else if (typeof kind === "number" || kind === null) {
      state[name] = text === "" || Number.isNaN(Number(text)) ? kind : Number(text);
    } else state[name] = text;
  }
  if (!Object.hasOwn(SHOWN, state.mode)) state.mode = START.mode;
  if (!["clean", "corrupt"].includes(state.run)) state.run = START.run;
  if (!state.models.every(Number.isInteger)) state.models = START.models;
  return state;
}

/** Return the address that holds a state. */
export function addressOf(state) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (String(value) !== String(START[name])) parts.set(name, value === null ? "" : String(value));
  }
  return `#${parts}`;
}

/** Return the fields that an example fills in. */
export function fieldsOf(example) {
  const { clean, corrupt, target, foil } = example;
  return { clean, corrupt, target, foil };
}

/**
 * Add buttons for the views, fields and controls; return a function that fills them in again.
 * `live.state` holds what is set, `change` takes the fields that the reader changes.
 */
export function addForm(parent, given, live, change) {
  const modes = add(parent, "nav", "", { "aria-label": "views" });
  const form = add(parent, "form", "", { class: "live-form", "aria-label": "experiment" });
  const controls = add(parent, "form", "", { class: "controls", "aria-label": "settings" });
  for (const one of [form, controls]) one.addEventListener("submit", (event) => event.preventDefault());

  function addField(place, name, label, attributes) {
    const line = add(place, "label", "", { class: `field ${name}` });
    add(line, "span", label);
    const tag = attributes.rows ? "textarea" : "input";
    const input = add(line, tag, "", { name, spellcheck: "false", autocomplete: "off", ...attributes });
    input.value = live.state[name] ?? "";
    input.addEventListener("input", () => {
      if (input.type === "checkbox") change({ [name]: input.checked });
      else if (input.type === "number" || input.type === "range") {
        change({ [name]: input.value === "" ? START[name] : Number(input.value) });
      } else change({ [name]: input.value });
    });
    if (input.type === "checkbox") input.checked = live.state[name];
    return input;
  }

  const fillForm = () => refill(parent, addAll);
  const fillControls = () => refill(controls, addControls);

  function addAll() {
    modes.replaceChildren();
    for (const mode of given.modes) {
      const button = add(modes, "button", MODE_NAMES[mode], {
        type: "button", "data-mode": mode, "aria-pressed": String(mode === live.state.mode),
      });
      button.addEventListener("click", () => { change({ mode }); fillForm(); });
    }
    form.replaceChildren();
    const examples = given.examples[live.state.models[0]] ?? [];
    if (examples.length) {
      const names = [["", "choose one"], ...examples.map((one, at) => [at, one.title])];
      addChoice(form, "example", names, (at) => {
        if (at !== "") { change(fieldsOf(examples[Number(at)])); fillForm(); }
      });
    }
    addField(form, "clean", "clean prompt", { rows: 2 });
    addField(form, "corrupt", "corrupt prompt", { rows: 2 });
    addField(form, "target", "target", { type: "text" });
    addField(form, "foil", "foil", { type: "text" });
    addControls();
  }

  function addControls() {
    controls.replaceChildren();
    const has = (name) => SHOWN[live.state.mode].includes(name);
    const choice = (name, label, options) => {
      if (has(name)) {
        addChoice(controls, label, options.map((one) => [one, one]),
          (value) => change({ [name]: value }), live.state[name]);
      }
    };
    choice("run", "prompt", ["clean", "corrupt"]);
    choice("site", "site", given.sites);
    choice("direction", "direction", given.directions);
    choice("metric", "metric", given.metrics);
    const numbers = [["window", "window", { min: 1, max: 48 }], ["heads", "heads", {}],
      ["by_position", "by position", {}], ["temperature", "temperature", { min: 0.1, max: 3, step: 0.05 }],
      ["top_k", "top-k", { min: 1, max: 200 }], ["top_p", "top-p", { min: 0.05, max: 1, step: 0.05 }],
      ["seed", "seed", { min: 0 }]];
    for (const [name, label, limits] of numbers) {
      if (!has(name)) continue;
      const type = name === "heads" ? "text" : name === "by_position" ? "checkbox" : "number";
      const input = addField(controls, name, label, { type, ...limits });
      if (["temperature", "top_k", "top_p"].includes(name)) addSlider(input, name, limits);
      if (name === "heads") input.placeholder = "all, or 0,3-5";
    }
    if (given.models.length > 1) {
      given.models.forEach((name, number) => {
        const line = add(controls, "label", `${name} `);
        const box = add(line, "input", "", { type: "checkbox", "data-model": number });
        box.checked = live.state.models.includes(number);
        box.addEventListener("change", () => {
          const models = live.state.models.filter((one) => one !== number);
          if (box.checked) models.push(number);
          change({ models: models.length ? models.slice(-2).sort((a, b) => a - b) : [number] });
          fillControls();
        });
      });
    }
  }

  /** Add a slider beside a number: both change the same field. */
  function addSlider(input, name, limits) {
    const slider = add(input.parentElement, "input", "", { type: "range", ...limits,
      "aria-label": `${name} slider` });
    slider.value = live.state[name] ?? limits.max;
    slider.addEventListener("input", () => {
      input.value = slider.value;
      change({ [name]: Number(slider.value) });
    });
    input.addEventListener("input", () => { slider.value = input.value; });
  }

  fillForm();
  return fillForm;
}
