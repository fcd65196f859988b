// Sorting, filtering and switching. The page says everything without it.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function button(text, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", () => action(made));
  return made;
}

function sortable(table) {
  all("thead th", table).forEach((heading, column) => {
    heading.classList.add("sortable");
    heading.tabIndex = 0;
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "descending";
      all("th", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      const key = (row) => row.cells[column].dataset.value ?? "";
      const numbers = heading.classList.contains("number");
      // What is missing stays at the end, whichever way the rest is sorted.
      rows.sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numbers ? Number(a) - Number(b) : a.localeCompare(b);
        return down ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort();
    });
  });
}

// A section with figures and tables shows one of the two.
function switchable(section) {
  const [figures, numbers] = [section.querySelector(".figures"), section.querySelector("details.numbers")];
  if (!figures || !numbers) return;
  const bar = document.createElement("div");
  bar.className = "view";
  const show = (table) => {
    figures.hidden = table;
    numbers.hidden = !table;
    [...bar.children].forEach((one, index) => one.setAttribute("aria-pressed", String((index === 1) === table)));
  };
  bar.append(button("Figure", () => show(false)), button("Table", () => show(true)));
  numbers.open = true;
  numbers.querySelector("summary").hidden = true;
  figures.before(bar);
  show(false);
}

function downloadable(figure) {
  const tools = document.createElement("div");
  tools.className = "figure-tools";
  tools.append(
    button("SVG", () => {
      const copy = figure.querySelector("svg").cloneNode(true);
      copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
      copy.setAttribute("style", "color:#1b1f24;--paper:#ffffff");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([copy.outerHTML], { type: "image/svg+xml" }));
      link.download = `${figure.dataset.name}.svg`;
      link.click();
      URL.revokeObjectURL(link.href);
    }),
  );
  figure.append(tools);
}

function searchable(section) {
  const tools = section.querySelector(".tools");
  const [search, kind, count] = [tools.querySelector("input"), tools.querySelector("select"), tools.querySelector("output")];
  const items = all("details.item", section);
  const texts = items.map((item) => item.textContent.toLowerCase());
  const hidden = new Set();
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, index) => {
      const fits = words.every((word) => texts[index].includes(word)) && (!kind.value || item.hasAttribute(`data-${kind.value}`));
      item.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${items.length} items`;
    all("[data-method]", section).forEach((one) => (one.hidden = hidden.has(one.dataset.method)));
  };
  all("button.method", tools).forEach((one) =>
    one.addEventListener("click", () => {
      const method = one.textContent;
      hidden.has(method) ? hidden.delete(method) : hidden.add(method);
      one.setAttribute("aria-pressed", String(!hidden.has(method)));
      filter();
    }),
  );
  search.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  tools.hidden = false;
  filter();
}

const theme = button("Dark / light", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
theme.id = "theme";
document.querySelector("nav > div").append(theme);
all("table.data").forEach(sortable);
all("section.exhibit").forEach(switchable);
all("figure.drawing").forEach(downloadable);
all("section.items").forEach(searchable);
