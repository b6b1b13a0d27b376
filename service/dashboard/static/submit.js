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
