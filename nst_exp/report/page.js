"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const runs = new Map(data.runs.map((run) => [run.number, run]));
const ranges = new Map();
const membersOf = data.cases.map(() => []);
for (const run of data.runs) membersOf[run.case].push(run);
const at = (id) => document.getElementById(id);
const state = {
  view: data.isGrid ? "grid" : "gallery",
  sort: "",
  descending: false,
  kept: data.axes.map(() => new Set()), // the values of each axis that are selected; if none, all are shown
  filter: "",
  met: new Set(data.runs.map((run) => run.number)), // the runs that meet the filter
  frontOnly: false,
  chosenOnly: false,
  chosen: new Set(),
  open: null,
  peeking: false,
};

// --- small tools

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const plain = (value) => (value === undefined || value === null ? "–" : round(value));

function round(value) {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}

/** Round a value for a caption, so that captions are about equally long. */
const brief = (value) => (Math.abs(value) < 1 ? String(Number(value.toFixed(3))) : round(value));

const breakable = (name) => name.replace(/[_.]/g, "$&\u200b");
const numberOf = (name) => data.numbers.find((number) => number.name === name);
const labelOf = (name) => numberOf(name)?.label ?? name;
const settingsOf = (run) => data.axes.map((axis, index) => `${axis.name} ${run.swept[index]}`).join(", ");
const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, as in some browsers on file://
    const area = make("textarea", { value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}

const copyButton = (text) => make("button", { type: "button", className: "copy", textContent: "Copy", onclick: (event) => copy(text, event.target) });

// --- pictures: the page has each one once, as text, and makes a blob of it when it is first shown

const addresses = new Map();

function address(name) {
  if (!addresses.has(name)) {
    const source = at(`picture-${name}`);
    addresses.set(name, source ? URL.createObjectURL(new Blob([bytesOf(source.textContent)], { type: "image/jpeg" })) : null);
    source?.remove();
  }
  return addresses.get(name);
}

function bytesOf(base64) {
  const letters = atob(base64), bytes = new Uint8Array(letters.length);
  for (let index = 0; index < letters.length; index += 1) bytes[index] = letters.charCodeAt(index);
  return bytes;
}

const coming = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    coming.unobserve(target);
    show(target, target.dataset.picture);
  }
}, { rootMargin: "600px" });

function show(image, name) {
  const found = address(name);
  image.hidden = !found;
  if (found) image.src = found;
}

function lazily(name, alt) {
  const image = make("img", { alt, decoding: "async", draggable: false });
  image.dataset.picture = name;
  coming.observe(image);
  return image;
}

// --- cards

const shape = Math.max(0.3, Math.min(1.6, ...[Math.max(...data.runs.filter((run) => run.size).map((run) => run.size[1] / run.size[0]))].filter(Number.isFinite)));

function makeCard(run) {
  const thumb = make("button", { type: "button", className: "thumb", title: settingsOf(run) });
  thumb.style.aspectRatio = 1 / shape;
  const inside = run.size ? lazily(`run-${run.number}`, `Run ${run.number}: ${settingsOf(run)}`) : make("span", { className: "words" });
  if (!run.size) inside.textContent = run.status === "done" ? "picture not found" : [run.status, run.error].filter(Boolean).join(": ");
  thumb.append(inside);
  thumb.onclick = (event) => (event.shiftKey ? choose(run.number) : openRun(run.number));
  const box = make("input", { type: "checkbox", ariaLabel: `Choose run ${run.number}`, onchange: () => choose(run.number) });
  const pick = make("label", { className: "pick", title: "Choose to compare" }, box);
  const card = make("article", { className: `card ${run.status}` }, thumb, run.size ? pick : null);
  card.classList.toggle("best", run.best);
  card.classList.toggle("front", run.front);
  card.dataset.run = run.number;
  const rank = make("div", { className: "rank" }, make("i"));
  const caption = make("div", { className: "caption" }, make("b", { textContent: run.number }), ...marksOf(run));
  caption.append(make("span", { className: "value" }));
  card.append(rank, caption, make("div", { className: "more settings" }), make("div", { className: "more rest" }));
  return card;
}

