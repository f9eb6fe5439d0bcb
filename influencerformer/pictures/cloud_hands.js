// Mouse, fingers and keys on the cloud.

function showTip(place) {
  const point = place && pointAt(place);
  tip.hidden = !place || point < 0;
  if (tip.hidden) return;
  tip.replaceChildren(...describe(point).map((text) => element("div", text)));
  const [width, height] = [stage.clientWidth, stage.clientHeight];
  tip.style.left = `${Math.max(0, Math.min(place[0] + 14, width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(0, Math.min(place[1] + 14, height - tip.offsetHeight - 4))}px`;
}

// The point at a place of the stage, -1 if there is none.
function pointAt([x, y]) {
  const pixels = frame ? frame.height / stage.clientHeight : 1;
  return frame ? pick(frame, x * pixels, y * pixels) : -1;
}

// Marks the instance at a place: of the model that is shown, else of the truth, else of the first model.
function markAt(place) {
  const i = pointAt(place);
  for (const part of i < 0 ? [] : [model(), cloud.truth, cloud.models[0]]) {
    const label = part ? part.labels[i] : NONE;
    if (label === NONE || label === IGNORED) continue;
    setMark({ model: part === cloud.truth ? null : cloud.models.indexOf(part), label });
    return;
  }
  setMark(null);
}

// While it moves, a slow renderer draws fewer pixels.
let resting;
function move(change) {
  change(state.camera);
  state.camera.elevation = Math.max(-1.57, Math.min(1.57, state.camera.elevation));
  state.camera.distance = Math.max(0.05 * cloud.radius, Math.min(20 * cloud.radius, state.camera.distance));
  state.moving = true;
  stage.classList.add("moving");
  clearTimeout(resting);
  resting = setTimeout(() => {
    state.moving = false;
    stage.classList.remove("moving");
    redraw();
  }, 160);
  tip.hidden = true;
  redraw();
}

const turn = (x, y) => move((camera) => {
  camera.azimuth -= x;
  camera.elevation += y;
});
const zoom = (factor) => move((camera) => { camera.distance *= factor; });
const pan = (x, y) => move((camera) => {
  const step = (2 * camera.distance) / (LENS * stage.clientHeight);
  camera.target = camera.target.map((part, axis) => part - step * (x * frame.right[axis] - y * frame.up[axis]));
});

function listen() {
  const fingers = new Map();
  let travelled = 0;
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [[a, b], [c, d]] = [...fingers.values()];
    return { middle: [(a + c) / 2, (b + d) / 2], length: Math.hypot(a - c, b - d) || 1 };
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
    travelled = fingers.size > 1 ? Infinity : 0;
  });
  stage.addEventListener("pointermove", (event) => {
    const now = place(event), before = fingers.get(event.pointerId);
    if (!before) return showTip(now);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    travelled += Math.abs(dx) + Math.abs(dy);
    if (travelled < 4) return undefined;
    if (fingers.size === 2) {
      const old = spread();
      fingers.set(event.pointerId, now);
      const fresh = spread();
      zoom(old.length / fresh.length);
      pan(fresh.middle[0] - old.middle[0], fresh.middle[1] - old.middle[1]);
      return undefined;
    }
    fingers.set(event.pointerId, now);
    if (event.shiftKey || event.buttons & 6) pan(dx, dy);
    else turn(dx * 0.008, dy * 0.008);
    return undefined;
  });
  stage.addEventListener("pointerup", (event) => {
    if (travelled < 4 && event.button === 0) {
      markAt(place(event));
      showTip(place(event));
    }
    fingers.delete(event.pointerId);
  });
  stage.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  stage.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") showTip(null);
  });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * (event.deltaMode === 1 ? 0.04 : 0.0015)));
  }, { passive: false });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) pan(30 * arrow[0], 30 * arrow[1]);
    else if (arrow) turn(0.09 * arrow[0], 0.09 * arrow[1]);
    else if (event.key === "+" || event.key === "=") zoom(0.9);
    else if (event.key === "-") zoom(1 / 0.9);
    else if (event.key === "0" || event.key === "Home") resetCamera();
    else if (event.key === "Escape") setMark(null);
    else return;
    event.preventDefault();
  });
  for (const slider of [cut, size]) slider.addEventListener("input", redraw);
  front.addEventListener("change", redraw);
  byId("reset").addEventListener("click", resetCamera);
  byId("rooms").addEventListener("change", (event) => openRoom(Number(event.target.value)));
  window.addEventListener("hashchange", readAddress);
  new ResizeObserver(redraw).observe(stage);
}
