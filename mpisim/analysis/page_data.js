// What the page holds of each run, unpacked when it is first needed.

const ARRAYS = { share: Uint16Array, number: Float32Array, integer: Int32Array };
const NO_SHARE = 65535;
const MOST = 65534;

const runs = JSON.parse(document.getElementById("logs").textContent);

async function unpack({ kind, data }) {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const codes = new ARRAYS[kind](await new Response(stream).arrayBuffer());
  return kind === "share" ? Float32Array.from(codes, (code) => (code === NO_SHARE ? NaN : code / MOST)) : codes;
}

// Replaces packed arrays in what is given by their values.
async function unpackAll(content, names = Object.keys(content)) {
  await Promise.all(
    names.map(async (name) => {
      if (content[name]?.data !== undefined) content[name] = await unpack(content[name]);
    }),
  );
}

// The recall of labels is most of what a run has, so it waits until somebody wants to see it.
async function load(run, quantity) {
  run.loaded ??= (async () => {
    const scores = Object.keys(run.scores).filter((name) => name !== "iid_recall");
    await unpackAll(run.scores, scores);
    await Promise.all(["nodes", "prediction", "seconds"].map((part) => unpackAll(run[part])));
    run.size = run.nodes.degree.length;
    run.neighbors = Array.from({ length: run.size }, () => []);
    const [links, half] = [run.nodes.links, run.nodes.links.length / 2];
    for (let link = 0; link < half; link++) {
      run.neighbors[links[link]].push(links[half + link]);
      run.neighbors[links[half + link]].push(links[link]);
    }
    // What has out-of-distribution data is drawn last, and so on top.
    run.order = [...run.nodes.degree.keys()].sort((one, other) => run.nodes.is_ood[one] - run.nodes.is_ood[other]);
    run.curves = new Map();
  })();
  await run.loaded;
  if (quantity.startsWith("iid_recall")) await unpackAll(run.scores, ["iid_recall"]);
}

// A quantity is the name of a score, or "iid_recall:LABEL"; its values are those of round after round, node after node.
// The rounds are those that the page has, run.rounds.
function valuesOf(run, quantity) {
  const [name, label] = quantity.split(":");
  const values = run.scores[name];
  if (!ArrayBuffer.isView(values)) return null;
  const each = run.rounds.length * run.size;
  return label === undefined ? values : values.subarray(Number(label) * each, (Number(label) + 1) * each);
}

// The last round that the page has, up to one; 0 if there is none.
const roundShown = (run, round) => run.rounds.findLast((each) => each <= round) ?? 0;

function valuesInRound(run, quantity, round) {
  const values = valuesOf(run, quantity);
  const row = run.rounds.indexOf(roundShown(run, round));
  if (!values || row < 0) return new Float32Array(run.size).fill(NaN);
  return values.subarray(row * run.size, (row + 1) * run.size);
}

function curveOfNode(run, quantity, node) {
  const values = valuesOf(run, quantity);
  return Array.from({ length: values ? run.rounds.length : 0 }, (_, row) => values[row * run.size + node]);
}

// Mean, lowest, highest and two percentiles over the nodes that have a number; NaN where none has.
function statistics(values) {
  const known = Float32Array.from(values.filter((value) => !Number.isNaN(value))).sort();
  if (!known.length) return { mean: NaN, low: NaN, high: NaN, p10: NaN, p90: NaN };
  const at = (share) => known[Math.round(share * (known.length - 1))];
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  return { mean, low: known[0], high: known[known.length - 1], p10: at(0.1), p90: at(0.9) };
}

function statisticsOfRounds(run, quantity) {
  if (!run.curves.has(quantity)) {
    run.curves.set(
      quantity,
      run.rounds.map((round) => statistics(valuesInRound(run, quantity, round))),
    );
  }
  return run.curves.get(quantity);
}

// The lowest and the highest of what is given; [0, 1] where there is nothing.
function rangeOf(arrays) {
  let [low, high] = [Infinity, -Infinity];
  for (const values of arrays) {
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low <= high ? [low, high] : [0, 1];
}

function formatted(value, digits = 3) {
  if (value === undefined || value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return Math.abs(value) >= 1000 ? value.toExponential(2) : value.toFixed(digits);
}

// A whole number, which an older log may not have.
const countOf = (value) => (Number.isNaN(value) ? "–" : value);
