"use strict";
(() => {
  const make = (name, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };

  // --- tables: a button in every heading; numbers by value, texts by letter, empty ones last ---

  const keyOf = (cell) => (cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value));
  const missing = (key) => key === "" || Number.isNaN(key);
  const order = (a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
  };
  const sort = (head, column) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const keyed = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
    keyed.sort(([a], [b]) => (descending && !missing(a) && !missing(b) ? order(b, a) : order(a, b)));
    body.append(...keyed.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      button.addEventListener("click", () => sort(head, column));
      head.append(button);
      head.setAttribute("aria-sort", "none");
    });
  }

  const tellWhatScrolls = () => {
    for (const hint of document.querySelectorAll("p.scrolls")) {
      const frame = hint.nextElementSibling;
      hint.hidden = frame.scrollHeight <= frame.clientHeight && frame.scrollWidth <= frame.clientWidth;
    }
  };
  tellWhatScrolls();
  window.addEventListener("resize", tellWhatScrolls);

  // --- colours: viridis for one sign, blue to red through white for both; both are safe for the colour-blind ---

  const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
  const BLUE_RED = ["053061", "2f79b5", "92c5de", "f7f7f7", "f4a582", "cc4c44", "67001f"];
  const channels = (hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const mix = (stops, share) => {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const k = Math.min(Math.floor(at), stops.length - 2);
    const [from, to] = [channels(stops[k]), channels(stops[k + 1])];
    return from.map((value, i) => Math.round(value + (to[i] - value) * (at - k)));
  };
  const scaleOf = (values, lows, highs) => {
    const ends = (best, of) => of.reduce((a, b) => best(a, b), of[0]);
    const least = ends(Math.min, values), most = ends(Math.max, values);
    if (lows.length > 1 && ends(Math.max, lows) <= ends(Math.min, highs)) {  // all intervals have a value in common
      return { stops: ["d9d9d9", "d9d9d9"], share: () => 0, ends: [least, most], kind: "grey: no cell differs from another" };
    }
    if (least < 0 && most > 0) {
      const end = Math.max(-least, most);
      return { stops: BLUE_RED, share: (v) => (v + end) / (2 * end), ends: [-end, 0, end], kind: "centred on 0" };
    }
    if (least > 0 && most / least > 30) {
      const span = Math.log(most / least);
      const share = (v) => Math.log(v / least) / span;
      return { stops: VIRIDIS, share, ends: [least, Math.sqrt(least * most), most], kind: "logarithmic" };
    }
    const share = (v) => (most > least ? (v - least) / (most - least) : 0.5);
    return { stops: VIRIDIS, share, ends: [least, (least + most) / 2, most], kind: "linear" };
  };

  const digits = (value, count) => {
    if (value === null || value === undefined) return "none";
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(count - 1) : value.toPrecision(count);
  };

  // a value and its ends, with the digits that the interval supports, as gradlab.rounding gives them
  const written = (value, low, high) => {
    const half = (high - low) / 2, all = [value, low, high], largest = Math.max(...all.map(Math.abs));
    if (!(half > 0) || largest < 1e-3 || largest >= 1e6) return all.map((v) => digits(v, 4));
    let place = -Math.floor(Math.log10(half));
    if (half * 10 ** place < 1.5) place += 1;
    place = Math.min(place, 5 - Math.floor(Math.log10(largest)));
    const unit = 10 ** Math.max(-place, 0);  // tens and more
    return all.map((v) => (Math.round(v / unit) * unit).toFixed(0)).map((text, k) => (place > 0 ? all[k].toFixed(place) : text));
  };

  // --- heatmaps ---

  const tip = make("div", { className: "tip", hidden: true });
  tip.setAttribute("aria-hidden", "true"); // the line below the heatmap is read out instead
  document.body.append(tip);

  const WRITTEN = 12; // cells a side up to which values stand in them

  const heatmap = (place, data) => {
    const chosen = { figure: 0, at: data.outer.map((_, k) => data.panels[0].at[k]) };
    const choices = make("div", { className: "choices" });
    const table = make("table", { className: "cells" });
    const frame = make("div", { className: "wide" }, table);
    const legend = make("div", { className: "legend" });
    const reading = make("p", { className: "reading" });
    reading.setAttribute("role", "status");
    place.append(choices, frame, legend, reading);

    const choose = (label, options, set) => {
      const select = make("select", {}, ...options.map((text, k) => new Option(text, String(k))));
      select.addEventListener("change", () => { set(Number(select.value)); draw(); });
      if (options.length > 1) choices.append(make("label", {}, `${label} `, select));
    };
    choose("metric", data.figures.map((f) => f.words), (k) => { chosen.figure = k; });
    data.outer.forEach((dim, position) => {
      const options = [...new Set(data.panels.map((panel) => panel.at[position]))];
      choose(dim, options, (k) => { chosen.at[position] = options[k]; });
    });

    const withEnds = (panel, row, column) => {  // texts of a value and its ends; none without an interval
      const [value, low, high] = [panel.value, panel.low, panel.high].map((of) => (of ? of[row][column] : null));
      return [value, low, high].includes(null) ? [] : written(value, low, high);
    };

    const inCell = (panel, row, column) => {  // as few digits as the interval supports, and at most three
      const [short] = withEnds(panel, row, column), three = digits(panel.value[row][column], 3);
      return short !== undefined && short.length < three.length ? short : three;
    };

    const say = (panel, figure, row, column) => {
      const value = panel.value[row][column];
      const [short, low, high] = withEnds(panel, row, column);
      const ends = short !== undefined ? `, interval [${low}, ${high}]` : "";
      const unit = figure.unit && figure.unit !== "1" ? ` ${figure.unit}` : "";
      const shown = value === null ? "not measured" : `${short ?? digits(value, 4)}${unit}${ends}`;
      return `tf = ${data.tf[column]}, tb = ${data.tb[row]}: ${figure.words} ${shown}`;
    };

    const show = (cell, text) => {
      reading.textContent = text;
      tip.textContent = text;
      tip.hidden = false;
      const box = cell.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${Math.max(4, box.top - tip.offsetHeight - 6)}px`;
    };

    const draw = () => {
      const figure = data.figures[chosen.figure];
      const panel = data.panels.find(
        (one) => one.figure === chosen.figure && one.at.every((value, k) => value === chosen.at[k]));
      table.replaceChildren();
      legend.replaceChildren();
      reading.textContent = "";
      tip.hidden = true;
      if (!panel) { reading.textContent = "This combination is not on the page."; return; }
      const alike = data.panels.filter((one) => one.figure === chosen.figure);  // one scale, to compare by
      const numbers = (key) => alike.flatMap((one) => (one[key] || []).flat()).filter((v) => v !== null);
      const scale = scaleOf(numbers("value"), numbers("low"), numbers("high"));
      const most = Math.max(data.tf.length, data.tb.length);
      table.style.setProperty("--cell", most <= WRITTEN ? "3.1rem" : most <= 40 ? "1.2rem" : ".55rem");
      table.setAttribute("aria-label", `${figure.words}, tf to the right, tb upwards`);
      const every = most <= WRITTEN ? 1 : Math.ceil(most / 12);
      const texts = [], cells = [];
      for (let row = data.tb.length - 1; row >= 0; row -= 1) {
        const head = make("th", { scope: "row", textContent: row % every ? "" : data.tb[row] });
        const line = make("tr", {}, head);
        data.tf.forEach((tf, column) => {
          const value = panel.value[row][column];
          const cell = make("td", { tabIndex: -1 });
          if (value === null) cell.className = "none";
          else {
            const [r, g, b] = mix(scale.stops, scale.share(value));
            cell.style.background = `rgb(${r} ${g} ${b})`;
            cell.style.color = 0.299 * r + 0.587 * g + 0.114 * b > 128 ? "#000" : "#fff";
            if (most <= WRITTEN) cell.textContent = inCell(panel, row, column);
          }
          if (tf === data.tb[row] && most <= 40) cell.classList.add("diagonal");
          const text = say(panel, figure, row, column);
          cell.setAttribute("aria-label", text);
          texts.push(text);
          cells.push(cell);
          line.append(cell);
        });
        table.append(line);
      }
      const feet = data.tf.map((tf, k) => {
        const wide = every > 1 && k % every === 0 ? Math.min(every, data.tf.length - k) : 1;
        return every > 1 && k % every ? null : make("th", { scope: "col", colSpan: wide, textContent: tf });
      });
      for (const foot of feet) if (foot && every > 1) foot.style.textAlign = "left";
      table.append(make("tr", {}, make("th", { className: "axis", textContent: "tb \u2191  tf \u2192" }),
        ...feet.filter(Boolean)));
      if (cells.length) cells[0].tabIndex = 0;

      const width = data.tf.length;
      const at = (event) => cells.indexOf(event.target.closest("td"));
      table.onmouseover = (event) => { const k = at(event); if (k >= 0) show(cells[k], texts[k]); };
      table.onmouseleave = () => { tip.hidden = true; };
      for (const [k, cell] of cells.entries()) {
        cell.onfocus = () => {  // one cell at a time is a stop of the Tab key
          for (const other of table.querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
          cell.tabIndex = 0;
          show(cell, texts[k]);
        };
        cell.onblur = () => { tip.hidden = true; };
      }
      table.onkeydown = (event) => {
        const k = at(event);
        const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: -width, ArrowDown: width };
        if (event.key === "Escape") tip.hidden = true;
        if (k < 0 || !(event.key in steps)) return;
        event.preventDefault();
        const to = k + steps[event.key];
        const sideways = Math.abs(steps[event.key]) === 1;
        if (!cells[to] || (sideways && Math.floor(to / width) !== Math.floor(k / width))) return;
        cells[to].focus();
      };

      if (Number.isFinite(scale.ends[0])) {
        const stops = scale.stops.map((hex) => `#${hex}`).join(", ");
        const bar = make("div", { className: "bar" });
        bar.style.background = `linear-gradient(to right, ${stops})`;
        const ends = make("div", { className: "ends" }, ...scale.ends.map((v) => make("span", {}, digits(v, 3))));
        const unit = figure.unit ? ` (${figure.unit})` : "";
        legend.append(make("div", {}, `${figure.words}${unit}: ${figure.long || figure.name}; scale ${scale.kind}`), bar, ends);
      }
    };
    draw();
    place.hidden = false;
  };
  for (const script of document.querySelectorAll("script.grid")) {
    heatmap(document.getElementById(script.dataset.for), JSON.parse(script.textContent));
  }
})();
