// Shows the OpenAPI document in the viewer beside this file.
const viewer = document.getElementById("viewer");
SwaggerUIBundle({ url: viewer.dataset.document, domNode: viewer, validatorUrl: null, deepLinking: true });
