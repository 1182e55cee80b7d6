// The matrix is whole without this script; with it, rows are sorted and chosen. Texts of the run
// are only ever set as text.
"use strict";
{
  const table = document.getElementById("matrix-table");
  if (table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...body.rows];
    const names = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
    const words = {
      ineligible: "not eligible", undefined: "undefined",
      not_applicable: "not applicable", failed: "failed",
    };

    // Sorting: up, down, and back to the order of the page. What has no number is always last.
    const nameOf = (row, place) => row.cells[place].firstElementChild.textContent;
    const keyOf = (row, place) => Number(row.cells[place].dataset.key ?? NaN);
    const ascending = {
      text: (place) => (a, b) => names.compare(nameOf(a, place), nameOf(b, place)),
      number: (place) => (a, b) => keyOf(a, place) - keyOf(b, place),
    };
    const sorted = (place, direction) => {
      if (direction === "none") return rows;
      const order = ascending[heads[place].dataset.sorts](place);
      const sign = direction === "ascending" ? 1 : -1;
      const isNumber = heads[place].dataset.sorts === "number";
      const known = rows.filter((row) => !isNumber || row.cells[place].dataset.key);
      const rest = rows.filter((row) => isNumber && !row.cells[place].dataset.key);
      return [...known.sort((a, b) => sign * order(a, b)), ...rest];
    };
    const next = {
      text: { none: "ascending", ascending: "descending", descending: "none" },
      number: { none: "descending", descending: "ascending", ascending: "none" },
    };
    const sortBy = (place, direction) => {
      heads.forEach((head, n) => {
        head.setAttribute("aria-sort", n === place ? direction : "none");
      });
      table.classList.toggle("resorted", direction !== "none");
      body.append(...sorted(place, direction));
    };
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        sortBy(place, next[head.dataset.sorts][head.getAttribute("aria-sort")]);
      });
    });

    // Filters: one choice for each column of names, one for what became of the images, free text.
    const form = document.createElement("form");
    form.className = "filters";
    form.addEventListener("submit", (event) => event.preventDefault());
    const labelled = (text, control) => {
      const label = document.createElement("label");
      label.textContent = text;
      control.id = label.htmlFor = `matrix-filter-${form.childElementCount}`;
      const pair = document.createElement("div");
      pair.append(label, control);
      form.append(pair);
      return control;
    };
    const choice = (text, options) => {
      const select = document.createElement("select");
      for (const [value, said] of options) select.add(new Option(said, value));
      return labelled(text, select);
    };
    const tests = [];
    heads.forEach((head, place) => {
      if (!("filters" in head.dataset)) return;
      const found = [...new Set(rows.map((row) => nameOf(row, place)))];
      const select = choice(head.textContent, [["", "all"], ...found.map((one, n) => [String(n), one])]);
      tests.push(() => {
        const wanted = select.value && found[Number(select.value)];
        return select.value ? (row) => nameOf(row, place) === wanted : null;
      });
    });
    const present = new Set(rows.flatMap((row) => row.dataset.statuses.split(" ")));
    const kinds = [
      ["", "any"], ["all", "every image has a number"], ["some", "some images have one"],
      ["no", "no image has one"],
      ...Object.entries(words).map(([key, said]) => [key, `some are ${said}`]),
    ];
    const status = choice("images", kinds.filter(([key]) => !key || present.has(key)));
    tests.push(() => {
      const wanted = status.value;
      return wanted ? (row) => row.dataset.statuses.split(" ").includes(wanted) : null;
    });
    const search = document.createElement("input");
    search.type = "search";
    labelled("text", search);
    const texts = new Map();
    const textOf = (row) => {
      if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
      return texts.get(row);
    };
    tests.push(() => {
      const wanted = search.value.trim().toLowerCase();
      return wanted ? (row) => textOf(row).includes(wanted) : null;
    });
    const reset = document.createElement("button");
    reset.type = "button";
    reset.textContent = "Show all";
    const said = document.createElement("output");
    said.setAttribute("aria-live", "polite");
    form.append(reset, said);
    const choose = () => {
      const chosen = tests.map((make) => make()).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !chosen.every((test) => test(row));
        shown += row.hidden ? 0 : 1;
      }
      said.textContent = `${shown} of ${rows.length} rows`;
      reset.hidden = !chosen.length;
    };
    form.addEventListener("input", choose);
    reset.addEventListener("click", () => {
      form.reset();
      choose();
      search.focus(); // the button goes
    });
    choose();
    table.parentElement.before(form);
  }
}
