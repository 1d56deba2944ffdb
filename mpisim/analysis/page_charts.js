// Curves, prediction and time as plotly wants them: { data, layout } from what is to be seen.

// Which two quantities have curves when nodes are colored by one.
function pairOf(quantity) {
  if (["iid_loss", "ood_loss"].includes(quantity)) return ["iid_loss", "ood_loss"];
  if (["both", "iid_accuracy", "ood_accuracy"].includes(quantity)) return ["iid_accuracy", "ood_accuracy"];
  return [quantity, "ood_accuracy"];
}

function curvesFigure({ shown, focus, quantity, round, selected, width }) {
  const color = colors();
  const last = Math.max(1, ...shown.map((run) => run.num_rounds));
  const pair = pairOf(quantity).filter((name) => shown.some((run) => valuesOf(run, name)));
  const beside = width > 640 && pair.length > 1;
  const layout = baseLayout(color, {
    height: (beside ? 300 : 250 * pair.length) + 70,
    margin: { l: 48, r: 12, t: 26, b: 100 },
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", font: { size: 12 } },
    shapes: [roundLine(round, color)],
    annotations: [],
  });
  const data = pair.flatMap((name, index) => {
    const number = index ? index + 1 : "";
    const [low, high] = [index / pair.length + (index ? 0.07 : 0), (index + 1) / pair.length - (index ? 0 : 0.07)];
    const isLast = index === pair.length - 1;
    layout[`xaxis${number}`] = axis(color, beside || isLast ? "round" : "", {
      ...{ anchor: `y${number}`, domain: beside ? [low, high] : [0, 1] },
      range: last > 1 ? [1, last] : [0, 2],
    });
    layout[`yaxis${number}`] = axis(color, "", {
      ...{ anchor: `x${number}`, domain: beside ? [0, 1] : [1 - high, 1 - low] },
      ...(isShare(name) ? { range: [-0.03, 1.03] } : { rangemode: "tozero" }),
    });
    layout.annotations.push({
      ...{ xref: `x${number} domain`, yref: `y${number} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom" },
      ...{ showarrow: false, text: `<b>${nameOf(name)}</b>` },
    });
    const place = { xaxis: `x${number}`, yaxis: `y${number}` };
    return shown.flatMap((run, order) => {
      const style = { own: color.runs[order], dash: DASHES[order], who: shown.length > 1 ? `${letter(order)} ` : "" };
      const traces = [meanTrace(run, name, style)];
      if (run === focus) traces.unshift(...spreadTraces(run, name, style));
      if (run === focus && selected < run.size) traces.push(selectedTrace(run, name, selected, style, color));
      return traces.map((trace) => ({ ...trace, ...place, showlegend: index === 0 && trace.showlegend !== false }));
    });
  });
  return { data, layout };
}

const roundLine = (round, color) => ({
  ...{ type: "line", xref: "x", x0: round, x1: round, yref: "paper", y0: 0, y1: 1 },
  line: { color: color.muted, width: 1.5, dash: "dot" },
});

const modeOf = (run) => (run.num_rounds > 1 ? "lines" : "markers");

function meanTrace(run, name, { own, dash, who }) {
  return {
    x: run.rounds,
    y: statisticsOfRounds(run, name).map((each) => each.mean),
    mode: modeOf(run),
    line: { color: own, width: 2.5, dash },
    name: `${who}mean of nodes`,
    hovertemplate: `${who}mean %{y:.3f}<extra></extra>`,
    meta: { kind: "mean", run: run.index },
  };
}

// How the nodes lie around their mean: a band and, as many as can be told apart, a line for each node.
function spreadTraces(run, name, { own, who }) {
  const around = [bandTrace(run, name, ["low", "high"], own, 0.14, `${who}lowest to highest node`)];
  if (run.size > SINGLE_LINES) {
    return [...around, bandTrace(run, name, ["p10", "p90"], own, 0.25, `${who}10th to 90th percentile`)];
  }
  const lines = Array.from({ length: run.size }, (_, node) => ({
    x: run.rounds,
    y: curveOfNode(run, name, node),
    mode: modeOf(run),
    line: { color: own, width: 1 },
    opacity: 0.35,
    showlegend: false,
    hovertemplate: `node ${node}: %{y:.3f}<extra></extra>`,
    meta: { kind: "node", run: run.index, node },
  }));
  return [...around, ...lines];
}

function bandTrace(run, name, [low, high], fillcolor, opacity, title) {
  const statistic = statisticsOfRounds(run, name);
  const known = [...run.rounds.keys()].filter((row) => Number.isFinite(statistic[row].mean));
  const back = known.toReversed();
  return {
    x: [...known, ...back].map((row) => run.rounds[row]),
    y: [...known.map((row) => statistic[row][high]), ...back.map((row) => statistic[row][low])],
    mode: "lines",
    line: { width: 0 },
    fill: "toself",
    fillcolor,
    opacity,
    name: title,
    hoverinfo: "skip",
    meta: { kind: "band", run: run.index },
  };
}

function selectedTrace(run, name, node, { who }, color) {
  return {
    x: run.rounds,
    y: curveOfNode(run, name, node),
    mode: "lines+markers",
    line: { color: color.accent, width: run.num_rounds > 60 ? 2.5 : 4 },
    marker: {
      ...{ size: 9, symbol: "square", maxdisplayed: 12, color: color.card },
      line: { color: color.accent, width: 2 },
    },
    name: `${who}node ${node}`,
    hovertemplate: `${who}node ${node}: %{y:.3f}<extra></extra>`,
    meta: { kind: "selected", run: run.index, node },
  };
}

function predictionFigure({ run, selected }) {
  const color = colors();
  const { predicted, measured, distance } = run.prediction;
  const nodes = [...distance.keys()];
  const farthest = Math.max(1, rangeOf([distance])[1]);
  const all = {
    x: predicted,
    y: measured,
    mode: "markers",
    text: nodes.map((node) => `<b>node ${node}</b>, ${formatted(distance[node], 0)} hops away`),
    hovertemplate: "%{text}<br>predicted %{x:.3f}, measured %{y:.3f}<extra></extra>",
    customdata: nodes,
    meta: { kind: "nodes", run: run.index },
    marker: {
      size: run.size > MANY_NODES ? 7 : 11,
      symbol: nodes.map((node) => symbolOf(run, node)),
      color: nodes.map((node) => (Number.isFinite(distance[node]) ? distance[node] : null)),
      ...{ colorscale: "Viridis", cmin: 0, cmax: farthest, line: { color: color.muted, width: 1 } },
      colorbar: {
        ...{ thickness: 10, outlinewidth: 0, dtick: Math.ceil(farthest / 6) },
        title: { text: "hops from the OOD node", side: "right", font: { size: 13 } },
      },
    },
  };
  const ring = {
    x: [predicted[selected]],
    y: [measured[selected]],
    mode: "markers",
    hoverinfo: "skip",
    marker: { size: 22, symbol: "circle-open", color: color.accent, line: { width: 3 } },
    meta: { kind: "ring", run: run.index },
  };
  const layout = baseLayout(color, {
    height: 320,
    xaxis: axis(color, "predicted influence", { rangemode: "tozero" }),
    yaxis: axis(color, "OOD accuracy AUC", { range: [-0.08, 1.1] }),
  });
  return { data: [all, ring], layout };
}

function secondsFigure({ run, of }) {
  const color = colors();
  const [what, first] = of === "by_round" ? ["round", 1] : ["rank", 0];
  const number = run.seconds[of].length / PARTS.length;
  const data = PARTS.map((part, index) => ({
    type: "bar",
    name: part,
    x: Array.from({ length: number }, (_, place) => place + first),
    y: run.seconds[of].subarray(index * number, (index + 1) * number),
    marker: { color: color.parts[index], line: { width: 0 } },
    hovertemplate: `${what} %{x}: ${part} %{y:.3f} s<extra></extra>`,
  }));
  const layout = baseLayout(color, {
    height: 320,
    margin: { l: 56, r: 12, t: 40, b: 40 },
    ...{ barmode: "stack", bargap: number > 60 ? 0 : 0.15, showlegend: true },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    xaxis: axis(color, what, { tickformat: "d" }),
    yaxis: axis(color, of === "by_round" ? "seconds, mean over ranks" : "seconds, all rounds"),
  });
  return { data, layout };
}
