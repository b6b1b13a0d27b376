// What is done to all selected searches: one request to the API for each, and what it refuses is told.
"use strict";

(() => {
  const HOW = {
    cancel: { method: "POST", path: "/cancel", question: "Cancel", after: "What they have found so far is not kept." },
    retry: { method: "POST", path: "/retry", question: "Try again", after: "Each continues from its last checkpoint." },
    tag: { method: "PATCH", path: "" },
    delete: { method: "DELETE", path: "", question: "Delete", after: "Networks and files too. This cannot be undone." },
  };
  const selected = () => [...document.querySelectorAll("[name=search]:checked")];

  function count() {
    for (const button of document.querySelectorAll("[data-bulk]")) button.hidden = false;
    const told = document.getElementById("selected");
    if (told) told.textContent = `${selected().length} selected`;
  }

  async function all(button) {
    const { method, path, question, after } = HOW[button.dataset.bulk];
    const boxes = selected();
    const many = `${boxes.length} search${boxes.length === 1 ? "" : "es"}`;
    const tag = button.dataset.bulk === "tag" ? prompt(`Tag for ${many}, such as phone or team:mobile:`)?.trim() : null;
    if (tag === null ? !confirm(`${question} ${many}? ${after}`) : !tag) return;
    const refused = [];
    for (const box of boxes) {
      try {
        const body = tag === null ? null : JSON.stringify({ tags: [...box.dataset.tags.split(" ").filter(Boolean), tag] });
        const headers = body ? { "Content-Type": "application/json" } : {};
        const answer = await fetch(box.dataset.url + path, { method, headers, body });
        if (answer.ok) box.checked = false;
        else refused.push(`${box.dataset.name}: ${(await answer.json()).detail}`);
      } catch {
        refused.push(`${box.dataset.name}: the service does not answer`);
      }
    }
    const refusal = document.getElementById("refusal");
    refusal.hidden = !refused.length;
    refusal.textContent = refused.join(" ");
    htmx.trigger("#list", "sse:change");
    count();
  }

  document.addEventListener("change", (event) => { if (event.target.name === "search") count(); });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-bulk]");
    if (button) all(button);
  });
})();
