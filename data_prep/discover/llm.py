"""Asks an OpenAI-compatible endpoint for JSON: answers are kept in the catalog, errors waited out, tokens counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.options import EndpointOptions
from fastlt.data_prep.retry_after import retry_after

if TYPE_CHECKING:
    from openai import APIError
    from openai.types.chat import ChatCompletion

Message = dict[str, str]
Shape = TypeVar("Shape", bound=BaseModel)

FORMATS = ("json_schema", "json_object", "text")  # what servers know, best first
REPAIRS = 2  # how often a model is told that its answer was no JSON
REPAIR = "That was not the JSON object that was asked for. Answer with that JSON object and nothing else."
FAILED_IN_A_ROW = 3  # questions without an answer after which the endpoint is given up
MAX_BACKOFF = 60.0
HTTP_RETRIED = (408, 409, 425)  # besides 429 and 5xx


class EndpointError(ValueError):
    """There is no point in asking again."""


class UnansweredError(Exception):
    """One question got no answer; another day may be better."""


class UnreadableError(Exception):
    """A model's answers to one question cannot be read; they are kept, so it would not be asked again."""


class Llm:
    """Asks questions whose answers are JSON of a given shape.

    Answers lie in the catalog under the SHA-256 of model, messages and schema: whoever asks the same again, in this
    run or another and wherever the endpoint has moved, gets them from there.

    Attributes:
        asked, reused: answers of the endpoint, and of the catalog, in this run.
        tokens: what all answers in the catalog cost.
        stopped: why no more is asked, once that is so.
    """

    def __init__(self, catalog: Catalog, endpoint: EndpointOptions) -> None:
        from openai import AsyncOpenAI  # slow to import

        self._catalog = catalog
        self._endpoint = endpoint
        # The client's own retries neither know of each other nor wait longer than two minutes: ours do. Servers without
        # keys ignore the key, but the client wants one.
        self._client = AsyncOpenAI(
            api_key=endpoint.key or "none", base_url=endpoint.url, max_retries=0, timeout=endpoint.timeout
        )
        costs = catalog.answer_costs()
        self.tokens: int = costs["prompt_tokens"] + costs["completion_tokens"]
        self._dearest: int = costs["dearest"]  # tokens of one question
        self.asked = self.reused = 0
        self.stopped: EndpointError | None = None
        self._asking: dict[str, asyncio.Lock] = {}
        self._reserved = 0  # tokens for the questions in flight
        self._format = 0  # of FORMATS
        self._format_works = False
        self._reached = False
        self._not_before = 0.0  # nobody sends before
        self._failed_in_a_row = 0

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, messages: list[Message], shape: type[Shape]) -> Shape:
        """The answer to a chat; a model whose answer is no such JSON is told so and asked again.

        Raises:
            UnansweredError: the endpoint fails at this question.
            UnreadableError: the model answers, but not what was asked for.
            EndpointError: nothing more can be asked, for example as the tokens are used up.
        """
        for _ in range(1 + REPAIRS):
            content = await self._answer(messages, shape.model_json_schema())
            found = read_json(content, shape)
            if found is not None:
                return found
            said = {"role": "assistant", "content": content[:2000] or "(nothing)"}
            messages = [*messages, said, {"role": "user", "content": REPAIR}]
        raise UnreadableError("the model does not answer with the JSON that it was asked for")

    async def _answer(self, messages: list[Message], schema: dict[str, Any]) -> str:
        everything = json.dumps([self._endpoint.model, messages, schema], sort_keys=True)
        key = hashlib.sha256(everything.encode()).hexdigest()
        async with self._asking.setdefault(key, asyncio.Lock()):  # two classes may ask the same
            kept = self._catalog.answer(key)
            if kept is not None:
                self.reused += 1
                return kept
            return await self._new_answer(key, messages, schema)

    async def _new_answer(self, key: str, messages: list[Message], schema: dict[str, Any]) -> str:
        prompt_tokens = sum(len(message["content"].encode()) for message in messages) // 3  # an estimate, rather high
        reserved = self._reserve(max(prompt_tokens + 200, self._dearest))
        try:
            completion = await self._send_until_answered(messages, schema)
        finally:
            self._reserved -= reserved
        content = (completion.choices[0].message.content or "").encode(errors="replace").decode()
        usage = completion.usage  # not every server tells
        prompt_tokens = (usage and usage.prompt_tokens) or prompt_tokens
        completion_tokens = (usage and usage.completion_tokens) or len(content.encode()) // 3
        self._catalog.keep_answer(key, self._endpoint.model, content, prompt_tokens, completion_tokens)
        self.asked += 1
        self.tokens += prompt_tokens + completion_tokens
        self._dearest = max(self._dearest, prompt_tokens + completion_tokens)
        return content

    def _reserve(self, tokens: int) -> int:
        limit = self._endpoint.max_tokens_total
        if limit is not None and self.tokens + self._reserved + tokens > limit:
            self._stop(
                f"the limit of {limit:,} tokens is reached: {self.tokens:,} are used, by this catalog's earlier runs "
                f"too, and the next question may take {tokens:,}. A higher --max-tokens-total continues from here"
            )
        if self.stopped:
            raise self.stopped
        self._reserved += tokens
        return tokens

    def _stop(self, why: str) -> None:
        """From now on nothing is sent; the first reason counts."""
        self.stopped = self.stopped or EndpointError(why)

    async def _send_until_answered(self, messages: list[Message], schema: dict[str, Any]) -> ChatCompletion:
        from openai import APIError

        sent, failures, waited, until = 0, 0, 0.0, 0.0
        while True:
            await self._wait_for_turn(until)
            try:
                completion = await self._send(messages, schema)
            except APIError as error:
                self._stop_if_hopeless(error)
                sent += 1
                wait, until = self._postpone(error, sent)
                if _status(error) == 429:
                    waited += wait
                    if waited > self._endpoint.max_wait:
                        self._stop(
                            f"{self._where} limits our rate and asks for a wait of {wait:,.0f} s ({_said(error)}); one "
                            f"question waits {self._endpoint.max_wait:,.0f} s at most, as --max-wait says"
                        )
                else:
                    failures += 1
                    if failures >= self._endpoint.attempts or not _may_pass(error):
                        self._count_failure(error)
                        raise UnansweredError(_said(error)) from None
            else:
                self._failed_in_a_row = 0
                return completion

    async def _wait_for_turn(self, until: float) -> None:
        while not self.stopped and (rest := max(until, self._not_before) - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, 0.5))  # short, to see that another has stopped
        if self.stopped:
            raise self.stopped

    async def _send(self, messages: list[Message], schema: dict[str, Any]) -> ChatCompletion:
        """Sends once; where the endpoint has not answered yet, a refused format is followed by the next simpler one."""
        from openai import APIResponseValidationError, BadRequestError, UnprocessableEntityError

        refusal = None
        for position in range(self._format, len(FORMATS)):
            given: dict[str, Any] = {"messages": messages}
            if position < 2:
                given["response_format"] = _response_format(FORMATS[position], schema)
            try:
                raw = await self._client.chat.completions.with_raw_response.create(model=self._endpoint.model, **given)
            except (BadRequestError, UnprocessableEntityError) as error:
                self._reached = True
                if self._format_works:
                    raise
                refusal = refusal or error
                continue
            self._reached = True
            try:
                completion: Any = raw.parse()
                usable = bool(completion.choices and completion.choices[0].message)
            except (AttributeError, TypeError, ValueError):  # prose, half a JSON, another JSON
                usable = False
            if not usable:
                raise APIResponseValidationError(
                    raw.http_response, None, message=f"no chat completion but {raw.http_response.text[:80]!r}"
                )
            self._format, self._format_works = position, True
            return completion
        assert refusal is not None
        raise refusal

    def _stop_if_hopeless(self, error: APIError) -> None:
        status = _status(error)
        self._reached |= status is not None
        if status in (401, 403):
            self._stop(f"{self._where} refuses the key ({_said(error)}): see --key-env")
        elif status == 404:
            self._stop(
                f"{self._where} knows no model {self._endpoint.model!r} or no chat ({_said(error)}): "
                "see --model, and --base-url, which mostly ends in /v1"
            )
        elif status == 429 and error.code == "insufficient_quota":
            self._stop(f"the account at {self._where} is out of credit ({_said(error)})")
        elif type(error.__cause__).__name__ == "ConnectError" and not self._reached:  # of httpx, or what follows it
            self._stop(f"{self._where} cannot be reached ({_said(error)}), so it may not be running")
        if self.stopped:
            raise self.stopped

    def _count_failure(self, error: APIError) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            self._stop(f"{self._where} failed at {FAILED_IN_A_ROW} questions in a row ({_said(error)})")

    def _postpone(self, error: APIError, sent: int) -> tuple[float, float]:
        """Seconds until the next attempt, and the time of it; where the endpoint asks for patience, everyone waits."""
        response = getattr(error, "response", None)
        told = retry_after(response.headers) if response is not None else None
        wait = told or min(MAX_BACKOFF, 0.5 * 2 ** (sent - 1)) * random.uniform(0.75, 1.25)
        until = time.monotonic() + wait
        if told or _status(error) == 429:
            if 10 < wait <= self._endpoint.max_wait and until > self._not_before + 1:
                tqdm.write(f"fastlt: waiting {wait:,.0f} s: {_said(error)}", file=sys.stderr)
            self._not_before = max(self._not_before, until)
        return wait, until

    @property
    def _where(self) -> str:
        return str(self._client.base_url)


def read_json(text: str, shape: type[Shape]) -> Shape | None:
    """The last JSON value of that shape in a text, which may have prose, thoughts or a fence around it.

    Nothing is repaired: an answer that was cut off is none, and the model is asked again.
    """
    found = None
    for value in _json_values(re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)):
        try:
            found = shape.model_validate(value)
        except ValidationError:
            continue
    return found


def _json_values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    position = 0
    while start := re.compile(r"[{\[]").search(text, position):
        try:
            value, position = decoder.raw_decode(text, start.start())
            yield value
        except json.JSONDecodeError:
            position = start.end()
        except RecursionError:  # brackets without end, each of which would be as slow
            return


def _response_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name == "json_object":
        return {"type": name}
    return {"type": name, "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _status(error: APIError) -> int | None:
    return getattr(error, "status_code", None)


def _may_pass(error: APIError) -> bool:
    status = _status(error)
    return status is None or status < 400 or status >= 500 or status in HTTP_RETRIED


def _said(error: APIError) -> str:
    """An error in a few words."""
    status = _status(error)
    return f"{status}: {error.message}"[:200] if status else (str(error.__cause__ or "") or error.message)[:200]
