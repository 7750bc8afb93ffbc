"""Features proposed by a language model on any OpenAI-compatible server (vLLM, llama.cpp, Ollama, ...).

The model gets one question per statement, with the prompt in `prompt.txt`. Each usable answer is cached on disk under
the hash of statement, model and prompt. So an interrupted run can continue, and a second run asks only what has no
usable answer yet. Answers are not trusted: size and total time are bounded (`bounded.py`), and the text is checked
(`answer.py`). A feature must be a short sentence about the tracing, and its check must use a known quantity with
plausible bounds. Everything else is dropped and counted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

from etp_jax.errors import EtpError
from etp_jax.files import disk_errors, read_json, sealed, write_text
from etp_jax.json_text import parse_json
from etp_jax.plain import plain_line
from etp_jax.progress import Bar
from etp_jax.waveform.answer import read_answer
from etp_jax.waveform.bounded import read_url
from etp_jax.waveform.features import QUANTITIES
from etp_jax.waveform.source import Answers

PROMPT_VERSION = 1
"""Version of `prompt.txt`; increase it with every change."""
ATTEMPTS = 5
"""Maximum number of requests for one statement, if the server fails or its answers are unusable."""
FIRST_PAUSE_S = 1.0
"""Pause after the first failure, in seconds; doubled after each further failure."""
LONGEST_PAUSE_S = 60.0
"""Upper limit of a pause, in seconds."""
LONGEST_WAIT_S = 86400.0
"""Upper limit of the time for one answer, in seconds; a system's clock cannot count all numbers."""
PASSING = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""HTTP status codes of temporary failures, after which the request is repeated."""
MAX_BYTES = 2**20
"""Largest answer of a server that is read, in bytes."""
ANSWER_TOKENS = 700
"""Maximum length of an answer, in tokens; --dry-run counts this number for each answer."""
MOST_QUOTED = 300
"""Largest number of characters of a server's answer that a message quotes."""
KEY = "OPENAI_API_KEY"
"""Environment variable of the key that is sent; it is sent to the server alone, and no message holds it."""
CHARACTERS_PER_TOKEN = 4
"""Approximate number of characters per token in English text."""


@dataclass(frozen=True)
class Server:
    """Address of a server, and how requests are sent to it."""

    base_url: str
    """Base URL, up to and including the version: `http://localhost:8000/v1`."""
    model: str
    timeout_s: float = 120.0
    concurrency: int = 4
    """Number of concurrent requests."""


@dataclass(frozen=True)
class Plan:
    """Number and size of the questions that a run would ask."""

    statements: int
    cached: int
    prompt_tokens: int
    """Estimated number of tokens in the questions that are still to be asked."""

    def __str__(self) -> str:
        """Returns the lines that --dry-run prints."""
        questions = self.statements - self.cached
        return (
            f"statements: {self.statements}, answered before: {self.cached}, questions to ask: {questions}\n"
            f"tokens, estimated: {self.prompt_tokens} to read, at most {questions * ANSWER_TOKENS} to write"
        )


