// A small line of what a figure was of late. The figure itself stands beside it: it says nothing to a screen reader.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;
const MOST = 60;

/** Of `values`, the newest at the right edge; it begins at nothing. */
export function spark(values) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("spark");
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, at) => {
    const x = WIDTH - ((values.length - 1 - at) * WIDTH) / (MOST - 1);
    return `${x.toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
  });
  if (points.length > 1) {
    const left = points[0].split(",")[0];
    svg.append(drawn("polygon", `${left},${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`));
    svg.append(drawn("polyline", points.join(" ")));
  }
  return svg;
}

function drawn(kind, points) {
  const shape = document.createElementNS(SVG, kind);
  shape.setAttribute("points", points);
  return shape;
}
