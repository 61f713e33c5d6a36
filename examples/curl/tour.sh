#!/usr/bin/env bash
# Publishes two events, reads them in five ways, and erases a field of one, over HTTP.
# Needs bash and curl, and a service at COLDSTREAM_URL.
set -euo pipefail

topic="${COLDSTREAM_URL:-http://localhost:3000}/v1/topics/${COLDSTREAM_TOPIC:-orders}"
tenant="tenant=${COLDSTREAM_TENANT:-acme}"

# Prints what it asks, and then the answer. --fail-with-body prints the reason of a refusal, too, and ends the script.
ask() {
    printf '\n# %s\n' "$1"
    curl --silent --show-error --fail-with-body "${@:2}"
    printf '\n'
}

# All events are published, or none is. You can repeat a call whose answer was lost: known ids change nothing.
ask 'publish two events' "$topic/events?$tenant" --data @- <<'EVENTS'
{"events": [
  {"id": "o-1-placed", "type": "order.placed", "stream": "order-1", "payload": {"customer": "Eva", "price": 64.30}},
  {"id": "o-1-paid", "type": "order.paid", "stream": "order-1", "payload": {}}
]}
EVENTS

ask 'a page' "$topic/events?$tenant&limit=100"
ask 'one stream' "$topic/events?$tenant&stream=order-1"
ask 'the events of a type' "$topic/events?$tenant&type=order.placed"
ask 'the newest event' "$topic/last-event?$tenant"
ask 'everything, an event a line' -H 'Accept: application/x-ndjson' "$topic/events?$tenant"

# Every reader sees the new value from now on. The ledger keeps who, why and which fields, and no value.
ask 'erase a field' -X PATCH -H 'Content-Type: application/merge-patch+json' --data '{"payload": {"customer": "erased"}}' \
    "$topic/events/o-1-placed?$tenant&actor=dpo&reason=erasure&ticket=GDPR-17"
ask 'the event without it' "$topic/events/o-1-placed?$tenant"
