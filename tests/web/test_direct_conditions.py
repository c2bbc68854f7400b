"""A prediction goes through Flask if any code of the app would notice that it does not."""

import logging
from functools import wraps

import pytest
from flask import Blueprint, Flask, Request, Response, request, session, signals
from flask.sessions import SecureCookieSessionInterface
from flask_cors import CORS
from flask_login import LoginManager
from flask_sqlalchemy import SQLAlchemy
from werkzeug.middleware.proxy_fix import ProxyFix
from whitenoise import WhiteNoise

from flaskml.blueprints import predict
from flaskml.web.direct_conditions import indifferent_to_predictions
from tests.support.server_processes import wait_until
from tests.support.stores import train_into

pytestmark = pytest.mark.contract

ROW = {"feature": 0.5}


@pytest.fixture
def dispatched(monkeypatch):
    """The paths of the predictions that the views have answered."""
    paths, answer = [], predict.answer

    def record(app, request, predictor):
        paths.append(request.path)
        return answer(app, request, predictor)

    monkeypatch.setattr(predict, "answer", record)
    return paths


def ask(client, times=3, path="/predict", **options):
    """Send predictions; return the last response."""
    for _ in range(times):
        response = client.post(path, json=ROW, **options)
        assert response.status_code == 200, response.text
    return response


def test_flask_serves_the_first_prediction_of_a_path_only(app, client, dispatched):
    for path in ("/predict", "/models/default/predict", "/models/default/versions/1/predict?method=predict"):
        answers = {ask(client, 1, path).get_data() for _ in range(4)}
        assert len(answers) == 1
    assert dispatched == ["/predict", "/models/default/predict", "/models/default/versions/1/predict"]
    assert app.extensions["direct"].describe() == "predictions are answered directly"


class Noticing:
    """A WSGI middleware that records the requests that pass it."""

    def __init__(self, wsgi_app, noticed):
        self.wsgi_app = wsgi_app
        self.noticed = noticed

    def __call__(self, environ, start_response):
        self.noticed.append(environ["PATH_INFO"])
        return self.wsgi_app(environ, start_response)


def noticing_subclass(method, noticed):
    """Return a subclass of Flask that records the calls of a method."""

    def record(self, *args, **kwargs):
        noticed.append(method)
        return getattr(Flask, method)(self, *args, **kwargs)

    return type("OwnFlask", (Flask,), {method: record})


def add_hook(register, blueprint=None):
    """Return a function that registers a hook of the app, or of a blueprint, which records its calls."""

    def install(app, noticed):
        def hook(*arguments):
            noticed.append("hook")
            return arguments[0] if register == "after_request" else None

        if blueprint is None:
            getattr(app, register)(hook)
        else:
            getattr(app, f"{register}_funcs").setdefault(blueprint, []).append(hook)

    return install


def add_url_value_preprocessor(app, noticed):
    app.url_value_preprocessor(lambda *_: noticed.append("preprocessor"))


def add_receiver(signal):
    def install(app, noticed):
        def receive(*_, **__):
            noticed.append(signal.name)

        app.extensions["receiver"] = receive  # Blinker holds receivers weakly.
        signal.connect(receive, app)

    return install


def replace_view(app, noticed):
    view = app.view_functions["predict.predict"]

    def own_view():
        noticed.append("view")
        return view()

    own_view.__dict__.update(vars(view))
    app.view_functions["predict.predict"] = own_view


def add_rule(app, noticed):
    def own_view():
        noticed.append("rule")
        return {"prediction": 1}

    app.add_url_rule("/models/default/predict", "own", own_view, methods=["POST"])


def use_request_class(app, noticed):
    class OwnRequest(Request):
        def __init__(self, *args, **kwargs):
            noticed.append("request class")
            super().__init__(*args, **kwargs)

    app.request_class = OwnRequest


def use_response_class(app, noticed):
    class OwnResponse(Response):
        def __call__(self, *args):
            noticed.append("response class")
            return super().__call__(*args)

    app.response_class = OwnResponse


def use_session_interface(app, noticed):
    class OwnSessions(SecureCookieSessionInterface):
        def open_session(self, *args):
            noticed.append("session interface")
            return super().open_session(*args)

    app.session_interface = OwnSessions()


