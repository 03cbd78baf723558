// Rank labels for an image, then print the cosine of the image and each label, over gRPC:
//
//     classify_and_embed HOST:PORT IMAGE LABEL...

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "grpc_service.grpc.pb.h"

namespace {

using Service = inference::GRPCInferenceService;
using Strings = std::vector<std::string>;

constexpr std::chrono::seconds kDeadline{30};
constexpr int kAttempts = 4;
constexpr int kFirstWaitMs = 100;

class GrpcError : public std::runtime_error {
 public:
  explicit GrpcError(const grpc::Status& status)
      : std::runtime_error("gRPC status " + std::to_string(status.error_code()) + ": " + status.error_message()) {}
};

std::unique_ptr<Service::Stub> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // embeddings of many texts exceed the default of 4 MiB
  return Service::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

// Encodes a row of a BYTES tensor: for each element a 4-byte little-endian length, then the bytes.
std::string PackBytes(const Strings& elements) {
  std::string packed;
  for (const std::string& element : elements) {
    const auto length = static_cast<std::uint32_t>(element.size());
    for (int shift = 0; shift < 32; shift += 8) packed.push_back(static_cast<char>(length >> shift));
    packed += element;
  }
  return packed;
}

// Decodes an FP32 tensor: 4 bytes per value, little-endian.
std::vector<float> UnpackFloats(const std::string& raw) {
  std::vector<float> values(raw.size() / 4);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t bits = 0;
    for (int byte = 3; byte >= 0; --byte) bits = bits << 8 | static_cast<unsigned char>(raw[4 * i + byte]);
    std::memcpy(&values[i], &bits, sizeof bits);
  }
  return values;
}

// Sends a request, again after growing, randomised waits if the server is overloaded or shutting down.
inference::ModelInferResponse Send(Service::Stub& stub, const inference::ModelInferRequest& request) {
  static std::mt19937 random{std::random_device{}()};
  for (int attempt = 1;; ++attempt) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    inference::ModelInferResponse reply;
    const grpc::Status status = stub.ModelInfer(&context, request, &reply);
    if (status.ok()) return reply;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || attempt == kAttempts) throw GrpcError(status);
    const int longest = kFirstWaitMs << attempt;
    std::this_thread::sleep_for(std::chrono::milliseconds(std::uniform_int_distribution(longest / 2, longest)(random)));
  }
}

// Sends one row of BYTES elements per input; returns the values of one FP32 output.
std::vector<float> Infer(Service::Stub& stub, const std::string& model, const std::map<std::string, Strings>& inputs,
                         const std::string& output) {
  inference::ModelInferRequest request;
  request.set_model_name(model);
  for (const auto& [name, elements] : inputs) {
    auto* input = request.add_inputs();
    input->set_name(name);
    input->set_datatype("BYTES");
    input->add_shape(1);
    input->add_shape(static_cast<std::int64_t>(elements.size()));
    request.add_raw_input_contents(PackBytes(elements));
  }
  request.add_outputs()->set_name(output);

  return UnpackFloats(Send(stub, request).raw_output_contents(0));
}

void Classify(Service::Stub& stub, const std::string& image, const Strings& labels) {
  Strings prompts;
  for (const std::string& label : labels) prompts.push_back("This is a photo of " + label + ".");
  const auto scores = Infer(stub, "clip_zero_shot", {{"image", {image}}, {"labels", prompts}}, "scores");  // [1, 1, m]
  std::vector<std::size_t> order(labels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores.at(a) > scores.at(b); });
  for (const std::size_t i : order) std::printf("%.4f\t%s\n", scores[i], labels[i].c_str());
}

void Embed(Service::Stub& stub, const std::string& image, const Strings& labels) {
  const auto image_embed = Infer(stub, "clip_image_embedding", {{"image", {image}}}, "image_embeds");  // [1, 1, d]
  const auto text_embeds = Infer(stub, "clip_text_embedding", {{"text", labels}}, "text_embeds");      // [1, m, d]
  for (std::size_t i = 0; i < labels.size(); ++i) {
    // Embeddings have unit L2 norm, so the dot product is the cosine.
    const double cosine = std::inner_product(image_embed.begin(), image_embed.end(),
                                             text_embeds.begin() + i * image_embed.size(), 0.0);
    std::printf("cosine\t%.4f\t%s\n", cosine, labels[i].c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: classify_and_embed HOST:PORT IMAGE LABEL...\n";
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  const std::string image{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    std::cerr << "error: cannot read the image " << argv[2] << "\n";
    return 2;
  }
  const Strings labels(argv + 3, argv + argc);
  try {
    const auto stub = Connect(argv[1]);
    Classify(*stub, image, labels);
    Embed(*stub, image, labels);
  } catch (const GrpcError& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
