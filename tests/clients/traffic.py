"""What both Python clients share: where the server is, and publishing with a stock HTTP client."""

import concurrent.futures
import http.client
import json
import os
from urllib.parse import urlparse

URL = urlparse(os.environ["PUSHFLO_URL"])
PUBLISH_KEY = os.environ["PUSHFLO_PUBLISH_KEY"]
SECRET_KEY = os.environ["PUSHFLO_SECRET_KEY"]
LARGE = "ä" * 15_000
MESSAGES = 1_000
PUBLISHERS = 4


def publish(connection, channel, data):
    body = json.dumps({"channel": channel, "event": "test", "data": data}, ensure_ascii=False)
    headers = {"Authorization": f"Bearer {SECRET_KEY}"}
    connection.request("POST", "/api/v1/publish", body.encode(), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == 200 and answer["success"], answer
    return answer["data"]


def publish_many(channel):
    """Publishes from several connections at once; the offsets given, each with its data."""

    def one(publisher):
        connection = http.client.HTTPConnection(URL.hostname, URL.port)
        numbers = range(publisher, MESSAGES, PUBLISHERS)
        return [(publish(connection, channel, number)["offset"], number) for number in numbers]

    with concurrent.futures.ThreadPoolExecutor(PUBLISHERS) as pool:
        return dict(pair for part in pool.map(one, range(PUBLISHERS)) for pair in part)


def check_messages(messages, given):
    """All of them, in the order of their offsets, each with the data it was published with."""
    offsets = [message["offset"] for message in messages]
    assert offsets == list(range(offsets[0], offsets[0] + MESSAGES)), offsets
    assert all(given[message["offset"]] == message["data"] for message in messages)
