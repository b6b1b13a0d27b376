// What is wrong is written beside its field by the server; here the field itself is marked. The form works without it.
"use strict";

document.body.addEventListener("htmx:afterSettle", () => {
  for (const words of document.querySelectorAll(".wrong[data-of]")) {
    const field = document.getElementById(words.dataset.of);
    if (!field) continue;
    if (words.textContent.trim()) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
});

// A choice fills its fields in here, where nothing that was typed meanwhile is lost; without scripts its link does.
document.body.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-fills]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const fills = Object.entries(JSON.parse(link.dataset.fills)).map(([name, text]) => [document.getElementsByName(name)[0], text]);
  if (fills.some(([field]) => !field)) return;
  event.preventDefault();
  for (const [field, text] of fills) {
    field.value = text;
    field.closest("details")?.setAttribute("open", "");
  }
  fills[0][0].focus();
  fills[0][0].dispatchEvent(new Event("input", { bubbles: true }));
});