def override(method):
    def install(app, noticed):
        app.__class__ = noticing_subclass(method, noticed)

    return install


def replace_method(app, noticed):
    dispatch = app.dispatch_request

    def record():
        noticed.append("method")
        return dispatch()

    app.dispatch_request = record


OBSERVERS = {
    "before_request": add_hook("before_request"),
    "after_request": add_hook("after_request"),
    "teardown_request": add_hook("teardown_request"),
    "teardown_appcontext": add_hook("teardown_appcontext"),
    "before_request of the blueprint": add_hook("before_request", "predict"),
    "after_request of the blueprint": add_hook("after_request", "predict"),
    "teardown_request of the blueprint": add_hook("teardown_request", "predict"),
    "url_value_preprocessor": add_url_value_preprocessor,
    "request_started": add_receiver(signals.request_started),
    "request_finished": add_receiver(signals.request_finished),
    "request_tearing_down": add_receiver(signals.request_tearing_down),
    "appcontext_pushed": add_receiver(signals.appcontext_pushed),
    "appcontext_popped": add_receiver(signals.appcontext_popped),
    "appcontext_tearing_down": add_receiver(signals.appcontext_tearing_down),
    "a replaced view": replace_view,
    "a request class": use_request_class,
    "a response class": use_response_class,
    "a session interface": use_session_interface,
    "preprocess_request": override("preprocess_request"),
    "process_response": override("process_response"),
    "make_response": override("make_response"),
    "ensure_sync": override("ensure_sync"),
    "create_url_adapter": override("create_url_adapter"),
    "a replaced method": replace_method,
}


@pytest.mark.parametrize("name", OBSERVERS)
def test_an_observer_notices_every_prediction(make_app, name):
    app, noticed = make_app(), []
    OBSERVERS[name](app, noticed)
    client = app.test_client()
    for number in range(1, 4):
        before = len(noticed)
        ask(client, 1)
        assert len(noticed) > before, f"prediction {number} was not noticed"


def test_a_rule_that_takes_precedence_notices_every_prediction(make_app):
    app, noticed = make_app(), []
    add_rule(app, noticed)
    client = app.test_client()
    ask(client, path="/models/default/predict")
    assert len(noticed) == 3


def test_a_hook_around_a_second_registration_notices(make_app):
    app, noticed = make_app(), []
    outer = Blueprint("api", __name__)
    outer.before_request(lambda: noticed.append("hook"))
    outer.register_blueprint(predict.bp)
    app.register_blueprint(outer, url_prefix="/api")
    ask(app.test_client(), path="/api/predict")
    assert len(noticed) == 3


def test_a_tool_that_patches_flask_notices_every_prediction(make_app, monkeypatch):
    noticed, dispatch = [], Flask.dispatch_request
    monkeypatch.setattr(Flask, "dispatch_request", lambda app: noticed.append("call") or dispatch(app))
    ask(make_app().test_client())
    assert len(noticed) == 3


def test_a_wrapper_of_an_indifferent_hook_notices(make_app):
    app, noticed = make_app(), []
    hook = app.before_request_funcs[None][0]

    @wraps(hook)
    def wrapper():
        noticed.append("hook")
        return hook()

    app.before_request_funcs[None][0] = wrapper
    ask(app.test_client())
    assert len(noticed) == 3


