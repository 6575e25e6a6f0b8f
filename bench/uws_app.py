"""A minimal uWebSockets server: what is posted to /pub/CHANNEL goes to all of /sub/CHANNEL.

Python only hands a publish over; sockets, topics and fan-out are uWebSockets' own.
"""

import sys

from socketify import App, AppListenOptions, OpCode

app = App()


def upgrade(res, req, context):
    key = req.get_header("sec-websocket-key")
    protocol = req.get_header("sec-websocket-protocol")
    extensions = req.get_header("sec-websocket-extensions")
    res.upgrade(key, protocol, extensions, context, req.get_parameter(0))


def publish(res, req):
    channel, parts = req.get_parameter(0), []

    def body(res, chunk, is_last):
        parts.append(chunk)
        if is_last:
            app.publish(channel, b"".join(parts), OpCode.TEXT)
            res.end("ok")

    res.on_aborted(lambda res: None)
    res.on_data(body)


app.ws(
    "/sub/:channel",
    {
        "compression": 0,
        "max_backpressure": 256 * 1024 * 1024,
        "idle_timeout": 0,
        "upgrade": upgrade,
        "open": lambda ws: ws.subscribe(ws.get_user_data()),
    },
)
app.post("/pub/:channel", publish)
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda config: print("up", flush=True))
# Its own event loop alone: with asyncio beside it, it would poll without end.
app.loop.uv_loop.run()
