"""Requests that a server should survive, each made from a seed and its number."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.serving.hostile_files import BOMBS, MUTATIONS, other_file
from experiments.serving.uploads import BOUNDARY, IDENTITY, MEDIA_TYPE, Field, Upload, form

Rng = np.random.Generator
Pieces = Iterable[bytes]
Headers = Sequence[tuple[str, str]]
CLOSED = 0
"""Stands among the statuses for a connection that is closed without an answer."""
_FILES = frozenset({200, 422, 503, 504})
_MALFORMED = frozenset({CLOSED, 400, 404, 405, 408, 411, 413, 414, 415, 417, 421, 422, 431, 505})
_READ_OR_REFUSED = _FILES | _MALFORMED
ROUTES = ("/v1/predict", "/v1/dicom/report", "/v1/dicom/image", "/v1/explain")
_ROUTES = ("/v1/predict",) * 6 + ROUTES
_PAUSE = 0.5


@dataclass(frozen=True)
class Attack:
    """One hostile request.

    Attributes:
        kind: The name of its kind.
        pieces: What is sent.
        expected: The statuses that are a good end.
        pause: Seconds between the pieces.
        ending: What follows the last piece: the attacker waits for the answer, says that nothing
            more comes, or drops the connection.
        replies: The answers that are waited for.
        upload: The radiograph, if an answer to it must still be right.
    """

    kind: str
    pieces: Pieces
    expected: frozenset[int]
    pause: float = 0.0
    ending: Literal["wait", "half-close", "abort"] = "wait"
    replies: int = 1
    upload: Upload | None = None

    @property
    def is_slow(self) -> bool:
        """Whether it is to last as long as the server allows."""
        return self.kind.startswith("slow ")


def message(
    body: bytes, headers: Headers = (), method: str = "POST", target: str = "/v1/predict"
) -> bytes:
    """Return a request whose headers are right, unless `headers` has others of these names."""
    given = {name.lower() for name, _ in headers}
    usual = [("Host", "127.0.0.1"), ("Content-Type", MEDIA_TYPE)]
    usual += [("Content-Length", str(len(body)))]
    chosen = [each for each in usual if each[0].lower() not in given]
    return head([*chosen, *headers], f"{method} {target} HTTP/1.1") + body


def head(headers: Headers, first: str = "POST /v1/predict HTTP/1.1") -> bytes:
    """Return the head of a request as it is, however wrong."""
    lines = [first, *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def choose(rng: Rng, values: Sequence[str]) -> str:
    """Return one of the values."""
    return values[int(rng.integers(len(values)))]


def some(uploads: Sequence[Upload], rng: Rng) -> Upload:
    """Return one of the uploads."""
    return uploads[int(rng.integers(len(uploads)))]


def mutated(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A radiograph with damage of one kind, or of two."""
    upload = some(uploads, rng)
    content, names = upload.content, []
    for _ in range(rng.integers(1, 3)):
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        content = mutation(content, rng) if len(content) > 8 else content
        names.append(mutation.__name__)
    changed = Upload(upload.name, content, upload.sex)
    body = changed.body(pictures="true") if rng.random() < 0.3 else changed.body()
    return Attack("mutated file", [message(body, target=choose(rng, _ROUTES))], _FILES)


