from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import tempfile
import threading
import time

import pytest

pytest.importorskip("fastapi", reason='needs the extra "serve"')
from starlette.testclient import TestClient

import boneage.serving.server as server_module
from boneage.radiographs.dicom_headers import _age
from boneage.serving.app import create_app
from boneage.serving.asking import Reply
from boneage.serving.guard import Settings
from boneage.serving.problems import is_busy
from boneage.serving.uploads import safe_name

FILE = {"image": ("hand.png", b"0123456789")}
API = ("/v1/predict", "/v1/explain", "/v1/dicom/report", "/v1/dicom/image")


class FakeWorkers:
    """Answers with what it was asked, without a process."""

    def __init__(self):
        self.is_ready = True
        self.description = {"models": [], "views": [1]}
        self.waiting = self.in_progress = self.restarts = 0
        self.process_ids = [os.getpid()]
        self.asked = []
        self.problem = None
        self.media_type = "application/json"
        self.seconds = 0.0
        self.was_cancelled = False

    async def answer(self, asked, content):
        if self.problem is not None:
            raise self.problem
        self.asked.append((asked, content))
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        body = json.dumps({"status": "answered", **vars(asked)}).encode()
        return Reply(200, self.media_type, body, "answered")


@pytest.fixture
def workers():
    return FakeWorkers()


@pytest.fixture
def log():
    return []


@pytest.fixture
def client(workers, log):
    with TestClient(create_app(workers, Settings(log=log.append)), "http://localhost") as client:
        yield client


