"""Asks an OpenAI-compatible endpoint for JSON: answers are kept in the catalog, errors waited out, tokens counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.answers import Categories, read_json
from fastlt.data_prep.discover.completion import CUT_OFF, NO_JSON, Completion
from fastlt.data_prep.discover.options import EndpointOptions
from fastlt.data_prep.discover.progress import UNREADABLE
from fastlt.data_prep.discover.prompt import Message, without_system
from fastlt.data_prep.retry_after import retry_after
from fastlt.foreign import Secrets, shown_url, without_credentials
from fastlt.messages import one_line

if TYPE_CHECKING:
    from openai import APIError

FORMATS = ("json_schema", "json_object", "text")  # what servers know, best first
REPAIRS = 2  # how often a model is told that its answer was no JSON
REPAIR = "That was not the JSON object that was asked for. Answer with that JSON object and nothing else."
FAILED_IN_A_ROW = 3  # questions without an answer after which the endpoint is given up
MAX_BACKOFF = 60.0
HTTP_RETRIED = (408, 409, 425)  # besides 429 and 5xx
ABOUT_SYSTEM = re.compile(  # as chat templates and servers word that a model has no system role
    r"system.{0,3} (?:role|message|prompt|instruction)|role(?!['\"]\s*:)\W.{0,120}\bsystem\b"
    r"|developer instruction|roles must alternate|only user(?:,| and) (?:model|assistant)",
    re.IGNORECASE,
)


class EndpointError(ValueError):
    """There is no point in asking again."""


class UnansweredError(Exception):
    """One question got no answer; another day may be better."""


class UnreadableError(Exception):
    """A model's answers to one question cannot be read; the next run asks again."""