function marksOf(run) {
  const marks = [];
  if (run.best) marks.push(make("span", { className: "mark best", textContent: "★", title: `Best by ${labelOf(data.score)}${data.cases.length > 1 ? ` of ${data.cases[run.case].title}` : ""}: lower is better` }));
  if (run.front) marks.push(make("span", { className: "mark front", textContent: "◆", title: "On the Pareto front" }));
  return marks;
}

const cards = new Map(data.runs.map((run) => [run.number, makeCard(run)]));

function fillCard(run) {
  const card = cards.get(run.number);
  const key = keyOfValue();
  const known = run.numbers[key] !== undefined;
  const progress = run.step === null ? run.status : `${run.status}, step ${run.step}`;
  const words = known ? [make("span", { textContent: `${labelOf(key)} ` }), brief(run.numbers[key])] : run.status === "done" ? [] : [progress];
  card.querySelector(".value").replaceChildren(...words);
  card.querySelector(".settings").textContent = state.view === "grid" && data.isGrid ? "" : settingsOf(run);
  const rest = [data.score, ...data.goals].filter((name) => name !== key && run.numbers[name] !== undefined);
  card.querySelector(".rest").replaceChildren(...rest.map((name) => make("span", { textContent: `${labelOf(name)} ${brief(run.numbers[name])}` })));
  card.querySelector(".rank").hidden = !known;
  card.querySelector(".rank i").style.width = `${100 * goodness(run, key)}%`;
}

/** Return the measure that cards show first: the one that runs are sorted by, or else the score. */
function keyOfValue() {
  return numberOf(state.sort) ? state.sort : data.score;
}

/** Return the smallest and the largest value of a measure or cost in a case. */
function rangeOf(index, name) {
  const key = `${index} ${name}`;
  if (!ranges.has(key)) {
    const values = membersOf[index].filter((run) => name in run.numbers).map((run) => run.numbers[name]);
    ranges.set(key, [Math.min(...values), Math.max(...values)]);
  }
  return ranges.get(key);
}

/** Return the length of a run's bar: 0.04 for the worst run of the case, 1 for the best, 0 without a value. */
function goodness(run, name) {
  if (!(name in run.numbers)) return 0;
  const [low, high] = rangeOf(run.case, name);
  if (low === high) return 1;
  const place = (run.numbers[name] - low) / (high - low);
  return 0.04 + 0.96 * (numberOf(name)?.lower ? 1 - place : place);
}

// --- order and selection

function valueOf(run, key) {
  if (key === "run") return run.number;
  if (key === "status") return run.status;
  const axis = data.axes.findIndex((one) => `axis:${one.name}` === key);
  return axis >= 0 ? run.order[axis] : run.numbers[key];
}