def problem(response, status):
    """The detail of a problem, which has to be one."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == status
    assert set(found) == {"type", "title", "status", "detail"}
    return found["detail"]


def test_the_worker_gets_what_the_form_says(client, workers):
    data = {"sex": "F", "chronological_age_months": "118.5", "pictures": "true"}
    answered = client.post("/v1/predict", files=FILE, data=data)
    assert (answered.status_code, answered.json()["status"]) == (200, "answered")
    ((asked, content),) = workers.asked
    assert content == b"0123456789"
    assert (asked.kind, asked.name, asked.sex) == ("predict", "hand.png", "F")
    assert (asked.chronological_age_months, asked.has_pictures) == (118.5, True)


def test_empty_fields_are_as_none(client, workers):
    empty = dict.fromkeys(("sex", "chronological_age_months", "birth_date", "study_date"), "")
    assert client.post("/v1/explain", files=FILE, data=empty).status_code == 200
    asked, _ = workers.asked[0]
    assert (asked.kind, asked.sex, asked.chronological_age_months) == ("explain", None, None)
    assert not asked.has_pictures


@pytest.mark.parametrize("kind", ["report", "image"])
def test_dicom_is_a_download(client, workers, kind):
    workers.media_type = "application/dicom"
    answered = client.post(f"/v1/dicom/{kind}", files=FILE)
    assert answered.headers["content-type"] == "application/dicom"
    assert answered.headers["content-disposition"] == f'attachment; filename="boneage-{kind}.dcm"'


@pytest.mark.parametrize(
    ("born", "examined"), [("2004-02-29", "2014-08-26"), ("2014-08-26", "2014-08-26")]
)
def test_dates_give_whole_months_as_a_dicom_header_does(client, workers, born, examined):
    from datetime import date

    client.post("/v1/predict", files=FILE, data={"birth_date": born, "study_date": examined})
    expected = _age(date.fromisoformat(born), date.fromisoformat(examined), "").months
    assert workers.asked[0][0].chronological_age_months == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sex": "X"}, "sex"),
        ({"sex": "f"}, "sex"),
        ({"chronological_age_months": "ten"}, "no number"),
        ({"chronological_age_months": "nan"}, "no number"),
        ({"chronological_age_months": "-1"}, "impossible"),
        ({"chronological_age_months": "481"}, "impossible"),
        ({"birth_date": "2004-02-29"}, "both"),
        ({"birth_date": "2004-02-30", "study_date": "2014-08-26"}, "date is wrong"),
        ({"birth_date": "20040229", "study_date": "2014-08-26"}, "date is wrong"),
        ({"birth_date": "2014-08-27", "study_date": "2014-08-26"}, "after the radiograph"),
        ({"birth_date": "1900-01-01", "study_date": "2014-08-26"}, "impossible"),
        (
            {"chronological_age_months": "9", "birth_date": "2014-01-01"},
            "not both",
        ),
        ({"pictures": "maybe"}, "pictures"),
        ({"age": "9"}, "unknown"),
        ({"sex": ["F", "M"]}, "twice"),
    ],
)
def test_a_wrong_field_is_a_problem(client, workers, data, message):
    assert message in problem(client.post("/v1/predict", files=FILE, data=data), 422)
    assert not workers.asked


def test_a_form_that_is_none_is_a_problem(client, workers):
    problem(client.post("/v1/predict", json={"sex": "F"}), 415)
    problem(client.post("/v1/predict"), 415)
    assert "no radiograph" in problem(client.post("/v1/predict", files={"image": ("", b"")}), 422)
    unknown = {**FILE, "other": ("b.png", b"x")}
    problem(client.post("/v1/predict", files=unknown), 400)
    problem(client.post("/v1/predict", files={"other": ("b.png", b"x")}), 422)
    long = client.post("/v1/predict", files=FILE, data={"sex": "F" * 5000})
    assert "maximum size of 1KB" in problem(long, 400)
    kind = {"content-type": "multipart/form-data"}
    problem(client.post("/v1/predict", content=b"--x", headers=kind), 400)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    problem(client.post("/v1/predict", content=b"nothing of the kind", headers=kind), 400)
    form = b'--x\r\nContent-Disposition: form-data; name="sex"\r\n\r\nF\r\n--x--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x; charset=undefined"}
    problem(client.post("/v1/predict", content=form, headers=kind), 400)
    assert not workers.asked


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\Jane Doe\\hand.png", "hand.png"),
        ("a\x00b\x1b[31m\r\n.png", "ab[31m.png"),
        ("\u202egnp.exe", "gnp.exe"),
        ("x" * 500 + ".png", "x" * 196 + ".png"),
        ("..", "radiograph"),
        ("a/", "radiograph"),
        ("", "radiograph"),
    ],
)
def test_of_a_name_the_last_part_is_kept(name, shown):
    assert safe_name(name) == shown


def test_a_file_that_is_too_large_is_refused_before_and_while_it_is_read(workers, log):
    settings = Settings(log=log.append, largest_upload=2**20, body_bytes=2**20)
    with TestClient(create_app(workers, settings)) as client:
        large = {"image": ("hand.png", bytes(2**20 + 2**15))}
        assert "1 MiB" in problem(client.post("/v1/predict", files=large), 413)
        boundary = b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
        kind = {"content-type": "multipart/form-data; boundary=x"}

        def chunks():
            yield boundary
            for _ in range(40):
                yield bytes(2**15)

        problem(client.post("/v1/predict", content=chunks(), headers=kind), 413)
        whole = {"image": ("hand.png", bytes(2**19))}
        for _ in range(4):  # what was held is given back
            assert client.post("/v1/predict", files=whole).status_code == 200
    settings = Settings(log=log.append, body_bytes=2**18)
    with TestClient(create_app(workers, settings)) as client:
        full = client.post("/v1/predict", files=whole)
        problem(full, 503)
        assert full.headers["retry-after"]


def test_nothing_is_written_to_a_disk(client, workers, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))  # a file would fail there
    content = os.urandom(3 * 2**20)
    assert client.post("/v1/predict", files={"image": ("a.png", content)}).status_code == 200
    assert workers.asked[0][1] == content


def test_a_server_that_is_not_ready_says_when_to_try_again(client, workers):
    assert client.get("/readyz").status_code == 200
    workers.is_ready, workers.description = False, {}
    assert client.get("/healthz").status_code == 200
    for response in (
        client.get("/readyz"),
        client.get("/v1/models"),
        client.post("/v1/predict", files=FILE),
    ):
        problem(response, 503)
        assert int(response.headers["retry-after"]) > 0


def test_a_full_queue_is_a_problem(client, workers):
    workers.problem = is_busy("Too many requests wait.")
    busy = client.post("/v1/predict", files=FILE)
    assert "Too many" in problem(busy, 503)
    assert int(busy.headers["retry-after"]) > 0


def test_an_error_of_the_server_shows_nothing_of_itself(client, workers, log):
    workers.problem = ZeroDivisionError("Jane Doe")
    failed = client.post("/v1/predict", files=FILE)
    problem(failed, 500)
    assert "Jane" not in failed.text
    assert "default-src 'none'" in failed.headers["content-security-policy"]
    assert log[0] == "error: ZeroDivisionError"
    assert not [line for line in log if "Jane" in line]


def test_wrong_addresses_and_methods_are_problems(client):
    problem(client.get("/nothing"), 404)
    problem(client.get("/page/absent.js"), 404)
    wrong = client.get("/v1/predict")
    problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    problem(client.request("BREW", "/v1/predict"), 405)


def test_with_a_token_only_the_page_is_open(workers, log):
    settings = Settings(log=log.append, token="s3cret")
    with TestClient(create_app(workers, settings)) as client:
        for path in ("/", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        protected = ["/v1/models", "/metrics", "/docs", "/openapi.json", "/v1/absent"]
        for given in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Basic s3cret"}):
            for path in protected:
                refused = client.get(path, headers=given)
                problem(refused, 401)
                assert refused.headers["www-authenticate"] == "Bearer"
            problem(client.post("/v1/predict", files=FILE, headers=given), 401)
        right = {"authorization": "Bearer s3cret"}
        for path in protected[:-1]:
            assert client.get(path, headers=right).status_code == 200
        assert client.post("/v1/predict", files=FILE, headers=right).status_code == 200
        described = client.get("/openapi.json", headers=right).json()
        assert described["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]
    assert "s3cret" not in " ".join(log)


def test_a_page_that_makes_its_name_point_here_is_refused(workers, log):
    hosts = frozenset(("localhost", "127.0.0.1", "::1"))
    with TestClient(create_app(workers, Settings(log=log.append, hosts=hosts))) as client:
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", ""):
            problem(client.get("/", headers={"host": host}), 421)
            problem(client.post("/v1/predict", files=FILE, headers={"host": host}), 421)
        crossing = {"host": "localhost", "sec-fetch-site": "cross-site"}
        problem(client.post("/v1/predict", files=FILE, headers=crossing), 403)
    assert not workers.asked


def test_every_response_has_the_headers_that_protect(client):
    for response in (
        client.get("/"),
        client.get("/nothing"),
        client.get("/docs"),
        client.get("/v1/models"),
        client.post("/v1/predict", files=FILE),
        client.post("/v1/predict"),
    ):
        headers = response.headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert "set-cookie" not in headers
        assert "server" not in headers
        assert not [name for name in headers if name.startswith("access-control")]
    assert client.post("/v1/predict", files=FILE).headers["cache-control"] == "no-store"


def test_a_line_of_the_log_names_the_route_and_nothing_that_was_sent(client, log):
    files = {"image": ("Doe^Jane.dcm", b"x")}
    client.post("/v1/predict?name=Jane", files=files, data={"sex": "F"})
    client.get("/page/Jane.js")
    client.get("/Jane")
    for line, start in zip(
        log, ("POST /v1/predict 200", "GET /page/{name:path} 404", "GET other 404"), strict=True
    ):
        assert re.fullmatch(re.escape(start) + r" \d+ ms", line)


def test_pages_are_those_of_the_package_alone(client):
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["cache-control"] == "no-cache"
    again = client.get("/", headers={"if-none-match": index.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200
    assert client.get("/page/index.html").content == index.content
    for path in ("..%2fapp.py", "%2e%2e/app.py", "../app.py", "%2fetc%2fpasswd", "texts", ""):
        problem(client.get(f"/page/{path}"), 404)


def test_the_api_is_described_with_its_fields(client):
    described = client.get("/openapi.json").json()
    assert set(API) | {"/v1/models", "/healthz", "/readyz", "/metrics"} == set(described["paths"])
    schemas = described["components"]["schemas"]
    for path in API:
        post = described["paths"][path]["post"]
        form = post["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
        fields = schemas[form.rpartition("/")[2]]["properties"]
        assert {"image", "sex", "chronological_age_months", "birth_date"} <= set(fields)
        assert all(field["description"] for field in fields.values())
        assert {"200", "413", "422", "503", "504"} <= set(post["responses"])
        assert "application/problem+json" in post["responses"]["422"]["content"]
        assert {"401", "403", "421", "431", "500"} <= set(post["responses"])
    assert {"401", "503"} <= set(described["paths"]["/v1/models"]["get"]["responses"])
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
    assert references <= set(schemas)
    page = client.get("/docs").text
    assert "curl -F image=@hand.png" in page
    assert "<script" not in page
    assert 'href="/' not in page  # it may be below a path
    for word in ("predicted_age_months", "birth_date", "/v1/dicom/report", "http://localhost"):
        assert word in page


def test_what_is_counted(client, workers):
    workers.waiting, workers.restarts = 3, 2
    client.post("/v1/predict", files=FILE)
    client.get("/nothing/1")
    client.get("/nothing/2")
    counted = client.get("/metrics")
    assert counted.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = counted.text.splitlines()
    for line in (
        'boneage_requests_total{method="POST",route="/v1/predict",status="200"} 1.0',
        'boneage_requests_total{method="GET",route="other",status="404"} 2.0',
        'boneage_answers_total{kind="predict",outcome="answered"} 1.0',
        'boneage_request_seconds_count{route="/v1/predict"} 1.0',
        "boneage_requests_waiting 3.0",
        "boneage_requests_in_progress 0.0",
        "boneage_worker_restarts_total 2.0",
    ):
        assert line in lines
    assert 'boneage_resident_memory_bytes{process="workers"}' in counted.text


# --- Over a socket.


@pytest.fixture
def listen(workers, log, monkeypatch):
    """Starts a server in a thread: its port."""
    monkeypatch.setattr(server_module, "_HEAD_SECONDS", 0.5)
    with contextlib.ExitStack() as stack:

        def listen(**settings):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            app = create_app(workers, Settings(log=log.append, **settings))
            ready, stop = threading.Event(), threading.Event()

            async def main():
                serving = asyncio.ensure_future(server_module.serve(app, listener, ready.set))
                while not stop.is_set():
                    await asyncio.sleep(0.02)
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

            thread = threading.Thread(target=asyncio.run, args=(main(),))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            assert ready.wait(10)
            return port

        yield listen


def talk(port, *parts, pause=0.0):
    """What the server says to bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        said = b""
        with contextlib.suppress(ConnectionError):  # the server closes early
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                said += part
        return said


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n"
FORM = HEAD + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"


