// What is drawn, and when: the graphs at once, what lies below when it comes near the view.

// The buttons by name: among those that plotly would show is one that sends the data to a server.
const CONFIG = {
  displaylogo: false,
  displayModeBar: isTouched ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  plotlyServerURL: "",
  plotGlPixelRatio: Math.min(devicePixelRatio, 2), // it would be 2 on any screen, which takes four times as long on some
};
const NEAR = 300; // pixels around the view, within which figures are drawn once the page is open

function panels() {
  const lettered = state.shown.length > 1;
  return state.shown.flatMap((run, index) =>
    quantities().map((quantity) => ({ run, index, lettered, label: labelAmongShown(run), quantity })),
  );
}

async function drawn(id, { data, layout }) {
  const figure = at(id);
  await Plotly.react(figure, data, { ...layout, width: figure.clientWidth }, CONFIG);
  if (figure.dataset.heard) return;
  figure.dataset.heard = "yes";
  figure.on("plotly_click", ({ points: [point] }) => {
    const { run, node = point.customdata } = point.data.meta ?? {};
    if (node !== undefined) select(node, runs[run]);
  });
}

function drawGraphs() {
  const { shown, round, selected, quantity } = state;
  const isAccuracy = quantity === "both" || isShare(quantity);
  const range = isAccuracy ? [0, 1] : rangeOf(shown.map((run) => valuesOf(run, quantity) ?? []));
  return drawn("graphs", graphsFigure({ panels: panels(), round, selected, width: at("graphs").clientWidth, range }));
}

function drawCurves() {
  const { shown, focus, quantity, round, selected } = state;
  return drawn("curves", curvesFigure({ shown, focus, quantity, round, selected, width: at("curves").clientWidth }));
}

const drawPrediction = () => drawn("prediction", predictionFigure({ run: state.focus, selected: state.selected }));

const drawSeconds = () => drawn("seconds", secondsFigure({ run: state.focus, of: state.seconds }));

const CHARTS = { graphs: drawGraphs, curves: drawCurves, prediction: drawPrediction, seconds: drawSeconds };

// A figure that is not as it should be is stale, and drawn anew when it is in view or near.
let drawing = Promise.resolve();
let margin = 0;

function isNear(figure) {
  const { top, bottom } = figure.getBoundingClientRect();
  return !figure.closest("[hidden]") && top < innerHeight + margin && bottom > -margin;
}

function drawStale(wanted = isNear) {
  drawing = drawing
    .catch(() => {}) // told already
    .then(async () => {
      for (const [id, drawChart] of Object.entries(CHARTS)) {
        if (!("stale" in at(id).dataset) || !wanted(at(id))) continue;
        delete at(id).dataset.stale;
        await drawChart();
        await new Promise((resolve) => setTimeout(resolve)); // the browser shows it
      }
    });
  return drawing;
}

function redraw(...ids) {
  for (const id of ids) at(id).dataset.stale = "yes";
  return drawStale();
}

function draw() {
  at("scheme").setAttribute("aria-label", isDark() ? "Light scheme" : "Dark scheme");
  // The node stands beside graphs that are tall, below others, so that both columns are about as long.
  const before = at(panels().length > 3 || state.focus.size > MANY_NODES ? "when" : "where");
  if (before.nextElementSibling !== at("node")) before.after(at("node"));
  writeHeader();
  writeTables();
  writeNode();
  writeRound();
  writeCharts();
  return redraw(...Object.keys(CHARTS));
}

// What comes near the view is drawn, and on paper everything is.
function drawWhenSeen() {
  margin = NEAR;
  const observer = new IntersectionObserver(() => drawStale(), { rootMargin: `${NEAR - 1}px` });
  for (const id of Object.keys(CHARTS)) observer.observe(at(id));
  addEventListener("beforeprint", () => drawStale((figure) => !figure.closest("[hidden]")));
}

// Of all that is drawn only colors, texts and a line move with the round.
async function showRound(round) {
  state.round = Math.min(Math.max(round, 1), lastRound());
  writeRound();
  const moves = { graphs: moveGraphs, curves: moveCurves };
  for (const [id, move] of Object.entries(moves)) {
    if ("stale" in at(id).dataset) continue;
    if (isNear(at(id))) await move(at(id));
    else at(id).dataset.stale = "yes";
  }
}

function moveGraphs(graphs) {
  const color = colors();
  const { widths } = graphs.layout.meta;
  const nodes = [...graphs.data.keys()].filter((index) => graphs.data[index].meta.kind === "nodes");
  const now = panels().map(({ run, quantity }) => nodesInRound(run, quantity, state.round, color));
  const changed = { "marker.color": now.map((each) => each.color), text: now.map((each) => each.text) };
  const titles = panels().map((panel, index) => [
    `annotations[${index}].text`,
    panelTitle(panel, state.round, widths[index]),
  ]);
  return Plotly.update(graphs, changed, Object.fromEntries(titles), nodes);
}

const moveCurves = (curves) => Plotly.relayout(curves, { "shapes[0].x0": state.round, "shapes[0].x1": state.round });
