// Show the gateway's OpenAPI document in Swagger UI, which has its dark mode under a class of the root.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Swagger UI has a link inside each button, which a keyboard reaches twice; the button updates the address itself.
const withoutNestedLinks = () => ({
  wrapComponents: { DeepLink: (link, { React }) => ({ text }) => React.createElement("span", null, text) },
});

// It leaves out the second level of headings.
const docs = document.getElementById("docs");
const closeLevels = () => {
  for (const heading of docs.querySelectorAll("h3, h4, h5")) heading.ariaLevel = Number(heading.tagName[1]) - 1;
};
new MutationObserver(closeLevels).observe(docs, { childList: true, subtree: true });

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  plugins: [withoutNestedLinks],
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