def test_a_slow_body_is_given_up(listen):
    port = listen(body_pause=0.2)
    start = time.monotonic()
    said = talk(port, FORM, b"--x\r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in said
    assert time.monotonic() - start < 15
    port = listen(body_seconds=0.3)
    slow = talk(port, FORM, b"--x\r\nA: ", *[b"b"] * 6, pause=0.1)
    assert slow.startswith(b"HTTP/1.1 408 ")


def test_a_slow_or_huge_head_is_given_up(listen):
    port = listen()
    start = time.monotonic()
    assert talk(port, b"GET / HTTP/1.1\r\nHost: ", b"localhost") == b""
    assert talk(port) == b""
    assert 0.9 < time.monotonic() - start < 15
    huge = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"y" * 100_000
    for said in (talk(port, huge + b"\r\n\r\n"), talk(port, huge)):
        assert said.startswith(b"HTTP/1.1 431 ")
        assert b"application/problem+json" in said
    assert talk(port, b"\x16\x03\x01 nothing of the kind\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_body_that_is_no_http_ends_without_a_trace_when_the_response_has_begun(listen, caplog):
    head = HEAD.replace(b"Content-Length: 900", b"Transfer-Encoding: chunked") + b"\r\n"
    said = talk(listen(), head, b"Jane Doe\r\n", pause=0.2)
    assert said.startswith(b"HTTP/1.1 415 ")
    assert not caplog.records


def test_a_client_that_sends_more_than_is_allowed_reads_why(listen, workers):
    port = listen(largest_upload=2**20)
    size = 4 * 2**20
    head = FORM.replace(b"Content-Length: 900", f"Content-Length: {size}".encode())
    said = talk(port, head, bytes(size))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in said.lower()
    assert not workers.asked


@pytest.mark.parametrize("requests", [1, 2])
def test_a_client_that_does_not_read_is_given_up(listen, workers, monkeypatch, requests):
    monkeypatch.setattr(server_module, "_NEXT_SECONDS", 0.5)
    given_up, own = threading.Event(), server_module.BoundedProtocol.connection_lost

    def connection_lost(self, error):
        own(self, error)
        given_up.set()

    monkeypatch.setattr(server_module.BoundedProtocol, "connection_lost", connection_lost)
    port = listen()
    workers.description = {"notes": ["x" * 30_000_000]}
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(requests * b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert given_up.wait(30)
        size = 0
        with contextlib.suppress(ConnectionError):
            while part := client.recv(2**20):
                size += len(part)
    assert 0 < size < 30_000_000


def test_a_client_that_goes_cancels_its_request(listen, workers):
    workers.seconds = 30.0
    port = listen()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nb\r\n--x--\r\n'
    )
    head = FORM.replace(b"Content-Length: 900", f"Content-Length: {len(body)}".encode())
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head + body)
        end = time.monotonic() + 20
        while not workers.asked and time.monotonic() < end:
            time.sleep(0.02)
    while not workers.was_cancelled and time.monotonic() < end:
        time.sleep(0.02)
    assert workers.was_cancelled
