// Show the OpenAPI document in Swagger UI.
const viewer = document.getElementById("viewer");
SwaggerUIBundle({ url: viewer.dataset.document, domNode: viewer, validatorUrl: null, deepLinking: true });

// Swagger UI uses its dark colors while the root element has the class dark-mode.
const dark = matchMedia("(prefers-color-scheme: dark)");
const applyColorScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", applyColorScheme);
applyColorScheme();
