// Names, colors, and what all figures share.

const NAMES = {
  iid_accuracy: "IID accuracy",
  ood_accuracy: "OOD accuracy",
  own_accuracy: "accuracy on own samples",
  iid_loss: "IID loss",
  ood_loss: "OOD loss",
  train_loss: "training loss",
};
const PARTS = ["train", "test", "exchange", "mix", "log"];
const FONT = "system-ui, sans-serif";
const DASHES = ["solid", "dash", "dot", "dashdot"];
const MANY_NODES = 200; // from here on WebGL draws them
const SINGLE_LINES = 64; // up to here each node has a curve
const MANY_LINKS = 60000; // from here on only the selected node's are drawn

const isTouched = matchMedia("(pointer: coarse)").matches;
const hasWebGL = Boolean(document.createElement("canvas").getContext("webgl"));
const letter = (index) => "ABCD"[index];
const nameOf = (quantity) => (quantity.includes(":") ? `recall of label ${quantity.split(":")[1]}` : NAMES[quantity]);
const isShare = (quantity) => quantity.includes("accuracy") || quantity.includes("recall");
// plotly reads some markup in texts, so what a log says must not look like it.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shortened = (text, length) => (text.length > length ? `${text.slice(0, Math.max(length - 1, 1))}…` : text);

function colors() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: color("text"),
    muted: color("muted"),
    faint: color("faint"),
    card: color("card"),
    accent: color("accent"),
    edge: color("edge"),
    runs: [0, 1, 2, 3].map((index) => color(`run-${index}`)),
    parts: PARTS.map(color),
  };
}

function baseLayout(color, more) {
  return {
    font: { family: FONT, size: 13, color: color.text },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    showlegend: false,
    hovermode: "closest",
    margin: { l: 48, r: 12, t: 26, b: 40 },
    modebar: { color: color.muted, activecolor: color.text, bgcolor: color.card },
    hoverlabel: { bgcolor: color.card, bordercolor: color.muted, font: { family: FONT, color: color.text } },
    dragmode: isTouched ? false : "zoom", // dragging scrolls the page
    ...more,
  };
}

const axis = (color, title, more) => ({
  title: { text: title, standoff: 6, font: { size: 13 } },
  automargin: true,
  gridcolor: color.faint,
  linecolor: color.faint,
  zeroline: false,
  ...more,
});
