// What the page says in words.

const MOST_NEIGHBORS = 24;

function writeHeader() {
  const { focus } = state;
  at("title").textContent = focus.title;
  at("status").replaceChildren(
    element("strong", focus.status, { class: focus.status }),
    element("span", `${focus.num_rounds} of ${focus.wanted_rounds} rounds`),
    ...focus.facts.map((fact) => element("span", fact)),
  );
  const left = focus.left_out.map((name) => (name === "iid_recall" ? "recall of labels" : NAMES[name]));
  at("facts").textContent = [
    focus.num_rounds ? "" : "No round is in the log yet.",
    focus.after_aggregation ? "Scores are of the aggregated models." : "",
    focus.scores.ood_accuracy ? "" : "The log has no OOD accuracy.",
    focus.rounds.length < focus.num_rounds
      ? `Scores are those of ${focus.rounds.length} of the rounds, so that the page stays small.`
      : "",
    left.length ? `Left out, so that the page stays small: ${left.join(", ")}.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

function writeTable(table, names, textOf) {
  const { shown } = state;
  const rows = names.map((name) => {
    const texts = shown.map((run) => textOf(run, name) ?? "–");
    const row = element("tr", "", new Set(texts).size > 1 ? { class: "differs" } : {});
    row.append(element("th", name.replaceAll("_", " "), { scope: "row" }), ...texts.map((text) => element("td", text)));
    return row;
  });
  if (shown.length > 1) {
    const head = element("tr", "");
    head.append(
      element("td", ""),
      ...shown.map((run, index) => element("th", `${letter(index)} ${labelAmongShown(run)}`, { scope: "col" })),
    );
    rows.unshift(head);
  }
  const body = element("tbody", "");
  body.append(...rows);
  table.classList.toggle("single", shown.length === 1);
  table.replaceChildren(body);
}

function writeTables() {
  const { shown } = state;
  const text = (run, name) => run.options[name]?.text;
  const names = [...new Set(shown.flatMap((run) => Object.keys(run.options)))];
  const differs = (name) => new Set(shown.map((run) => text(run, name))).size > 1;
  const isFirst = (name) =>
    shown.some((run) => run.options[name]?.first || (run.options[name]?.tells && differs(name)));
  writeTable(at("options"), names.filter(isFirst), text);
  writeTable(
    at("others"),
    names.filter((name) => !isFirst(name)),
    text,
  );
  const origins = shown.map((run) => new Map([["file", run.path], ...run.provenance]));
  writeTable(at("provenance"), [...new Set(origins.flatMap((origin) => [...origin.keys()]))], (run, name) =>
    origins[shown.indexOf(run)].get(name),
  );
}

function writeRound() {
  const { focus, round, playing } = state;
  at("count").textContent = focus.num_rounds ? `${round} / ${lastRound()}` : "no round";
  at("round").value = round;
  at("round").setAttribute("aria-valuetext", `round ${round} of ${lastRound()}`);
  at("figures").replaceChildren(
    ...figuresOfNode().map(([name, value]) => {
      const pair = element("div", "");
      pair.append(element("dt", name), element("dd", value));
      return pair;
    }),
  );
  if (playing) return; // nobody wants to hear every round
  const means = quantities().map((quantity) => {
    return `mean ${nameOf(quantity)} ${formatted(statistics(valuesInRound(focus, quantity, round)).mean)}`;
  });
  at("spoken").textContent = `Round ${round}: ${means.join(", ")}`;
}

function figuresOfNode() {
  const { focus, round, selected: node, quantity: chosen } = state;
  const { degree, degree_rank, samples, rank, iid_auc, is_ood } = focus.nodes;
  const { distance, measured, arrival } = focus.prediction;
  const scores = quantitiesOf(focus).filter((name) => name in NAMES || name === chosen);
  return [
    ["degree", degree[node]],
    ["degree rank", `${degree_rank[node]} of ${focus.size}`],
    ["samples", countOf(samples[node])],
    ["MPI rank", countOf(rank[node])],
    ["data", is_ood[node] ? "some out of distribution" : "clean"],
    ["IID accuracy AUC", formatted(iid_auc[node])],
    ...(focus.scores.ood_accuracy
      ? [
          ["OOD accuracy AUC", formatted(measured[node])],
          ["OOD accuracy ≥ 0.5 since round", formatted(arrival[node], 0)],
          ["hops from the OOD node", formatted(distance[node], 0)],
        ]
      : []),
    ...scores
      .filter((name) => name !== "both")
      .map((name) => [
        `${nameOf(name)}, round ${roundShown(focus, round)}`,
        formatted(valuesInRound(focus, name, round)[node]),
      ]),
  ];
}

function writeNode() {
  const { focus, selected } = state;
  const neighbors = focus.neighbors[selected] ?? [];
  at("number").value = selected;
  at("number").max = focus.size - 1;
  at("neighbors").replaceChildren(
    element("span", `${neighbors.length} neighbor${neighbors.length === 1 ? "" : "s"}: `),
    ...neighbors
      .slice(0, MOST_NEIGHBORS)
      .map((node) => element("button", node, { type: "button", "data-node": node, "aria-label": `node ${node}` })),
    element("span", neighbors.length > MOST_NEIGHBORS ? " …" : ""),
  );
}

// What stands below the curves and the prediction, and whether there is a prediction.
function writeCharts() {
  const { shown, focus } = state;
  const { predicted, rank_correlation } = focus.prediction;
  const isKnown = predicted.some(Number.isFinite);
  at("drawn").textContent =
    shown.length > 1 ? `Band and thin lines are of ${letter(shown.indexOf(focus))}, the run in detail.` : "";
  at("why").hidden = !focus.scores.ood_accuracy;
  at("prediction").hidden = !isKnown;
  at("correlation").textContent = isKnown
    ? `How much of the OOD node's model each node has by the mixing weights of round 1, over the rounds, against what
      it knows. Rank correlation (Spearman): ${formatted(rank_correlation, 2)}.`
    : "There is no prediction: the mixing weights follow from the models.";
}
