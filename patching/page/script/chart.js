// A chart: Vega draws it, the pointer and the keyboard choose cells, a table holds its numbers.
import { add, addChoice, addFolded, addTable, drawn, refill } from "./dom.js";

const SCHEMES = [["", "as the metric"], ["viridis", "viridis"], ["cividis", "cividis"],
  ["redblue", "red to blue"], ["greys", "greys"]];
const DIGITS = 4;

/** Return the chart's rows as objects, of one group, with the number that is shown. */
function objects(chart, shows, group) {
  return chart.rows.map((values, at) => {
    const row = { ...chart.constants };
    chart.fields.forEach((name, place) => { row[name] = values[place]; });
    for (const [name, texts] of Object.entries(chart.labels)) row[name] = texts[at];
    row.row_label = chart.row_labels[row.row];
    row.column_label = chart.column_labels[row.column];
    row.shown = row[shows.field];
    return row;
  }).filter((row) => group === null || row.group === group);
}

/** Return the colours' scale: it spans the numbers and the ends, evenly round the middle. */
function scaleOf(rows, shows, scheme) {
  const numbers = rows.map((row) => row.shown).filter((x) => x !== null && x !== undefined);
  let low = Math.min(...numbers, ...shows.ends);
  let high = Math.max(...numbers, ...shows.ends);
  const scale = { scheme: scheme || shows.scheme };
  if (shows.middle !== null) {
    const reach = Math.max(Math.abs(low - shows.middle), Math.abs(high - shows.middle)) || 1;
    [low, high] = [shows.middle - reach, shows.middle + reach];
    scale.domainMid = shows.middle;
  }
  return Number.isFinite(low) && low < high ? { ...scale, domain: [low, high] } : scale;
}

/** Return the specification with rows, colours, and the ink of the page's theme. */
function specification(chart, rows, shows, scheme) {
  const scale = scaleOf(rows, shows, scheme);
  const text = JSON.stringify(chart.spec);
  const put = { $scale: scale, $rows: chart.row_labels, $columns: chart.column_labels };
  const spec = JSON.parse(text, (key, value) => (Object.hasOwn(put, value) ? put[value] : value));
  const ink = getComputedStyle(document.body).color;
  const line = getComputedStyle(document.body).getPropertyValue("--line");
  return {
    ...spec,
    data: { ...spec.data, values: rows },
    background: "transparent",
    config: {
      axis: { labelColor: ink, titleColor: ink, domainColor: ink, tickColor: ink, gridColor: line },
      legend: { labelColor: ink, titleColor: ink },
      view: { stroke: null, fill: chart.has_blanks ? `${line}` : null },
    },
  };
}

/** Return the sign and digits of a number as the tables write it. */
export function written(value) {
  return value === null || value === undefined ? "" : value.toFixed(DIGITS);
}

/**
 * Add a view of charts to the page, one shown at a time; return functions that work on it.
 * `state` holds what the reader has chosen, so that a new result is shown in the same way.
 */
