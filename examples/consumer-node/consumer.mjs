// Prints each event of some topics, in order, and acknowledges it: node consumer.mjs [ADDRESS [GROUP [TOPIC...]]]

import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address = "localhost:9000", group = "billing", ...topics] = process.argv.slice(2);

const proto = fileURLToPath(new URL("../../proto/streams.proto", import.meta.url));
const definition = loader.loadSync(proto, { keepCase: true, longs: String, defaults: true, oneofs: true });
const { Service } = grpc.loadPackageDefinition(definition).freym.streams.management;
const client = new Service(address, grpc.credentials.createInsecure(), {
  // The library takes 4 MiB, and the service sends events of up to EVENT_BYTES_MAX, 16 MiB.
  "grpc.max_receive_message_length": 32 * 1024 * 1024,
});

async function handle(event) {
  const payload = Object.fromEntries(Object.entries(event.payload).map(([field, { value }]) => [field, value]));
  console.log(event.topic, event.id, event.type, JSON.stringify(payload));
}

function subscribe() {
  const stream = client.Subscribe();
  const metadata = { group, subscriber_id: `${group}-1` };
  stream.write({ subscribe: { metadata, topics: topics.length ? topics : ["orders"] } });
  stream.on("data", async ({ subscribed, event }) => {
    if (subscribed?.error) {
      console.error(subscribed.error);
      process.exit(1);
    }
    if (!event) return;
    const handled = { tenant_id: event.tenant_id, topic: event.topic, stream: event.stream };
    // An error with retry asks for the event again.
    await handle(event).catch(error => Object.assign(handled, { error: String(error), retry: true }));
    stream.write({ handled });
  });
  stream.on("error", error => console.error(error.message));
  // The stream has ended, whatever the reason. The events that were in flight come again.
  stream.on("status", () => setTimeout(subscribe, 1000));
}

subscribe();
