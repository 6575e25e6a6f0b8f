"""What schemathesis cannot know from the description of the API."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    items = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(item) for item in items).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Which plans there are is the configuration's matter, so a plan that is a name becomes one that
    exists. And the app stays one whose channels need not be created, or hardly any publish would
    come through."""
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("plan"), str):
        body["plan"] = "unlimited"
    settings = body.get("settings")
    if isinstance(settings, dict) and settings.get("requireChannels") is True:
        settings["requireChannels"] = False
