"""Prints each event of some topics, in order, and acknowledges it: python consumer.py [ADDRESS [GROUP [TOPIC...]]]"""

import queue
import sys
import time

import grpc
from streams_pb2 import Handled, Subscribe, SubscribeMetadata, SubscribeRequest
from streams_pb2_grpc import ServiceStub

# The library takes 4 MiB, and the service sends events of up to EVENT_BYTES_MAX, 16 MiB.
MESSAGE_BYTES_MAX = 32 * 1024 * 1024
PAUSE_SECONDS = 1


def handle(event):
    payload = {field: content.value for field, content in event.payload.items()}
    print(event.topic, event.id, event.type, payload, flush=True)


def outcome(event):
    """Handles an event, and returns its ack: an error with retry asks for the event again."""
    ack = Handled(tenant_id=event.tenant_id, topic=event.topic, stream=event.stream)
    try:
        handle(event)
    except Exception as error:
        ack.error, ack.retry = str(error), True
    return ack


def consume(service, group, topics):
    """Returns when the stream has ended. The events that were in flight come again."""
    requests = queue.SimpleQueue()
    metadata = SubscribeMetadata(group=group, subscriber_id=f"{group}-1")
    requests.put(SubscribeRequest(subscribe=Subscribe(metadata=metadata, topics=topics)))
    try:
        for response in service.Subscribe(iter(requests.get, None)):
            if response.subscribed.error:
                sys.exit(response.subscribed.error)
            if response.HasField("event"):
                ack = outcome(response.event)
                # A broadcast is kept nowhere, and needs no ack.
                if not response.event.options.broadcast:
                    requests.put(SubscribeRequest(handled=ack))
    except grpc.RpcError as error:
        print(error.code().name, error.details(), file=sys.stderr)
    finally:
        # Ends the thread that sends the acks.
        requests.put(None)


def main(address="localhost:9000", group="billing", *topics):
    channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
    while True:
        consume(ServiceStub(channel), group, topics or ["orders"])
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
