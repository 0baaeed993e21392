"use strict";
// Tables of class "sortable": a click on a heading sorts the rows by the exact value that the
// <data> element of that column holds. Missing values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = table.querySelectorAll("th[data-sort]");
  for (const heading of headings) {
    heading.querySelector("button").addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
      const selector = `data[data-column="${heading.dataset.sort}"]`;
      const value = (row) => row.querySelector(selector).value;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "n/a" || y === "n/a") return (x === "n/a") - (y === "n/a");
        const difference = Number.isNaN(x - y) ? x.localeCompare(y) : x - y;
        return direction * difference;
      };
      body.append(...[...body.rows].sort(compare));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    });
  }
}

// A form of class "filter" hides the rows of the table it names, and whatever else belongs to the
// same lesion, unless they match every field: words by what the row says, choices by its data-*,
// limits by the exact value of a column.
for (const form of document.querySelectorAll("form.filter")) {
  const table = document.getElementById(form.dataset.table);
  const rows = [...table.tBodies[0].rows];
  const told = form.querySelector("output");
  const fields = [...form.querySelectorAll("input, select")];
  const value = (row, column) => Number(row.querySelector(`data[data-column="${column}"]`).value);
  const tests = {
    text: (row, wanted) => row.dataset.text.toLowerCase().includes(wanted.toLowerCase()),
    choice: (row, wanted, name) => row.dataset[name].split(" ").includes(wanted),
    least: (row, wanted, name) => value(row, name) >= Number(wanted),
    most: (row, wanted, name) => value(row, name) <= Number(wanted),
  };
  const matches = (row) => fields.every((field) => {
    const wanted = field.value.trim();
    return !wanted || tests[field.dataset.test](row, wanted, field.dataset.name);
  });
  const apply = () => {
    let shown = 0;
    for (const row of rows) {
      const visible = matches(row);
      shown += visible;
      row.hidden = !visible;
      const article = document.getElementById(row.dataset.lesion);
      if (article) article.hidden = !visible;
    }
    for (const group of document.querySelectorAll(".size-class")) {
      group.hidden = !group.querySelector("article:not([hidden])");
    }
    told.value = shown === rows.length ? `All ${shown} shown` : `${shown} of ${rows.length} shown`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  // A link to a lesion that is filtered out takes the filter away.
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.closest("[hidden]")) { form.reset(); apply(); target.scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  // A link that sets one choice.
  for (const link of document.querySelectorAll("a[data-filter]")) {
    link.addEventListener("click", () => {
      const [name, wanted] = link.dataset.filter.split("=");
      form.reset();
      form.elements[name].value = wanted;
      apply();
    });
  }
  apply();
}

// On paper, nothing is folded away.
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
});

// Lesions drawn in the brain lead to their descriptions; readers without a mouse have the table.
for (const shape of document.querySelectorAll("[data-leads-to]")) {
  shape.addEventListener("click", () => { location.hash = shape.dataset.leadsTo; });
}
