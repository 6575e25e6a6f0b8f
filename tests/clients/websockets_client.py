"""Python's websockets against the server."""

import asyncio
import http.client
import json

import websockets
from traffic import LARGE, MESSAGES, PUBLISH_KEY, URL, check_messages, publish, publish_many
from websockets.asyncio.client import connect

ADDRESS = f"ws://{URL.netloc}/ws?token="


async def event(socket):
    return json.loads(await asyncio.wait_for(socket.recv(), 20))


async def main():
    # permessage-deflate is offered by default; the server must decline it.
    async with connect(ADDRESS + PUBLISH_KEY) as socket:
        assert not socket.protocol.extensions, socket.protocol.extensions
        connected = await event(socket)
        assert connected["type"] == "connected" and connected["clientId"], connected
        await socket.send('{"type":"subscribe","channel":"websockets"}')
        assert (await event(socket))["type"] == "subscribed"
        given = asyncio.get_running_loop().run_in_executor(None, publish_many, "websockets")
        messages = [await event(socket) for _ in range(MESSAGES)]
        check_messages(messages, await given)
        # A command in fragments.
        await socket.send(part for part in ['{"type"', ":", '"ping"', "}"])
        assert await event(socket) == {"type": "pong"}
        # Pings with and without payload.
        for payload in (b"", b"\x00\xff", b"x" * 125):
            await asyncio.wait_for(await socket.ping(payload), 20)
        connection = http.client.HTTPConnection(URL.hostname, URL.port)
        assert publish(connection, "websockets", LARGE)["delivered"] == 1
        assert (await event(socket))["data"] == LARGE
        await socket.send('{"type":"unsubscribe","channel":"websockets"}')
        assert (await event(socket))["type"] == "unsubscribed"
        assert publish(connection, "websockets", 1)["delivered"] == 0
        await socket.send('{"type":"ping"}')
        assert await event(socket) == {"type": "pong"}
    assert (socket.close_code, socket.protocol.close_sent.code) == (1000, 1000)

    async with connect(ADDRESS + PUBLISH_KEY) as socket:
        await event(socket)
        await socket.close(4321, "because")
        assert socket.protocol.close_rcvd.code == 4321

    async with connect(ADDRESS + PUBLISH_KEY) as socket:
        await event(socket)
        await socket.send(b"binary")
        try:
            await event(socket)
        except websockets.ConnectionClosed:
            assert socket.close_code == 1003, socket.close_code
        else:
            raise AssertionError("a binary message was accepted")

    async with connect(ADDRESS + "pub_wrong") as socket:
        refused = await event(socket)
        assert refused["code"] == "UNAUTHORIZED", refused
        await socket.wait_closed()
        assert socket.close_code == 4001, socket.close_code


asyncio.run(main())
print(f"websockets {websockets.__version__}: good")
