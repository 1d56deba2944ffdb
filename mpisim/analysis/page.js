// The page: what is chosen, and what follows from it.

const MAX_SHOWN = 4;
const at = (id) => document.getElementById(id);

runs.forEach((run, index) => {
  run.index = index;
});
const state = {
  focus: runs[0],
  shown: runs.slice(0, MAX_SHOWN),
  round: 1,
  quantity: "",
  selected: 0,
  playing: null,
  seconds: "by_round",
};

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const DARK = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => document.documentElement.dataset.scheme === "dark";
const setScheme = (dark) => {
  document.documentElement.dataset.scheme = dark ? "dark" : "light";
};
const lastRound = () => Math.max(1, ...state.shown.map((run) => run.num_rounds));
const quantities = () => (state.quantity === "both" ? ["iid_accuracy", "ood_accuracy"] : [state.quantity]);

// What tells a run from the others that stand beside it.
function labelAmongShown(run) {
  const own = run.parts.filter((part) => !state.shown.every((other) => other.parts.includes(part)));
  return (own.length ? own : run.parts).join(", ");
}

// ---- choices

function quantitiesOf(run) {
  const has = (name) => name in run.scores;
  const labels = has("iid_recall") ? Array.from({ length: run.num_labels }, (_, label) => `iid_recall:${label}`) : [];
  return [...(has("ood_accuracy") ? ["both"] : []), ...Object.keys(NAMES).filter(has), ...labels];
}

function offerQuantities() {
  const offered = [...new Set(state.shown.flatMap(quantitiesOf))];
  if (!offered.includes(state.quantity)) state.quantity = offered[0];
  at("quantity").replaceChildren(
    ...offered.map((quantity) =>
      element("option", quantity === "both" ? "IID and OOD accuracy" : nameOf(quantity), { value: quantity }),
    ),
  );
  at("quantity").value = state.quantity;
}

function offerRuns() {
  at("choice").hidden = runs.length < 2;
  at("run").replaceChildren(...runs.map((run) => element("option", run.label, { value: run.index })));
  at("shown").replaceChildren(
    ...runs.map((run) => {
      const label = element("label", "");
      const box = element("input", "", { type: "checkbox", value: run.index });
      label.append(box, element("b", ""), element("span", run.label));
      return label;
    }),
  );
}

function markRuns() {
  at("run").value = state.focus.index;
  for (const box of at("shown").querySelectorAll("input")) {
    const place = state.shown.indexOf(runs[box.value]);
    box.checked = place >= 0;
    box.disabled = place < 0 ? state.shown.length >= MAX_SHOWN : state.shown.length === 1;
    box.nextSibling.textContent = place >= 0 ? letter(place) : "";
  }
}

// ---- what is shown

async function select(node, run = state.focus) {
  if (!Number.isInteger(node) || node < 0 || node >= run.size) {
    writeNode();
    return;
  }
  Object.assign(state, { selected: node, focus: run });
  markRuns();
  await draw();
}

async function choose(shown, focus) {
  await Promise.all(shown.map((run) => load(run, state.quantity)));
  Object.assign(state, { shown, focus });
  state.selected = Math.min(state.selected, focus.size - 1);
  state.round = Math.min(state.round, lastRound());
  at("round").max = lastRound();
  at("round").disabled = at("play").disabled = lastRound() < 2;
  offerQuantities();
  markRuns();
  await draw();
}

// ---- playing

function play(on) {
  clearTimeout(state.playing);
  state.playing = null;
  at("play").textContent = on ? "❚❚" : "▶";
  at("play").setAttribute("aria-label", on ? "Pause" : "Play");
  if (!on) return writeRound();
  const step = async () => {
    const begun = performance.now();
    await showRound(state.round + 1);
    if (state.playing === null) return undefined;
    if (state.round >= lastRound()) return play(false);
    state.playing = setTimeout(step, Math.max(0, 1000 / at("speed").value - (performance.now() - begun)));
    return undefined;
  };
  if (state.round >= lastRound()) state.round = 0;
  state.playing = setTimeout(step, 0);
  return undefined;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("round").disabled) return;
  const typing = event.target.closest("select, input[type=number], input[type=radio]");
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key in steps && !typing) {
    play(false);
    showRound(state.round + steps[event.key]);
    event.preventDefault();
  } else if (event.key === " " && !typing && !event.target.closest("button, summary, input[type=checkbox]")) {
    play(!state.playing);
    event.preventDefault();
  }
}

function listen() {
  at("play").addEventListener("click", () => play(!state.playing));
  at("round").addEventListener("input", () => {
    const round = Number(at("round").value); // pausing puts the slider where the page is
    play(false);
    showRound(round);
  });
  at("quantity").addEventListener("change", () => {
    state.quantity = at("quantity").value;
    choose(state.shown, state.focus);
  });
  at("number").addEventListener("change", () => select(at("number").valueAsNumber));
  at("neighbors").addEventListener(
    "click",
    (event) => event.target.dataset.node && select(Number(event.target.dataset.node)),
  );
  at("run").addEventListener("change", () => {
    const run = runs[at("run").value];
    choose(state.shown.includes(run) ? state.shown : [...state.shown.slice(0, MAX_SHOWN - 1), run], run);
  });
  at("shown").addEventListener("change", (event) => {
    const run = runs[event.target.value];
    const rest = state.shown.filter((each) => each !== run);
    const shown = event.target.checked ? [...rest, run] : rest;
    choose(shown, shown.includes(state.focus) ? state.focus : shown[0]);
  });
  for (const radio of document.querySelectorAll("[name=seconds]")) {
    radio.addEventListener("change", () => {
      state.seconds = radio.value;
      redraw("seconds");
    });
  }
  at("scheme").addEventListener("click", () => {
    setScheme(!isDark());
    draw();
  });
  DARK.addEventListener("change", () => {
    setScheme(DARK.matches);
    draw();
  });
  document.addEventListener("keydown", onKey);
  drawWhenSeen();
  let width = innerWidth;
  let wait;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's bars come and go
    width = innerWidth;
    clearTimeout(wait);
    wait = setTimeout(draw, 150);
  });
}

async function start() {
  setScheme(DARK.matches);
  offerRuns();
  await load(state.focus, state.quantity);
  const { is_ood, degree_rank } = state.focus.nodes;
  const source = is_ood.indexOf(1);
  state.selected = Math.max(0, source >= 0 ? source : degree_rank.indexOf(1));
  state.round = Infinity;
  state.quantity = runs.length > 1 || state.focus.size > MANY_NODES ? "ood_accuracy" : "both";
  await choose(state.shown, state.focus);
  listen();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  at("trouble").hidden = false;
  at("trouble").textContent = `This page could not be drawn: ${error.message}. It needs a browser of 2023 or newer.`;
  throw error;
});
