// Prints each event of some topics, in order, and acknowledges it: go run . [ADDRESS [GROUP [TOPIC...]]]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/consumer/streams"
)

// The library takes 4 MiB, and the service sends events of up to EVENT_BYTES_MAX, 16 MiB.
const messageBytesMax = 32 * 1024 * 1024

func handle(event *streams.Event) error {
	_, err := fmt.Println(event.Topic, event.Id, event.Type, event.Payload)
	return err
}

func main() {
	address, group, topics := "localhost:9000", "billing", []string{"orders"}
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if len(os.Args) > 2 {
		group = os.Args[2]
	}
	if len(os.Args) > 3 {
		topics = os.Args[3:]
	}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)))
	if err != nil {
		log.Fatal(err)
	}
	client := streams.NewServiceClient(connection)
	for ; ; time.Sleep(time.Second) {
		log.Print(consume(client, group, topics))
	}
}

// consume returns when the stream has ended. The events that were in flight come again.
func consume(client streams.ServiceClient, group string, topics []string) error {
	stream, err := client.Subscribe(context.Background())
	if err != nil {
		return err
	}
	metadata := &streams.SubscribeMetadata{Group: group, SubscriberId: group + "-1"}
	subscribe := &streams.Subscribe{Metadata: metadata, Topics: topics}
	err = stream.Send(&streams.SubscribeRequest{Payload: &streams.SubscribeRequest_Subscribe{Subscribe: subscribe}})
	for err == nil {
		var response *streams.SubscribeResponse
		response, err = stream.Recv()
		if refusal := response.GetSubscribed().GetError(); refusal != "" {
			log.Fatal(refusal)
		}
		event := response.GetEvent()
		if event == nil {
			continue
		}
		handled := &streams.Handled{TenantId: event.TenantId, Topic: event.Topic, Stream: event.Stream}
		// An error with retry asks for the event again.
		if failure := handle(event); failure != nil {
			handled.Error, handled.Retry = failure.Error(), true
		}
		// A broadcast is kept nowhere, and needs no ack.
		if !event.GetOptions().GetBroadcast() {
			err = stream.Send(&streams.SubscribeRequest{Payload: &streams.SubscribeRequest_Handled{Handled: handled}})
		}
	}
	return err
}
