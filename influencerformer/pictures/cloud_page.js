// The page around the cloud: rooms, buttons, sliders, colours, and when it is drawn.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const stage = byId("stage"), tip = byId("tip"), cut = byId("cut"), size = byId("size"), front = byId("front");
const NONE = 0, IGNORED = 65535, FIT_POINTS = 20000;
const state = { room: 0, view: "colour", camera: null, marked: null, moving: false, slow: false };
let cloud, renderer, frame = null, pending = false;

function decode(text, Type) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Type(bytes.buffer);
}

// Elements with text; names come from data sets and are only ever set as text.
function element(tag, text = "", properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== "") made.textContent = text;
  made.append(...children);
  return made;
}

function swatch(colour) {
  const made = element("span", "", { className: "swatch" });
  made.style.background = `rgb(${colour})`;
  return made;
}

const count = (number) => number.toLocaleString("en");
const ratio = (number) => (number === null || number === undefined ? "–" : number.toFixed(2));
const className = (number) => data.classes[number] ?? `class ${number}`;
const titleOf = (part, label) => `${className(part.classes[label - 1])} ${label}`;

function openRoom(index) {
  const given = data.clouds[index];
  frame = null;
  state.room = index;
  state.marked = null;
  const unpack = (part) => part && { ...part, labels: decode(part.labels, Uint16Array) };
  cloud = {
    ...given, xyz: decode(given.xyz, Int16Array), rgb: decode(given.rgb, Uint8Array), truth: unpack(given.truth),
    models: given.models.map((model) => {
      const errors = model.errors === null ? null : decode(model.errors, Uint8Array);
      return { ...unpack(model), errors };
    }),
  };
  renderer.setCloud(cloud);
  const high = cloud.low + cloud.height;
  Object.assign(cut, { min: cloud.low, max: high, step: cloud.height / 200 || 1, value: cloud.top ?? high });
  front.checked = cloud.open_front;
  resetCamera();
  byId("note").textContent = cloud.note;
  makeButtons();
  makeTable();
}

function resetCamera() {
  const [azimuth, elevation] = [cloud.azimuth, cloud.elevation].map((degrees) => (degrees * Math.PI) / 180);
  const camera = { azimuth, elevation, distance: 1, target: [0, 0, 0] };
  const seen = currentFrame(camera, stage.clientWidth || 1, stage.clientHeight || 1);
  state.camera = { ...camera, ...fit({ ...seen, cloud: { ...cloud, xyz: cloud.xyz.subarray(0, 3 * FIT_POINTS) } }) };
  redraw();
}

function currentFrame(camera, width, height) {
  const off = Number(cut.value) >= cloud.low + cloud.height * 0.999;
  const top = off ? 1e6 * cloud.radius : Number(cut.value) - cloud.centre_z;
  byId("cut_text").textContent = off ? "off" : Number(cut.value).toFixed(2);
  byId("size_text").textContent = `${Math.round(100 * Number(size.value))} %`;
  return makeFrame(cloud, camera, width, height, Number(size.value), top, front.checked);
}

// A view is colour, truth, prediction-1, error-1, prediction-2, ...: also what stands behind # in the address.
function views() {
  const rows = [{ title: "Cloud", views: [["colour", "Colour"]] }];
  if (cloud.truth) rows[0].views.push(["truth", "Truth"]);
  cloud.models.forEach((model, index) => {
    const row = { title: model.title, views: [[`prediction-${index + 1}`, "Prediction"]] };
    if (model.errors) row.views.push([`error-${index + 1}`, "Error"]);
    rows.push(row);
  });
  return rows;
}

const kind = () => state.view.split("-")[0];
const model = () => cloud.models[Number(state.view.split("-")[1]) - 1];

function makeButtons() {
  const rows = views();
  byId("views").replaceChildren(...rows.map((row) => {
    const made = element("div", "", { className: "row" }, element("span", row.title, { className: "label" }));
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", row.title);
    for (const [view, title] of row.views) {
      const button = element("button", title, { type: "button", onclick: () => setView(view) });
      button.dataset.view = view;
      made.append(button);
    }
    return made;
  }));
  const known = rows.some((row) => row.views.some(([view]) => view === state.view));
  setView(known ? state.view : "colour");
}

function setView(view) {
  state.view = view;
  for (const button of byId("views").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  const address = new URLSearchParams({ view });
  if (data.clouds.length > 1) address.set("room", state.room + 1);
  try {
    history.replaceState(null, "", `#${address}`);
  } catch {
    // A page inside another one may not change its address.
  }
  makeLegend();
  recolour();
}

// Labels of the points and the colour of each label in the present view; labels of what is marked in the table.
function recolour() {
  const rgb = new Uint8Array(cloud.rgb.length), mark = state.marked;
  const shown = kind() === "truth" ? cloud.truth : kind() === "prediction" ? model() : null;
  const palette = shown && [data.colours.none, ...shown.colours];
  const marked = mark && (mark.model === null ? cloud.truth : cloud.models[mark.model]).labels;
  const errors = kind() === "error" && model().errors;
  for (let i = 0, at = 0; at < rgb.length; i++, at += 3) {
    let red, green, blue;
    if (errors) [red, green, blue] = data.errors[errors[i]].colour;
    else if (!shown) [red, green, blue] = [cloud.rgb[at], cloud.rgb[at + 1], cloud.rgb[at + 2]];
    else [red, green, blue] = palette[shown.labels[i]] ?? data.colours.ignored;
    if (marked && marked[i] !== mark.label) {
      [red, green, blue] = [red, green, blue].map((part) => 0.2 * part + 0.8 * 226);
    }
    rgb[at] = red;
    rgb[at + 1] = green;
    rgb[at + 2] = blue;
  }
  renderer.setColours(rgb);
  redraw();
}

let lastMove = 0;
function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame((now) => {
    pending = false;
    const wait = now - lastMove;
    lastMove = state.moving ? now : 0;
    if (renderer instanceof CanvasRenderer || (wait > 50 && wait < 500)) state.slow = true;
    const canvas = stage.querySelector("canvas"), device = window.devicePixelRatio || 1;
    const finest = Math.max(device, Math.min(2, 2400 / Math.max(stage.clientWidth, stage.clientHeight)));
    const pixels = state.moving && state.slow ? Math.min(1, device) : finest;
    const width = Math.max(1, Math.round(stage.clientWidth * pixels));
    const height = Math.max(1, Math.round(stage.clientHeight * pixels));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    frame = currentFrame(state.camera, width, height);
    renderer.draw(frame);
    stage.dataset.drawn = Number(stage.dataset.drawn || 0) + 1;
  });
}

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  state.view = address.get("view") ?? "colour";
  const room = Number(address.get("room") ?? state.room + 1) - 1;
  byId("rooms").value = room in data.clouds ? room : 0;
  openRoom(Number(byId("rooms").value));
}

function begin() {
  renderer = makeRenderer(stage.querySelector("canvas"));
  stage.dataset.renderer = renderer.constructor.name;
  stage.querySelector("canvas").addEventListener("webglcontextlost", () => {
    const plain = stage.querySelector("canvas").cloneNode();
    stage.querySelector("canvas").replaceWith(plain);
    renderer = new CanvasRenderer(plain);
    stage.dataset.renderer = renderer.constructor.name;
    recolour();
  });
  byId("rooms").append(...data.clouds.map((each, index) => element("option", each.name, { value: index })));
  byId("room_row").hidden = data.clouds.length < 2;
  listen();
  readAddress();
}

begin();
