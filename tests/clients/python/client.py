"""One client from PyPI:  python client.py NAME URL

Prints each event as [type, id, data]. None of these reconnects by itself: the loop is that of docs/clients.md.
"""

import json
import sys
import time

import httpx
import requests
from httpx_sse import connect_sse
from sseclient import SSEClient

# Heartbeats come every 8 s by default. Without a read timeout a connection that breaks without a word is never noticed.
TIMEOUT = 30


def httpx_sse(url, headers):
    with httpx.Client(timeout=httpx.Timeout(5, read=TIMEOUT)) as client:
        with connect_sse(client, "GET", url, headers=headers) as source:
            for event in source.iter_sse():
                yield event.event, event.id, event.data


def sseclient_py(url, headers):
    # As urllib3 reads a stream: with stream=True requests gives it out as it comes, if it is sent in chunks.
    with requests.get(url, headers=headers, stream=True, timeout=(5, TIMEOUT)) as response:
        response.raise_for_status()
        for event in SSEClient(response).events():
            yield event.event, event.id, event.data


def requests_lines(url, headers):
    # Without a library, by the rules of the standard.
    with requests.get(url, headers=headers, stream=True, timeout=(5, TIMEOUT)) as response:
        response.raise_for_status()
        event, id, data = "message", "", []
        # None: as it comes. Decoded line by line, as text would also be split at other characters.
        for line in response.iter_lines(chunk_size=None):
            field, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data:
                    yield event, id, "\n".join(data)
                event, data = "message", []
            elif field == "event":
                event = value
            elif field == "id":
                id = value
            elif field == "data":
                data.append(value)


CLIENTS = {"httpx-sse": httpx_sse, "sseclient-py": sseclient_py, "requests": requests_lines}


def main(name, url):
    last_id = None
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            for event, id, data in CLIENTS[name](url, headers):
                last_id = id or last_id
                if event != "tidings.position":
                    print(json.dumps([event, id, data]), flush=True)
        except (httpx.HTTPError, requests.RequestException) as error:
            print(f"again: {error!r}", file=sys.stderr)
        time.sleep(0.5)


main(*sys.argv[1:])
