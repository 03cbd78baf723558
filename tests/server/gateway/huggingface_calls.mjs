// Both tasks by @huggingface/inference. Arguments: endpoint, API key, image file, labels. Prints JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, endpoint, key, image, ...labels] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { InferenceClient } = await import(pathToFileURL(require.resolve("@huggingface/inference")));

const client = new InferenceClient(key, { endpointUrl: endpoint });
const inputs = new Blob([readFileSync(image)]);
const parameters = { candidate_labels: labels };
console.log(
  JSON.stringify({
    labels: await client.zeroShotImageClassification({ inputs, parameters }),
    nested: await client.zeroShotImageClassification({ inputs: { image: inputs }, parameters }),
    vectors: await client.featureExtraction({ inputs: labels }),
    error: await client.featureExtraction({ inputs: [] }).catch((error) => error.message),
  }),
);
