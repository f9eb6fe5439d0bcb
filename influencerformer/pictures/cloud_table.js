// Legend and table of instances, and what is said of a point.

function makeLegend() {
  const items = [];
  const add = (colour, title, text) =>
    items.push(element("li", "", {}, swatch(colour), " ", element("b", title), ` ${text}`));
  if (kind() === "colour") items.push(element("li", "The colours of the cloud itself."));
  if (kind() === "truth") {
    items.push(element("li", "Every instance has a colour of its own, the one beside it in the table."));
    add(data.colours.none, "No instance", "");
    if (cloud.truth.ignores) add(data.colours.ignored, "Ignored", "the truth leaves it out");
  }
  if (kind() === "prediction") {
    items.push(element("li", !cloud.truth ? "Every prediction has a colour of its own." :
      `A prediction has the colour of the instance it finds: one of its class, covered at IoU ${data.iou} or more, ` +
      "each found once."));
    if (cloud.truth) add(data.colours.unmatched, "Finds none", "a prediction that finds no instance");
    add(data.colours.none, "Nothing predicted", "");
  }
  if (kind() === "error") {
    const total = model().counts.reduce((sum, part) => sum + part, 0);
    model().counts.forEach((number, index) => {
      if (!number) return;
      const { colour, title, text } = data.errors[index];
      add(colour, `${title}, ${((100 * number) / total).toFixed(1)} %`, text);
    });
  }
  byId("legend").replaceChildren(...items);
}

function makeTable() {
  const truth = cloud.truth, titles = element("tr", "", {}, element("th", "", { colSpan: 2, className: "model" }));
  const head = element("tr", "", {}, element("th", "Instance"), element("th", "Points"));
  const body = element("tbody"), line = (...cells) => element("tr", "", {}, ...cells.map((cell) =>
    cell instanceof Node ? element("td", "", {}, cell) : element("td", cell)));
  const name = (part, index, label) => {
    const text = titleOf(part, label), mark = { model: index, label };
    const button = element("button", "", { type: "button", className: "mark", onclick: () => setMark(mark) },
      swatch(part.colours[label - 1]), ` ${text}`);
    button.dataset.mark = `${index}/${label}`;
    return button;
  };
  for (const { title } of truth ? cloud.models : []) {
    titles.append(element("th", title, { colSpan: 2, className: "model" }));
    head.append(element("th", "IoU"), element("th", "Score"));
  }
  if (!truth) head.append(element("th", "Score"));
  truth?.classes.forEach((_, index) => {
    const label = index + 1, cells = [name(truth, null, label), count(truth.points[index])];
    for (const part of cloud.models) {
      const finder = part.found.indexOf(label);
      if (finder < 0) cells.push("missed", "");
      else cells.push(ratio(part.iou[finder]), ratio(part.scores?.[finder]));
    }
    body.append(line(...cells));
  });
  cloud.models.forEach((part, index) => {
    const rest = part.classes.map((_, at) => at).filter((at) => !truth || !part.found[at]);
    if (!rest.length) return;
    const title = truth ? `${part.title}: finds no instance (${rest.length}); highest IoU with any` : part.title;
    body.append(element("tr", "", { className: "part" }, element("th", title, { colSpan: head.children.length })));
    for (const at of rest) {
      const cells = [name(part, index, at + 1), count(part.points[at])];
      if (truth) cloud.models.forEach((_, other) =>
        cells.push(...(other === index ? [ratio(part.iou[at]), ratio(part.scores?.[at])] : ["", ""])));
      else cells.push(ratio(part.scores?.[at]));
      body.append(line(...cells));
    }
  });
  const empty = body.children.length === 0;
  byId("instances").hidden = empty;
  const heads = truth && cloud.models.length ? [titles, head] : [head];
  byId("table").replaceChildren(element("thead", "", {}, ...heads), body);
}

// Marks an instance and fades all others; marking it again, or null, ends it.
function setMark(mark) {
  const same = mark && state.marked && mark.model === state.marked.model && mark.label === state.marked.label;
  state.marked = same ? null : mark;
  const wanted = state.marked && `${state.marked.model}/${state.marked.label}`;
  for (const button of byId("table").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.mark === wanted));
    if (button.dataset.mark === wanted) button.scrollIntoView({ block: "nearest" });
  }
  recolour();
}

// What there is to say of a point, a line each.
function describe(i) {
  const lines = [], { truth, models } = cloud;
  if (truth) {
    const label = truth.labels[i];
    lines.push(`Truth: ${label === NONE ? "no instance" : label === IGNORED ? "ignored" : titleOf(truth, label)}`);
  }
  for (const part of models) {
    const label = part.labels[i], made = part.errors ? ` (${data.errors[part.errors[i]].title.toLowerCase()})` : "";
    let text = label === NONE ? "nothing" : titleOf(part, label);
    if (label !== NONE && part.scores) text += `, score ${ratio(part.scores[label - 1])}`;
    if (label !== NONE && truth) {
      const found = part.found[label - 1], iou = ratio(part.iou[label - 1]);
      text += found ? `, finds ${titleOf(truth, found)} at IoU ${iou}` : `, finds none (highest IoU ${iou})`;
    }
    lines.push(`${part.title}${made}: ${text}`);
  }
  return lines.length ? lines : ["No instances are known."];
}