def test_a_method_of_the_session_interface_notices(make_app):
    app, noticed = make_app(), []
    app.session_interface = SecureCookieSessionInterface()
    open_session = app.session_interface.open_session
    app.session_interface.open_session = lambda *a: noticed.append("session") or open_session(*a)
    ask(app.test_client())
    assert len(noticed) == 3


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64])
def test_hosts_that_flask_refuses_reach_it(client, host):
    ask(client, 2)
    assert client.post("/predict", json=ROW, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("name", ["request_started", "appcontext_popped", "a replaced view", "a replaced method"])
def test_an_observer_that_comes_later_notices_the_next_prediction(make_app, name, dispatched):
    app, noticed = make_app(), []
    client = app.test_client()
    ask(client)
    assert len(dispatched) == 1, "the prediction is answered directly before"
    OBSERVERS[name](app, noticed)
    ask(client, 1)
    assert noticed


@pytest.mark.parametrize("config", [{"TESTING": True}, {"DEBUG": True}, {"TRUSTED_HOSTS": ("localhost",)}])
def test_settings_send_predictions_through_flask(make_app, dispatched, config):
    app = make_app(**config)
    ask(app.test_client())
    assert len(dispatched) == 3


def test_subdomain_matching_sends_predictions_through_flask(make_app, dispatched):
    app = make_app()
    app.subdomain_matching = True
    ask(app.test_client())
    assert len(dispatched) == 3


REQUESTS = {
    "CSV accepted": {"headers": {"Accept": "text/csv"}},
    "CSV preferred": {"headers": {"Accept": "application/json;q=0.5, text/csv"}},
    "a form": {"data": ROW},
    "an unknown Content-Encoding": {"json": ROW, "headers": {"Content-Encoding": "gzip"}},
    "a query that is not known": {"json": ROW, "path": "/predict?method=predict&x=1"},
    "an upgrade": {"json": ROW, "headers": {"Upgrade": "h2c"}},
    "a body with a fault": {"data": b'{"feature": "x"}', "content_type": "application/json"},
    "an empty list": {"json": []},
    "another media type": {"data": b'{"feature": 1}', "content_type": "text/plain"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_flask_treats_otherwise_reach_it(client, dispatched, name):
    ask(client, 2)
    before = len(dispatched)
    options = dict(REQUESTS[name])
    path = options.pop("path", "/predict")
    if not options.keys() & {"json", "data"}:
        options["json"] = ROW
    for _ in range(2):
        client.post(path, **options)
    assert len(dispatched) == before + 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"},
        {"Accept": "application/json, text/plain, */*"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "application/vnd.own+json"},
        {"X-Request-Id": "1", "Authorization": "Bearer x", "User-Agent": "a"},
        {"Origin": "https://example.org"},
        {"Content-Encoding": "Identity"},
        {"Content-Encoding": ""},
    ],
)
def test_usual_requests_are_answered_directly(client, dispatched, headers):
    ask(client, 2)
    before = len(dispatched)
    assert client.post("/predict", json=ROW, headers=headers).status_code == 200
    assert len(dispatched) == before


def test_a_cookie_reaches_flask_where_a_secret_key_is_set(make_app, dispatched):
    app = make_app(SECRET_KEY="s")
    client = app.test_client()
    ask(client, 3)
    assert len(dispatched) == 1
    client.set_cookie("session", "x")
    ask(client, 3)
    assert len(dispatched) == 4


def test_a_cookie_does_not_matter_without_a_secret_key(client, dispatched):
    client.set_cookie("session", "x")
    ask(client, 3)
    assert len(dispatched) == 1


def test_middleware_notices_every_prediction(make_app):
    app, noticed = make_app(), []
    app.wsgi_app = Noticing(app.wsgi_app, noticed)
    ask(app.test_client())
    assert noticed == ["/predict"] * 3


def test_known_middleware_does_not_matter(make_app, dispatched, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    app = make_app()
    app.wsgi_app = ProxyFix(WhiteNoise(app.wsgi_app, root=str(tmp_path)), x_for=1, x_host=1, x_prefix=1)
    client = app.test_client()
    answer = ask(client, 3, headers={"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Prefix": "/p"})
    assert len(dispatched) == 1 and answer.json["version"] == "1"
    assert client.get("/a.txt").text == "a"


def test_a_file_at_the_path_of_a_prediction_is_served(make_app, tmp_path):
    (tmp_path / "predict").write_text("a")
    app = make_app()
    app.wsgi_app = WhiteNoise(app.wsgi_app, root=str(tmp_path))
    client = app.test_client()
    for _ in range(3):
        assert client.post("/predict", json=ROW).status_code == 405


EXTENSIONS = {
    "Flask-SQLAlchemy": lambda app: SQLAlchemy(app),
    "Flask-Login": lambda app: LoginManager(app),
    "Flask-CORS": lambda app: CORS(app),
    "Flask-CORS for an origin": lambda app: CORS(app, origins=["https://a.example", "https://b.example"]),
    "Flask-CORS for another path": lambda app: CORS(app, resources={"/other/*": {"origins": "*"}}),
    "all of them": lambda app: (SQLAlchemy(app), LoginManager(app), CORS(app)),
}


def app_with(make_app, name, **config):
    app = make_app(SECRET_KEY="s", **config)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    EXTENSIONS[name](app)
    return app


@pytest.mark.parametrize("name", EXTENSIONS)
def test_predictions_beside_an_extension_are_direct_and_equal(make_app, dispatched, name):
    clients = [app_with(make_app, name, DIRECT=direct).test_client() for direct in ("never", "auto")]
    answers = []
    for client in clients:
        before = len(dispatched)
        answers.append([ask(client, 1) for _ in range(3)])
        assert len(dispatched) - before == (3 if client is clients[0] else 1)
    for expected, direct in zip(*answers, strict=True):
        assert direct.get_data() == expected.get_data()
        assert headers_of(direct) == headers_of(expected)


def headers_of(response):
    """Return the headers of a response, sorted and without the date."""
    return sorted(header for header in response.headers if header[0] != "Date")


def test_cross_origin_requests_reach_flask_cors(make_app, dispatched):
    client = app_with(make_app, "Flask-CORS for an origin").test_client()
    ask(client)
    assert len(dispatched) == 1
    for number in range(2):
        origin = {"Origin": "https://a.example"}
        assert ask(client, 1, headers=origin).headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert len(dispatched) == 2 + number


def test_flask_login_that_refreshes_its_cookie_notices(make_app, dispatched):
    app = app_with(make_app, "Flask-Login")
    app.config["REMEMBER_COOKIE_REFRESH_EACH_REQUEST"] = True
    ask(app.test_client())
    assert len(dispatched) == 3


def test_a_hook_that_is_marked_as_indifferent_is_not_called(make_app, dispatched):
    app, calls = make_app(), []

    @app.after_request
    @indifferent_to_predictions
    def count(response):
        calls.append(request.path)
        response.headers["X-Count"] = str(len(calls))
        return response

    client = app.test_client()
    assert "X-Count" not in ask(client).headers
    assert calls == ["/predict"] and len(dispatched) == 1
    client.get("/livez")
    assert calls == ["/predict", "/livez"]


def test_headers_of_unknown_origin_send_predictions_through_flask(make_app, dispatched, monkeypatch):
    app = make_app()
    build = Response.get_wsgi_headers

    def patched(self, environ):
        headers = build(self, environ)
        headers["X-Patched"] = "yes"
        return headers

    monkeypatch.setattr(Response, "get_wsgi_headers", patched)  # A patch that no condition knows.
    assert ask(app.test_client()).headers["X-Patched"] == "yes"
    assert len(dispatched) == 3
    assert "X-Patched" in app.extensions["direct"].describe()


def test_always_skips_the_hooks_of_the_app_and_warns(make_app, dispatched, caplog):
    app, calls = make_app(DIRECT="always"), []

    @app.before_request
    def require_login():
        calls.append(request.path)

    with caplog.at_level(logging.WARNING):
        ask(app.test_client())
    assert calls == ["/predict"] and len(dispatched) == 1
    assert "require_login" in caplog.text and "a login or a limit there does not apply" in caplog.text


def test_never_sends_every_prediction_through_flask(make_app, dispatched):
    app = make_app(DIRECT="never")
    ask(app.test_client())
    assert len(dispatched) == 3 and app.extensions["direct"].describe().endswith("because of the setting DIRECT")


def test_the_startup_line_names_the_function_in_the_way(make_app):
    app = make_app()

    @app.before_request
    def require_login():
        session.get("user")

    name = f"{__name__}.test_the_startup_line_names_the_function_in_the_way.<locals>.require_login"
    expected = f"predictions go through Flask because of before_request function {name}"
    assert app.extensions["direct"].describe() == expected
    app.teardown_request(lambda _: None)
    assert app.extensions["direct"].describe() == f"{expected} and 1 more"


def test_a_model_that_appears_later_is_answered_directly(client, dispatched, instance):
    assert client.post("/models/later/predict", json=ROW).status_code == 404
    train_into(instance, name="later")
    wait_until(lambda: client.post("/models/later/predict", json=ROW).status_code == 200)
    before = len(dispatched)
    assert ask(client, path="/models/later/predict").json["model"] == "later"
    assert len(dispatched) == before
