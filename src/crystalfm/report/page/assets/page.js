"use strict";
(() => {
  const byId = (name) => document.getElementById(name);
  const structures = JSON.parse(byId("structures").textContent);

  document.querySelectorAll(".copy").forEach((button) => {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(text);  // a file without the right to the clipboard
        button.textContent = "selected";
      }
    });
  });

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  document.querySelectorAll("table.sortable").forEach((table) => {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const sort = () => {
        const numbers = table.tBodies[0].querySelector(`td:nth-child(${column + 1})[data-value]`) !== null;
        const before = heading.getAttribute("aria-sort");
        const first = numbers ? "descending" : "ascending";
        const order = before === first ? (numbers ? "ascending" : "descending") : first;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
        table.tBodies[0].append(...rows);
      };
      heading.tabIndex = 0;
      heading.addEventListener("click", sort);
      heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  });

  const worst = byId("rows");
  if (!worst) return;
  const rows = [...worst.tBodies[0].rows];
  const filter = byId("filter");
  const target = byId("target");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = target ? target.value : "";
    let shown = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const fits = (!wanted || row.dataset.target === wanted) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      shown += fits;
    });
    byId("count").textContent = `${shown} of ${rows.length} rows`;
  };
  filter.addEventListener("input", apply);
  if (target) target.addEventListener("change", apply);
  apply();

  const view = byId("view");
  if (!view) return;
  let viewer = null;
  const colour = (symbol) => {
    const known = $3Dmol.elementColors.Jmol[symbol];
    return "#" + (known === undefined ? 0xff1493 : known).toString(16).padStart(6, "0");
  };

  const edges = (cell) => {
    const corner = (a, b, c) => {
      const at = (axis) => a * cell[0][axis] + b * cell[1][axis] + c * cell[2][axis];
      return { x: at(0), y: at(1), z: at(2) };
    };
    const found = [];
    for (const u of [0, 1]) for (const v of [0, 1]) {
      found.push([corner(0, u, v), corner(1, u, v)], [corner(u, 0, v), corner(u, 1, v)], [corner(u, v, 0), corner(u, v, 1)]);
    }
    return found;
  };

  const showCrystal = (crystal) => {
    const element = byId("crystal");
    element.hidden = false;
    if (viewer === null) {
      const canvas = document.createElement("canvas");
      if (!canvas.getContext("webgl2") && !canvas.getContext("webgl")) throw new Error("it has no WebGL");
      viewer = $3Dmol.createViewer(element, { backgroundAlpha: 0, disableFog: true });
    }
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.addModel(crystal.xyz, "xyz");
    viewer.setStyle({}, { sphere: { scale: 0.3, colorscheme: "Jmol" }, stick: { radius: 0.1, colorscheme: "Jmol" } });
    edges(crystal.cell).forEach(([start, end]) =>
      viewer.addCylinder({ start, end, radius: 0.03, color: "#8a94a0", fromCap: 1, toCap: 1 }));
    viewer.zoomTo();
    viewer.rotate(20, "y");
    viewer.rotate(15, "x");
    viewer.render();
    const symbols = [...new Set(crystal.xyz.split("\n").slice(2).map((line) => line.split(" ")[0]))];
    view.querySelector(".legend").replaceChildren(...symbols.map((symbol) => {
      const chip = document.createElement("span");
      const dot = document.createElement("i");
      dot.style.setProperty("--own", colour(symbol));
      chip.append(dot, symbol);
      return chip;
    }));
  };

  const show = (row) => {
    rows.forEach((other) => other.classList.toggle("chosen", other === row));
    const known = structures[row.dataset.id];
    byId("crystal").hidden = true;
    byId("molecule").hidden = true;
    view.querySelector(".legend").replaceChildren();
    const caption = view.querySelector("figcaption");
    const small = document.createElement("small");
    caption.replaceChildren(known ? known.label : row.dataset.id, small);
    const [predicted, correct] = [row.cells[4].textContent, row.cells[3].textContent];
    small.textContent = `${row.dataset.id}: ${row.cells[2].textContent}, predicted ${predicted}, true ${correct}`;
    if (!known) {
      small.textContent += "; its structure is not on this page";
    } else if (known.crystal) {
      small.textContent += `; ${known.crystal.atoms} atoms a cell`;
      try {
        showCrystal(known.crystal);
      } catch (error) {
        byId("crystal").hidden = true;
        small.textContent += `; no 3D view in this browser (${error.message || error})`;
      }
    } else if (known.svg) {
      byId("molecule").innerHTML = known.svg;
      byId("molecule").hidden = false;
    }
  };
  rows.forEach((row) => {
    row.addEventListener("click", () => show(row));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(row); });
  });
  show(rows[0]);
})();
