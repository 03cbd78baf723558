// Rank labels for an image, then print the cosine of the image and each label, over gRPC:
//
//     java -jar classify_and_embed.jar HOST:PORT IMAGE LABEL...

import com.google.protobuf.ByteString;
import inference.GRPCInferenceServiceGrpc;
import inference.GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingStub;
import inference.GrpcService.ModelInferRequest;
import inference.GrpcService.ModelInferResponse;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

public final class ClassifyAndEmbed {
  private static final int DEADLINE_S = 30;
  private static final int ATTEMPTS = 4;
  private static final int FIRST_WAIT_MS = 100;
  private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

  private final GRPCInferenceServiceBlockingStub stub;

  private ClassifyAndEmbed(ManagedChannel channel) {
    // gRPC rejects responses above 4 MiB by default; embeddings of many texts are larger.
    stub = GRPCInferenceServiceGrpc.newBlockingStub(channel).withMaxInboundMessageSize(Integer.MAX_VALUE);
  }

  public static void main(String[] arguments) throws InterruptedException {
    System.exit(run(Arrays.asList(arguments)));
  }

  private static int run(List<String> arguments) throws InterruptedException {
    if (arguments.size() < 3) {
      System.err.println("usage: java -jar classify_and_embed.jar HOST:PORT IMAGE LABEL...");
      return 2;
    }
    ByteString image;
    try {
      image = ByteString.copyFrom(Files.readAllBytes(Path.of(arguments.get(1))));
    } catch (IOException error) {
      System.err.println("error: cannot read the image: " + error);
      return 2;
    }
    List<String> labels = arguments.subList(2, arguments.size());
    ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments.get(0)).usePlaintext().build();
    try {
      ClassifyAndEmbed program = new ClassifyAndEmbed(channel);
      program.classify(image, labels);
      program.embed(image, labels);
      return 0;
    } catch (StatusRuntimeException error) {
      Status status = error.getStatus();
      String cause = status.getCause() == null ? "" : " (" + status.getCause().getMessage() + ")";
      System.err.println("error: " + status.getCode() + ": " + status.getDescription() + cause);
      return 1;
    } finally {
      OUT.flush();
      channel.shutdownNow();
    }
  }

  private void classify(ByteString image, List<String> labels) throws InterruptedException {
    List<ByteString> prompts = bytes(labels.stream().map(label -> "This is a photo of " + label + "."));
    FloatBuffer scores =
        infer("clip_zero_shot", Map.of("image", List.of(image), "labels", prompts), "scores"); // [1, 1, m]
    IntStream.range(0, labels.size())
        .boxed()
        .sorted((a, b) -> Float.compare(scores.get(b), scores.get(a)))
        .forEach(i -> print("%.4f\t%s", scores.get(i), labels.get(i)));
  }

  private void embed(ByteString image, List<String> labels) throws InterruptedException {
    FloatBuffer imageEmbed =
        infer("clip_image_embedding", Map.of("image", List.of(image)), "image_embeds"); // [1, 1, d]
    FloatBuffer textEmbeds =
        infer("clip_text_embedding", Map.of("text", bytes(labels.stream())), "text_embeds"); // [1, m, d]
    int d = imageEmbed.limit();
    for (int i = 0; i < labels.size(); i++) {
      // Embeddings have unit L2 norm, so the dot product is the cosine.
      double cosine = 0;
      for (int j = 0; j < d; j++) cosine += (double) imageEmbed.get(j) * textEmbeds.get(i * d + j);
      print("cosine\t%.4f\t%s", cosine, labels.get(i));
    }
  }

  /** Sends one row of BYTES elements per input; returns the values of one FP32 output. */
  private FloatBuffer infer(String model, Map<String, List<ByteString>> inputs, String output)
      throws InterruptedException {
    ModelInferRequest.Builder request = ModelInferRequest.newBuilder().setModelName(model);
    inputs.forEach(
        (name, elements) -> {
          request.addInputsBuilder().setName(name).setDatatype("BYTES").addShape(1).addShape(elements.size());
          request.addRawInputContents(packBytes(elements));
        });
    request.addOutputsBuilder().setName(output);
    return unpackFloats(send(request.build()).getRawOutputContents(0));
  }

  /** Sends a request, again after growing, randomised waits if the server is overloaded or shutting down. */
  private ModelInferResponse send(ModelInferRequest request) throws InterruptedException {
    for (int attempt = 1; ; attempt++) {
      try {
        return stub.withDeadlineAfter(DEADLINE_S, TimeUnit.SECONDS).modelInfer(request);
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE || attempt == ATTEMPTS) throw error;
        int longest = FIRST_WAIT_MS << attempt;
        Thread.sleep(ThreadLocalRandom.current().nextInt(longest / 2, longest));
      }
    }
  }

  /** Encodes a row of a BYTES tensor: for each element a 4-byte little-endian length, then the bytes. */
  private static ByteString packBytes(List<ByteString> elements) {
    ByteString packed = ByteString.EMPTY;
    for (ByteString element : elements) {
      ByteBuffer length = ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(0, element.size());
      packed = packed.concat(ByteString.copyFrom(length)).concat(element);
    }
    return packed;
  }

  /** Decodes an FP32 tensor: 4 bytes per value, little-endian. */
  private static FloatBuffer unpackFloats(ByteString raw) {
    return raw.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
  }

  private static List<ByteString> bytes(Stream<String> texts) {
    return texts.map(ByteString::copyFromUtf8).collect(Collectors.toList());
  }

  private static void print(String format, Object... values) {
    OUT.printf(Locale.ROOT, format + "\n", values);
  }
}
