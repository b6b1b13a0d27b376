// The API's description as a page that also sends requests.
"use strict";

SwaggerUIBundle({
  url: document.getElementById("api").dataset.url,
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null, // which would send the description elsewhere
});
