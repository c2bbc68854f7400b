"""The URL map, and the access to each route."""

import hashlib
import re

ROUTES = {
    ("/", "GET"),
    ("/docs", "GET"),
    ("/jobs", "GET"),
    ("/jobs/<job_id>", "GET"),
    ("/livez", "GET"),
    ("/models", "GET"),
    ("/models/<model_name:name>", "GET"),
    ("/models/<model_name:name>/active", "POST"),
    ("/models/<model_name:name>/active", "PUT"),
    ("/models/<model_name:name>/predict", "POST"),
    ("/models/<model_name:name>/rollback", "POST"),
    ("/models/<model_name:name>/versions/<version:version>", "DELETE"),
    ("/models/<model_name:name>/versions/<version:version>", "GET"),
    ("/models/<model_name:name>/versions/<version:version>/predict", "POST"),
    ("/openapi.json", "GET"),
    ("/predict", "POST"),
    ("/readyz", "GET"),
    ("/static/<path:filename>", "GET"),
    ("/train", "GET"),
    ("/train", "POST"),
}

OPEN, GUARDED = "open", "guarded"

ACCESS = {
    ("/", "GET"): OPEN,
    ("/docs", "GET"): OPEN,
    ("/jobs", "GET"): OPEN,
    ("/jobs/<job_id>", "GET"): OPEN,
    ("/livez", "GET"): OPEN,
    ("/models", "GET"): OPEN,
    ("/models/<model_name:name>", "GET"): OPEN,
    ("/models/<model_name:name>/active", "POST"): GUARDED,
    ("/models/<model_name:name>/active", "PUT"): GUARDED,
    ("/models/<model_name:name>/predict", "POST"): OPEN,
    ("/models/<model_name:name>/rollback", "POST"): GUARDED,
    ("/models/<model_name:name>/versions/<version:version>", "DELETE"): GUARDED,
    ("/models/<model_name:name>/versions/<version:version>", "GET"): OPEN,
    ("/models/<model_name:name>/versions/<version:version>/predict", "POST"): OPEN,
    ("/openapi.json", "GET"): OPEN,
    ("/predict", "POST"): OPEN,
    ("/readyz", "GET"): OPEN,
    ("/static/<path:filename>", "GET"): OPEN,
    ("/train", "GET"): OPEN,
    ("/train", "POST"): GUARDED,
}
"""The access to each route: open to all clients, or guarded by the right to change state."""

TOKEN = "a token of the tests"

DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


def concrete(rule):
    """Return a path of the rule whose model, version and job do not exist, so that a request changes nothing."""
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda match: "7" if match[1] == "version" else "absent", rule)