class LanguageModel:
    """Source of features that asks a language model."""

    def __init__(self, server: Server, cache: Path):
        """Sends no request yet.

        Args:
          server: the server to ask.
          cache: folder for the answers; it can be shared by several models and runs.

        Raises:
          EtpError: the address or the key cannot be part of a request, or the time limit is longer than a day.
        """
        if not _is_address(server.base_url):
            raise EtpError(f"--base-url {server.base_url}: must be an address such as http://localhost:8000/v1")
        if not 0 < server.timeout_s <= LONGEST_WAIT_S:
            raise EtpError(f"--timeout-s is {server.timeout_s:g}; it must be positive, and at most {LONGEST_WAIT_S:g}")
        if not (_key().isascii() and _key().isprintable()):
            raise EtpError(
                f"{KEY}: has a line break or a letter that cannot be sent; set the environment variable again"
            )
        self.server, self.cache = server, cache
        self.origin: dict[str, Any] = {
            "source": "llm",
            "model": server.model,
            "prompt_version": PROMPT_VERSION,
            "prompt_sha256": hashlib.sha256(_template().encode()).hexdigest(),
        }

    def plan(self, statements: list[str]) -> Plan:
        """Counts the questions that `propose` would ask."""
        missing = [text for text in statements if self._kept(text) is None]
        characters = sum(len(prompt(text)) for text in missing)
        return Plan(len(statements), len(statements) - len(missing), characters // CHARACTERS_PER_TOKEN)

    def propose(self, statements: list[str]) -> Answers:
        """Returns the features of each statement; a statement without a usable answer gets none, and is counted.

        Raises:
          EtpError: the server is unreachable or refuses, or the cache cannot be written. Answers so far stay cached.
        """
        with disk_errors(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
            self._ask_all([text for text in statements if self._kept(text) is None])
        rejected: Counter[str] = Counter()
        features = {}
        for text in statements:
            answer = read_answer(self._kept(text) or "", f"{self.server.model}, prompt {PROMPT_VERSION}")
            rejected.update(answer.flaws)
            features[text] = answer.features
        return Answers(features, rejected)

    def _ask_all(self, statements: list[str]) -> None:
        """Sends concurrent requests. After the first failure, no new request is sent; pending ones are completed."""
        stop = threading.Event()
        failures: list[EtpError] = []
        with (
            Bar(total=len(statements), unit="question", desc=f"ask {self.server.model}") as progress,
            ThreadPoolExecutor(self.server.concurrency) as pool,
        ):

            def ask(statement: str) -> None:
                if stop.is_set():
                    return
                try:
                    answer = self._ask(statement, stop)
                    if read_answer(answer, "").usable:  # otherwise the next run asks again
                        self._keep(statement, answer)
                    progress.update()
                except EtpError as error:
                    failures.append(error)
                    stop.set()

            try:
                for future in [pool.submit(ask, statement) for statement in statements]:
                    future.result()
            finally:
                stop.set()
        if failures:
            left = sum(self._kept(text) is None for text in statements)
            message = f"{failures[0]}; {left} questions are left, all answers so far are in {self.cache}; run it again"
            raise EtpError(message)

    def _ask(self, statement: str, stop: threading.Event) -> str:
        """Returns the first usable answer of the model, or the last of `ATTEMPTS` answers."""
        answer, failure, pause_s = None, "stopped", FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            try:
                answer = self._request(statement, attempt)
            except _TemporaryError as error:
                failure = str(error)
                if attempt + 1 == ATTEMPTS or stop.wait(min(max(pause_s, error.pause_s), LONGEST_PAUSE_S)):
                    break
                pause_s *= 2
            else:
                if read_answer(answer, "").usable:
                    return answer
        if answer is None:
            raise EtpError(f"{self.server.base_url}: {failure}")
        return answer

    def _request(self, statement: str, attempt: int) -> str:
        """Sends one request. The first asks for the most likely answer; repetitions sample a different one."""
        body = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": prompt(statement)}],
            "temperature": 0.0 if attempt == 0 else 0.7,
            "seed": attempt,
            "max_tokens": ANSWER_TOKENS,
            "response_format": {"type": "json_object"},
        }
        headers = {"Content-Type": "application/json"}
        if key := _key():
            headers["Authorization"] = f"Bearer {key}"
        url = self.server.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            reply = read_url(request, self.server.timeout_s, MAX_BYTES)
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            reason = _quoted(str(reason)) or type(error).__name__
            raise _TemporaryError(f"no answer ({reason}); is the server running?") from None
        if 200 <= reply.status < 300:
            return _content(reply.body)
        detail = _quoted(reply.body.decode("utf-8", "replace"))
        message = f"HTTP {reply.status} {_quoted(reply.reason)}" + (f" ({detail})" if detail else "")
        if reply.status in PASSING:
            raise _TemporaryError(message, _seconds(reply.headers.get("Retry-After")))
        if place := reply.headers.get("Location"):
            raise EtpError(f"{url}: {message}, a redirect to {_quoted(place)}; give the server's address as --base-url")
        raise EtpError(f"{url}: {message}; is --base-url or --model right?")

    def _file(self, statement: str) -> Path:
        key = json.dumps([statement, self.server.model, prompt(statement)])
        return self.cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _kept(self, statement: str) -> str | None:
        """Reads the cached answer to a statement; returns None if it is missing, was changed, or is unusable."""
        try:
            file = self._file(statement)
            if file.stat().st_size > 2 * MAX_BYTES:
                return None
            answer = read_json(file, "delete it", {"answer": str})["answer"]
        except (EtpError, OSError):
            return None
        return answer if read_answer(answer, "").usable else None

    def _keep(self, statement: str, answer: str) -> None:
        about = {"statement": statement, "model": self.server.model, "prompt_version": PROMPT_VERSION}
        with disk_errors(self.cache):
            write_text(self._file(statement), json.dumps(sealed({**about, "answer": answer}), indent=1) + "\n")


ANSWER_TYPES = {"choices": [{"message": {"content": str}}]}
"""Types of the fields of a chat completion that are read."""


class _TemporaryError(Exception):
    """A temporary failure, after which the request is repeated."""

    def __init__(self, message: str, pause_s: float = 0.0):
        super().__init__(message)
        self.pause_s = pause_s


def _seconds(text: str | None) -> float:
    """Parses the seconds of a `Retry-After` header; returns 0 if it is missing, a date or not finite."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _is_address(url: str) -> bool:
    """Whether a text is an address that a request can be sent to."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:  # brackets, a port that is no number, or a name that no host can have
        return False
    return bool(host) and parts.scheme in ("http", "https") and url.isascii() and url.isprintable() and " " not in url


def _key() -> str:
    """Returns the key that is sent, without the line break that ends a file; empty if none is set."""
    return os.environ.get(KEY, "").strip()


def _quoted(text: str) -> str:
    """Returns the beginning of a server's text as part of a message: one line, without control characters or the key.

    Some servers repeat the key in their refusal.
    """
    if key := _key():
        text = text.replace(key, f"[{KEY}]")
    return plain_line(text[: 2 * MOST_QUOTED]).strip()[:MOST_QUOTED]


def _content(body: bytes) -> str:
    """Extracts the text of a chat completion; returns an empty text if the body is not one."""
    try:
        return parse_json(body, ANSWER_TYPES)["choices"][0]["message"]["content"]
    except (ValueError, LookupError):
        return ""


def prompt(statement: str) -> str:
    """Builds the question about one statement."""
    quantities = "\n".join(
        f"- {name}: {quantity.meaning}"
        + (f", in {quantity.unit}" if quantity.unit else "")
        + "; of single leads" * quantity.per_lead
        for name, quantity in QUANTITIES.items()
    )
    return _template().format(statement=statement, quantities=quantities)


def _template() -> str:
    return resources.files("etp_jax.waveform").joinpath("prompt.txt").read_text(encoding="utf-8")
