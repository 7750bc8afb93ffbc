from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from etp_jax.errors import EtpError
from etp_jax.waveform import llm
from etp_jax.waveform.answer import read_answer
from etp_jax.waveform.bounded import read_url
from etp_jax.waveform.features import Check
from etp_jax.waveform.llm import LanguageModel, Server, prompt

GOOD = {"sentence": "QRS duration is 120 ms or longer", "quantity": "qrs_ms", "low": 120, "high": None, "leads": []}
PLAIN = {"sentence": "broad notched R waves are seen in the lateral leads", "quantity": None}
STATEMENTS = ["left bundle branch block", "sinus rhythm", "normal axis"]
Reply = tuple[int, str | bytes, dict[str, str]]
SECRET = "sk-0123456789"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


class Loopback:
    """An OpenAI-compatible server; `reply(statement, how often it was asked)` decides what it says."""

    def __init__(self) -> None:
        self.reply: Callable[[str, int], Reply] = lambda statement, count: said([GOOD])
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                statement = next(s for s in STATEMENTS if s in body["messages"][0]["content"])
                with loopback._lock:
                    loopback.asked.append(statement)
                    loopback.bodies.append({**body, "path": self.path})
                    loopback._now += 1
                    loopback.most_at_once = max(loopback.most_at_once, loopback._now)
                    count = loopback.asked.count(statement)
                status, text, headers = loopback.reply(statement, count)
                with loopback._lock:
                    loopback._now -= 1
                payload = text if isinstance(text, bytes) else text.encode()
                try:
                    self.send_response(status)
                    for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    pass  # the client did not wait

            def log_message(self, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


def said(features: list[Any] | None = None, text: str | None = None) -> Reply:
    content = json.dumps({"features": features}) if text is None else text
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr(llm, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(llm, "LONGEST_PAUSE_S", 0.05)
    loopback = Loopback()
    yield loopback
    loopback.http.shutdown()
    loopback.http.server_close()


def model(server: Loopback, cache: Path, **options: Any) -> LanguageModel:
    return LanguageModel(Server(server.url, "tiny", **{"timeout_s": 5.0, **options}), cache)


def test_every_statement_is_asked_once_and_never_again(server, tmp_path):
    server.reply = lambda statement, count: said([GOOD, PLAIN])
    answers = model(server, tmp_path / "cache").propose(STATEMENTS)
    assert sorted(server.asked) == sorted(STATEMENTS) and not answers.rejected
    features = answers.features["sinus rhythm"]
    assert [f.sentence for f in features] == [GOOD["sentence"], PLAIN["sentence"]]
    assert [f.check for f in features] == [Check("qrs_ms", low=120.0), None]
    assert all("tiny" in f.source for f in features)
    assert server.bodies[0]["path"] == "/v1/chat/completions" and server.bodies[0]["model"] == "tiny"
    assert model(server, tmp_path / "cache").propose(STATEMENTS) == answers
    assert len(server.asked) == len(STATEMENTS)
    other = LanguageModel(Server(server.url, "another"), tmp_path / "cache")
    assert other.plan(STATEMENTS).cached == 0


def test_dry_run_asks_nothing(server, tmp_path):
    asker = model(server, tmp_path / "cache")
    plan = asker.plan(STATEMENTS)
    characters = sum(len(prompt(statement)) for statement in STATEMENTS)
    assert (plan.statements, plan.cached, plan.prompt_tokens) == (3, 0, characters // 4)
    assert "questions to ask: 3" in str(plan) and server.asked == []
    asker.propose(STATEMENTS[:2])
    assert "questions to ask: 1" in str(asker.plan(STATEMENTS))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_are_waited_out(server, tmp_path, status):
    server.reply = lambda statement, count: said([GOOD]) if count > 2 else (status, "busy", {"Retry-After": "0.01"})
    answers = model(server, tmp_path).propose(STATEMENTS)
    assert all(answers.features.values()) and len(server.asked) == 9


def test_pauses_grow_and_follow_retry_after(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: pauses.append(seconds))
    monkeypatch.setattr(llm, "LONGEST_PAUSE_S", 60.0)
    monkeypatch.setattr(llm, "FIRST_PAUSE_S", 1.0)
    server.reply = lambda statement, count: (429, "", {"Retry-After": "7"} if count == 2 else {})
    with pytest.raises(EtpError, match="429"):
        model(server, tmp_path)._ask("sinus rhythm", threading.Event())
    assert [pause for pause in pauses if pause in (1, 2, 4, 7, 8)] == [1, 7, 4, 8]


def test_a_late_answer_is_asked_for_again(server, tmp_path):
    def reply(statement: str, count: int) -> Reply:
        if count == 1:
            time.sleep(0.6)
        return said([GOOD])

    server.reply = reply
    answers = model(server, tmp_path, timeout_s=0.3).propose(STATEMENTS[:1])
    assert answers.features[STATEMENTS[0]] and len(server.asked) == 2


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", "[]", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}']
)
def test_nonsense_replies_are_asked_again_then_given_up(server, tmp_path, body):
    server.reply = lambda statement, count: (200, body, {})
    answers = model(server, tmp_path).propose(STATEMENTS[:1])
    assert answers.features == {STATEMENTS[0]: ()} and answers.rejected == {"no JSON of features": 1}
    assert len(server.asked) == llm.ATTEMPTS
    assert model(server, tmp_path).propose(STATEMENTS[:1]) == answers, "it is asked again"
    assert len(server.asked) == 2 * llm.ATTEMPTS


def test_nonsense_once_is_overcome(server, tmp_path):
    server.reply = lambda statement, count: said(text="I am sorry") if count == 1 else said([GOOD])
    answers = model(server, tmp_path).propose(STATEMENTS[:1])
    assert answers.features[STATEMENTS[0]] and server.bodies[1]["temperature"] > server.bodies[0]["temperature"] == 0


def test_no_more_questions_at_a_time_than_allowed(server, tmp_path):
    def reply(statement: str, count: int) -> Reply:
        time.sleep(0.1)
        return said([GOOD])

    server.reply = reply
    model(server, tmp_path, concurrency=2).propose(STATEMENTS)
    assert server.most_at_once == 2


def test_a_refusal_stops_at_once_with_one_line(server, tmp_path):
    server.reply = lambda statement, count: (404, "model 'tiny' not found\n", {})
    with pytest.raises(EtpError, match=r"HTTP 404.*model 'tiny' not found.*--model") as error:
        model(server, tmp_path, concurrency=1).propose(STATEMENTS)
    assert "\n" not in str(error.value) and len(server.asked) == 1


def test_a_dead_server_loses_nothing(server, tmp_path):
    server.reply = lambda statement, count: said([GOOD]) if statement == STATEMENTS[0] else (500, "down", {})
    with pytest.raises(EtpError, match=r"HTTP 500.*2 questions are left.*run it again") as error:
        model(server, tmp_path, concurrency=1).propose(STATEMENTS)
    assert "\n" not in str(error.value)
    server.reply = lambda statement, count: said([PLAIN])
    before = len(server.asked)
    answers = model(server, tmp_path).propose(STATEMENTS)
    assert sorted(server.asked[before:]) == sorted(STATEMENTS[1:])
    assert answers.features[STATEMENTS[0]][0].check == Check("qrs_ms", low=120.0)


def test_no_server_at_all(server, tmp_path):
    dead = LanguageModel(Server("http://127.0.0.1:9/v1", "tiny"), tmp_path)
    with pytest.raises(EtpError, match=r"127\.0\.0\.1:9.*refused.*is the server running") as error:
        dead.propose(STATEMENTS)
    assert "\n" not in str(error.value)
    with pytest.raises(EtpError, match="must be an address"):
        LanguageModel(Server("localhost:8000", "tiny"), tmp_path)


def test_a_full_disk_is_one_line_and_loses_nothing(server, tmp_path, monkeypatch):
    asker = model(server, tmp_path, concurrency=1)
    asker.propose(STATEMENTS[:1])

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(llm, "write_text", full)
        with pytest.raises(EtpError, match=r"No space left on device.*2 questions are left") as error:
            asker.propose(STATEMENTS)
    assert "\n" not in str(error.value)
    assert asker.plan(STATEMENTS).cached == 1 and all(asker.propose(STATEMENTS).features.values())


def test_a_damaged_answer_on_disk_is_asked_for_again(server, tmp_path):
    model(server, tmp_path).propose(STATEMENTS)
    for damage in (lambda text: text[:-9], lambda text: text.replace("QRS", "QRX")):
        asked, file = len(server.asked), next(tmp_path.glob("*.json"))
        file.write_text(damage(file.read_text()))
        answers = model(server, tmp_path).propose(STATEMENTS)
        assert len(server.asked) == asked + 1
        assert {f.sentence for some in answers.features.values() for f in some} == {GOOD["sentence"]}


@pytest.mark.parametrize(
    ("entry", "flaw"),
    [
        ({**GOOD, "quantity": "aura_hz"}, "quantity"),
        ({**GOOD, "low": 12000}, "bounds"),
        ({**GOOD, "low": 200, "high": 100}, "bounds"),
        ({**GOOD, "low": None}, "bounds"),
        ({**GOOD, "low": "wide"}, "form"),
        ({**GOOD, "low": True}, "form"),
        ({**GOOD, "leads": ["V1"]}, "leads"),
        ({**GOOD, "quantity": "st_uv", "low": 100, "leads": ["V9"]}, "leads"),
        ({**GOOD, "quantity": "st_uv", "low": 100, "leads": ["V1", "V1"]}, "leads"),
        ({**GOOD, "quantity": "st_uv", "low": 100, "leads": []}, "leads"),
        ({**GOOD, "quantity": "st_uv", "low": 100, "leads": ["V1"], "at_least": 3}, "leads"),
        ({**GOOD, "quantity": ["qrs_ms"]}, "form"),
        ({"sentence": "the patient's chest hurts badly"}, "sentence not about the tracing"),
        ({"sentence": "QRS"}, "sentence"),
        ({"sentence": "QRS is wide. T waves are tall"}, "sentence"),
        ({"sentence": "QRS " * 40}, "sentence"),
        ({"sentence": "QRS is wide\x1b[31m"}, "sentence"),
        ({"sentence": 7}, "form"),
        ("QRS is wide", "form"),
        (None, "form"),
    ],
)
def test_invented_and_malformed_features_are_dropped(entry, flaw):
    answer = read_answer(json.dumps({"features": [entry, PLAIN]}), "")
    assert [f.sentence for f in answer.features] == [PLAIN["sentence"]] and answer.flaws == (flaw,)


def test_thoughts_fences_and_repetitions_do_not_matter():
    text = f"<think>{{maybe}}</think>Here:\n```json\n{json.dumps({'features': [GOOD, PLAIN, GOOD]})}\n```"
    assert [f.sentence for f in read_answer(text, "").features] == [GOOD["sentence"], PLAIN["sentence"]]
    assert read_answer('{"features": []}', "").usable


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"features": "none"}', '{"features": ', "{" * 5000 + "}"])
def test_no_json_of_features(text):
    answer = read_answer(text, "")
    assert not answer.usable and answer.features == ()


@pytest.mark.parametrize("text", ["{" * 300_000, "{}" * 150_000, "</think>" * 50_000, "```{" * 90_000])
def test_a_rambling_answer_takes_time_in_proportion(text):
    """A regular expression took an hour for opening braces."""
    started = time.process_time()
    assert not read_answer(text, "").usable
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "answer",
    [b"x" * (llm.MAX_BYTES + 1), said([{**GOOD, "low": 10**400}])[1], str(said([])[1])[:-1] + "[" * 100_000],
    ids=["2 MiB", "a number of 400 digits", "brackets"],
)
def test_a_bad_answer_is_not_cached_and_asked_for_again(server, tmp_path, answer):
    server.reply = lambda statement, count: (200, answer, {})
    with contextlib.suppress(EtpError):  # an answer that is too large counts as none
        assert not any(model(server, tmp_path).propose(STATEMENTS[:1]).features.values())
    assert not list(tmp_path.iterdir())
    server.reply = lambda statement, count: said([GOOD])
    assert all(model(server, tmp_path).propose(STATEMENTS[:1]).features.values())


@contextlib.contextmanager
def raw(*pieces: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """The address of a server that sends these bytes to everyone, the last of them again and again if it pauses."""
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(2**16)
            for piece in pieces:
                connection.sendall(piece)
            while pause_s and not ended.wait(pause_s):
                connection.sendall(pieces[-1])

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    ended.set()
    listener.close()


DRIPS = {
    "head": (OK + b"X-A: ", b"x"),
    "body": (OK + b"Content-Length: 999\r\n\r\n", b"x"),
    "error": (b"HTTP/1.1 404 No\r\nContent-Length: 999\r\n\r\n", b"x"),
    "chunks of an error": (b"HTTP/1.1 404 No\r\n" + CHUNKED, b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_server_that_drips_is_left_after_the_time_limit(kind):
    begun = time.monotonic()
    with raw(*DRIPS[kind], pause_s=0.05) as url, pytest.raises(TimeoutError, match="not complete after"):
        read_url(urllib.request.Request(url, b"{}"), 0.5, 2**20)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("size", [b"-1", b"-5", b"zz", b"F" * 5000])
@pytest.mark.parametrize("status", [OK, b"HTTP/1.1 404 No\r\n"])
def test_a_chunk_of_an_impossible_size_ends_the_answer_within_its_bound(size, status):
    with raw(status + CHUNKED + size + b"\r\n", *[b" " * 2**20] * 64) as url:
        tracemalloc.start()
        with pytest.raises((HTTPException, OSError)):
            read_url(urllib.request.Request(url, b"{}"), 5, 2**20)
        assert tracemalloc.get_traced_memory()[1] < 2**23
        tracemalloc.stop()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "place", ["{other}/chat/completions", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1/"]
)
def test_a_redirect_is_not_followed_and_the_key_stays_with_its_server(server, tmp_path, monkeypatch, status, place):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    other = Loopback()
    place = place.format(other=other.url)
    server.reply = lambda statement, count: (status, "", {"Location": place})
    with pytest.raises(EtpError, match=rf"HTTP {status}.*a redirect to {re.escape(place)}; give .*--base-url"):
        model(server, tmp_path).propose(STATEMENTS[:1])
    assert len(server.asked) == 1 and other.asked == []
    other.http.shutdown()
    other.http.server_close()


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 401 {SECRET}\r\n\r\nwrong key: {SECRET}\x1b[2J\r\n\x85\u2028   ",
        f"HTTP/1.1 500 Bad\x1b[31m\r\n\r\n{' ' * 290}{SECRET}",
        f"{SECRET} \x1b[2J nonsense\r\n",
    ],
)
def test_a_refusal_is_quoted_on_one_line_without_the_key(server, tmp_path, monkeypatch, answer):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with raw(answer.encode()) as url, pytest.raises(EtpError, match="OPENAI_API_KEY") as error:
        LanguageModel(Server(url, "tiny", 5.0), tmp_path).propose(STATEMENTS[:1])
    message = str(error.value)
    assert len(message.splitlines()) == 1 and message.isprintable() and SECRET[:6] not in message


def test_the_key_of_a_file_is_sent_without_its_line_break_and_no_other_is_printed(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    model(server, tmp_path).propose(STATEMENTS[:1])
    for key in (f"{SECRET}\r\nX: y", f"{SECRET}é"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(EtpError, match=r"OPENAI_API_KEY: .*set") as error:
            model(server, tmp_path)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["http://", "http://[::1/v1", "http://a:b/v1", "http://a..b/v1", "http://a b/v1", "http://a/é", "http://a/\n"],
)
def test_an_impossible_address_is_refused_before_anything_is_asked(tmp_path, url):
    with pytest.raises(EtpError, match="must be an address such as"):
        LanguageModel(Server(url, "tiny"), tmp_path)


@pytest.mark.parametrize("seconds", [0.0, float("nan"), 86401.0, 1e300])
def test_a_time_limit_that_no_clock_can_count_is_refused(server, tmp_path, seconds):
    with pytest.raises(EtpError, match=r"--timeout-s is .*; it must be positive, and at most 86400"):
        model(server, tmp_path, timeout_s=seconds)


@pytest.mark.parametrize("answer", [b"\x16\x03\x01" + b"\xff" * 100, b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_without_the_encryption_of_its_address_is_named(server, tmp_path, answer):
    with raw(answer) as url, pytest.raises(EtpError, match=r"https://.*no answer \(.*SSL.*questions are left"):
        LanguageModel(Server(url.replace("http:", "https:"), "tiny", 5.0), tmp_path).propose(STATEMENTS[:1])
