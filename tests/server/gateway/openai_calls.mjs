// Calls of OpenAI's npm package and of the AI SDK, which print their vectors as one JSON object.
// Arguments: the folder node_modules, URL, KEY, and the data: URI of an image.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, url, apiKey, uri] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const { default: OpenAI } = require("openai");
const { embedMany } = require("ai");
const { createOpenAI } = require("@ai-sdk/openai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");

const baseURL = `${url}/v1`;
const texts = ["a red circle", "größer"];
const openai = new OpenAI({ baseURL, apiKey });

async function vectors(input) {
  const reply = await openai.embeddings.create({ model: "clip", input });
  return reply.data.map((one) => one.embedding);
}

async function sdkVectors(provider) {
  const { embeddings } = await embedMany({ model: provider.textEmbeddingModel("clip"), values: texts });
  return embeddings;
}

console.log(
  JSON.stringify({
    openai: await vectors([...texts, uri]),
    "ai-sdk openai": await sdkVectors(createOpenAI({ baseURL, apiKey })),
    "ai-sdk openai-compatible": await sdkVectors(createOpenAICompatible({ name: "clip", baseURL, apiKey })),
  }),
);
