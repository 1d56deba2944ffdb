// The graphs, side by side in one figure of plotly: { data, layout } from what is to be seen.
//
// One figure, because a browser gives a page few WebGL contexts, and plotly takes three for each figure.

const BAR_HEIGHT = 56;
const MOST_LINES = 3; // of a label

// Where each panel stands: domains as plotly counts, from the lower left corner, and the size in pixels.
function cellsOf(panels, width) {
  const number = panels.length;
  const columns = width < 480 ? 1 : number === 4 ? 2 : number < 4 ? number : width < 1000 ? 2 : 4;
  const rows = Math.ceil(number / columns);
  const gap = 12;
  const cellWidth = (width - gap * (columns - 1)) / columns;
  const titleHeight = 24 + 18 * Math.max(...panels.map((panel) => labelLines(panel, cellWidth).length));
  const side = Math.min(Math.max(cellWidth, 260), number === 1 ? 620 : rows === 1 ? 460 : 360);
  const height = rows * (side + titleHeight);
  const cells = Array.from({ length: number }, (_, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    const [left, top] = [column * (cellWidth + gap), row * (side + titleHeight)];
    return {
      x: [left / width, (left + cellWidth) / width],
      y: [1 - (top + titleHeight + side) / height, 1 - (top + titleHeight) / height],
      width: cellWidth,
      side: Math.min(cellWidth, side),
    };
  });
  return { cells, height };
}

