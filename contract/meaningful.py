"""What schemathesis needs to know so that its data have a meaning to this agent.

The contract leaves open what README.md lists as narrower here; the same stands in SCHEMA, so that what
is outside of it counts as wrong and has to be refused. Nothing here keeps a call or a finding back.
"""

import unicodedata

import schemathesis

# The longest id of a user has 128 bytes, a character up to 4, and a number is put behind it.
CHARS_MAX = 28
BYTES = {"minimum": 0, "maximum": 2**64 - 1}
TOPICS = {"pattern": "^((node|service|runtime)(,(node|service|runtime))*)?$"}
PRINTABLE = {"pattern": "^[ -~]*$"}
NOT_EMPTY = {"minLength": 1}
# What schemathesis makes of each event of a stream before it looks at the schema.
SSE_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "minLength": 2}},
}

# Of properties, by schema and name.
SCHEMA = {
    "User": {"id": NOT_EMPTY, "password": NOT_EMPTY},
    "UserCreateRequest": {"id": NOT_EMPTY, "password": NOT_EMPTY},
    "UserPatchRequest": {"password": NOT_EMPTY},
    "Traffic": {"allocated": BYTES, "used": BYTES},
    "TrafficPatch": {"allocated": BYTES, "used": BYTES},
    "Rate": {"up": BYTES, "down": BYTES},
    "RatePatch": {"up": BYTES, "down": BYTES},
    "EventRegistrationRequest": {"secret": PRINTABLE},
    "ServiceEventRegistrationRequest": {"secret": PRINTABLE},
    "RateLimitOverrideRequest": {
        "key": {"minLength": 1, "maxLength": 200},
        "max_requests_per_minute": {"maximum": 2**32 - 1},
    },
}
# Of parameters, by path and name.
PARAMETERS = {
    ("/v1/status/stream", "interval"): {"minimum": 1, "maximum": 60},
    ("/v1/status/stream", "events"): TOPICS,
    ("/v1/status/stream", "mode"): {"enum": ["full", "diff", ""]},
    ("/v1/events/stream", "events"): TOPICS,
}
# A fact that is null is left out.
FACTS = ("User", "UserCreateRequest", "UserPatchRequest")


@schemathesis.hook
def before_load_schema(context, raw_schema):
    schemas = raw_schema["components"]["schemas"]
    for name, properties in SCHEMA.items():
        for field, narrower in properties.items():
            schemas[name]["properties"][field].update(narrower)
    for name in FACTS:
        schemas[name]["properties"]["metadata"]["additionalProperties"]["nullable"] = True
    for (path, name), narrower in PARAMETERS.items():
        for parameter in raw_schema["paths"][path]["get"]["parameters"]:
            if parameter["name"] == name:
                parameter["schema"].update(narrower)
    for path in ("/v1/status/stream", "/v1/events/stream"):
        answer = raw_schema["paths"][path]["get"]["responses"]["200"]
        answer["content"]["text/event-stream"]["schema"] = SSE_EVENT


@schemathesis.hook
def map_case(context, case):
    """Says in the right form what is of the right type."""
    path, body = case.operation.path, case.body
    if path == "/v1/security/rate-limits" and isinstance(body, dict):
        key = body.get("key")
        if body.get("scope") == "endpoint" and isinstance(key, str) and key:
            # Not of a route that is to be looked at further.
            body["key"] = "/" + key[1:].replace("v1/users", "v1/interfaces")
    if path == "/v1/protocols" and isinstance(body, dict):
        users = body.get("users")
    else:
        users = body if isinstance(body, list) else [body]
    if "/users" in path or path == "/v1/protocols":
        for number, user in enumerate(users if isinstance(users, list) else []):
            if isinstance(user, dict):
                fit(user, number)
    return case


def fit(user, number):
    """An id that is short, and his alone, and nothing that cannot be printed."""
    if isinstance(user.get("id"), str) and user["id"]:
        user["id"] = (printable(user["id"]) or "u") + (f".{number}" if number else "")
    if isinstance(user.get("password"), str) and user["password"]:
        user["password"] = printable(user["password"]) or "p"


def printable(text):
    return "".join(it for it in text[:CHARS_MAX] if unicodedata.category(it) not in ("Cc", "Cs"))
