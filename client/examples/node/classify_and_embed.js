// Rank labels for an image, then print the cosine of the image and each label, over gRPC:
//
//     node classify_and_embed.js HOST:PORT IMAGE LABEL...
'use strict';

const fs = require('node:fs');
const { setTimeout } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const PROTOSET = process.env.TRITON_PROTOSET ?? 'build/triton.protoset';
const DEADLINE_MS = 30_000;
const ATTEMPTS = 4;
const FIRST_WAIT_MS = 100;
// gRPC rejects responses above 4 MiB by default; embeddings of many texts are larger.
const CHANNEL_OPTIONS = { 'grpc.max_receive_message_length': 2 ** 31 - 1 };

function connect(address, protoset) {
  const definition = protoLoader.loadFileDescriptorSetFromBuffer(protoset);
  const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
  return new GRPCInferenceService(address, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
}

// Encodes a row of a BYTES tensor: for each element a 4-byte little-endian length, then the bytes.
function packBytes(elements) {
  return Buffer.concat(
    elements.flatMap((element) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(element.length);
      return [length, element];
    }),
  );
}

// Decodes an FP32 tensor: 4 bytes per value, little-endian.
function unpackFloats(raw) {
  return Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
}

// Sends one row of BYTES elements per input; resolves to the values of one FP32 output.
function infer(client, model, inputs, output) {
  const request = {
    model_name: model,
    inputs: Object.entries(inputs).map(([name, elements]) => ({
      name,
      datatype: 'BYTES',
      shape: [1, elements.length],
    })),
    outputs: [{ name: output }],
    raw_input_contents: Object.values(inputs).map(packBytes),
  };
  return send(client, request).then((reply) => unpackFloats(reply.raw_output_contents[0]));
}

// Sends a request, again after growing, randomised waits if the server is overloaded or shutting down.
async function send(client, request) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await new Promise((resolve, reject) => {
        client.modelInfer(request, { deadline: Date.now() + DEADLINE_MS }, (error, reply) =>
          error ? reject(error) : resolve(reply),
        );
      });
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE || attempt === ATTEMPTS) throw error;
      const longest = FIRST_WAIT_MS * 2 ** attempt;
      await setTimeout((longest / 2) * (1 + Math.random()));
    }
  }
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

async function classify(client, image, labels) {
  const prompts = labels.map((label) => Buffer.from(`This is a photo of ${label}.`));
  const scores = await infer(client, 'clip_zero_shot', { image: [image], labels: prompts }, 'scores'); // [1, 1, m]
  labels
    .map((label, i) => ({ label, score: scores[i] }))
    .sort((a, b) => b.score - a.score)
    .forEach(({ label, score }) => console.log(`${score.toFixed(4)}\t${label}`));
}

async function embed(client, image, labels) {
  const text = labels.map((label) => Buffer.from(label));
  const imageEmbed = await infer(client, 'clip_image_embedding', { image: [image] }, 'image_embeds'); // [1, 1, d]
  const textEmbeds = await infer(client, 'clip_text_embedding', { text }, 'text_embeds'); // [1, m, d]
  const d = imageEmbed.length;
  labels.forEach((label, i) => {
    // Embeddings have unit L2 norm, so the dot product is the cosine.
    const cosine = dot(imageEmbed, textEmbeds.slice(i * d, (i + 1) * d));
    console.log(`cosine\t${cosine.toFixed(4)}\t${label}`);
  });
}

function fail(message, code) {
  console.error(message);
  process.exitCode = code;
}

function read(path, name) {
  try {
    return fs.readFileSync(path);
  } catch (error) {
    return fail(`error: cannot read ${name}: ${error.message}`, 2);
  }
}

async function main([address, path, ...labels]) {
  if (labels.length === 0) {
    return fail('usage: node classify_and_embed.js HOST:PORT IMAGE LABEL...', 2);
  }
  const image = read(path, 'the image');
  const protoset = read(PROTOSET, 'the service definition (create it with scripts/write_protoset.py)');
  if (image === undefined || protoset === undefined) return;
  const client = connect(address, protoset);
  try {
    await classify(client, image, labels);
    await embed(client, image, labels);
  } catch (error) {
    if (error.code === undefined) throw error; // not a gRPC error
    fail(`error: ${grpc.status[error.code]}: ${error.details}`, 1);
  } finally {
    client.close();
  }
}

main(process.argv.slice(2));
