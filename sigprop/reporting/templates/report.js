// The report's own script: draws the explorable figures, sorts and searches tables, switches the
// theme. Plain functions. Plotly draws. Where this script does not run, or the browser is too old for
// it, the page keeps its static pictures and the first rows of its tables.
"use strict";
(() => {
  let page; // {networks, figures, tables}, see reporting/explorable/
  const hidden = new Set(); // positions of the networks that are switched off, in every figure
  const drawn = new Map(); // name of a figure -> function that draws it anew
  const root = document.documentElement;

  // ---------------------------------------------------------------- numbers and names

  const ARRAYS = { f4: Float32Array, f8: Float64Array, u1: Uint8Array };

  // A typed array from base64; kept, because a slider asks for it again and again.
  function unpack(spec) {
    if (!spec) return null;
    if (!spec.array) {
      const bytes = Uint8Array.from(atob(spec.bdata), (letter) => letter.charCodeAt(0));
      spec.array = new ARRAYS[spec.dtype](bytes.buffer);
    }
    return spec.array;
  }

  // Four significant digits, as the page's tables have them (Python's "%.4g").
  function digits(value) {
    if (value === null || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
    if (value === 0) return "0";
    const [mantissa, power] = value.toExponential(3).split("e");
    const exponent = Number(power);
    if (exponent >= -4 && exponent < 4) return String(Number(value.toPrecision(4)));
    const sign = exponent < 0 ? "-" : "+";
    return `${Number(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }

  // A name as text: Plotly reads some HTML in what it writes.
  function plain(name) {
    return String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  // An axis label: a name as text, and the index of "E[x_c]" set lower.
  const axisText = (label) => plain(label).replace(/_c\b/g, "<sub>c</sub>");

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // ---------------------------------------------------------------- colors

  const token = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function isDark() {
    const wanted = root.dataset.theme;
    return wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  // A network's color; lighter on a dark page.
  function colorOf(index, alpha = 1) {
    const hex = page.networks[index].color;
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const light = isDark() ? 0.3 : 0;
    const [red, green, blue] = parts.map((part) => Math.round(part + (255 - part) * light));
    return `rgba(${red},${green},${blue},${alpha})`;
  }

  // The color at a share of a palette, between its two nearest entries.
  function between(palette, share) {
    const place = share * (palette.length - 1);
    const low = Math.floor(place);
    const high = Math.min(low + 1, palette.length - 1);
    const parts = [1, 3, 5].map((at) => {
      const [a, b] = [low, high].map((index) => parseInt(palette[index].slice(at, at + 2), 16));
      return Math.round(a + (b - a) * (place - low));
    });
    return `rgb(${parts.join(",")})`;
  }

  // ---------------------------------------------------------------- what all panels share

  const touch = matchMedia("(pointer: coarse)").matches;
  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };

  function layoutOf(x, y, more = {}) {
    const grid = { gridcolor: token("--line"), zeroline: false, fixedrange: touch };
    return {
      margin: { l: 66, r: 14, t: 10, b: 46 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: token("--soft") },
      showlegend: false,
      hovermode: "closest",
      dragmode: touch ? false : "zoom",
      hoverlabel: {
        align: "left",
        bgcolor: token("--paper"),
        bordercolor: token("--soft"),
        font: { color: token("--ink"), size: 12 },
      },
      xaxis: { ...grid, ...x, title: { text: axisText(x.title || ""), standoff: 8 } },
      yaxis: {
        ...grid,
        exponentformat: "power",
        ...y,
        title: { text: axisText(y.title || ""), standoff: 6 },
      },
      ...more,
    };
  }

  // Panels of one figure: as many as wanted, each with a heading and a picture with words.
  function panelsIn(host, titles) {
    const wanted = titles.join("\n");
    if (host.dataset.titles !== wanted) {
      host.querySelectorAll(".plot").forEach((plot) => window.Plotly.purge(plot));
      host.replaceChildren(
        ...titles.map((title) => {
          const plot = element("div", { class: "plot", role: "img", "aria-label": title });
          return element("div", { class: "panel" }, element("h3", {}, title), plot);
        })
      );
      host.dataset.titles = wanted;
    }
    return [...host.querySelectorAll(".plot")];
  }

  function describe(plot, title, names) {
    plot.setAttribute("aria-label", `${title}: ${names.join(", ") || "no network is shown"}`);
  }

  // ---------------------------------------------------------------- lines

  const FINE = 0;
  const NONFINITE = 1;

  const at = (array, row, length) => (array ? array.subarray(row * length, (row + 1) * length) : null);

  function blockName(figure, network, position) {
    const known = (figure.axis.names[network] || {})[position];
    if (known === undefined) return `${figure.axis.label.split(" ")[0]} ${position}`;
    return `${plain(known)} (block ${position})`;
  }

  // What a reader sees at one point.
  function hoverText(figure, panel, line, point) {
    const words = [`<b>${plain(page.networks[line.network].name)}</b>`];
    words.push(blockName(figure, line.network, point.x));
    if (figure.steps.length) words.push(`step ${figure.steps[point.row]}`);
    words.push(`${plain(panel.quantity.replace(/_/g, " "))}: ${digits(point.center)}`);
    if (point.low !== undefined) words.push(`seeds: ${digits(point.low)} to ${digits(point.high)}`);
    if (point.theory !== undefined) words.push(`theory: ${digits(point.theory)}`);
    return words.join("<br>");
  }

  // The band between smallest and largest seed, one closed shape per run of drawable points.
  function band(x, low, high, breaks, log) {
    const shape = { x: [], y: [] };
    let run = [];
    const close = () => {
      if (run.length > 1) {
        const back = [...run].reverse();
        shape.x.push(...run.map((i) => x[i]), ...back.map((i) => x[i]), null);
        shape.y.push(...run.map((i) => high[i]), ...back.map((i) => low[i]), null);
      }
      run = [];
    };
    x.forEach((position, index) => {
      if (breaks.has(position)) close();
      const drawable = Number.isFinite(low[index]) && (!log || low[index] > 0);
      if (drawable) run.push(index);
      else close();
    });
    close();
    return shape;
  }

  function lineTraces(figure, panel, row, log) {
    const theory = new Map(row === 0 ? panel.theory.map((line) => [line.network, line]) : []);
    const bands = [];
    const lines = [];
    for (const line of panel.lines) {
      if (hidden.has(line.network)) continue;
      const length = line.x.length;
      const center = at(unpack(line.center), row, length);
      const [low, high] = [at(unpack(line.low), row, length), at(unpack(line.high), row, length)];
      const state = at(unpack(line.state), row, length);
      const breaks = new Set(figure.axis.breaks[line.network] || []);
      const expected = theory.get(line.network);
      const value = new Map(
        expected ? expected.x.map((x, index) => [x, unpack(expected.value)[index]]) : []
      );
      const [x, y, text] = [[], [], []];
      const [nowhere, symbols, words] = [[], [], []]; // what cannot be drawn: on the border
      line.x.forEach((position, index) => {
        if (breaks.has(position)) {
          x.push(null);
          y.push(null);
          text.push("");
        }
        const point = { x: position, row, center: center[index], theory: value.get(position) };
        if (low) [point.low, point.high] = [low[index], high[index]];
        const said = hoverText(figure, panel, line, point);
        const zero = log && center[index] === 0;
        x.push(position);
        y.push(zero || Number.isNaN(center[index]) ? null : center[index]);
        text.push(said);
        const wrong = state ? state[index] : FINE;
        if (wrong || zero) {
          nowhere.push(position);
          symbols.push(wrong === NONFINITE ? "x-thin-open" : wrong ? "line-ns-open" : "triangle-down");
          const why = wrong === NONFINITE ? "not finite in a seed" : wrong ? "undefined in a seed" : "0";
          words.push(`${said}<br>${why}`);
        }
      });
      const color = colorOf(line.network);
      if (low) {
        bands.push({
          ...band(line.x, low, high, breaks, log),
          mode: "lines",
          fill: "toself",
          fillcolor: colorOf(line.network, 0.18),
          line: { width: 0 },
          hoverinfo: "skip",
        });
      }
      lines.push({
        x,
        y,
        text,
        name: plain(page.networks[line.network].name),
        mode: "lines+markers",
        line: { color, width: 1.8 },
        marker: {
          color,
          symbol: page.networks[line.network].symbol,
          size: 6,
          maxdisplayed: length > 40 ? 12 : 0,
        },
        hovertemplate: "%{text}<extra></extra>",
      });
      if (nowhere.length) {
        lines.push({
          x: nowhere,
          y: symbols.map((symbol) => (symbol === "x-thin-open" ? 0.97 : 0.02)),
          yaxis: "y2",
          text: words,
          mode: "markers",
          marker: { color, symbol: symbols, size: 8, line: { color, width: 2 } },
          hovertemplate: "%{text}<extra></extra>",
        });
      }
      if (expected) {
        lines.push({
          x: expected.x,
          y: Array.from(unpack(expected.value), (v) => (Number.isFinite(v) ? v : null)),
          mode: "lines",
          line: { color: token("--ink"), width: 1.3, dash: "dash" },
          hoverinfo: "skip",
        });
      }
    }
    return [...bands, ...faintTraces(panel), ...lines, ...endTraces(panel)];
  }

  // Raw losses of single seeds.
  function faintTraces(panel) {
    return (panel.faint || [])
      .filter((line) => !hidden.has(line.network))
      .map((line) => ({
        x: line.x,
        y: Array.from(unpack(line.center)),
        mode: "lines",
        line: { color: colorOf(line.network, 0.35), width: 0.7 },
        hoverinfo: "skip",
      }));
  }

  // A cross at the last finite loss of a network that diverged, on the border where it is outside.
  function endTraces(panel) {
    return (panel.marks || [])
      .filter((mark) => !hidden.has(mark.network))
      .map((mark) => {
        const outside = mark.y > panel.top;
        const name = plain(page.networks[mark.network].name);
        return {
          x: [mark.x],
          y: [outside ? 0.97 : mark.y],
          yaxis: outside ? "y2" : "y",
          mode: "markers",
          marker: { color: colorOf(mark.network), symbol: "x", size: 11 },
          text: [`<b>${name}</b><br>${plain(mark.text)}<br>last finite loss ${digits(mark.y)}`],
          hovertemplate: "%{text}<extra></extra>",
        };
      });
  }

  // The ends of the vertical axis: the same at every step, so that a slider shows motion. Networks
  // that lose their finite values are followed at the first step, and not beyond.
  function valueRange(panel, log) {
    const lost = new Set((panel.marks || []).map((mark) => mark.network));
    const visible = panel.lines.filter((line) => !hidden.has(line.network));
    for (const line of visible) {
      if (line.state && unpack(line.state).includes(NONFINITE)) lost.add(line.network);
    }
    let [low, high] = [Infinity, -Infinity];
    const include = (values, most = Infinity) => {
      for (const value of values || []) {
        if (!Number.isFinite(value) || (log && value <= 0) || value > most) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    };
    const steady = visible.filter((line) => !lost.has(line.network));
    for (const line of steady.length ? steady : visible) {
      for (const values of [line.center, line.low, line.high]) include(unpack(values));
    }
    for (const faint of panel.faint || []) {
      if (!hidden.has(faint.network) && !lost.has(faint.network)) include(unpack(faint.center));
    }
    const most = panel.faint && steady.length ? 1e3 * high : Infinity; // of a loss: three decades
    for (const line of visible.filter((one) => lost.has(one.network))) {
      for (const values of [line.center, line.low, line.high]) {
        include(at(unpack(values), 0, line.x.length), most);
      }
    }
    if (panel.guide !== null) include([panel.guide]);
    if (low > high) return undefined;
    if (log) {
      const margin = Math.max(0.07 * Math.log10(high / low), 0.05);
      return [Math.log10(low) - margin, Math.log10(high) + margin];
    }
    if (panel.kind === "share") {
      const reach = Math.max(Math.min(1.1 * high, 1.04), 0.1);
      return [-0.03 * reach, reach];
    }
    if (panel.kind === "signed") {
      const reach = Math.max(1.1 * Math.max(-low, high), 0.1);
      return [-reach, reach];
    }
    const margin = Math.max(0.1 * Math.abs(high), 0.12 * (high - low)) || 1;
    return [low - margin, high + margin];
  }

  // The horizontal axis: names of blocks where they say more than a number and find room.
  function blockAxis(figure) {
    const axis = { title: figure.axis.label };
    const positions = Object.keys(figure.axis.ticks).map(Number).sort((a, b) => a - b);
    if (positions.length) {
      const every = Math.ceil(positions.length / 12);
      axis.tickvals = positions.filter((_, index) => index % every === 0);
      axis.ticktext = axis.tickvals.map((position) => plain(figure.axis.ticks[position]));
    } else {
      axis.tickformat = "d";
    }
    return axis;
  }

  function stackShapes(figure) {
    const starts = Object.entries(figure.axis.starts).map(([at, name]) => [Number(at), name]);
    const style = { color: token("--soft"), width: 1, dash: "dot" };
    return {
      shapes: starts.slice(1).map(([position]) => ({
        type: "line",
        x0: position - 0.5,
        x1: position - 0.5,
        yref: "paper",
        y0: 0,
        y1: 1,
        line: style,
      })),
      annotations: starts.map(([position, name]) => ({
        x: position - 0.5,
        y: 1,
        yref: "paper",
        text: plain(name),
        showarrow: false,
        xanchor: "left",
        yanchor: "top",
      })),
    };
  }

  function drawLines(figure, host, choice) {
    const view = figure.views[choice.view || 0];
    const row = choice.step || 0;
    const plots = panelsIn(host, view.panels.map((panel) => panel.title));
    view.panels.forEach((panel, index) => {
      const scalable = panel.kind === "scale" || panel.kind === "cost";
      const wanted = choice.scale || "auto";
      const log = scalable && (wanted === "auto" ? panel.log : wanted === "log");
      const range = valueRange(panel, log);
      panel.top = range ? (log ? 10 ** range[1] : range[1]) : Infinity;
      const marks = stackShapes(figure);
      if (panel.guide !== null) {
        marks.shapes.push({
          type: "line",
          xref: "paper",
          x0: 0,
          x1: 1,
          y0: panel.guide,
          y1: panel.guide,
          line: { color: token("--soft"), width: 1, dash: "dot" },
        });
      }
      const y = { title: panel.label, type: log ? "log" : "linear", range };
      const layout = layoutOf(blockAxis(figure), y, {
        ...marks,
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
        uirevision: `${view.name}|${wanted}`, // a zoom stays while the slider moves
      });
      window.Plotly.react(plots[index], lineTraces(figure, panel, row, log), layout, CONFIG);
      const shown = panel.lines.filter((line) => !hidden.has(line.network));
      describe(plots[index], `${panel.title} (${panel.label})`, shown.map((line) => page.networks[line.network].name));
    });
  }

  // ---------------------------------------------------------------- heat maps

  // Borders of cells around sorted centers: midpoints, and mirrored ends.
  function edges(centers) {
    if (centers.length === 1) return [centers[0] - 0.5, centers[0] + 0.5];
    const middle = centers.slice(1).map((value, index) => (value + centers[index]) / 2);
    const last = centers.length - 1;
    return [2 * centers[0] - middle[0], ...middle, 2 * centers[last] - middle[last - 1]];
  }

  function mapTraces(figure, layer, map) {
    const values = unpack(map.values);
    const marked = unpack(map.marked);
    const columns = map.steps.length;
    const [z, text, lost] = [[], [], []];
    map.blocks.forEach((block, row) => {
      const cells = Array.from(values.subarray(row * columns, (row + 1) * columns));
      const name = blockName(figure, map.network, block);
      z.push(
        cells.map((value) => {
          const height = layer.log ? Math.log10(value) : value;
          return Number.isNaN(height) ? null : Math.max(Math.min(height, layer.high), layer.low);
        })
      );
      const bad = cells.map((_, column) => marked !== null && marked[row * columns + column] === 1);
      lost.push(bad.map((wrong) => (wrong ? 1 : null)));
      text.push(
        cells.map((value, column) => {
          const said = bad[column] ? "not finite or undefined in a seed" : digits(value);
          const what = plain(layer.title);
          return `${name}<br>step ${map.steps[column]}<br>${what}: ${said}`;
        })
      );
    });
    const shared = {
      type: "heatmap",
      x: edges(map.steps),
      y: edges(map.blocks),
      text,
      hovertemplate: `<b>${plain(page.networks[map.network].name)}</b><br>%{text}<extra></extra>`,
      showscale: false,
    };
    const scale = layer.palette.map((color, index) => [index / (layer.palette.length - 1), color]);
    const traces = [{ ...shared, z, zmin: layer.low, zmax: layer.high, colorscale: scale }];
    if (marked) {
      const gray = token("--lost");
      traces.push({ ...shared, z: lost, zmin: 0, zmax: 1, colorscale: [[0, gray], [1, gray]] });
    }
    return traces;
  }

  function drawMaps(figure, host, choice) {
    const layer = figure.layers[choice.layer || 0];
    const maps = layer.maps.filter((map) => !hidden.has(map.network));
    const names = maps.map((map) => page.networks[map.network].name);
    const plots = panelsIn(host, names);
    const open = ["below", "above"].map((end) => layer.open.includes(end));
    const limits = [layer.low, layer.high].map((end, index) => {
      const sign = open[index] ? (index ? "≥ " : "≤ ") : "";
      return sign + digits(layer.log ? 10 ** end : end);
    });
    colorBar(host, layer.palette, limits, layer.label, maps.some((map) => map.marked));
    const ends = layer.maps.map((map) => [map.steps[0], map.steps[map.steps.length - 1]]);
    const range = [Math.min(...ends.map(([first]) => first)), Math.max(...ends.map(([, last]) => last))];
    maps.forEach((map, index) => {
      const x = { title: "step", range: [range[0] - 0.5, range[1] + 0.5], showgrid: false };
      const layout = layoutOf(x, { title: figure.axis.label.replace(/ \(.*/, ""), showgrid: false });
      window.Plotly.react(plots[index], mapTraces(figure, layer, map), layout, CONFIG);
      describe(plots[index], `${layer.title} by block and step`, [names[index]]);
    });
  }

  // What the colors mean, above the panels.
  function colorBar(host, palette, ends, words, lost) {
    const bar = host.parentElement.querySelector(".bar");
    const strip = element("span", { class: "strip" });
    strip.style.background = `linear-gradient(to right, ${palette.join(",")})`;
    bar.replaceChildren(`${words}: `, ends[0], strip, ends[1]);
    if (lost) bar.append(element("span", { class: "strip lost" }), "not finite or undefined");
  }

  // ---------------------------------------------------------------- spectra

  function drawSpectra(figure, host, choice) {
    const chosen = figure.networks[choice.network || 0];
    const log = (choice.scale || "auto") === "auto" ? figure.log : choice.scale === "log";
    const name = page.networks[chosen.network].name;
    const plots = panelsIn(host, figure.moments);
    colorBar(host, figure.palette, ["first", "last"], "weights by depth", false);
    const sizes = chosen.lines.flatMap((line) =>
      line.values.flatMap((value) => (value ? Array.from(unpack(value.sigma)) : []))
    );
    const drawable = sizes.filter((size) => Number.isFinite(size) && (!log || size > 0));
    const [low, high] = [Math.min(...drawable), Math.max(...drawable)];
    const range = log
      ? [Math.log10(low) - 0.1, Math.log10(high) + 0.1]
      : [Math.min(0, low), 1.05 * high];
    figure.moments.forEach((moment, index) => {
      const last = chosen.lines.length - 1;
      const bold = new Set([0, Math.floor((last + 1) / 2), last]);
      const traces = chosen.lines
        .map((line, rank) => [line, rank])
        .filter(([line]) => line.values[index])
        .map(([line, rank]) => {
          const { of, sigma } = line.values[index];
          const values = Array.from(unpack(sigma));
          const ranks = line.values[index].ranks || [...values.keys()];
          const weight = line.operator === "matrix" || line.operator === "conv";
          const said = (rank, value) =>
            `<b>${plain(line.name)}</b> (${plain(line.operator)})<br>` +
            `singular value ${rank + 1} of ${of}: ${digits(value)}`;
          return {
            x: ranks.map((rank) => rank / Math.max(of - 1, 1)),
            y: values.map((value) => (Number.isFinite(value) && (!log || value > 0) ? value : null)),
            text: values.map((value, at) => said(ranks[at], value)),
            mode: of === 1 ? "markers" : "lines",
            line: {
              width: bold.has(rank) || !weight ? 2.2 : 1,
              dash: weight ? "solid" : "dash",
              color: weight ? between(figure.palette, line.depth) : token("--ink"),
            },
            marker: { color: between(figure.palette, line.depth) },
            hovertemplate: "%{text}<extra></extra>",
          };
        });
      const y = { title: figure.label, type: log ? "log" : "linear", range };
      const x = { title: "rank / number of values", range: [-0.02, 1.02] };
      const layout = layoutOf(x, y, { uirevision: `${chosen.network}|${log}` });
      window.Plotly.react(plots[index], traces, layout, CONFIG);
      describe(plots[index], `Singular values, ${moment}`, [name]);
    });
  }

  // ---------------------------------------------------------------- controls

  const DRAW = { lines: drawLines, maps: drawMaps, spectra: drawSpectra };

  function select(words, options, change) {
    const list = element("select");
    options.forEach(([value, text]) => list.append(element("option", { value }, text)));
    list.addEventListener("change", () => change(list.value));
    return element("label", {}, `${words} `, list);
  }

  // One button per network: it shows or hides the network in every figure.
  function legend(indices) {
    const group = element("div", { class: "legend", role: "group", "aria-label": "Networks" });
    for (const index of indices) {
      const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
      const button = element(
        "button",
        { type: "button", "aria-pressed": "true", "data-network": index },
        swatch,
        page.networks[index].name
      );
      button.addEventListener("click", () => {
        if (hidden.has(index)) hidden.delete(index);
        else hidden.add(index);
        refresh();
      });
      group.append(button);
    }
    if (indices.length > 3) {
      const every = element("button", { type: "button", class: "every" }, "all / none");
      every.addEventListener("click", () => {
        if (hidden.size) hidden.clear();
        else page.networks.forEach((_, index) => hidden.add(index));
        refresh();
      });
      group.append(every);
    }
    return group;
  }

  // Draw every figure that is on the page already, and show which networks are on.
  function refresh() {
    for (const button of document.querySelectorAll("button[data-network]")) {
      const index = Number(button.dataset.network);
      button.setAttribute("aria-pressed", String(!hidden.has(index)));
      button.firstChild.style.background = colorOf(index);
    }
    drawn.forEach((draw) => draw());
  }

  function networksOf(figure) {
    const parts = figure.views
      ? figure.views.flatMap((view) => view.panels.flatMap((panel) => panel.lines))
      : figure.layers.flatMap((layer) => layer.maps);
    return [...new Set(parts.map((part) => part.network))].sort((a, b) => a - b);
  }

  function stepSlider(figure, change) {
    const last = figure.steps.length - 1;
    const slider = element("input", { type: "range", min: 0, max: last, value: 0, step: 1 });
    const output = element("output", {}, `${figure.steps[0]}`);
    slider.addEventListener("input", () => {
      const step = figure.steps[Number(slider.value)];
      output.textContent = String(step);
      slider.setAttribute("aria-valuetext", `step ${step}`);
      change(Number(slider.value));
    });
    slider.setAttribute("aria-valuetext", `step ${figure.steps[0]}`);
    return element("label", { class: "step" }, "Step ", slider, " ", output);
  }

  const SCALES = [["auto", "automatic"], ["log", "logarithmic"], ["linear", "linear"]];

  // The controls of a figure and, below them, its panels; `draw` draws them.
  function build(name, host) {
    const figure = page.figures[name];
    const choice = {};
    const controls = element("div", { class: "controls" });
    const panels = element("div", { class: `panels ${figure.type}` });
    let waiting = false; // a slider sends more events than there are frames
    const draw = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        DRAW[figure.type](figure, panels, choice);
      });
    };
    const set = (key, number) => (value) => {
      choice[key] = number ? Number(value) : value;
      draw();
    };
    if (figure.type === "spectra") {
      const names = figure.networks.map((one, at) => [at, page.networks[one.network].name]);
      controls.append(select("Network", names, set("network", true)));
    } else {
      controls.append(legend(networksOf(figure)));
    }
    if (figure.type === "maps") {
      const titles = figure.layers.map((layer, at) => [at, layer.title]);
      controls.append(select("Quantity", titles, set("layer", true)));
    }
    if (figure.type === "lines" && figure.views.length > 1) {
      const names = figure.views.map((view, at) => [at, view.name]);
      controls.append(select("Show", names, set("view", true)));
    }
    if (figure.type !== "maps") controls.append(select("Vertical axis", SCALES, set("scale", false)));
    if (figure.steps && figure.steps.length > 1) {
      controls.append(stepSlider(figure, set("step", true)));
    }
    host.append(controls, element("p", { class: "bar small" }), panels);
    host.closest("figure").classList.add("explored");
    return draw;
  }

  // A figure is drawn when it comes near the window: a long page opens at once.
  function explore() {
    const near = new IntersectionObserver(
      (entries) => {
        for (const entry of entries.filter((one) => one.isIntersecting)) {
          near.unobserve(entry.target);
          const name = entry.target.dataset.figure;
          drawn.set(name, entry.target.draw);
          entry.target.draw();
        }
      },
      { rootMargin: "600px" }
    );
    for (const host of document.querySelectorAll(".live")) {
      if (!page.figures[host.dataset.figure]) continue;
      host.draw = build(host.dataset.figure, host);
      near.observe(host);
    }
    refresh();
    const hint = document.getElementById("exploring");
    if (hint) hint.hidden = false;
    root.dataset.ready = "yes";
  }

  // What a script element holds compressed.
  async function inflate(held) {
    const bytes = Uint8Array.from(atob(held.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // Plotly is in the page, or beside it and loaded by now.
  async function loadPlotly() {
    const held = document.getElementById("plotly");
    if (!held) return;
    const script = document.createElement("script");
    script.textContent = await inflate(held);
    document.head.append(script);
  }

  // ---------------------------------------------------------------- tables

  const MORE = 200; // rows that are shown on request

  // Rows of a CSV text: an array of arrays of strings.
  function parseCsv(text) {
    const rows = [];
    let [row, cell, quoted] = [[], "", false];
    for (let i = 0; i < text.length; i += 1) {
      const letter = text[i];
      if (quoted) {
        if (letter === '"' && text[i + 1] === '"') cell += text[(i += 1)];
        else if (letter === '"') quoted = false;
        else cell += letter;
      } else if (letter === '"') quoted = true;
      else if (letter === "," || letter === "\n") {
        row.push(cell);
        cell = "";
        if (letter === "\n") {
          rows.push(row);
          row = [];
        }
      } else cell += letter;
    }
    return rows;
  }

  function csvLine(row) {
    return row.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replace(/"/g, '""')}"` : cell)).join(",");
  }

  // A cell of the CSV as the page shows it.
  function cellText(value, isText) {
    if (isText) {
      if (value === "True" || value === "False") return value === "True" ? "yes" : "no";
      return value.replace(/^'(?=[=+\-@\t])/, ""); // the CSV's guard against formulas
    }
    if (value === "") return "–";
    return /^-?\d+$/.test(value) ? value : digits(Number(value.replace("inf", "Infinity")));
  }

  function compare(a, b, isText) {
    if (isText) return a.localeCompare(b, "en", { numeric: true });
    const [x, y] = [a, b].map((value) => (value === "" ? NaN : Number(value.replace("inf", "Infinity"))));
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return x - y;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea", { "aria-hidden": "true" }); // a page opened from a file
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function saveLink(name, text) {
    const link = element("a", { download: `${name}.csv` }, `Save ${name}.csv`);
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    return link;
  }

  function copyButton(text) {
    const button = element("button", { type: "button" }, "Copy as CSV");
    button.addEventListener("click", async () => {
      await copy(text());
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy as CSV"), 1500);
    });
    return button;
  }

  // Sorting, searching and copying for one table, from the whole of its CSV.
  function enhance(name, { csv, turned }) {
    const table = document.getElementById(`table-${name}`);
    if (!table) return; // an empty table is not shown
    const tools = element("div", { class: "tools" });
    table.closest(".scroll").before(tools);
    const note = document.getElementById(`rows-${name}`);
    if (turned) {
      tools.append(copyButton(() => csv), saveLink(name, csv));
      return;
    }
    const [header, ...rows] = parseCsv(csv);
    const heads = [...table.querySelectorAll("thead th")];
    const isText = heads.map((head) => head.classList.contains("t"));
    let limit = table.tBodies[0].rows.length;
    let [sorted, way, words] = [null, 1, ""];
    const chosen = () => {
      const found = words
        ? rows.filter((row) => row.some((cell, i) => cellText(cell, isText[i]).toLowerCase().includes(words)))
        : [...rows];
      if (sorted === null) return found;
      return found.sort((a, b) => {
        const missing = !isText[sorted] && (a[sorted] === "" || b[sorted] === ""); // always last
        return compare(a[sorted], b[sorted], isText[sorted]) * (missing ? 1 : way);
      });
    };
    const status = element("span", { role: "status", class: "small" });
    const more = element("button", { type: "button" }, "Show more rows");
    const show = () => {
      const found = chosen();
      table.tBodies[0].replaceChildren(
        ...found.slice(0, limit).map((row) =>
          element(
            "tr",
            {},
            ...row.map((cell, i) => element("td", isText[i] ? { class: "t" } : {}, cellText(cell, isText[i])))
          )
        )
      );
      status.textContent = `${Math.min(limit, found.length)} of ${found.length} rows`;
      more.hidden = found.length <= limit;
    };
    heads.forEach((head, index) => {
      const button = element("button", { type: "button", class: "sort" }, head.textContent);
      button.addEventListener("click", () => {
        way = sorted === index ? -way : 1;
        sorted = index;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        show();
      });
      head.replaceChildren(button);
    });
    const search = element("input", { type: "search", "aria-label": `Search ${table.getAttribute("aria-label")}`, placeholder: "Search" });
    search.addEventListener("input", () => {
      words = search.value.trim().toLowerCase();
      show();
    });
    more.addEventListener("click", () => {
      limit += MORE;
      show();
    });
    const copied = copyButton(() => [header, ...chosen()].map(csvLine).join("\n") + "\n");
    tools.append(search, copied, saveLink(name, csv), status);
    note.replaceChildren(more);
    more.hidden = rows.length <= limit;
    status.textContent = `${Math.min(limit, rows.length)} of ${rows.length} rows`;
  }

  // ---------------------------------------------------------------- theme and print

  function themeButton() {
    const button = document.getElementById("theme");
    const name = () => (button.textContent = isDark() ? "Light theme" : "Dark theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      name();
      refresh();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      name();
      refresh();
    });
    name();
  }

  // On paper nothing is folded; afterwards it is as it was.
  function unfoldForPrint() {
    let opened = [];
    window.addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")];
      opened.forEach((details) => (details.open = true));
    });
    window.addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
  }

  themeButton();
  unfoldForPrint();
  (async () => {
    if (!window.DecompressionStream) return;
    page = JSON.parse(await inflate(document.getElementById("page-data")));
    Object.entries(page.tables).forEach(([name, table]) => enhance(name, table));
    await loadPlotly();
    if (window.Plotly) explore();
  })();
})();