def bomb(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A file that is small, and large when it is read."""
    content = BOMBS[rng.integers(len(BOMBS))]()
    body = Upload(f"{IDENTITY}.png", content, "F").body()
    return Attack("bomb", [message(body, target=choose(rng, _ROUTES))], _FILES)


def no_radiograph(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A file of another kind, by a radiograph's name."""
    body = Upload(f"{IDENTITY}.dcm", other_file(rng), "M").body()
    return Attack(
        "no radiograph", [message(body, target=choose(rng, _ROUTES))], _FILES | {400, 415}
    )


def name(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A file name that is a path, or worse."""
    names = (
        f"../../../etc/passwd/{IDENTITY}",
        f"..\\..\\windows\\{IDENTITY}",
        f"/tmp/{IDENTITY}.png",
        f"{IDENTITY}\0.png",
        f"{IDENTITY}\r\nX-Evil: 1\r\n.png",
        IDENTITY * 1000,
        f"CON.{IDENTITY}",
        "CON",
        "",
        ".",
        "..",
        f'{IDENTITY}"; name="sex',
        f"{IDENTITY}\udcff\udcfe.png",
        f"{IDENTITY}\u202egnp.exe",
        f"%2e%2e%2f{IDENTITY}",
        f"<script>{IDENTITY}</script>.png",
        f"$(touch {IDENTITY}); `touch {IDENTITY}`",
        f"{IDENTITY}{{}}%s%n.png",
        "\U0001f9b4.png",
    )
    upload = some(uploads, rng)
    renamed = Upload(choose(rng, names), upload.content, upload.sex, upload.months)
    return Attack(
        "path-like name", [message(renamed.body())], frozenset({200, 400, 422}), upload=renamed
    )


def odd_value(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A sex, an age or a date that is impossible."""
    sexes = ("X", "f\0", "FM", "[]", "female or male", "F" * 100_000, "\u2640", "1", "null", "-")
    ages = ("NaN", "nan", "inf", "-Infinity", "-1", "1e309", "1e400", "99999", "0x10", "ten", "1,5")
    ages += ("1__0", "\u0663\u0663x", "9" * 5000, "--1", "[1]", "true")
    dates = ("0000-00-00", "2020-02-30", "99999-01-01", "yesterday", "2020-1", "-1-1-1", "\0")
    dates += ("2020-01-01T25:00", "1" * 10_000, "20200101x", "2020-13-01")
    upload = some(uploads, rng)
    which = rng.integers(4)
    if which == 0:
        body = upload.body(sex=choose(rng, sexes))
    elif which == 1:
        body = upload.body(chronological_age_months=choose(rng, ages))
    elif which == 2:
        body = upload.body(birth_date=choose(rng, dates), study_date="2024-05-06")
    else:  # a study before the birth
        body = upload.body(birth_date="2024-05-06", study_date="2020-05-06")
    return Attack("odd sex, age or date", [message(body)], frozenset({400, 413, 422}))


def wrong_type(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A media type that is no form, or a form without its boundary."""
    types = ("application/json", "text/plain", "", "multipart/form-data", "image/png", "*/*", "\0")
    types += ("multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 5000)
    types += ("multipart/mixed; boundary=" + BOUNDARY, "application/x-www-form-urlencoded")
    types += ("multipart/form-data; boundary=\u00e9\u00e9", "multipart/form-data;;;=;boundary==")
    types += ("multipart/form-data; charset=utf-7; boundary=other", "application/dicom")
    body = some(uploads, rng).body()
    if rng.random() < 0.3:
        body = json.dumps({"image": "QUJD", "sex": "F"}).encode()
    kinds = [("Content-Type", choose(rng, types))]
    return Attack("wrong media type", [message(body, kinds)], frozenset({CLOSED, 400, 415, 422}))


def broken_form(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A form whose parts or boundaries are wrong."""
    upload = some(uploads, rng)
    body, mark = upload.body(), f"--{BOUNDARY}".encode()
    image: Field = ("image", upload.name, upload.content)
    bodies: tuple[Callable[[], bytes], ...] = (
        lambda: body[: -len(mark) - 6],
        lambda: body.replace(mark, b"--other"),
        lambda: body.replace(b"\r\n", b"\n"),
        lambda: body.replace(b"Content-Disposition", b"Content-Nothing"),
        lambda: body.replace(b"form-data;", b""),
        lambda: body.replace(b'name="image"', b""),
        lambda: body.replace(b'name="image"', b'name="image'),
        lambda: body.replace(b'name="image"', b'name="images"'),
        lambda: mark * 10_000,
        lambda: (mark + b"\r\n") * 10_000,
        lambda: mark + b"\r\n" + b"X: y\r\n" * 50_000,
        lambda: mark + b"\r\nX: " + b"y" * 2_000_000,
        lambda: mark + b"--\r\n",
        lambda: b"",
        lambda: b"\r\n" * 100_000,
        lambda: form([image, image]),
        lambda: form([("image", None, upload.content), ("sex", None, b"F")]),
        lambda: form([image, ("sex", "sex.txt", b"F")]),
        lambda: form([image, ("sex", None, b"F"), ("sex", None, b"M")]),
        lambda: form([("sex", None, b"F")]),
        lambda: form([("image", "inner", form([image]))]),
        lambda: body + body,
    )
    chosen = bodies[rng.integers(len(bodies))]()
    return Attack("broken form", [message(chosen)], frozenset({200, 400, 413, 415, 422}))


def many_fields(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Thousands of fields, or of files, or a field of megabytes."""
    upload = some(uploads, rng)
    image: Field = ("image", upload.name, upload.content)
    which = rng.integers(4)
    count = int(rng.integers(2000, 10_000))
    if which == 0:
        fields = [image, *((f"field{number}", None, b"x") for number in range(count))]
    elif which == 1:
        fields = [*(("image", "x.png", b"x") for _ in range(count)), image]
    elif which == 2:
        fields = [image, ("sex", None, b"F" * 20_000_000)]
    else:
        fields = [image, ("s" * 1_000_000, None, b"F")]
    return Attack(
        "thousands of fields", [message(form(fields))], frozenset({CLOSED, 400, 413, 422})
    )


def huge_header(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A header of megabytes, thousands of headers, or an address without an end."""
    body = some(uploads, rng).body()
    many = [(f"X-{number}", IDENTITY) for number in range(int(rng.integers(2000, 20_000)))]
    sends: tuple[Callable[[], bytes], ...] = (
        lambda: message(body, [("X-Large", "x" * int(rng.integers(100_000, 5_000_000)))]),
        lambda: message(body, [("Cookie", IDENTITY * 20_000)]),
        lambda: message(body, many),
        lambda: message(body, [("X" * 200_000, "y")]),
        lambda: message(body, target="/v1/predict?" + "x" * 200_000),
        lambda: message(body, target="/" + "a/" * 100_000),
        lambda: message(body, method="P" * 100_000),
        lambda: message(body, [("Authorization", "Bearer " + "t" * 500_000)]),
    )
    return Attack("huge header", [sends[rng.integers(len(sends))]()], _MALFORMED)


def wrong_method(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A method that the route does not have."""
    methods = ("PUT", "DELETE", "PATCH", "TRACE", "GET", "FOO", "post", "PROPFIND", "CONNECT")
    sent = message(some(uploads, rng).body(), method=choose(rng, methods))
    return Attack("wrong method", [sent], frozenset({CLOSED, 400, 405, 501}))


def unknown_route(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """An address that is none, or that leads out of the page's folder."""
    targets = ("/page/../../../etc/passwd", "/page/..%2f..%2f..%2fetc/passwd", "//etc/passwd")
    targets += ("/samples/%2e%2e/%2e%2e/pyproject.toml", "/samples/..\\..\\x", "/page/%00", "*")
    targets += (f"/{IDENTITY}", f"/v1/{IDENTITY}?name={IDENTITY}", "/v1/predict/", "/page/", "%")
    targets += ("/samples/" + "a" * 5000, "/.git/config", "/page/%c0%af%c0%af", "/v1/models/x")
    targets += ("http://example.org/", "/page/texts/../../asking.py", "/page/page.css/..", "?", "#")
    body = some(uploads, rng).body() if rng.random() < 0.3 else b""
    sent = message(body, method="POST" if body else "GET", target=choose(rng, targets))
    return Attack(
        "unknown route", [sent], frozenset({CLOSED, 301, 307, 308, 400, 404, 405, 414, 431})
    )


def wrong_length(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A Content-Length that is no number, too large, or there twice."""
    body = some(uploads, rng).body()
    lengths = ("-1", "1e6", "0x100", "9" * 30, str(10**13), "+5", "5, 6", "", " ", "\u0663")
    headers = [("Content-Length", choose(rng, lengths))]
    if rng.random() < 0.3:
        headers = [("Content-Length", str(len(body))), ("Content-Length", "5")]
    return Attack("wrong length", [message(body, headers)], _MALFORMED)


def smuggled(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Two statements of where the body ends, and a second request behind it."""
    body = some(uploads, rng).body()
    hidden = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    size = ("Content-Length", str(len(body)))
    sends: tuple[tuple[Headers, bytes], ...] = (
        ([size, ("Transfer-Encoding", "chunked")], b"0\r\n\r\n" + hidden),
        ([("Transfer-Encoding", "chunked"), ("Content-Length", "4")], b"0\r\n\r\n" + hidden),
        ([("Transfer-Encoding", "identity"), size], body),
        ([("Transfer-Encoding", "xchunked"), size], body),
        ([("Transfer-Encoding", "gzip, chunked")], b"0\r\n\r\n" + hidden),
        ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "x")], b"0\r\n\r\n" + hidden),
        ([("Transfer-Encoding ", "chunked"), size], body),
        ([("Transfer-Encoding", "chunked\n"), size], body),
        ([("Content-Encoding", "gzip"), size], body),
        ([("Content-Length", "0")], hidden),
        ([("X-Evil", "a\r\nX-Other: b"), size], body),
        ([("X-Evil", "a\nX-Other: b"), size], body),
        ([("X-Evil", "a\0b"), size], body),
        ([("X-Evil", "a\r\n continued"), size], body),
        ([("Host", "evil.example"), ("Host", "other.example"), size], body),
    )
    headers, rest = sends[rng.integers(len(sends))]
    media = [("Host", "127.0.0.1")] if not any(name == "Host" for name, _ in headers) else []
    sent = head([*media, ("Content-Type", MEDIA_TYPE), *headers]) + rest
    # 501: h11 has no other transfer coding than chunked.
    return Attack("request smuggling", [sent], _READ_OR_REFUSED | {501})


def chunked(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Chunks that are wrong, or a good body in tiny chunks."""
    start = head(
        [("Host", "127.0.0.1"), ("Content-Type", MEDIA_TYPE), ("Transfer-Encoding", "chunked")]
    )
    upload = some(uploads, rng)
    body = upload.body()
    tiny = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (body[place : place + 97] for place in range(0, len(body), 97))
    )
    if rng.random() < 0.3:
        expected = frozenset({200, 411})
        return Attack("chunks", [start + tiny + b"0\r\n\r\n"], expected, upload=upload)
    wrong = (b"-5\r\nhello\r\n", b"FFFFFFFFFFFFFFFF\r\nx", b"zz\r\n", b"5;" + b"x" * 100_000)
    wrong += (b"5\r\nhello!!\r\n", b"0x5\r\nhello\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"1" * 100_000)
    wrong += (b"0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",)
    sent = start + wrong[int(rng.integers(len(wrong)))]
    return Attack("chunks", [sent], _MALFORMED, ending="half-close")


def endless(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A body in chunks that never ends, or more bytes than any radiograph has."""
    large = b"100000\r\n" + bytes(2**20) + b"\r\n"
    usual = [("Host", "127.0.0.1"), ("Content-Type", MEDIA_TYPE)]
    if rng.random() < 0.5:
        start = [*usual, ("Transfer-Encoding", "chunked")]
        pieces = itertools.chain([head(start)], itertools.repeat(large, 4096))
    else:
        start = [*usual, ("Content-Length", str(2**34))]
        pieces = itertools.chain([head(start)], itertools.repeat(large, 4096))
    return Attack("endless body", pieces, frozenset({CLOSED, 400, 408, 411, 413}))


def not_http(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Another protocol, or an old form of this one."""
    body = some(uploads, rng).body()
    old = f"POST /v1/predict HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    upgrade = [("Host", "127.0.0.1"), ("Connection", "Upgrade")]
    sends = (
        rng.bytes(5000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.bytes(512),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"\r\n" * 1000,
        b"\0" * 1000,
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        old + body,
        head([*upgrade, ("Upgrade", "websocket")], "GET / HTTP/1.1"),
        head([*upgrade, ("Upgrade", "h2c")], "GET / HTTP/1.1"),
        b"A-ASSOCIATE-RQ" + bytes(200),
    )
    sent = sends[int(rng.integers(len(sends)))]
    return Attack("another protocol", [sent], _READ_OR_REFUSED | {426}, ending="half-close")


def pipelined(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Many requests at once on one connection."""
    count = int(rng.integers(2, 40))
    upload = some(uploads, rng)
    health = head([("Host", "127.0.0.1")], "GET /healthz HTTP/1.1")
    sent = health * count + message(upload.body())
    return Attack("pipelining", [sent], frozenset({200}), replies=count + 1, upload=upload)


def short_body(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Fewer bytes than Content-Length says; then the sender says that there are no more."""
    body = some(uploads, rng).body()
    sent = message(body)
    kept = len(sent) - int(rng.integers(1, len(body)))
    return Attack("short body", [sent[:kept]], _MALFORMED, ending="half-close")


def aborted(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """The sender leaves in the middle, or before the answer."""
    sent = message(some(uploads, rng).body(), target=choose(rng, _ROUTES))
    share = rng.choice([0.01, 0.5, 0.999, 1.0])
    return Attack(
        "aborted", [sent[: round(len(sent) * share)]], frozenset({CLOSED}), ending="abort"
    )


def expecting(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """The sender asks whether it may send, and sends at once; or asks for what is unknown."""
    upload = some(uploads, rng)
    asked = choose(rng, ("100-continue", "100-CONTINUE", "200-ok"))
    sent = message(upload.body(), [("Expect", asked)])
    return Attack("expectation", [sent], frozenset({200, 417}), upload=upload)


def _trickle(content: bytes) -> Iterator[bytes]:
    """Give one byte at a time, without an end."""
    yield from (content[place : place + 1] for place in range(len(content)))
    while True:
        yield b"x"


def slow_body(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """Half of the body, then a byte now and then."""
    sent = message(some(uploads, rng).body())
    place = len(sent) // 2
    pieces = itertools.chain([sent[:place]], _trickle(sent[place : place + 10_000]))
    return Attack("slow body", pieces, frozenset({CLOSED, 408}), pause=_PAUSE)


def slow_header(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A header that never ends, a byte now and then."""
    start = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
    pieces = itertools.chain([start], _trickle(b""))
    return Attack("slow header", pieces, frozenset({CLOSED, 400, 408, 431}), pause=_PAUSE)


def slow_silence(uploads: Sequence[Upload], rng: Rng) -> Attack:
    """A connection on which nothing comes: at all, or after a part of the request."""
    sent = message(some(uploads, rng).body())
    part = sent[: int(rng.choice([0, 20, 200, len(sent) // 2, len(sent) - 1]))]
    return Attack("slow silence", [part], frozenset({CLOSED, 400, 408}))


_SLOW = (slow_body, slow_header, slow_silence)
_FAST = (
    no_radiograph,
    name,
    odd_value,
    wrong_type,
    broken_form,
    many_fields,
    huge_header,
    wrong_method,
    unknown_route,
    wrong_length,
    smuggled,
    chunked,
    endless,
    not_http,
    pipelined,
    short_body,
    aborted,
    expecting,
)
# Of 50 in a row: 18 mutated files, 6 bombs, 2 of each slow kind, 1 or 2 of each other kind.
_TURN = (*(mutated,) * 18, *(bomb,) * 6, *_SLOW * 2, *_FAST, odd_value, name)


def attack(uploads: Sequence[Upload], seed: int, number: int) -> Attack:
    """Return one attack: always the same for a seed and a number."""
    rng = np.random.default_rng([seed, number])
    turn, place = divmod(number, len(_TURN))
    order = np.random.default_rng([seed, turn, 0x4F52]).permutation(len(_TURN))
    return _TURN[order[place]](uploads, rng)
