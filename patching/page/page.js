// The page of a sweep: draws the chosen chart, follows the pointer and the keyboard, and shows
// every number as a table too. Prompts and tokens come from outside: they are only ever put into
// the page as text (textContent), never as markup.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const state = { chart: 0, shown: "value", head: page.heads[0] ?? null, cell: null, scheme: "" };
  const byId = (id) => document.getElementById(id);

  /** Return a new element with a text, and append it to a parent. */
  function add(parent, tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }

  /** Write rows into a table element. */
  function fill(table, columns, rows, caption = "") {
    table.replaceChildren();
    if (caption) add(table, "caption", caption);
    const head = add(add(table, "thead"), "tr");
    for (const name of columns) add(head, "th", name, { scope: "col" });
    const body = add(table, "tbody");
    for (const row of rows) {
      const line = add(body, "tr");
      for (const cell of row) add(line, "td", cell);
    }
  }

  /** Return the rows of the chart that are shown, with what the tooltips say. */
  function rows() {
    const chart = page.charts[state.chart];
    return chart.rows
      .filter((row) => state.head === null || row.head === state.head)
      .map((row) => ({
        ...row,
        value: row.value,
        shown: row[state.shown],
        label: chart.columns[row.column],
        clean: chart.clean,
        corrupt: chart.corrupt,
        chosen: isChosen(row),
        in_cone: inCone(row),
      }));
  }

  function isChosen(row) {
    return state.cell !== null && row.layer === state.cell.layer && row.column === state.cell.column;
  }

  /** Return false for cells whose activations a patch in the chosen cell cannot change. */
  function inCone(row) {
    if (state.cell === null || isChosen(row)) return true;
    if (row.layer <= state.cell.layer) return false;
    return page.charts[state.chart].columns_are !== "position" || row.column >= state.cell.column;
  }

  /** Return the chart's specification with its rows, colours and theme. */
  function specification() {
    const chart = page.charts[state.chart];
    const spec = JSON.parse(JSON.stringify(chart.spec));
    const values = rows();
    const numbers = values.map((row) => row.shown).filter((x) => x !== undefined);
    const ends = state.shown === "value" ? [chart.clean, chart.corrupt] : [0];
    let low = Math.min(...numbers, ...ends);
    let high = Math.max(...numbers, ...ends);
    const middle = state.shown === "value" ? chart.middle : state.shown === "change" ? 0 : null;
    const scale = { scheme: state.scheme || (middle === null ? "viridis" : "redblue") };
    if (middle !== null) {
      const reach = Math.max(Math.abs(low - middle), Math.abs(high - middle)) || 1;
      [low, high] = [middle - reach, middle + reach];
      scale.domainMid = middle;
    }
    spec.encoding.color = {
      field: "shown", type: "quantitative", title: null, scale: { ...scale, domain: [low, high] },
    };
    spec.data.values = values;
    const ink = getComputedStyle(document.body).color;
    spec.background = "transparent";
    spec.config = {
      axis: { labelColor: ink, titleColor: ink, domainColor: ink, tickColor: ink },
      legend: { labelColor: ink, titleColor: ink },
      view: { stroke: null },
    };
    return spec;
  }

  async function draw() {
    const chart = page.charts[state.chart];
    const { view } = await vegaEmbed("#chart", specification(), {
      ast: true, actions: false, renderer: "svg",
    });
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.layer !== undefined) choose(item.datum);
    });
    const words = { value: chart.caption, change: `${chart.caption}: patched minus unpatched`,
      recovery: "recovery: 0 like the corrupt run, 1 like the clean one" };
    byId("caption").textContent =
      `${words[state.shown]} (clean ${chart.clean.toFixed(4)}, corrupt ${chart.corrupt.toFixed(4)})`;
    table();
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
  }

  /** Write the chart's numbers as a table whose cells can be chosen with the keyboard. */
  function table() {
    const chart = page.charts[state.chart];
    const element = byId("numbers");
    element.replaceChildren();
    add(element, "caption", byId("caption").textContent);
    const head = add(add(element, "thead"), "tr");
    add(head, "th", "layer", { scope: "col" });
    for (const name of chart.columns) add(head, "th", name, { scope: "col" });
    const body = add(element, "tbody");
    const values = new Map(rows().map((row) => [`${row.layer},${row.column}`, row]));
    for (let layer = 0; layer < chart.layers; layer += 1) {
      const line = add(body, "tr");
      add(line, "th", String(layer), { scope: "row" });
      chart.columns.forEach((name, column) => {
        const row = values.get(`${layer},${column}`);
        const cell = add(line, "td");
        if (row === undefined || row.shown === undefined) return;
        const button = add(cell, "button", row.shown.toFixed(3), {
          type: "button", "aria-label": `layer ${layer}, ${name}: ${row.shown.toFixed(4)}`,
        });
        button.addEventListener("click", () => choose(row));
      });
    }
  }

  /** Show a cell's numbers and what its run would say next. */
  function choose(row) {
    state.cell = isChosen(row) ? null : { layer: row.layer, column: row.column };
    const details = byId("cell");
    details.replaceChildren();
    if (state.cell !== null) {
      const chart = page.charts[state.chart];
      const found = chart.rows.find((one) => one.layer === row.layer && one.column === row.column
        && (state.head === null || one.head === state.head));
      const head = state.head === null ? "" : `, head ${state.head}`;
      add(details, "h2", `layer ${row.layer}${head}, ${chart.columns[row.column]}`);
      const recovery = found.recovery === undefined ? "" : `, recovery ${found.recovery.toFixed(3)}`;
      add(details, "p", `patched ${found.value.toFixed(4)}, clean ${chart.clean.toFixed(4)},`
        + ` corrupt ${chart.corrupt.toFixed(4)}${recovery}`);
      const index = state.head === null ? [row.layer, row.column]
        : [row.layer, state.head, row.column];
      const next = page.next && page.next.cells[index.join(",")];
      if (next) {
        const said = add(details, "table");
        fill(said, page.next.columns, next, "the patched run would say next");
      }
    }
    draw();
  }

  /** Add a labelled choice to the controls. */
  function control(label, options, changed) {
    if (options.length < 2) return;
    const select = add(add(byId("controls"), "label", `${label} `), "select");
    for (const [value, text] of options) add(select, "option", text, { value });
    select.dataset.control = label;
    select.addEventListener("change", () => { changed(select.value); draw(); });
  }

  function begin() {
    document.title = page.title;
    byId("title").textContent = page.title;
    byId("subtitle").textContent = page.subtitle;
    for (const note of page.notes) add(byId("notes"), "li", note);
    for (const prompt of page.prompts) {
      const line = add(byId("prompts"), "p", "", { class: "prompt" });
      add(line, "strong", `${prompt.name} `);
      prompt.tokens.forEach((token, position) => {
        const differs = prompt.differing.includes(position);
        add(line, differs ? "mark" : "span", token, { class: "token", title: `position ${position}` });
      });
      if (prompt.answers.length) add(line, "em", ` ${prompt.answers.join(", ")}?`);
    }
    control("metric", page.charts.map((chart, at) => [at, chart.name]), (value) => {
      state.chart = Number(value);
    });
    control("head", page.heads.map((head) => [head, head]), (value) => {
      state.head = Number(value);
    });
    control("show", [["value", "patched value"], ["change", "change"], ["recovery", "recovery"]],
      (value) => { state.shown = value; });
    control("colours", [["", "as the metric"], ["viridis", "viridis"], ["cividis", "cividis"],
      ["redblue", "red to blue"], ["greys", "greys"]], (value) => { state.scheme = value; });
    for (const one of page.tables) fill(add(byId("tables"), "table"), one.columns, one.rows, one.caption);
    fill(byId("provenance"), ["what", "value"], page.provenance);
    byId("command").textContent = page.command;
    byId("save").addEventListener("click", () => {
      const blob = new Blob([JSON.stringify(page, null, 1)], { type: "application/json" });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "sweep.json";
      link.click();
      URL.revokeObjectURL(link.href);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }

  begin();
})();
