// Rank labels for an image, then print the cosine of the image and each label, over gRPC:
//
//	classify_and_embed HOST:PORT IMAGE LABEL...
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/ioutil"
	"math"
	"math/rand"
	"os"
	"sort"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"triton/inference" // generated from build/triton.protoset
)

const (
	deadline  = 30 * time.Second
	attempts  = 4
	firstWait = 100 * time.Millisecond
)

type input struct {
	name     string
	elements [][]byte
}

func main() {
	rand.Seed(time.Now().UnixNano())
	if len(os.Args) < 4 {
		fail(2, "usage: classify_and_embed HOST:PORT IMAGE LABEL...")
	}
	image, err := ioutil.ReadFile(os.Args[2])
	if err != nil {
		fail(2, "error: cannot read the image: %v", err)
	}
	// gRPC rejects responses above 4 MiB by default; embeddings of many texts are larger.
	large := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32))
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure(), large)
	if err != nil {
		fail(2, "error: %s: %v", os.Args[1], err)
	}
	defer connection.Close()
	client := inference.NewGRPCInferenceServiceClient(connection)
	classify(client, image, os.Args[3:])
	embed(client, image, os.Args[3:])
}

func classify(client inference.GRPCInferenceServiceClient, image []byte, labels []string) {
	prompts := make([][]byte, len(labels))
	order := make([]int, len(labels))
	for i, label := range labels {
		prompts[i], order[i] = []byte("This is a photo of "+label+"."), i
	}
	scores := infer(client, "clip_zero_shot", "scores", input{"image", [][]byte{image}}, input{"labels", prompts}) // [1, 1, m]
	sort.SliceStable(order, func(a, b int) bool { return scores[order[a]] > scores[order[b]] })
	for _, i := range order {
		fmt.Printf("%.4f\t%s\n", scores[i], labels[i])
	}
}

func embed(client inference.GRPCInferenceServiceClient, image []byte, labels []string) {
	texts := make([][]byte, len(labels))
	for i, label := range labels {
		texts[i] = []byte(label)
	}
	imageEmbed := infer(client, "clip_image_embedding", "image_embeds", input{"image", [][]byte{image}}) // [1, 1, d]
	textEmbeds := infer(client, "clip_text_embedding", "text_embeds", input{"text", texts})              // [1, m, d]
	for i, label := range labels {
		// Embeddings have unit L2 norm, so the dot product is the cosine.
		cosine := 0.0
		for j, value := range imageEmbed {
			cosine += float64(value) * float64(textEmbeds[i*len(imageEmbed)+j])
		}
		fmt.Printf("cosine\t%.4f\t%s\n", cosine, label)
	}
}

// infer sends one row of BYTES elements per input and returns the values of one FP32 output.
func infer(client inference.GRPCInferenceServiceClient, model, output string, inputs ...input) []float32 {
	request := &inference.ModelInferRequest{
		ModelName: model,
		Outputs:   []*inference.ModelInferRequest_InferRequestedOutputTensor{{Name: output}},
	}
	for _, each := range inputs {
		request.Inputs = append(request.Inputs, &inference.ModelInferRequest_InferInputTensor{
			Name: each.name, Datatype: "BYTES", Shape: []int64{1, int64(len(each.elements))},
		})
		request.RawInputContents = append(request.RawInputContents, packBytes(each.elements))
	}
	reply, err := send(client, request)
	if err != nil {
		fail(1, "error: %v: %s", status.Code(err), status.Convert(err).Message())
	}
	return unpackFloats(reply.RawOutputContents[0])
}

// send sends a request, again after growing, randomised waits if the server is overloaded or shutting down.
func send(client inference.GRPCInferenceServiceClient, request *inference.ModelInferRequest) (*inference.ModelInferResponse, error) {
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		reply, err := client.ModelInfer(ctx, request)
		cancel()
		if status.Code(err) != codes.Unavailable || attempt == attempts {
			return reply, err
		}
		longest := firstWait << attempt
		time.Sleep(longest/2 + time.Duration(rand.Int63n(int64(longest/2))))
	}
}

// packBytes encodes a row of a BYTES tensor: for each element a 4-byte little-endian length, then the bytes.
func packBytes(elements [][]byte) []byte {
	var packed []byte
	for _, element := range elements {
		var length [4]byte
		binary.LittleEndian.PutUint32(length[:], uint32(len(element)))
		packed = append(append(packed, length[:]...), element...)
	}
	return packed
}

// unpackFloats decodes an FP32 tensor: 4 bytes per value, little-endian.
func unpackFloats(raw []byte) []float32 {
	values := make([]float32, len(raw)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return values
}

func fail(code int, format string, arguments ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(code)
}