function graphsFigure({ panels, round, selected, width, range }) {
  const color = colors();
  const { cells, height } = cellsOf(panels, width);
  const titles = [...new Set(panels.map((panel) => nameOf(panel.quantity)))].join(", ");
  const layout = baseLayout(color, {
    height: height + BAR_HEIGHT,
    margin: { l: 0, r: 0, t: 0, b: BAR_HEIGHT },
    coloraxis: { colorscale: "Cividis", cmin: range[0], cmax: range[1], colorbar: barBelow(titles, width) },
    annotations: panels.map((panel, index) => ({
      ...{ xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", align: "left", showarrow: false },
      ...{ x: cells[index].x[0], y: cells[index].y[1], text: panelTitle(panel, round, cells[index].width) },
    })),
    meta: { widths: cells.map((cell) => cell.width) },
    ...(isTouched ? {} : { dragmode: "pan" }),
  });
  const data = panels.flatMap(({ run, quantity }, index) => {
    const number = index ? index + 1 : "";
    const pad = 0.04 + markerSize(run, selected, cells[index].side) / cells[index].side;
    const [x, y] = [run.nodes.position.subarray(0, run.size), run.nodes.position.subarray(run.size)];
    layout[`xaxis${number}`] = { visible: false, domain: cells[index].x, range: padded(x, pad), anchor: `y${number}` };
    layout[`yaxis${number}`] = { visible: false, domain: cells[index].y, range: padded(y, pad), anchor: `x${number}` };
    const type = run.size > MANY_NODES && hasWebGL ? "scattergl" : "scatter";
    const place = { type, xaxis: `x${number}`, yaxis: `y${number}` };
    const traces = [...linkTraces(run, selected, color), nodeTrace(run, quantity, round, cells[index].side, color)];
    traces.splice(1, 0, ringTrace(run, selected, cells[index].side, color));
    return traces.map((trace) => ({ ...place, ...trace }));
  });
  return { data, layout };
}

function padded(values, pad) {
  const [low, high] = rangeOf([values]);
  const more = pad * (high - low || 1);
  return [low - more, high + more];
}

const barBelow = (text, width) => ({
  ...{ orientation: "h", x: 0.5, xanchor: "center", y: 0, yanchor: "top", ypad: 8 },
  ...{ thickness: 10, len: Math.min(1, 420 / width), outlinewidth: 0 },
  title: { text, side: "bottom", font: { size: 13 } },
});

// A run's letter and label, in a few lines as wide as its panel.
function labelLines({ label, index, lettered }, width) {
  if (!lettered) return [];
  const most = Math.floor(width / 7.5);
  const lines = [`${letter(index)} `];
  for (const word of label.match(/[^ ,/]*[ ,/]*/g)) {
    const longer = lines.at(-1) + word;
    if (longer.trimEnd().length <= most || lines.at(-1).length === 2 || lines.length === MOST_LINES) {
      lines.splice(-1, 1, longer);
    } else {
      lines.push(word);
    }
  }
  return lines.map((line) => shortened(line.trimEnd(), most));
}

function panelTitle(panel, round, width) {
  const { run, quantity } = panel;
  const mean = formatted(statistics(valuesInRound(run, quantity, round)).mean);
  const known = roundShown(run, round);
  const late = known && round !== known ? ` (round ${known})` : "";
  const label = labelLines(panel, width).map(plain).join("<br>");
  return `${label.replace(/^./, "<b>$&</b>")}${label && "<br>"}${nameOf(quantity)}, mean ${mean}${late}`;
}

// All links, and those of the selected node.
function linkTraces(run, selected, color) {
  const many = run.size > MANY_NODES;
  const all = run.nodes.links.length / 2 <= MANY_LINKS ? linesOf(run) : { x: [], y: [] };
  return [
    { ...all, line: { color: color.edge, width: many ? 0.5 : 1.2 }, opacity: many ? 0.6 : 1 },
    { ...linesOf(run, selected), line: { color: color.accent, width: many ? 1 : 2.5 }, opacity: many ? 0.7 : 1 },
  ].map((trace) => ({ ...trace, mode: "lines", hoverinfo: "skip", meta: { kind: "links" } }));
}

function linesOf(run, chosen) {
  const [x, y] = [[], []];
  const { position, links } = run.nodes;
  const half = links.length / 2;
  for (let link = 0; link < half; link++) {
    const [from, to] = [links[link], links[half + link]];
    if (chosen !== undefined && from !== chosen && to !== chosen) continue;
    x.push(position[from], position[to], null);
    y.push(position[run.size + from], position[run.size + to], null);
  }
  return { x, y };
}

const symbolOf = (run, node) => (run.nodes.is_ood[node] ? "diamond" : "circle");

function markerSize(run, node, side) {
  const size = Math.max(5, Math.min(22, (0.42 * side) / Math.sqrt(run.size)));
  return run.nodes.is_ood[node] ? size * (run.size > MANY_NODES ? 2.2 : 1.5) : size;
}

// Discs that stand out behind the selected node and its neighbors, as rings.
function ringTrace(run, selected, side, color) {
  const ring = selected < run.size ? [selected, ...run.neighbors[selected]] : [];
  const wider = run.size > MANY_NODES ? 4 : 6;
  return {
    mode: "markers",
    x: ring.map((node) => run.nodes.position[node]),
    y: ring.map((node) => run.nodes.position[run.size + node]),
    hoverinfo: "skip",
    meta: { kind: "ring" },
    marker: {
      color: color.accent,
      opacity: 1,
      symbol: ring.map((node) => symbolOf(run, node)),
      size: ring.map((node, index) => markerSize(run, node, side) + (index ? wider : 2 * wider)),
      line: { width: 0 },
    },
  };
}

function nodeTrace(run, quantity, round, side, color) {
  const of = (each) => run.order.map(each);
  const { is_ood, position } = run.nodes;
  const { color: values, text } = nodesInRound(run, quantity, round, color);
  return {
    mode: "markers",
    x: of((node) => position[node]),
    y: of((node) => position[run.size + node]),
    text,
    hovertemplate: "%{text}<extra></extra>",
    customdata: run.order,
    meta: { kind: "nodes", run: run.index },
    marker: {
      color: values,
      coloraxis: "coloraxis",
      opacity: 1,
      symbol: of((node) => symbolOf(run, node)),
      size: of((node) => markerSize(run, node, side)),
      line: {
        color: of((node) => (is_ood[node] ? color.text : color.muted)),
        width: of((node) => (is_ood[node] ? 1.5 : run.size > MANY_NODES ? 0.5 : 1)),
      },
    },
  };
}

// What changes with the round, in the order in which the nodes are drawn. A node without a number is left blank.
function nodesInRound(run, quantity, round, { card }) {
  const { degree, degree_rank, samples, rank } = run.nodes;
  const [values, iid, ood] = [quantity, "iid_accuracy", "ood_accuracy"].map((name) => valuesInRound(run, name, round));
  return {
    color: run.order.map((node) => (Number.isNaN(values[node]) ? card : values[node])),
    text: run.order.map((node) =>
      [
        `<b>node ${node}</b>, degree ${degree[node]} (degree rank ${degree_rank[node]})`,
        `${countOf(samples[node])} samples, on MPI rank ${countOf(rank[node])}`,
        `IID accuracy ${formatted(iid[node])}, OOD ${formatted(ood[node])}`,
      ].join("<br>"),
    ),
  };
}
