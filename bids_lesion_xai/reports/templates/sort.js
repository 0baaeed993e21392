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