export function addCharts(parent, view, link, state = {}) {
  state.chart ??= 0;
  state.shown ??= "";
  state.scheme ??= "";
  if (state.chart >= view.charts.length) state.chart = 0;
  const controls = add(parent, "form", "", { class: "controls", "aria-label": "what is shown" });
  controls.addEventListener("submit", (event) => event.preventDefault());
  if (view.caption) add(parent, "p", view.caption, { class: "remark" });
  const caption = add(parent, "p", "", { class: "caption" });
  const place = add(add(parent, "div", "", { class: "wide" }), "div", "", { class: "chart" });
  place.setAttribute("role", "img");
  const details = add(parent, "section", "", { class: "cell", "aria-live": "polite" });
  const updateTable = addFolded(parent, "numbers of the figure", fillTable, state);
  let current = null;
  let turn = 0;

  const chart = () => view.charts[state.chart];
  const shows = () => chart().shows.find((one) => one.name === state.shown) ?? chart().shows[0];
  function group() {
    const groups = chart().groups ?? [];
    if (!groups.length) return null;
    return groups.includes(state.group) ? state.group : groups[0];
  }

  const fillControls = () => refill(controls, addControls);

  function addControls() {
    controls.replaceChildren();
    if (view.charts.length > 1) {
      const names = view.charts.map((one, at) => [at, one.name]);
      addChoice(controls, view.choose, names, (value) => {
        state.chart = Number(value);
        state.cell = null;
        fillControls();
        draw();
      }, state.chart);
    }
    const groups = chart().groups ?? [];
    if (groups.length > 1) {
      addChoice(controls, chart().groups_are, groups.map((one) => [one, one]), (value) => {
        state.group = Number(value);
        draw();
      }, group());
    }
    if (chart().shows.length > 1) {
      addChoice(controls, "show", chart().shows.map((one) => [one.name, one.name]), (value) => {
        state.shown = value;
        draw();
      }, shows().name);
    }
    if (JSON.stringify(chart().spec).includes("$scale")) {
      addChoice(controls, "colours", SCHEMES, (value) => { state.scheme = value; draw(); },
        state.scheme);
    }
  }

  const rows = () => objects(chart(), shows(), group());

  async function draw() {
    turn += 1;
    const mine = turn;
    const values = rows();
    const spec = specification(chart(), values, shows(), state.scheme);
    const { view: found } = await vegaEmbed(place, spec, {
      ast: true, actions: false, renderer: "svg",
    });
    if (mine !== turn) return;  // a later drawing has begun
    current = found;
    found.addEventListener("click", (event, item) => {
      if (item?.datum?.row !== undefined) choose(item.datum);
    });
    found.addEventListener("mouseover", (event, item) => {
      if (chart().link && item?.datum?.row !== undefined) link.set(item.datum[chart().link]);
    });
    found.addEventListener("mouseout", () => { if (chart().link) link.set(-1); });
    caption.textContent = shows().caption;
    place.setAttribute("aria-label", `${shows().caption}. Its numbers are in the table below.`);
    markChosen();
    tell();
    updateTable();
    drawn();
  }

  function setSignals(signals) {
    if (current === null) return;
    for (const [name, value] of Object.entries(signals)) current.signal(name, value);
    current.runAsync();
  }

  function markChosen() {
    setSignals({
      chosen_row: state.cell?.row ?? -1, chosen_column: state.cell?.column ?? -1,
    });
  }

  /** Choose a cell, or none if it was chosen already. */
  function choose(row) {
    const again = state.cell && state.cell.row === row.row && state.cell.column === row.column;
    state.cell = again ? null : { row: row.row, column: row.column };
    markChosen();
    tell();
    drawn();
  }

  /** Say the chosen cell's numbers, and what is known of it beside them. */
  function tell() {
    details.replaceChildren();
    const one = chart();
    const found = state.cell && rows().find((row) => row.row === state.cell.row
      && row.column === state.cell.column);
    if (!found) return;
    const head = group() === null ? "" : `, ${one.groups_are} ${group()}`;
    const where = [[one.rows_are, found.row_label], [one.columns_are, found.column_label]]
      .filter(([name]) => name).map((pair) => pair.join(" ")).join(", ");
    add(details, "h3", where + head);
    const numbers = [...one.fields.slice(2), ...Object.keys(one.constants), ...Object.keys(one.labels)]
      .filter((name) => !["group", "survives"].includes(name));
    add(details, "p", numbers.filter((name) => found[name] !== null && found[name] !== "")
      .map((name) => `${name === "value" ? shows().name : name} ${
        typeof found[name] === "number" ? written(found[name]) : found[name]}`).join(", "));
    const key = [found.row, found.column, ...(group() === null ? [] : [group()])].join(",");
    if (one.cells?.[key]) {
      addTable(details, { caption: one.cell_caption, columns: one.cell_columns,
        rows: one.cells[key] });
    }
    if (one.strips) addStrip(details, one.strips, key);
  }

  /** Write the chart's numbers as a table whose cells can be chosen with the keyboard. */
  function fillTable(inside) {
    const one = chart();
    const table = add(inside, "table", "", { class: "numbers" });
    add(table, "caption", shows().caption);
    const head = add(add(table, "thead"), "tr");
    add(head, "th", one.rows_are, { scope: "col" });
    for (const name of one.column_labels) add(head, "th", name, { scope: "col" });
    const body = add(table, "tbody");
    const values = new Map(rows().map((row) => [`${row.row},${row.column}`, row]));
    one.row_labels.forEach((name, row) => {
      const line = add(body, "tr");
      add(line, "th", name, { scope: "row" });
      one.column_labels.forEach((label, column) => {
        const found = values.get(`${row},${column}`);
        const cell = add(line, "td");
        if (found === undefined || found.shown === undefined) return;
        const text = `${one.texts ? `${found.text} ` : ""}${written(found.shown)}`;
        const button = add(cell, "button", text, {
          type: "button", "aria-label": `${one.rows_are} ${name}, ${label}: ${text}`,
        });
        button.addEventListener("click", () => choose(found));
      });
    });
  }

  link.follow((position) => { if (chart().link) setSignals({ linked: position }); });
  fillControls();
  return {
    draw,
    /** Show new numbers in the place of the old ones. */
    replace(next) {
      view = next;
      if (state.chart >= view.charts.length) state.chart = 0;
      fillControls();
      return draw();
    },
  };
}

/** Add a strip of single pairs: a dot each, by its effect, and their mean. */
function addStrip(parent, strips, key) {
  const effects = strips.effects[key];
  if (!effects) return;
  const place = add(add(parent, "div", "", { class: "wide" }), "div", "", { class: "strip" });
  const values = effects.map((effect, at) => ({
    effect, pair: strips.pairs[at], jitter: ((at * 0.618) % 1) - 0.5,
  }));
  const ink = getComputedStyle(document.body).color;
  const axis = { labelColor: ink, titleColor: ink, domainColor: ink, tickColor: ink };
  vegaEmbed(place, {
    data: { values },
    width: 480,
    height: 60,
    background: "transparent",
    config: { axis, view: { stroke: null } },
    layer: [
      {
        mark: { type: "circle", opacity: 0.6, size: 30 },
        encoding: {
          x: { field: "effect", type: "quantitative", title: strips.caption },
          y: { field: "jitter", type: "quantitative", axis: null },
          tooltip: [{ field: "pair" }, { field: "effect", format: "+.4f" }],
        },
      },
      { mark: { type: "rule", color: ink, size: 2 },
        encoding: { x: { aggregate: "mean", field: "effect", type: "quantitative" } } },
    ],
  }, { ast: true, actions: false, renderer: "svg" });
  const rows = strips.pairs.map((pair, at) => [pair, written(effects[at])]);
  const update = addFolded(parent, "numbers of the pairs", (inside) => {
    addTable(inside, { caption: strips.caption, columns: ["pair", "effect"], rows });
  });
  update();
}
