// A closer look at one heatmap. Maps and masks come as grey pictures in the page and are coloured here.
"use strict";
(() => {
  const known = JSON.parse(document.getElementById("looks").textContent);
  const dialog = document.getElementById("viewer");
  const at = (name) => document.getElementById(`viewer-${name}`);
  const controls = at("controls").elements;
  const [heat, shade, outline] = at("stage").children, photo = new Image();
  const places = (record) => Object.keys(record).map(Number);
  const numbers = places(known.pictures);
  const now = { picture: 0, heatmap: 0, map: null, mask: null };
  const NO_MASK = "none";

  // --- pixels ---

  const decoded = new Map();

  // The first channel of a picture in a data address, as bytes.
  function grey(address) {
    if (!decoded.has(address)) {
      decoded.set(address, new Promise((done, failed) => {
        const image = new Image();
        image.onload = () => {
          const { naturalWidth: width, naturalHeight: height } = image;
          const canvas = new OffscreenCanvas(width, height);
          const context = canvas.getContext("2d", { willReadFrequently: true });
          context.drawImage(image, 0, 0);
          const { data } = context.getImageData(0, 0, width, height);
          done({ width, height, values: data.filter((_, place) => place % 4 === 0) });
        };
        image.onerror = failed;
        image.src = address;
      }));
    }
    return decoded.get(address);
  }

  const tables = Object.fromEntries(Object.entries(known.colours).map(([name, text]) =>
    [name, Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]));

  // A map holds 255 · √(share of the maximum): undone here, up to the brightest share that is shown.
  function shownValue(code, brightest) {
    return Math.min(255, Math.round(255 * (code / 255) ** 2 / brightest));
  }

  function paint(canvas, { width, height, values }, colour) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    values.forEach((value, place) => pixels.data.set(colour(value), 4 * place));
    context.putImageData(pixels, 0, 0);
  }

  function colouring(brightest) {
    const table = tables[controls.colours.value];
    return (code) => {
      const place = 3 * shownValue(code, brightest);
      return [table[place], table[place + 1], table[place + 2], 255];
    };
  }

  // The border of a mask along its pixels' edges, white between black, as in the page's tiles.
  function trace(canvas, { width, height, values }) {
    const times = Math.max(1, Math.round(960 / Math.max(width, height)));
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] > 127;
    canvas.width = width * times;
    canvas.height = height * times;
    const border = new Path2D();
    for (let y = 0; y <= height; y += 1) {
      for (let x = 0; x <= width; x += 1) {
        if (inside(x, y) !== inside(x - 1, y)) {
          border.moveTo(x * times, y * times);
          border.lineTo(x * times, (y + 1) * times);
        }
        if (inside(x, y) !== inside(x, y - 1)) {
          border.moveTo(x * times, y * times);
          border.lineTo((x + 1) * times, y * times);
        }
      }
    }
    const context = canvas.getContext("2d");
    context.lineCap = "square";
    for (const [colour, thick] of [["#000", 6], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.stroke(border);
    }
  }

  // --- what is shown ---

  const picture = () => known.pictures[now.picture];
  const heatmap = () => picture().heatmaps[now.heatmap];
  const card = (number) => document.querySelector(`[data-card="${number}"]`);

  async function show() {
    const one = picture(), shown = heatmap(), asked = `${now.picture}.${now.heatmap}`;
    // Before anything is waited for: the dialog opens under this name, and steps are read out.
    at("title").textContent = shown ? shown.label : "The picture";
    at("what").textContent = [one.name, one.model, one.imageSet, shown?.layer].filter(Boolean).join(" · ");
    const chosen = one.regions.find((region) => region.name === controls.region.value);
    const map = shown?.map ? await grey(shown.map) : null;
    const mask = chosen ? await grey(chosen.mask) : null;
    if (asked !== `${now.picture}.${now.heatmap}`) return; // another one was asked for meanwhile
    Object.assign(now, { map, mask });
    photo.src = card(now.picture).querySelector("img").src;
    photo.alt = "";
    at("stage").ariaLabel = `${at("title").textContent} over ${one.item}`;
    at("lacking").textContent = shown?.lacking ?? (shown?.dead ? "dead: zero everywhere" : "");
    at("lacking").hidden = at("lacking").textContent === "";
    at("end").textContent = shown?.end ?? "";
    list(at("scores"), shown?.scores ?? []);
    at("answer").replaceChildren(answer());
    draw();
  }

  function draw() {
    const { map, mask } = now, mode = controls.mode.value, cut = mode === "cut";
    for (const canvas of [heat, shade, outline]) canvas.hidden = true;
    for (const range of [controls.opacity, controls.threshold]) {
      range.nextElementSibling.textContent = Number(range.value).toFixed(2);
    }
    photo.classList.toggle("quiet", Boolean(map) && !cut);
    if (map) {
      const colour = colouring(heatmap().brightest), over = strong(map);
      paint(heat, map, colour);
      heat.hidden = cut;
      heat.style.opacity = controls.opacity.value;
      const outside = cut ? paper() : [0, 0, 0, 150];
      paint(shade, { ...map, values: over }, (inside) => (inside ? [0, 0, 0, 0] : outside));
      shade.hidden = mode === "heatmap";
      ramp();
    }
    if (mask) {
      trace(outline, mask);
      outline.hidden = false;
    }
    at("found").textContent = map ? found(map, mask) : "";
  }

  function paper() {
    return [...getComputedStyle(dialog).backgroundColor.match(/\d+/g).slice(0, 3).map(Number), 255];
  }

  // Where a heatmap is at least the threshold's share of its maximum.
  function strong({ values }) {
    const least = 255 * Math.sqrt(controls.threshold.value);
    return values.map((code) => (code >= least ? 1 : 0));
  }

  function found(map, mask) {
    const over = strong(map), size = over.reduce((sum, one) => sum + one, 0);
    const threshold = Number(controls.threshold.value).toFixed(2);
    const region = `Strongest region, at least ${threshold} of the maximum: ${(100 * size / over.length).toFixed(1)} % of the picture`;
    if (!mask || mask.values.length !== over.length) return `${region}.`;
    let shared = 0, either = 0;
    over.forEach((strongHere, place) => {
      const masked = mask.values[place] > 127;
      shared += strongHere && masked;
      either += strongHere || masked;
    });
    return `${region}; its IoU with ${controls.region.value} ${either ? (shared / either).toFixed(3) : "undefined"}.`;
  }

  function ramp() {
    const values = Uint8Array.from({ length: 256 }, (_, place) => place);
    const table = tables[controls.colours.value], opacity = controls.opacity.value;
    const overGrey = (part) => Math.round(opacity * part + (1 - opacity) * 127); // as in the page's tiles
    paint(dialog.querySelector(".ramp"), { width: 256, height: 1, values }, (value) =>
      [...table.slice(3 * value, 3 * value + 3).map(overGrey), 255]);
  }

  function list(place, scores) {
    place.replaceChildren(...scores.map(([title, value, metric]) => {
      const line = document.createElement("div"), term = element("dt", title), meaning = known.meanings[metric];
      if (meaning) term.append(Object.assign(element("span", meaning), { className: "note" }));
      line.append(term, element("dd", value));
      return line;
    }));
  }

  function answer() {
    return card(now.picture).querySelector(".answer").cloneNode(true);
  }

  function element(kind, text) {
    const made = document.createElement(kind);
    made.textContent = text;
    return made;
  }

  // --- the same picture under every other technique and model ---

  function others() {
    const { item, imageSet } = picture();
    const same = numbers.filter((number) => {
      const one = known.pictures[number];
      return one.item === item && one.imageSet === imageSet;
    });
    at("others").replaceChildren(...same.map((number) => {
      const row = document.createElement("section");
      const strip = document.createElement("div");
      strip.className = "strip";
      strip.append(...places(known.pictures[number].heatmaps).map((place) => thumbnail(number, place)));
      row.append(element("h3", known.pictures[number].model), strip);
      return row;
    }));
    mark();
  }

  function thumbnail(number, place) {
    const button = document.createElement("button"), one = known.pictures[number].heatmaps[place];
    button.type = "button";
    button.dataset.look = `${number}.${place}`;
    if (one.map) {
      const canvas = document.createElement("canvas");
      grey(one.map).then((map) => paint(canvas, map, colouring(one.brightest)));
      button.append(canvas);
    }
    button.append(element("span", one.map ? one.label : `${one.label}: ${one.lacking}`));
    return button;
  }

  function mark() {
    for (const button of at("others").querySelectorAll("button")) {
      button.ariaCurrent = String(button.dataset.look === `${now.picture}.${now.heatmap}`);
    }
  }

  // --- where to go ---

  function look(address) {
    const [number, place] = address.split(".").map(Number), before = known.pictures[now.picture];
    now.picture = number;
    const kinds = places(picture().heatmaps), wanted = place ?? now.heatmap;
    now.heatmap = kinds.includes(wanted) ? wanted : kinds[0];
    offerRegions();
    show();
    if (!dialog.open) {
      at("stage").prepend(photo);
      dialog.showModal();
    }
    const one = picture(), sameStrip = before?.item === one.item && before?.imageSet === one.imageSet;
    if (sameStrip && at("others").hasChildNodes()) mark(); else others();
  }

  function offerRegions() {
    const names = [...picture().regions.map((region) => region.name), NO_MASK];
    const wanted = controls.region.value;
    controls.region.replaceChildren(...names.map((name) => element("option", name)));
    controls.region.value = names.includes(wanted) ? wanted : names[0];
    controls.region.disabled = names.length === 1;
  }

  function step(kind, by) {
    if (kind === "picture") {
      const place = numbers.indexOf(now.picture) + by;
      look(String(numbers[(place + numbers.length) % numbers.length]));
    } else {
      const kinds = places(picture().heatmaps), place = kinds.indexOf(now.heatmap) + by;
      if (kinds.length) look(`${now.picture}.${kinds[(place + kinds.length) % kinds.length]}`);
    }
  }

  function cycle(select) {
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    select.dispatchEvent(new Event("input", { bubbles: true }));
  }

  const KEYS = {
    ArrowLeft: () => step("heatmap", -1),
    ArrowRight: () => step("heatmap", 1),
    ArrowUp: () => step("picture", -1),
    ArrowDown: () => step("picture", 1),
    m: () => cycle(controls.region),
    c: () => cycle(controls.colours),
    r: () => {
      const modes = [...controls.mode], place = modes.findIndex((mode) => mode.checked);
      modes[(place + 1) % modes.length].checked = true;
      draw();
    },
  };

  dialog.addEventListener("keydown", (event) => {
    const ownKeys = event.target.matches("input, select") && event.key.startsWith("Arrow");
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || ownKeys || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  at("controls").addEventListener("input", (event) => {
    if (event.target === controls.colours) others();
    if (event.target === controls.region) show(); else draw();
  });
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog || event.target.matches("a, [data-close]")) dialog.close();
    else if (button?.dataset.step) step(button.dataset.step, Number(button.dataset.by));
    else if (button?.dataset.look) {
      look(button.dataset.look);
      at("stage").scrollIntoView({ block: "nearest" }); // what was chosen may be above the window
    }
  });

  controls.colours.replaceChildren(...Object.keys(tables).map((name) => element("option", name)));
  controls.opacity.value = known.opacity;
  controls.threshold.value = known.threshold;
  for (const image of document.querySelectorAll("main img[data-look]")) {
    image.tabIndex = 0;
    image.role = "button";
    image.ariaHasPopup = "dialog";
  }
  document.addEventListener("click", (event) => {
    if (event.target.matches("main img[data-look]")) look(event.target.dataset.look);
  });
  document.addEventListener("keydown", (event) => {
    if (!["Enter", " "].includes(event.key) || !event.target.matches("main img[data-look]")) return;
    event.preventDefault();
    look(event.target.dataset.look);
  });
})();
