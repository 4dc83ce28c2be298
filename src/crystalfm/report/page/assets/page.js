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

  const value = (row, column, numbers) => {
    const cell = row.cells[column];
    if (!numbers) return cell.textContent;
    return cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
  };
  // What is not known comes last, whichever way the others are sorted.
  const compareNumbers = (a, b, sign) =>
    Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : sign * (a - b);

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
        rows.sort((a, b) => {
          const [left, right] = [value(a, column, numbers), value(b, column, numbers)];
          return numbers ? compareNumbers(left, right, sign) : sign * left.localeCompare(right, "en", { numeric: true });
        });
        table.tBodies[0].append(...rows);
      };
      heading.tabIndex = 0;
      heading.addEventListener("click", sort);
      heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  });

  const listed = byId("rows");
  if (!listed) return;
  const rows = [...listed.tBodies[0].rows];
  const filter = byId("filter");
  const group = byId("group");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = group ? group.value : "";
    let shown = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const belongs = !wanted || (row.dataset.groups || "").split("\n").includes(wanted);
      row.hidden = !(belongs && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    });
    byId("count").textContent = `${shown} of ${rows.length} rows`;
  };
  filter.addEventListener("input", apply);
  if (group) group.addEventListener("change", apply);
  apply();

  const view = byId("view");
  if (!view) return;
  const cards = [...document.querySelectorAll("#cards button")];
  const turned = [["y", 20], ["x", 15]];  // how a crystal is seen at first, in degrees
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
    (crystal.marks || []).forEach(([x, y, z]) =>
      viewer.addSphere({ center: { x, y, z }, radius: 1.0, color: "#e02020", wireframe: true }));
    viewer.zoomTo();
    turned.forEach(([axis, degrees]) => viewer.rotate(degrees, axis));
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

  // A picture of a crystal as the 3D view shows it, without a WebGL context of its own: browsers allow a few.
  const onScreen = (at) => turned.reduce(({ x, y, z }, [axis, degrees]) => {
    const [c, s] = [Math.cos(degrees * Math.PI / 180), Math.sin(degrees * Math.PI / 180)];
    return axis === "y" ? { x: c * x + s * z, y, z: c * z - s * x } : { x, y: c * y - s * z, z: s * y + c * z };
  }, at);
  const drawPicture = (card) => {
    const { crystal } = structures[card.dataset.id];
    const model = new $3Dmol.GLModel();
    model.addMolData(crystal.xyz, "xyz");
    const atoms = model.selectedAtoms({}).map((atom) => ({ ...atom, ...onScreen(atom) }));
    const parts = [];
    const line = (start, end, color, width) => parts.push({
      z: (start.z + end.z) / 2,
      svg: `<path d="M${start.x.toFixed(2)} ${(-start.y).toFixed(2)}L${end.x.toFixed(2)} ${(-end.y).toFixed(2)}" `
        + `stroke="${color}" stroke-width="${width}"/>`,
    });
    const corners = [];
    edges(crystal.cell).forEach((pair) => {
      const ends = pair.map(onScreen);
      corners.push(...ends);
      line(...ends, "#8a94a0", 0.08);
    });
    atoms.forEach((atom) => {
      const radius = 0.3 * ($3Dmol.GLModel.vdwRadii[atom.elem] || 1.7);
      const at = `cx="${atom.x.toFixed(2)}" cy="${(-atom.y).toFixed(2)}" r="${radius.toFixed(2)}"`;
      parts.push({ z: atom.z, svg: `<circle ${at} style="fill:${colour(atom.elem)}"/><circle ${at} class="shade"/>` });
      atom.bonds.forEach((other) => {
        const half = { x: (atom.x + atoms[other].x) / 2, y: (atom.y + atoms[other].y) / 2, z: (atom.z + atoms[other].z) / 2 };
        line(atom, half, colour(atom.elem), 0.2);
      });
    });
    (crystal.marks || []).map(([x, y, z]) => onScreen({ x, y, z })).forEach((at) => parts.push({
      z: Infinity, svg: `<circle cx="${at.x.toFixed(2)}" cy="${(-at.y).toFixed(2)}" r="1.3" class="mark"/>`,
    }));
    const range = (name) => [...corners, ...atoms].map((at) => at[name]);
    const [left, right] = [Math.min(...range("x")) - 0.8, Math.max(...range("x")) + 0.8];
    const [low, high] = [Math.min(...range("y")) - 0.8, Math.max(...range("y")) + 0.8];
    const body = parts.sort((a, b) => a.z - b.z).map((part) => part.svg).join("");
    card.querySelector(".picture").innerHTML =
      `<svg viewBox="${left} ${-high} ${right - left} ${high - low}" aria-hidden="true">${body}</svg>`;
  };

  const whenSeen = (elements, action) => {
    const watcher = new IntersectionObserver((found) => found.filter((one) => one.isIntersecting).forEach((one) => {
      watcher.unobserve(one.target);
      action(one.target);
    }), { rootMargin: "200px" });
    elements.forEach((element) => watcher.observe(element));
  };

  let shown = null;
  const state = byId("state");
  const showStructure = (known, relaxed) => {
    const crystal = relaxed ? known.relaxed : known.crystal;
    const small = view.querySelector("figcaption small");
    state.hidden = !known.relaxed;
    state.textContent = relaxed ? "show it as it was written" : "show it relaxed";
    state.onclick = () => showStructure(known, !relaxed);
    small.textContent = `${shown.dataset.told}; ${crystal.atoms} atoms a cell`;
    if (known.relaxed) small.textContent += relaxed ? ", relaxed" : ", as it was written";
    try {
      showCrystal(crystal);
    } catch (error) {
      byId("crystal").hidden = true;
      small.textContent += `; no 3D view in this browser (${error.message || error})`;
    }
  };
  const show = (row) => {
    shown = row;
    rows.forEach((other) => other.classList.toggle("chosen", other === row));
    cards.forEach((card) => card.classList.toggle("chosen", card.dataset.id === row.dataset.id));
    const known = structures[row.dataset.id];
    byId("crystal").hidden = true;
    byId("molecule").hidden = true;
    state.hidden = true;
    view.querySelector(".legend").replaceChildren();
    const caption = view.querySelector("figcaption");
    const small = document.createElement("small");
    caption.replaceChildren(known ? known.label : row.dataset.id, small);
    small.textContent = row.dataset.told;
    if (!known) {
      small.textContent += row.dataset.absent ? `; ${row.dataset.absent}` : "";
    } else if (known.crystal) {
      showStructure(known, false);
    } else if (known.svg) {
      byId("molecule").innerHTML = known.svg;
      byId("molecule").hidden = false;
    }
  };
  const showAndGoThere = (row) => {
    show(row);
    view.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  rows.forEach((row) => {
    row.addEventListener("click", () => show(row));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(row); });
  });
  cards.forEach((card) => card.addEventListener("click", () => {
    const row = rows.find((one) => one.dataset.id === card.dataset.id);
    if (row) showAndGoThere(row);
  }));
  whenSeen(cards, drawPicture);
  const first = structures[rows[0].dataset.id];
  if (first && first.crystal) whenSeen([view], () => { if (shown === null) show(rows[0]); });
  else show(rows[0]);
})();
