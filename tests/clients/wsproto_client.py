"""Python's wsproto, which does no I/O itself, over a plain socket."""

import http.client
import json
import socket
import threading

import wsproto
from traffic import LARGE, MESSAGES, PUBLISH_KEY, URL, check_messages, publish, publish_many
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)


class Client:
    def __init__(self, key):
        self.socket = socket.create_connection((URL.hostname, URL.port), 20)
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events = self.read()
        self.send(Request(host=URL.netloc, target=f"/ws?token={key}"))
        assert isinstance(next(self.events), AcceptConnection)

    def send(self, event):
        self.socket.sendall(self.protocol.send(event))

    def read(self):
        text = ""
        while True:
            # Small reads cut frames anywhere.
            data = self.socket.recv(61)
            self.protocol.receive_data(data or None)
            for event in self.protocol.events():
                if isinstance(event, Ping):
                    self.send(event.response())
                elif isinstance(event, Message):
                    text += event.data
                    if event.message_finished:
                        yield json.loads(text)
                        text = ""
                else:
                    yield event

    def command(self, **command):
        self.send(TextMessage(json.dumps(command)))

    def close_code(self):
        event = next(self.events)
        assert isinstance(event, CloseConnection), event
        return event.code


client = Client(PUBLISH_KEY)
assert next(client.events)["type"] == "connected"
client.command(type="subscribe", channel="wsproto")
assert next(client.events)["type"] == "subscribed"
given = {}
publisher = threading.Thread(target=lambda: given.update(publish_many("wsproto")))
publisher.start()
messages = [next(client.events) for _ in range(MESSAGES)]
publisher.join()
check_messages(messages, given)
for payload in (b"", b"payload", bytes(range(125))):
    client.send(Ping(payload))
    pong = next(client.events)
    assert isinstance(pong, Pong) and bytes(pong.payload) == payload, pong
for index, part in enumerate(parts := ['{"type":"pi', "", 'ng"}']):
    client.send(TextMessage(part, message_finished=index == len(parts) - 1))
assert next(client.events) == {"type": "pong"}

assert publish(http.client.HTTPConnection(URL.hostname, URL.port), "wsproto", LARGE)["delivered"] == 1
assert next(client.events)["data"] == LARGE
client.send(CloseConnection(3000, "done"))
assert client.close_code() == 3000
assert client.protocol.state is ConnectionState.CLOSED
assert client.socket.recv(1) == b""

client = Client(PUBLISH_KEY)
next(client.events)
client.send(BytesMessage(b"binary"))
assert client.close_code() == 1003

client = Client("pub_wrong")
assert next(client.events)["code"] == "UNAUTHORIZED"
assert client.close_code() == 4001
print(f"wsproto {wsproto.__version__}: good")
