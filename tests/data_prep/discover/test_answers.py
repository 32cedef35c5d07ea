"""`fastlt discover` and what language models and their servers really say: nothing is made up, lost or kept in vain."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlt.cli import main
from fastlt.data_prep.discover.discover import Categories
from fastlt.data_prep.discover.llm import read_json

pytest.importorskip("openai")
from support.llm_server import Reply, completion, error, obliging
from support.paths import SHARED

CASES = SHARED / "cases" / "llm"
DRAFT = '{"categories": ["a draft"]}'
ANSWER = '{"categories": ["blue ray", "skate"]}'


def reply(finish: str = "stop", usage: object = None, choice: dict | None = None, **message: object) -> Reply:
    """A completion whose message has these fields."""
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    body["choices"] = [
        {"index": 0, "finish_reason": finish, "message": {"role": "assistant"} | message} | (choice or {})
    ]
    return Reply(body)


def first(bad: Reply):
    """An answer for the server: one that is bad, then good ones."""
    replies = [bad]
    return lambda question: replies.pop() if replies else obliging(question)


@pytest.fixture
def shark(desk):
    """A desk with one class, for which two categories are wanted."""
    desk.classes("shark\t500\n")
    discover = desk.discover
    desk.discover = lambda *more, **options: discover("--categories", 2, *more, **options)
    return desk


def found(desk) -> list[str]:
    return [title for (title,) in desk.rows("SELECT title FROM category ORDER BY title")]


# What a model says


@pytest.mark.parametrize(
    "said",
    [
        "{'categories': ['blue ray', 'skate',],}",
        "{'categories': ['blue ray', \"skate\"]}",
        "{categories: ['blue ray', // like it\n 'skate' # too\n/* no more */]}",
        "{\u201ccategories\u201d: [\u201cblue ray\u201d, \u201cskate\u201d]}",
        "```json\n" + ANSWER + "\n```\nThat is all I know [1].",
        ANSWER + ' (left out ["sawfish"], which is the target)',
        ANSWER + '\nExcluded: ["sawfish"]',
        ANSWER + '\nNot taken: {"categories": ["sawfish"]}',
        'Known: ["dogfish"].\n["blue ray", "skate"]',
        'Sure! Here they are: ["blue ray", "skate"]',
        '{"Auxiliary Categories": ["blue ray", "skate"], "excluded_categories": ["sawfish"]}',
        '{"CATEGORIES": ["blue\\nray", "skate", null]}',
        '{"result": {"Category Names": ["blue ray", "skate"]}}',
        '{"name": "answer", "arguments": {"categories": ["blue ray", "skate"]}}',
        '{"name": "answer", "arguments": "{\\"categories\\": [\\"blue ray\\", \\"skate\\"]}"}',
        '{"categories": [{"Category": "blue ray", "Reason": "flat"}, {"category_name": "skate"}]}',
        '{"categories": {"blue ray": "because it is flat", "skate": "alike"}}',
        '{"categories": {"1": "blue ray", "2": "skate"}}',
        '{"category": "blue ray"}\n{"category": "skate"}',
        json.dumps(ANSWER),
        "\\boxed{" + ANSWER + "}",
        "1. blue ray\n2. skate",
        "* blue ray\n  * flat\n  * gray\n* skate\n  * alike",
        '{"categories": ["blue ray", "skate", "cod"]}\nWait, "cod" is wrong. Corrected:\n' + ANSWER,
        "Here are two categories:\n\n* **blue ray** \u2013 flat, gray\n* **skate**: flat\n\nIs that what you want?",
    ],
)
def test_what_a_model_names_is_read_however_it_is_written(shark, said):
    shark.server.answer = first(completion(said))
    done = shark.discover()
    assert done.code == 0, done.err
    assert found(shark) == ["blue ray", "skate"]
    assert len(shark.server.asked) == 1


THOUGHTS = [
    ("<think>", "</think>"),
    ("<THINKING>", "</THINKING>"),
    ('<reasoning effort="high">', "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysisWe think of ", "assistantfinal"),
]


@pytest.mark.parametrize(("begin", "end"), THOUGHTS)
def test_thoughts_are_no_answer_whatever_marks_them(shark, begin, end):
    shark.server.answer = first(completion(f"{begin}\nMaybe {DRAFT}? Or [so].\n{end}\n{ANSWER}"))
    assert shark.discover().code == 0
    assert found(shark) == ["blue ray", "skate"]
    assert len(shark.server.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        *(f"{begin}\nMaybe {DRAFT}? Or" for begin, _ in THOUGHTS),
        f"<think>{DRAFT}</think> I would rather not.",
        f"{DRAFT} is what I think.</think>",
        f"<reasoning>It is <think>hard</think> {DRAFT}",
        "I cannot help, because:\n- the class is unclear\n- photographs are private",
        "Which of these do you mean:\n- the fish\n- the person",
        "Rays, skates and guitarfish [all of them].",
        '{"categories": ["I am sorry, I cannot help."]}',
        '{"categories": ["...", "..."]}',
        '{"categories": {"title": "Categories", "type": "array"}}',
        '{"type": "object", "properties": {"categories": {"type": "array"}}, "required": ["categories"]}',
        '{"excluded": ["sawfish"]}',
        '{"answer": {"categories": ["ray", "skate"]}, "notes": "They',
        '{"categories": "ray, skate"}',
        '{"error": "overloaded", "name": "ServerError"}',
        '{"name": "answer", "arguments": {}}',
        "[" * 300_000,
        "['" * 150_000,
        "<think>" * 50_000,
        '{"a":' * 100_000,
        '[{"a": "b"} x' * 20_000,
    ],
    ids=lambda said: said[:40],
)
def test_prose_refusals_and_what_was_cut_off_are_no_answer(shark, said):
    shark.server.answer = first(completion(said))
    done = shark.discover()
    assert done.code == 0, done.err
    assert found(shark) == ["shark cousin 0", "shark cousin 1"]
    assert len(shark.server.asked) == 2
    assert "1 of 2 answers could not be used: 1 " in done.err
    assert done.err.count("\n") == 1


# What a server makes of it


@pytest.mark.parametrize(
    "good",
    [
        reply(
            content=[
                {"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
                {"type": "text", "text": ANSWER},
            ]
        ),
        reply(content=[{"type": "text", "text": ANSWER[:9]}, {"type": "text", "text": ANSWER[9:]}]),
        reply(content=None, reasoning_content=ANSWER, tool_calls=[]),
        reply(content="\n", reasoning=f"Rays are flat. So:\n```json\n{ANSWER}\n```"),
        reply(content="", tool_calls=[{"type": "function", "function": {"name": "answer", "arguments": ANSWER}}]),
        reply(content=None, tool_calls=[{"function": {"name": "answer", "arguments": json.loads(ANSWER)}}]),
        reply(content=None, function_call={"name": "answer", "arguments": ANSWER}),
        reply(content=ANSWER, reasoning_content=DRAFT, finish="length"),
    ],
    ids=["thinking", "parts", "reasoning_content", "reasoning", "tool", "tool-object", "function", "thoughts-aside"],
)
def test_an_answer_is_found_where_the_server_puts_it(shark, good):
    shark.server.answer = first(good)
    done = shark.discover()
    assert done.code == 0, done.err
    assert found(shark) == ["blue ray", "skate"]
    assert len(shark.server.asked) == 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (reply(content="", reasoning_content=f"Maybe {DRAFT}, or", finish="length"), "cut off at a limit of tokens"),
        (reply(content=f"Let me see: {DRAFT}. No", finish="max_tokens"), "cut off at a limit of tokens"),
        (reply(content=None, reasoning_content=f"Maybe {DRAFT}, or not."), "empty"),
        (reply(content=[{"type": "thinking", "thinking": DRAFT}]), "empty"),
        (reply(content=None, refusal="I am sorry."), "without the JSON"),
        (reply(content=None, finish="content_filter"), "withheld by a filter"),
    ],
    ids=["thoughts-cut", "content-cut", "draft", "thoughts-alone", "refusal", "filter"],
)
def test_what_holds_no_answer_is_asked_again_and_told(shark, bad, why):
    shark.server.answer = first(bad)
    done = shark.discover()
    assert done.code == 0, done.err
    assert found(shark) == ["shark cousin 0", "shark cousin 1"]
    assert f"1 of 2 answers could not be used: 1 {why}" in done.err


@pytest.mark.parametrize(
    ("usage", "used"),
    [
        ({"prompt_tokens": "1000", "completion_tokens": "50"}, 1050),
        ({"prompt_tokens": 1000.0, "completion_tokens": 49.5}, 1050),
        ({"prompt_tokens": "1e3", "completion_tokens": 50, "total_tokens": None}, 1050),
    ],
)
def test_tokens_are_counted_however_they_are_told(shark, usage, used):
    shark.server.answer = lambda question: reply(content=ANSWER, usage=usage)
    done = shark.discover()
    assert done.code == 0, done.err
    assert f"{used:,} tokens in all" in done.out


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "many",
        {"prompt_tokens": None},
        {"prompt_tokens": "n/a", "completion_tokens": float("inf")},
        {"prompt_tokens": -1},
    ],
)
def test_tokens_that_are_not_told_are_estimated(shark, usage):
    shark.server.answer = lambda question: reply(content=ANSWER, usage=usage)
    done = shark.discover()
    assert done.code == 0, done.err
    (prompt, said), *_ = shark.rows("SELECT prompt_tokens, completion_tokens FROM answer")
    assert prompt > 300
    assert said == len(ANSWER) // 3


# What cannot be used is not kept


FAULTY = [
    pytest.param(reply(content=DRAFT, choice={"error": {"code": 502, "message": "the host is gone"}}), id="choice"),
    pytest.param(Reply({**reply(content=DRAFT).body, "error": {"message": "the host is gone"}}), id="top"),
    pytest.param(Reply({"error": "the host is gone", "choices": []}), id="no-choices"),
    pytest.param(reply(content=DRAFT, finish="error"), id="finish"),
]


@pytest.mark.parametrize("bad", FAULTY)
def test_an_error_that_comes_as_a_good_answer_is_one(shark, bad):
    shark.server.answer = lambda question: bad
    done = shark.discover("--attempts", 1)
    assert done.code == 1
    assert "class 'shark' got no answer (200: an error for an answer: " in done.err
    assert found(shark) == []
    shark.server.answer = obliging
    assert shark.discover("--attempts", 1).code == 0
    assert found(shark) == ["shark cousin 0", "shark cousin 1"]


@pytest.mark.parametrize("said", ["", "prose", f"<think>{DRAFT}"])
def test_the_same_command_asks_a_mended_server_again(desk, said):
    desk.server.answer = lambda q: completion(said) if q.title == "cello" else obliging(q)
    assert "1 of 3 target classes have NO category: cello" in desk.discover().err
    asked = len(desk.server.asked)
    desk.server.answer = obliging
    done = desk.discover()
    assert done.code == 0, done.err
    assert desk.states()[1] == ("cello", "done", "")
    assert [question.title for question in desk.server.asked[asked:]] == ["cello"]
    assert [len(categories) for categories in desk.neighbors().values()] == [3, 5, 8]
    # Three answers without use and three with: all were paid for.
    assert "720 tokens in all" in done.out
    assert desk.discover().code == 0
    assert len(desk.server.asked) == asked + 1


def test_an_answer_after_a_reminder_is_the_answer_to_the_question(shark):
    """Whoever asks the same again gets it at once, though the first answer was of no use."""
    shark.server.answer = first(completion("prose"))
    shark.discover()
    neighbors = shark.neighbors()
    for table in ("neighbor", "category", "target", "setting"):
        with_rows_gone(shark, table)
    done = shark.discover()
    assert "0 questions asked, 1 answered from the catalog; 240 tokens" in done.out
    assert len(shark.server.asked) == 2
    assert shark.neighbors() == neighbors


def with_rows_gone(desk, table: str) -> None:
    desk.rows(f"DELETE FROM {table} RETURNING 1")


@pytest.mark.parametrize("kept", ["", "prose", f"<think>{DRAFT}"])
def test_useless_answers_of_an_older_catalog_are_asked_for_again(shark, kept):
    shark.server.answer = lambda question: completion("prose")
    assert shark.discover().code == 1
    shark.rows(f"UPDATE answer SET content = '{kept}' RETURNING 1")  # older versions kept them
    shark.server.answer = obliging
    assert shark.discover().code == 0
    assert found(shark) == ["shark cousin 0", "shark cousin 1"]


def test_what_useless_answers_cost_counts_against_the_limit(shark):
    shark.server.answer = lambda question: completion("prose", tokens=(900, 100))
    shark.discover()
    assert len(shark.server.asked) == 3
    done = shark.discover("--max-tokens-total", 3500)
    assert "the limit of 3,500 tokens is reached: 3,000 are used" in done.err
    assert len(shark.server.asked) == 3


def test_status_tells_how_many_answers_were_of_no_use_and_why(desk):
    replies = [completion("prose"), completion("")]
    desk.server.answer = lambda question: replies.pop() if replies else obliging(question)
    assert desk.discover("--concurrency", 1).code == 0
    desk.capsys.readouterr()
    assert main(["status", str(desk.folder / "c.db")]) == 0
    said = desk.capsys.readouterr().out
    assert re.search(r"answers of the LLM +3 ", said)
    assert re.search(r" 1     unusable: without the JSON that was asked for\n", said)
    assert re.search(r" 1     unusable: empty\n", said)


# What a server refuses to be told


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "System role not supported"),
        error(500, "jinja2.exceptions.TemplateError: System role not supported"),
        error(400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        error(400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
        error(400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        Reply({"object": "error", "message": "Only user and assistant roles are supported!", "code": 400}, 400),
    ],
    ids=["400", "template", "value", "developer", "alternate", "only"],
)
def test_a_model_without_a_system_role_is_told_by_the_user(desk, refusal):
    desk.server.answer = lambda q: refusal if q.request["messages"][0]["role"] == "system" else obliging(q)
    done = desk.discover("--concurrency", 1, "--attempts", 1)
    assert done.code == 0, done.err
    assert len(desk.server.asked) == 4  # it is learned once
    with_role, without = (question.request["messages"] for question in desk.server.asked[:2])
    assert [message["role"] for message in without] == ["user", *["assistant", "user"] * 3]
    assert without[0]["content"] == f"{with_role[0]['content']}\n\n{with_role[1]['content']}"
    assert without[1:] == with_role[2:]


def test_a_server_that_repeats_the_question_in_an_error_has_a_system_role(desk):
    echo = "response_format: extra fields, input: [{'role': 'system', 'content': 'You help'}]"
    desk.server.answer = lambda q: error(422, echo) if "response_format" in q.request else obliging(q)
    assert desk.discover("--concurrency", 1).code == 0
    assert {question.request["messages"][0]["role"] for question in desk.server.asked} == {"system"}


# What ends an answer early


def test_answers_cut_off_are_told_with_the_option_that_allows_longer_ones(shark):
    def answer(question):
        return obliging(question) if question.request.get("max_tokens") == 4000 else cut

    cut = reply(content=f"<think>Maybe {DRAFT}", finish="length")
    shark.server.answer = answer
    done = shark.discover()
    assert done.code == 1
    assert "3 of 3 answers could not be used: 3 cut off at a limit of tokens (a higher --max-tokens" in done.err
    assert done.err.count("\n") == 1
    assert found(shark) == []
    assert "max_tokens" not in shark.server.asked[0].request
    done = shark.discover("--max-tokens", 4000)
    assert done.code == 0, done.err
    assert done.err == ""
    assert found(shark) == ["shark cousin 0", "shark cousin 1"]


def test_a_server_that_calls_the_limit_otherwise(desk):
    refusal = error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    desk.server.answer = lambda q: refusal if "max_tokens" in q.request else obliging(q)
    assert desk.discover("--max-tokens", 4000, "--concurrency", 1).code == 0
    assert [question.request.get("max_completion_tokens") for question in desk.server.asked] == [None, 4000, 4000, 4000]


# Recorded answers, and any


@pytest.mark.skipif(not CASES.is_dir(), reason="shared/cases/llm is not here")
def test_recorded_texts():
    said = json.loads((CASES / "answers.json").read_text())
    right = json.loads((CASES / "expected.json").read_text())
    answers = {name: read_json(text, Categories) for name, text in said.items()}
    got = {name: answer.categories if answer else None for name, answer in answers.items()}
    assert {name: names for name, names in got.items() if names not in right[name]} == {}


@pytest.mark.skipif(not CASES.is_dir(), reason="shared/cases/llm is not here")
@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("mistral_list_content", ["a", "b"]),
        ("json_in_reasoning_content", ["a", "b"]),
        ("think_cut_off", ["shark cousin 0", "shark cousin 1"]),
    ],
)
def test_recorded_completions(shark, name, right):
    shark.server.answer = first(Reply((CASES / f"{name}.json").read_bytes()))
    done = shark.discover()
    assert done.code == 0, done.err
    assert found(shark) == right


PIECES = [
    *"{}[]\"',:#*- \n",
    *(
        '"a"',
        '"snowy owl"',
        "it's",
        "'b'",
        "\u201ca\u201d",
        "\u2018",
        "null",
        "7",
        "...",
        "\x00",
        "\ud83d",
        "sorry",
        "\u9b5a",
    ),
    *(
        '{"categories": [',
        '{"category": "c"}',
        '{"1": "a"}',
        '"name": ',
        '"Categories": ',
        '"]}',
        "1. ",
        "- ",
        "**",
        ": ",
    ),
    *(
        "<think>",
        "</think>",
        "<reasoning>",
        "[THINK]",
        "[/THINK]",
        "\u25c1think\u25b7",
        "<|channel|>",
        "final",
        "<|message|>",
    ),
    *("```json\n", "//", "/*", "*/", '\\"', "\\", "Excluded: ", "Here: "),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_whatever_is_said_the_words_of_every_name_stand_in_it(text):
    answer = read_json(text, Categories)
    for name in answer.categories if answer else []:
        assert name
        assert name == name.strip()
        for word in name.replace("\\", "").split():  # a thought in the middle of a name parts words
            assert word in text.replace("\\", "") or re.search(r"\\[bfnrtu]", text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("abcdefgh \u00fc\u9b5a'", min_size=1).map("a{}".format), min_size=1, max_size=5),
    st.sampled_from(THOUGHTS),
    st.sampled_from(["", "```json\n", "Here they are:\n"]),
    st.sampled_from(["", "\n```", "\nThat is all.", '\n(left out ["x"])']),
    TEXTS.filter(lambda text: not re.search(r"[<\[\u25c1/]|assistantfinal", text)),
)
def test_whatever_surrounds_an_answer_it_is_read(names, thought, before, after, thoughts):
    said = f"{thought[0]}{thoughts}{thought[1]}{before}{json.dumps({'categories': names})}{after}"
    answer = read_json(said, Categories)
    assert answer
    assert answer.categories == [" ".join(name.split()) for name in names]
