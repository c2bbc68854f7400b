// Shows the OpenAPI document in the viewer beside this file.
const viewer = document.getElementById("viewer");
SwaggerUIBundle({ url: viewer.dataset.document, domNode: viewer, validatorUrl: null, deepLinking: true });

// Its style sheet is dark where the page has this class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
