"""The servers that are compared: how each is started, what it is asked, and what it answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Launch

from peers.environments import SHARED, Environment
from peers.workload import Workload

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
EXACT = 1e-9
SINGLE = 1e-5
"""How far a prediction in 32-bit floats may be off, relative to it."""

UVICORN = Environment(
    "uvicorn",
    ("fastapi", "starlette", "uvicorn[standard]", "orjson", "msgspec", "pydantic"),
    (*SHARED, "pandas", "onnxruntime"),
)
GRANIAN = Environment("granian", ("granian[uvloop]", "msgspec"), ("numpy", "onnxruntime"))
MLSERVER = Environment("mlserver", ("mlserver==1.7.*", "mlserver-sklearn==1.7.*"))
BENTOML = Environment("bentoml", ("bentoml==1.4.*",))
MOSEC = Environment("mosec", ("mosec==0.9.*", "msgspec"))


@dataclass(frozen=True)
class Protocol:
    """The path that is asked, what is sent for a row, and where the prediction is in the answer.

    A body of None is a GET.
    """

    path: str
    body: Callable[[Workload, np.ndarray], Any]
    prediction: Callable[[Any], float]


OBJECT = Protocol(
    "/predict",
    lambda workload, row: dict(zip(workload.features, row.tolist(), strict=True)),
    lambda answer: answer["prediction"],
)
INFERENCE = Protocol("/inference", OBJECT.body, OBJECT.prediction)
PLAIN = Protocol("/plain", lambda workload, row: None, lambda answer: answer["value"])
ROWS = Protocol("/predict", lambda workload, row: {"rows": [row.tolist()]}, lambda answer: answer[0])


def _many(count: int) -> Protocol:
    """Return the protocol of a request with a row repeated `count` times."""
    return Protocol(
        "/predict",
        lambda workload, row: {"instances": [row.tolist()] * count},
        lambda answer: answer["predictions"][-1],
    )


MANY = {count: _many(count) for count in (100, 1_000)}
"""The protocols of many rows, by their number."""

TENSOR = Protocol(
    "/v2/models/model/infer",
    lambda workload, row: {"inputs": [{"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row.tolist()}]},
    lambda answer: answer["outputs"][0]["data"][0],
)


@dataclass(frozen=True)
class Side:
    """A server: what it is started with for a workload and a folder of programs, if they are not this Python's.

    A tolerance of None is for a server that does not predict, whose answer is not compared with the estimator's.
    """

    name: str
    launch: Callable[[Workload, Path], Launch]
    environment: Environment | None = None
    protocol: Protocol = OBJECT
    tolerance: float | None = EXACT


def _ours(name: str, command: Sequence[str], runtime: str, protocol: Protocol = OBJECT) -> Side:
    def launch(workload: Workload, programs: Path) -> Launch:
        return Launch(command, CHECKOUT, {"FLASKML_INSTANCE_PATH": str(workload.instance(runtime)), **ONE_THREAD})

    return Side(name, launch, protocol=protocol, tolerance=SINGLE if runtime == "onnx" else EXACT)


def _never() -> Side:
    """Return the side that sends every prediction through Flask."""

    def launch(workload: Workload, programs: Path) -> Launch:
        variables = {"FLASKML_INSTANCE_PATH": str(workload.graph_instance()), "FLASKML_DIRECT": "never"}
        return Launch(SERVE, CHECKOUT, {**variables, **ONE_THREAD})

    return Side("serve-never", launch, tolerance=SINGLE)


def _plain(name: str, *command: str) -> Side:
    def launch(workload: Workload, programs: Path) -> Launch:
        return _app(command, workload, {"FLASKML_INSTANCE_PATH": workload.instance("sklearn")})

    return Side(name, launch, protocol=PLAIN, tolerance=None)


def _uvicorn(name: str, *more: str, graph: bool, app: str = "", protocol: Protocol = OBJECT) -> Side:
    app = f"{app or name.replace('-', '_')}:app"
    options = ["--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning", "--port={port}"]

    def launch(workload: Workload, programs: Path) -> Launch:
        given = {"GRAPH": workload.graph_file()} if graph else {"MODEL": workload.model_file()}
        return _app([str(programs / "uvicorn"), *options, *more, app], workload, given)

    return Side(name, launch, UVICORN, protocol, tolerance=SINGLE if graph else EXACT)


def _granian() -> Side:
    options = ["--interface=rsgi", "--workers=1", "--log-level=warning", "--host=127.0.0.1", "--port={port}"]

    def launch(workload: Workload, programs: Path) -> Launch:
        command = [str(programs / "granian"), *options, "granian_rsgi:app"]
        return _app(command, workload, {"GRAPH": workload.graph_file()})

    return Side("granian-rsgi", launch, GRANIAN, tolerance=SINGLE)


def _flask(name: str, *command: str) -> Side:
    return Side(name, lambda workload, programs: _app(command, workload, {"MODEL": workload.model_file()}))


def _constant() -> Side:
    command = ("python", "flask_constant.py", "{port}")
    return Side("flask-constant", lambda workload, programs: _app(command, workload, {}), tolerance=None)


def _bentoml() -> Side:
    def launch(workload: Workload, programs: Path) -> Launch:
        command = [str(programs / "bentoml"), "serve", "bentoml_service:Predictor", "--port={port}", "--host=127.0.0.1"]
        return _app(command, workload, {"MODEL": workload.model_file(), "BENTOML_DO_NOT_TRACK": "True"})

    return Side("bentoml", launch, BENTOML, ROWS)


def _mosec() -> Side:
    options = ["--address=127.0.0.1", "--port={port}", "--log-level=warning"]

    def launch(workload: Workload, programs: Path) -> Launch:
        command = [str(programs / "python"), "mosec_server.py", *options]
        return _app(command, workload, {"MODEL": workload.model_file()})

    return Side("mosec", launch, MOSEC, INFERENCE)


def _mlserver(name: str, **batching: float) -> Side:
    def launch(workload: Workload, programs: Path) -> Launch:
        folder = workload.folder / name
        folder.mkdir(exist_ok=True)
        # Without workers the server itself computes, as the other sides do.
        server = {"debug": False, "host": "127.0.0.1", "parallel_workers": 0, "metrics_endpoint": None}
        parameters = {"uri": str(workload.model_file()), "version": "1"}
        model = {"name": "model", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps({**model, **batching}))
        ports = {"MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "0"}
        return Launch([str(programs / "mlserver"), "start", str(folder)], folder, {**ports, **ONE_THREAD})

    return Side(name, launch, MLSERVER, TENSOR)


def _app(command: Sequence[str], workload: Workload, given: Mapping[str, Path | str]) -> Launch:
    """Return the start of one of the apps beside this file with what `given.py` reads."""
    kinds = ["text" if isinstance(value, str) else "number" for value in workload.table[0]]
    given = {"FEATURES": ",".join(workload.features), "KINDS": ",".join(kinds), **given}
    variables = {"PREDICTION": workload.kind, "PYTHONPATH": str(HERE)}
    return Launch(command, HERE, {**variables, **{name: str(value) for name, value in given.items()}, **ONE_THREAD})


def _waitress(threads: int, app: str) -> tuple[str, ...]:
    return ("waitress-serve", "--listen=127.0.0.1:{port}", f"--threads={threads}", app)


SERVE = ("flask", "serve", "--port={port}", "--workers=1")
SIDES: Mapping[str, Side] = {
    side.name: side
    for side in (
        _ours("serve-sklearn", SERVE, "sklearn"),
        _ours("serve-onnx", SERVE, "onnx"),
        *(_ours(f"serve-{count}-rows", SERVE, "onnx", protocol) for count, protocol in MANY.items()),
        _never(),
        _ours("waitress-4", _waitress(4, "wsgi:app"), "sklearn"),
        _ours("waitress-32", _waitress(32, "wsgi:app"), "sklearn"),
        _ours("waitress-4-onnx", _waitress(4, "wsgi:app"), "onnx"),
        _ours("waitress-32-onnx", _waitress(32, "wsgi:app"), "onnx"),
        _plain("plain-serve", "flask", "--app=flask_plain", *SERVE[1:]),
        _plain("plain-waitress", "waitress-serve", "--listen=127.0.0.1:{port}", "flask_plain:app"),
        _uvicorn("fastapi-sklearn", graph=False),
        _uvicorn("fastapi-onnx", graph=True),
        _uvicorn("fastapi-tuned", graph=True),
        _uvicorn("starlette-onnx", graph=True),
        # Without --lifespan=off uvicorn calls the app once with a scope that is not a request.
        _uvicorn("raw-asgi", "--lifespan=off", graph=True),
        _uvicorn("fastapi-frame", graph=False),
        _uvicorn("raw-asgi-columns", "--lifespan=off", graph=True),
        *(
            _uvicorn(f"raw-asgi-{count}-rows", "--lifespan=off", graph=True, app="raw_asgi_rows", protocol=protocol)
            for count, protocol in MANY.items()
        ),
        _granian(),
        _constant(),
        _flask("flask-naive-4", *_waitress(4, "flask_naive:app")),
        _flask("flask-naive-32", *_waitress(32, "flask_naive:app")),
        _mlserver("mlserver"),
        _mlserver("mlserver-batched", max_batch_size=32, max_batch_time=0.005),
        _bentoml(),
        _mosec(),
    )
}
PEERS: Mapping[str, str] = {
    "fastapi-onnx": "serve-onnx",
    "fastapi-tuned": "serve-onnx",
    "starlette-onnx": "serve-onnx",
    "raw-asgi": "serve-onnx",
    "raw-asgi-columns": "serve-onnx",
    "fastapi-frame": "serve-onnx",
    **{f"raw-asgi-{count}-rows": f"serve-{count}-rows" for count in MANY},
    "granian-rsgi": "serve-onnx",
    "flask-constant": "serve-onnx",
    "fastapi-sklearn": "serve-sklearn",
    "mlserver": "serve-sklearn",
    "mlserver-batched": "serve-sklearn",
    "bentoml": "serve-sklearn",
    "mosec": "serve-sklearn",
    "waitress-4": "serve-sklearn",
    "waitress-32": "serve-sklearn",
    "flask-naive-4": "waitress-4-onnx",
    "flask-naive-32": "waitress-32-onnx",
    "plain-waitress": "plain-serve",
}
"""Which of our servers each peer is compared with: one that computes with the same, and waits in the same way."""

SPECIAL_PEERS = ("raw-asgi-columns", "fastapi-frame", *(f"raw-asgi-{count}-rows" for count in MANY))
"""The peers that serve models of mixed columns or requests of many rows; they take part only if they are named."""