/** Compare for sorting: numbers come before texts, and unknown values last. */
function compareValues(a, b, sign) {
  const rank = (value) => (value === undefined || value === null ? 2 : typeof value === "string" ? 1 : 0);
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  if (rank(a) === 2) return 0;
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

const placed = data.blocks.flatMap((block) => block.cells.flat()).filter((number) => number !== null);
const natural = new Map(placed.map((number, index) => [number, index]));

function ordered() {
  const sign = state.descending ? -1 : 1;
  const list = [...data.runs].sort((a, b) => natural.get(a.number) - natural.get(b.number));
  if (state.sort) list.sort((a, b) => compareValues(valueOf(a, state.sort), valueOf(b, state.sort), sign));
  else if (state.descending) list.reverse();
  return list;
}

/** Apply a filter; one that cannot be understood shows all runs and the reason. */
function applyFilter(text) {
  let trouble = "";
  state.filter = text;
  state.met = new Set(data.runs.map((run) => run.number));
  try {
    const met = matching(text, data.runs);
    state.met = new Set(data.runs.filter((_, index) => met[index]).map((run) => run.number));
  } catch (error) {
    trouble = error.message;
  }
  at("search").setAttribute("aria-invalid", String(Boolean(trouble)));
  at("search-trouble").hidden = !trouble;
  at("search-trouble").textContent = trouble && `The filter is not used: ${trouble}.`;
}

function isShown(run) {
  if (state.frontOnly && !run.front) return false;
  if (state.chosenOnly && !state.chosen.has(run.number)) return false;
  if (state.kept.some((kept, index) => kept.size && !kept.has(run.swept[index]))) return false;
  return state.met.has(run.number);
}

const shownRuns = () => ordered().filter(isShown);

function update() {
  const list = shownRuns();
  const shown = new Set(list.map((run) => run.number));
  for (const [number, card] of cards) {
    card.hidden = !shown.has(number);
    card.classList.toggle("chosen", state.chosen.has(number));
    card.querySelector("input")?.toggleAttribute("checked", state.chosen.has(number));
    if (card.querySelector("input")) card.querySelector("input").checked = state.chosen.has(number);
    fillCard(runs.get(number));
  }
  const inGrid = state.view === "grid" && data.isGrid;
  at("grid").hidden = !inGrid;
  at("gallery").hidden = inGrid;
  if (inGrid) placeInGrid(shown);
  else at("gallery").replaceChildren(...list.map((run) => cards.get(run.number)));
  fillTable(list);
  at("nothing").hidden = list.length > 0 || data.runs.length === 0;
  at("shown").textContent = list.length === data.runs.length ? `${list.length} runs` : `${list.length} of ${data.runs.length} runs`;
  at("turn").textContent = state.descending ? "↓" : "↑";
  at("turn").disabled = inGrid;
  at("sort").value = state.sort;
  for (const button of at("views").children) pressed(button, (button.dataset.view === "grid") === inGrid);
  pressed(at("front"), state.frontOnly);
  fillTray();
}

// --- the grid

function makeBlock(block) {
  const cells = make("div", { className: "cells" });
  const frame = make("section", { className: "block" }, block.title ? make("h3", { textContent: block.title }) : null, cells);
  const columns = block.columns.map((text) => make("div", { className: "label column" }, breakable(data.columnAxis), make("b", { textContent: text })));
  const rows = block.rows.map((text) => make("div", { className: "label row" }, breakable(data.rowAxis), make("b", { textContent: text })));
  const empty = block.cells.map((line) => line.map(() => make("div", { className: "missing", textContent: "not run" })));
  empty.flat().forEach((cell) => { cell.style.aspectRatio = 1 / shape; });
  return { frame, cells, columns, rows, empty, numbers: block.cells, corner: make("div", { className: "label column corner" }) };
}

const blocks = data.isGrid ? data.blocks.map(makeBlock) : [];
at("grid").append(...blocks.map((block) => block.frame));

/** Put the shown cards into the grid, without rows and columns that have none. */
function placeInGrid(shown) {
  const isSelection = shown.size < data.runs.length;
  for (const block of blocks) {
    const has = (number) => number !== null && shown.has(number);
    const rows = block.rows.map((_, row) => !isSelection || block.numbers[row].some(has));
    const columns = block.columns.map((_, column) => !isSelection || block.numbers.some((line) => has(line[column])));
    block.frame.hidden = !rows.some(Boolean);
    block.wide = columns.filter(Boolean).length;
    const inside = [block.corner, ...block.columns.filter((_, column) => columns[column])];
    block.numbers.forEach((line, row) => {
      if (!rows[row]) return;
      inside.push(block.rows[row]);
      line.forEach((number, column) => {
        if (columns[column]) inside.push(has(number) ? cards.get(number) : block.empty[row][column]);
        block.empty[row][column].textContent = number === null ? "not run" : "";
      });
    });
    block.cells.replaceChildren(...inside);
  }
  size();
}

/** Choose the size of pictures: blocks are placed side by side as long as pictures are large enough to see. */
function size() {
  const root = document.documentElement;
  root.style.setProperty("--scrollbar", `${window.innerWidth - root.clientWidth}px`);
  root.style.setProperty("--bar", `${at("bar").offsetHeight}px`);
  const narrow = window.innerWidth <= 720;
  const room = root.clientWidth - (narrow ? 28 : 56), factor = Number(at("size").value);
  root.style.setProperty("--cell", `${Math.round(factor * (narrow ? 150 : 230))}px`);
  root.style.setProperty("--gap", narrow ? "8px" : "14px");
  const visible = blocks.filter((block) => !block.frame.hidden);
  if (!visible.length) return;
  const wide = Math.max(...visible.map((block) => block.wide));
  const label = narrow ? 76 : 92, gap = narrow ? 8 : 14;
  const fit = (beside) => (room - (beside - 1) * 36 - beside * (label + wide * gap)) / (beside * wide);
  let beside = visible.length;
  while (beside > 1 && fit(beside) < 140) beside -= 1;
  const cell = factor * Math.max(narrow ? 88 : 100, Math.min(320, fit(beside)));
  for (const block of visible) block.cells.style.gridTemplateColumns = `${label}px repeat(${block.wide}, ${Math.floor(cell)}px)`;
}

// --- the table

const columnsOfTable = [
  { key: "run", label: "run" },
  { key: "status", label: "status", isText: true },
  ...data.axes.map((axis) => ({ key: `axis:${axis.name}`, label: axis.name, axis, isText: data.runs.some((run) => typeof run.order[data.axes.indexOf(axis)] === "string") })),
  ...data.numbers.map((number) => ({ key: number.name, label: number.label, title: number.lower ? "lower is better" : "higher is better" })),
];

function makeTableHead() {
  const cells = columnsOfTable.map((column) => {
    const button = make("button", { type: "button", textContent: column.label, title: column.title ?? "", onclick: () => sortBy(column.key, true) });
    const cell = make("th", { className: column.isText ? "text" : "" }, button);
    cell.dataset.key = column.key;
    return cell;
  });
  at("table").tHead.replaceChildren(make("tr", {}, make("th", { ariaLabel: "Picture" }), ...cells));
}

const tableRows = new Map(data.runs.map((run) => [run.number, makeTableRow(run)]));

function makeTableRow(run) {
  const row = make("tr", { onclick: () => openRun(run.number) });
  row.dataset.run = run.number;
  row.append(make("td", {}, run.size ? lazily(`run-${run.number}`, "") : null));
  for (const column of columnsOfTable) {
    const cell = make("td", { className: column.isText ? "text" : "" });
    if (column.key === "run") cell.append(...marksOf(run).flatMap((mark) => [mark, " "]), make("button", { type: "button", textContent: run.number }));
    else if (column.axis) cell.textContent = run.swept[data.axes.indexOf(column.axis)];
    else cell.textContent = plain(valueOf(run, column.key));
    row.append(cell);
  }
  return row;
}

function fillTable(list) {
  for (const cell of at("table").tHead.querySelectorAll("th[data-key]")) {
    cell.removeAttribute("aria-sort");
    if (cell.dataset.key === state.sort) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    cell.firstChild.textContent = cell.firstChild.textContent.replace(/ [↑↓]$/, "") + (cell.dataset.key === state.sort ? (state.descending ? " ↓" : " ↑") : "");
  }
  at("table").tBodies[0].replaceChildren(...list.map((run) => tableRows.get(run.number)));
}

/** Sort by a key, the best first for measures and costs; with `mayTurn`, the same key again reverses the order. */
function sortBy(key, mayTurn) {
  if (mayTurn && key === state.sort) state.descending = !state.descending;
  else state.descending = Boolean(numberOf(key)) && !numberOf(key).lower;
  state.sort = key;
  if (key && !mayTurn) state.view = "gallery";
  update();
}

/** Show the grid or the gallery; the grid has an order of its own, so runs are not sorted any more. */
function showView(view) {
  state.view = view;
  if (view === "grid") Object.assign(state, { sort: "", descending: false });
  update();
}

// --- chosen runs, and the tray

function choose(number) {
  if (!runs.get(number).size) return;
  if (!state.chosen.delete(number)) state.chosen.add(number);
  if (!state.chosen.size) state.chosenOnly = false;
  update();
  if (state.open === number) pressed(at("choose"), state.chosen.has(number));
}

function fillTray() {
  at("tray").hidden = state.chosen.size === 0;
  at("chosen").replaceChildren(...[...state.chosen].map((number) => {
    const image = lazily(`run-${number}`, `Run ${number}`);
    return make("button", { type: "button", title: `Run ${number}: remove from the chosen runs`, onclick: () => choose(number) }, image);
  }));
  const [first] = state.chosen;
  at("compare").textContent = state.chosen.size === 1 ? `Compare with ${kindOf(contentOf(runs.get(first))).toLowerCase()}` : state.chosen.size === 2 ? "Compare" : `Two can be compared: ${state.chosen.size} are chosen`;
  at("compare").disabled = state.chosen.size > 2;
  pressed(at("only"), state.chosenOnly);
}

// --- one run at full size

function openRun(number) {
  const run = runs.get(number);
  state.open = number;
  state.peeking = false;
  at("stage").classList.remove("actual");
  at("viewer-title").replaceChildren(`Run ${number} `, ...marksOf(run));
  at("trouble").textContent = run.size ? "" : run.status === "done" ? "Its picture was not found." : [run.status, run.error].filter(Boolean).join(": ");
  at("trouble").hidden = Boolean(run.size);
  const content = contentOf(run);
  at("peek").disabled = !content?.there;
  at("peek").textContent = kindOf(content);
  at("peek").title = `Show ${content?.isVideo ? "the first frame of the video" : "the photograph"} instead (space)`;
  at("choose").disabled = !run.size;
  pressed(at("choose"), state.chosen.has(number));
  showFull();
  at("details").replaceChildren(...playerOf(run), ...detailsOf(run));
  const list = shownRuns().map((one) => one.number), place = list.indexOf(number);
  at("previous").disabled = place <= 0;
  at("next").disabled = place < 0 || place === list.length - 1;
  if (!at("viewer").open) at("viewer").showModal();
}

// A video is too large for the page, so it is played from its own file. GIF and WebP are shown as pictures.
function playerOf(run) {
  if (!run.video) return [];
  const { address, name, isThere } = run.video;
  const link = make("a", { href: address, textContent: name });
  const reason = isThere ? "it is no longer beside this page, or this browser cannot play its format" : "it was not there when this page was made";
  const gone = make("p", { className: "soft no-video", hidden: true }, "The video ", link, ` did not play: ${reason}.`);
  const isPicture = /\.(gif|webp|a?png)$/i.test(name);
  const player = isPicture
    ? make("img", { className: "clip", alt: `The video of run ${run.number}`, src: address })
    : make("video", { className: "clip", controls: true, loop: true, muted: true, autoplay: true, src: address });
  player.onerror = () => { player.hidden = true; gone.hidden = false; };
  return [player, gone];
}

function showFull() {
  const run = runs.get(state.open);
  pressed(at("peek"), state.peeking);
  at("full").alt = state.peeking ? `The ${kindOf(contentOf(run)).toLowerCase()}` : `Run ${run.number}: ${settingsOf(run)}`;
  show(at("full"), state.peeking ? `input-${run.content}` : `run-${run.number}`);
}

function openInput(index) {
  state.open = null;
  const input = data.inputs[index];
  at("stage").classList.remove("actual");
  at("viewer-title").textContent = captionOf(input);
  at("trouble").hidden = true;
  for (const id of ["previous", "next", "peek", "choose"]) at(id).disabled = true;
  pressed(at("peek"), false);
  pressed(at("choose"), false);
  at("details").replaceChildren(make("p", { className: "soft", textContent: input.address }));
  at("full").alt = input.address;
  show(at("full"), `input-${index}`);
  if (!at("viewer").open) at("viewer").showModal();
}

function detailsOf(run) {
  const parts = [];
  if (run.status !== "done") parts.push(make("p", { className: "soft", textContent: run.step === null ? run.status : `${run.status}; the picture is that of step ${run.step}` }));
  if (data.axes.length) parts.push(make("h3", { textContent: "Varied settings" }), tableOf(data.axes.map((axis, index) => [axis.name, run.swept[index]])));
  const measures = data.numbers.filter((number) => number.name in run.numbers);
  const rows = (isCost) => measures.filter((number) => number.isCost === isCost).map((number) => [number.label, round(run.numbers[number.name])]);
  if (rows(false).length) parts.push(make("h3", { textContent: "Measures" }), tableOf(rows(false)));
  parts.push(make("h3", { textContent: "Command" }), commandOf(run.command));
  if (run.reproduce) parts.push(commandOf(run.reproduce));
  if (rows(true).length) parts.push(make("h3", { textContent: "Costs" }), tableOf(rows(true)));
  if (Object.keys(run.losses).length) parts.push(folded("Losses", Object.entries(run.losses).map(([name, value]) => [name, value.toPrecision(3)])));
  parts.push(folded("All settings", Object.entries(run.settings)));
  if (run.file) parts.push(make("p", { className: "soft" }, make("br"), "Beside this page: ", make("a", { href: run.file.address, textContent: run.file.name })));
  return parts;
}

const commandOf = (text) => make("div", { className: "command" }, make("code", { textContent: text }), copyButton(text));
const tableOf = (rows) => make("table", {}, make("tbody", {}, ...rows.map(([name, value]) => make("tr", {}, make("th", { textContent: name }), make("td", { textContent: value })))));
const folded = (title, rows) => make("details", {}, make("summary", { textContent: title }), tableOf(rows));

function step(by) {
  const list = shownRuns().map((run) => run.number);
  const next = list[list.indexOf(state.open) + by];
  if (state.open !== null && next !== undefined) openRun(next);
}

function peek(on) {
  if (at("peek").disabled || state.open === null) return;
  state.peeking = on;
  showFull();
}

// --- the comparison of two pictures

const sides = { a: null, b: null };

function openComparison(a, b) {
  const options = () => [
    ...data.inputs.flatMap((input, index) => (input.there ? [make("option", { value: `input-${index}`, textContent: captionOf(input) })] : [])),
    ...data.runs.filter((run) => run.size).map((run) => make("option", { value: `run-${run.number}`, textContent: `Run ${run.number}: ${run.swept.join(", ")}` })),
  ];
  at("side-a").replaceChildren(...options());
  at("side-b").replaceChildren(...options());
  Object.assign(sides, { a, b });
  showSides();
  if (!at("comparison").open) at("comparison").showModal();
  at("slide").focus();
}

const contentOf = (run) => (run.content === null ? null : data.inputs[run.content]);
const kindOf = (input) => (input?.isVideo ? "Video" : input?.name === "style" ? "Painting" : "Photograph");
const captionOf = (input) => `${kindOf(input)}: ${input.label}`;
const runOf = (side) => (side.startsWith("run-") ? runs.get(Number(side.slice(4))) : null);

function showSides() {
  for (const side of ["a", "b"]) {
    const select = at(`side-${side}`), image = at(`image-${side}`);
    select.value = sides[side];
    const text = select.selectedOptions[0]?.textContent ?? "";
    at(`caption-${side}`).textContent = `${side.toUpperCase()}  ${text}`;
    image.alt = text;
    show(image, sides[side]);
  }
  fillDifferences();
  slide(Number(at("slide").value));
}

function fillDifferences() {
  const [a, b] = [runOf(sides.a), runOf(sides.b)];
  const table = at("differences");
  table.tBodies[0].replaceChildren();
  table.tHead.replaceChildren();
  if (!a && !b) return;
  const head = ["", a ? `A: run ${a.number}` : "A", b ? `B: run ${b.number}` : "B"];
  table.tHead.append(make("tr", {}, ...head.map((text) => make("th", { textContent: text }))));
  const names = [...new Set([...Object.keys(a?.settings ?? {}), ...Object.keys(b?.settings ?? {})])];
  const differ = a && b ? names.filter((name) => a.settings[name] !== b.settings[name]) : data.axes.map((axis) => axis.name);
  for (const name of differ) addDifference(table, name, a?.settings[name], b?.settings[name], 0);
  for (const number of data.numbers) {
    const values = [a?.numbers[number.name], b?.numbers[number.name]];
    if (values.every((value) => value === undefined)) continue;
    const better = values.includes(undefined) || number.name === "total_loss" || (isReference(number) && a.case !== b.case) ? 0 : Math.sign(values[1] - values[0]) * (number.lower ? 1 : -1);
    addDifference(table, number.label, ...values, better);
  }
}

/** Tell whether a number is measured against photograph and painting, and so cannot be compared across cases. */
const isReference = (number) => !number.isCost;

/** Add a row; `better` is positive if A is the better one, and negative if B is. */
function addDifference(table, name, a, b, better) {
  const cell = (value, won) => make("td", { textContent: plain(value), className: won ? "won" : "soft" });
  table.tBodies[0].append(make("tr", {}, make("th", { className: "text", textContent: name }), cell(a, better > 0), cell(b, better < 0)));
}

function slide(percent) {
  const place = Math.max(0, Math.min(100, percent));
  at("slide").value = place;
  at("pair").style.setProperty("--at", `${place}%`);
}

function compareChosen() {
  const [first, second] = [...state.chosen];
  const content = runs.get(first).content;
  if (second !== undefined) openComparison(`run-${first}`, `run-${second}`);
  else openComparison(content !== null && data.inputs[content].there ? `input-${content}` : `run-${data.runs.find((run) => run.size).number}`, `run-${first}`);
}

// --- plots

function connectPlot(plot, prefix) {
  for (const group of plot.querySelectorAll(`[id^="${prefix}-"]`)) {
    const run = runs.get(Number(group.id.slice(prefix.length + 1)));
    if (!run) continue;
    group.dataset.run = run.number;
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
    group.setAttribute("aria-label", `Run ${run.number}: ${settingsOf(run)}`);
    const on = () => { group.classList.add("lit"); plot.classList.add("lit-one"); hint(run, group); };
    const off = () => { group.classList.remove("lit"); plot.classList.remove("lit-one"); at("hint").hidden = true; };
    for (const name of ["mouseenter", "focus"]) group.addEventListener(name, on);
    for (const name of ["mouseleave", "blur"]) group.addEventListener(name, off);
    group.addEventListener("click", () => { off(); openRun(run.number); });
    group.addEventListener("keydown", (event) => { if (event.key === "Enter") { off(); openRun(run.number); } });
  }
}

/** Show the picture of a run beside its point or curve. */
function hint(run, group) {
  const box = group.getBoundingClientRect(), panel = at("hint");
  const image = make("img", { alt: "" });
  if (run.size) show(image, `run-${run.number}`);
  const values = [data.score, ...data.goals].filter((name) => name in run.numbers).map((name) => `${labelOf(name)} ${round(run.numbers[name])}`);
  panel.replaceChildren(...(run.size ? [image] : []), make("b", { textContent: `Run ${run.number}` }), make("div", { textContent: settingsOf(run) }), make("div", { className: "soft", textContent: values.join(" · ") }));
  panel.hidden = false;
  const height = 220 * shape + 76;
  panel.style.left = `${Math.max(8, Math.min(window.innerWidth - 236, box.right + 12))}px`;
  panel.style.top = `${Math.max(8, Math.min(window.innerHeight - height, box.top - height / 2))}px`;
}

// --- start

function makeControls() {
  const option = (value, textContent) => make("option", { value, textContent });
  const group = (label, options) => (options.length ? [make("optgroup", { label }, ...options)] : []);
  at("sort").append(
    option("", data.ordered ? "as asked for" : data.isGrid || data.axes.length < 2 ? "as swept" : "by score"),
    ...group("Measures", data.numbers.filter((one) => !one.isCost).map((one) => option(one.name, one.label))),
    ...group("Costs", data.numbers.filter((one) => one.isCost).map((one) => option(one.name, one.label))),
    ...group("Settings", data.axes.map((axis) => option(`axis:${axis.name}`, axis.name))),
    ...group("Run", [option("run", "number"), option("status", "status")]),
  );
  at("views").hidden = !data.isGrid;
  at("chips").append(...data.axes.map(makeChips).filter(Boolean));
  at("front").hidden = !data.runs.some((run) => run.front);
  at("inputs").append(...data.inputs.map(makeInput));
}

/** Make buttons for the values of an axis, unless there are too many. */
function makeChips(axis, index) {
  if (axis.values.length > 10) return null;
  const chips = axis.values.map((value) => make("button", {
    type: "button",
    textContent: value,
    ariaPressed: "false",
    onclick: (event) => {
      const kept = state.kept[index];
      if (!kept.delete(value)) kept.add(value);
      pressed(event.target, kept.has(value));
      update();
    },
  }));
  return make("div", { className: "axis", role: "group", ariaLabel: axis.name }, make("span", { textContent: axis.name }), make("div", { className: "group" }, ...chips));
}

function makeInput(input, index) {
  const picture = input.there
    ? make("button", { type: "button", title: `${input.address}: enlarge`, onclick: () => openInput(index) }, lazily(`input-${index}`, captionOf(input)))
    : make("div", { className: "gone", textContent: `Not on this machine: ${input.address}` });
  return make("figure", {}, picture, make("figcaption", { textContent: captionOf(input) }));
}

function reset() {
  state.kept.forEach((kept) => kept.clear());
  Object.assign(state, { frontOnly: false, chosenOnly: false });
  at("search").value = "";
  applyFilter("");
  for (const chip of at("chips").querySelectorAll("button")) pressed(chip, false);
  update();
}

function connect() {
  for (const button of at("views").children) button.onclick = () => showView(button.dataset.view);
  at("sort").onchange = (event) => sortBy(event.target.value, false);
  at("turn").onclick = () => { state.descending = !state.descending; update(); };
  at("front").onclick = () => { state.frontOnly = !state.frontOnly; update(); };
  at("search").oninput = (event) => { applyFilter(event.target.value); update(); };
  at("search").onfocus = () => { at("search-help").hidden = false; };
  at("search").onblur = () => { at("search-help").hidden = true; };
  at("size").oninput = size;
  at("reset").onclick = reset;
  at("only").onclick = () => { state.chosenOnly = !state.chosenOnly; update(); };
  at("clear").onclick = () => { state.chosen.clear(); state.chosenOnly = false; update(); };
  at("commands").onclick = (event) => copy([...state.chosen].map((number) => runs.get(number).command).join("\n"), event.target);
  at("compare").onclick = compareChosen;
  for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(button.dataset.copy, button);
  for (const button of document.querySelectorAll("[data-open]")) button.onclick = () => openRun(Number(button.dataset.open));
  for (const image of document.querySelectorAll("img[data-picture]")) coming.observe(image);
  for (const button of document.querySelectorAll("dialog .close")) button.onclick = () => button.closest("dialog").close();
  at("previous").onclick = () => step(-1);
  at("next").onclick = () => step(1);
  at("peek").onclick = () => peek(!state.peeking);
  at("choose").onclick = () => choose(state.open);
  at("full").onclick = () => at("stage").classList.toggle("actual");
  at("viewer").onclose = () => cards.get(state.open)?.querySelector("button").focus({ preventScroll: true });
  at("viewer").onkeydown = (event) => {
    const deeds = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), x: () => state.open !== null && choose(state.open), " ": () => peek(!state.peeking) };
    if (!deeds[event.key] || (event.key === " " && event.target.matches("button, summary"))) return;
    event.preventDefault();
    deeds[event.key]();
  };
  connectComparison();
  window.addEventListener("resize", size);
}