class Llm:
    """Asks questions whose answers are JSON of a given shape.

    Answers lie in the catalog under the SHA-256 of model, messages and schema: whoever asks the same again, in this
    run or another and wherever the endpoint has moved, gets them from there. Of an answer that cannot be used only the
    cost is kept.

    Attributes:
        asked, reused: answers of the endpoint, and of the catalog, in this run.
        unusable: how many of the asked could not be used, by reason.
        tokens: what all answers in the catalog cost.
        stopped: why no more is asked, once that is so.
    """

    def __init__(self, catalog: Catalog, endpoint: EndpointOptions) -> None:
        from openai import AsyncOpenAI  # slow to import

        from fastlt.data_prep.discover.client import EndpointClient

        self._catalog = catalog
        self._endpoint = endpoint
        self._secrets = Secrets(endpoint.secrets)
        # The client's own retries neither know of each other nor wait longer than two minutes: ours do. Servers without
        # keys ignore the key, but the client wants one.
        try:
            transport = EndpointClient(endpoint.timeout, self._secrets)
        except (ValueError, ImportError) as error:  # of a proxy that the environment names
            said = self._secrets.hide(without_credentials(str(error)))
            raise ValueError(f"the proxy of this environment cannot be used: {said}.") from None
        self._client = AsyncOpenAI(
            api_key=endpoint.key or "none",
            base_url=endpoint.url,
            max_retries=0,
            timeout=endpoint.timeout,
            http_client=transport,
        )
        costs = catalog.answer_costs()
        self.tokens: int = costs["prompt_tokens"] + costs["completion_tokens"]
        self._dearest: int = costs["dearest"]  # tokens of one question
        self.asked = self.reused = 0
        self.unusable: Counter[str] = Counter()
        self.stopped: EndpointError | None = None
        self._asking: dict[str, asyncio.Lock] = {}
        self._reserved = 0  # tokens for the questions in flight
        self._format = 0  # of FORMATS
        self._format_works = False
        self._has_system_role = True
        self._limit_name = "max_tokens"
        self._reached = False
        self._not_before = 0.0  # nobody sends before
        self._failed_in_a_row = 0

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, messages: list[Message], shape: type[Categories]) -> Categories:
        """The answer to a chat; a model whose answer is no such JSON is told so and asked again.

        Raises:
            UnansweredError: the endpoint fails at this question.
            UnreadableError: the model answers, but not what was asked for.
            EndpointError: nothing more can be asked, for example as the tokens are used up.
        """
        key = key_of(self._endpoint.model, messages, shape)
        async with self._asking.setdefault(key, asyncio.Lock()):  # two classes may ask the same
            found = read_json(self._catalog.answer(key), shape)
            if found is None:
                found = await self._new_answer(key, messages, shape)
            else:
                self.reused += 1
            # Again: a name may be in JSON in the text of a JSON, with escapes that hid what it is.
            return shape(categories=[self._secrets.hide(name) for name in found.categories])

    async def _new_answer(self, key: str, messages: list[Message], shape: type[Categories]) -> Categories:
        fault = ""
        for _ in range(1 + REPAIRS):
            prompt_tokens = sum(len(message["content"].encode()) for message in messages) // 3  # rather high
            reserved = self._reserve(max(prompt_tokens + 200, self._dearest))
            try:
                completion = await self._send_until_answered(messages, shape.model_json_schema())
            finally:
                self._reserved -= reserved
            text, found = completion.answer(shape)
            self._keep(key, self._secrets.hide(text), completion, prompt_tokens)
            if found is not None:
                return found
            fault = completion.fault
            self.unusable[fault] += 1
            self._catalog.count_unusable_answer(fault)
            said = {"role": "assistant", "content": completion.said[:2000] or "(nothing)"}
            messages = [*messages, said, {"role": "user", "content": REPAIR}]
        raise UnreadableError(UNREADABLE + ("" if fault == NO_JSON else f" ({fault})"))

    def _keep(self, key: str, text: str, completion: Completion, prompt_tokens: int) -> None:
        prompt_tokens = completion.prompt_tokens or prompt_tokens  # not every server tells
        completion_tokens = completion.completion_tokens or completion.length // 3
        self._catalog.keep_answer(key, self._endpoint.model, text, prompt_tokens, completion_tokens)
        self.asked += 1
        self.tokens += prompt_tokens + completion_tokens
        self._dearest = max(self._dearest, prompt_tokens + completion_tokens)

    @property
    def unusable_told(self) -> str:
        """How many answers could not be used and why, in a sentence; "" where all could."""
        if not self.unusable:
            return ""
        mend = {CUT_OFF: f"{CUT_OFF} (a higher --max-tokens allows longer answers)"}
        why = ", ".join(f"{number:,} {mend.get(fault, fault)}" for fault, number in self.unusable.most_common())
        return f"{self.unusable.total():,} of {self.asked:,} answers could not be used: {why}"

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

    async def _send_until_answered(self, messages: list[Message], schema: dict[str, Any]) -> Completion:
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

    async def _send(self, messages: list[Message], schema: dict[str, Any]) -> Completion:
        """Sends once; what the endpoint refuses to be told is told otherwise.

        A refused format is followed by the next simpler one where the endpoint has not answered yet.
        """
        from openai import APIError, BadRequestError, UnprocessableEntityError

        refusal = None
        position = self._format
        while True:
            wording = self._has_system_role, self._limit_name
            try:
                completion = await self._post(messages, schema, FORMATS[position])
            except APIError as error:
                self._reached |= _status(error) is not None
                if self._words_otherwise(error, *wording):
                    continue
                if self._format_works or not isinstance(error, (BadRequestError, UnprocessableEntityError)):
                    raise
                refusal = refusal or error
                position += 1
                if position == len(FORMATS):
                    raise refusal from None
            else:
                self._format, self._format_works = position, True
                return completion

    def _words_otherwise(self, error: APIError, had_system_role: bool, limit_name: str) -> bool:
        """Whether what was refused is now said in another way: the system's text, or the limit of an answer."""
        if had_system_role and ABOUT_SYSTEM.search(error.message):
            self._has_system_role = False
            return True
        if limit_name == "max_tokens" and "max_completion_tokens" in error.message:
            self._limit_name = "max_completion_tokens"
            return True
        return False

    async def _post(self, messages: list[Message], schema: dict[str, Any], name: str) -> Completion:
        from openai import APIResponseValidationError

        given: dict[str, Any] = {"messages": messages if self._has_system_role else without_system(messages)}
        if name != "text":
            given["response_format"] = _response_format(name, schema)
        if self._endpoint.max_tokens:
            given[self._limit_name] = self._endpoint.max_tokens
        raw = await self._client.chat.completions.with_raw_response.create(model=self._endpoint.model, **given)
        try:
            return Completion.read(raw.http_response.content)
        except ValueError as error:
            raise APIResponseValidationError(raw.http_response, None, message=str(error)) from None

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
        elif getattr(error, "are_all_so", False):
            self._stop(_said(error))
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
        return shown_url(str(self._client.base_url))


def key_of(model: str, messages: list[Message], shape: type[Categories]) -> str:
    """What an answer lies under in the catalog."""
    everything = json.dumps([model, messages, shape.model_json_schema()], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()


def _response_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name == "json_object":
        return {"type": name}
    return {"type": name, "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _status(error: APIError) -> int | None:
    return getattr(error, "status_code", None)


def _may_pass(error: APIError) -> bool:
    status = _status(error)
    if hasattr(error, "are_all_so"):  # an answer that is too long will be so again
        return False
    return status is None or status < 400 or status >= 500 or status in HTTP_RETRIED


def _said(error: APIError) -> str:
    """An error in a few words."""
    status = _status(error)
    said = f"{status}: {error.message}" if status else str(error.__cause__ or "") or error.message
    return one_line(without_credentials(said), 200)
