"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

// Copy buttons are made here, so that there is none where they would not work.
for (const box of document.querySelectorAll(".code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(box.querySelector("code"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
  box.append(button);
}

// The front: the mark nearest to the pointer, or the one the arrow keys reached, is described beside it.
const about = document.getElementById("about");

function describe(mark) {
  for (const other of document.querySelectorAll(".mark.here")) other.classList.remove("here");
  for (const same of document.querySelectorAll(`.mark[data-id="${mark.dataset.id}"]`)) same.classList.add("here");
  const candidate = data.candidates[mark.dataset.id];
  const list = document.createElement("dl");
  for (const [name, text] of candidate.pairs) {
    list.append(
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: text }),
    );
  }
  about.querySelector("h3").textContent = candidate.title;
  about.querySelector("dl").replaceWith(list);
}

function place(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

for (const svg of document.querySelectorAll(".panel > svg")) {
  const marks = [...svg.querySelectorAll(".mark")].map((element) => {
    const { e: x, f: y } = element.transform.baseVal.consolidate().matrix;
    return { element, x, y };
  });
  marks.sort((a, b) => a.x - b.x || b.y - a.y);
  svg.addEventListener("pointermove", (event) => {
    const { x, y } = place(svg, event);
    const distance = (mark) => Math.hypot(mark.x - x, mark.y - y);
    const nearest = marks.reduce((best, mark) => (distance(mark) < distance(best) ? mark : best));
    if (distance(nearest) < 28 && !nearest.element.classList.contains("here")) describe(nearest.element);
  });
  const chosen = marks.findIndex((mark) => mark.element.classList.contains("chosen"));
  marks.forEach(({ element }, index) => {
    element.tabIndex = index === Math.max(0, chosen) ? 0 : -1; // one stop for Tab; arrows move within
    element.addEventListener("focus", () => describe(element));
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      const next = step && marks[index + step];
      if (!next) return;
      event.preventDefault();
      element.tabIndex = -1;
      next.element.tabIndex = 0;
      next.element.focus();
    });
  });
}

// The confusion matrix: the cell under the pointer in words.
const matrix = document.querySelector(".matrix");
if (matrix && data.matrix) {
  const svg = matrix.querySelector("svg");
  const { classes, counts } = data.matrix;
  const [left, top, size] = ["left", "top", "size"].map((name) => Number(matrix.dataset[name]));
  const sums = counts.map((row) => row.reduce((a, b) => a + b, 0));
  svg.addEventListener("pointermove", (event) => {
    const { x, y } = place(svg, event);
    const [i, j] = [y - top, x - left].map((offset) => Math.floor((offset / size) * classes.length));
    if (!counts[i] || counts[i][j] === undefined) return;
    const share = sums[i] ? ` (${((100 * counts[i][j]) / sums[i]).toFixed(1)} %)` : "";
    const verb = i === j ? "recognised" : `taken for ${classes[j]}`;
    document.getElementById("cell").textContent = `${classes[i]} ${verb}: ${counts[i][j]} of ${sums[i]}${share}`;
  });
}