function connectComparison() {
  for (const side of ["a", "b"]) at(`side-${side}`).onchange = (event) => { sides[side] = event.target.value; showSides(); };
  at("swap").onclick = () => { [sides.a, sides.b] = [sides.b, sides.a]; showSides(); };
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.onclick = () => {
      at("pair").className = `pair ${button.dataset.mode}`;
      at("slide").hidden = button.dataset.mode !== "slider";
      for (const other of document.querySelectorAll("[data-mode]")) pressed(other, other === button);
    };
  }
  at("slide").oninput = (event) => slide(Number(event.target.value));
  const follow = (event) => {
    const box = at("pair").getBoundingClientRect();
    if (at("pair").classList.contains("slider")) slide((100 * (event.clientX - box.left)) / box.width);
  };
  at("pair").onpointerdown = (event) => { at("pair").setPointerCapture(event.pointerId); follow(event); };
  at("pair").onpointermove = (event) => { if (event.buttons) follow(event); };
}

for (const place of document.querySelectorAll("[data-settings]")) {
  const winner = runs.get(Number(place.dataset.settings));
  place.textContent = `${settingsOf(winner)}${data.axes.length ? ", " : ""}${labelOf(data.score)} ${round(winner.numbers[data.score])}`;
}
makeControls();
makeTableHead();
connect();
connectPlot(at("pareto"), "pareto-point");
if (at("convergence")) connectPlot(at("convergence"), "convergence-curve");
update();
size();
