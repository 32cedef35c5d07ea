"""`fastlt discover` against a real server: what it asks, what becomes of each answer, what a user gets wrong."""

from __future__ import annotations

import json

import pytest

from fastlt.cli import main
from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.discover import Categories
from fastlt.data_prep.discover.llm import read_json
from fastlt.data_prep.discover.prompt import DEFAULT_PROMPT, Prompt

pytest.importorskip("openai")
from support.llm_server import LlmServer, completion, error, names, obliging


def test_fewer_images_more_categories_and_nothing_is_asked_twice(desk):
    done = desk.discover("--neighbors-out", desk.folder / "neighbors.json")
    assert done.code == 0, done.err
    assert done.err == ""  # no progress bar where nobody looks
    assert "3 target classes, 16 auxiliary categories, 16 neighbor pairs" in done.out
    assert "3 questions asked, 0 answered from the catalog; 360 tokens in all" in done.out
    assert desk.states() == [(name, "done", "") for name in ("shark", "cello", "grey_owl")]
    neighbors = desk.neighbors()
    assert {name: len(found) for name, found in neighbors.items()} == {"shark": 3, "cello": 5, "grey_owl": 8}
    assert neighbors["grey_owl"][0] == "grey_owl_cousin_0"
    assert desk.rows("SELECT title FROM category WHERE name = 'grey_owl_cousin_0'") == [("grey owl cousin 0",)]
    assert json.loads((desk.folder / "neighbors.json").read_text()) == neighbors
    asked = {question.title: question.number for question in desk.server.asked}
    assert asked == {"shark": 3, "cello": 5, "grey owl": 8}

    desk.server.answer = lambda question: error(500)
    again = desk.discover()
    assert again.code == 0
    assert len(desk.server.asked) == 3
    assert desk.neighbors() == neighbors


def test_answers_are_found_by_what_was_asked_wherever_the_server_is(desk):
    """The rows of a killed stage may be behind the answers: without them, all is read from the answers again."""
    desk.discover()
    neighbors = desk.neighbors()
    with Catalog(desk.folder / "c.db") as catalog, catalog.transaction():
        for table in ("neighbor", "category", "target", "setting"):
            catalog.connection.execute(f"DELETE FROM {table}")
    other = LlmServer()
    try:
        done = desk.discover("--base-url", other.url)
    finally:
        other.close()
    assert done.code == 0, done.err
    assert other.asked == []
    assert "0 questions asked, 3 answered from the catalog; 360 tokens" in done.out
    assert desk.neighbors() == neighbors


def test_what_the_model_is_sent(desk, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    desk.classes("tench, Tinca tinca\t5\n")
    desk.discover("--key-env", "MY_KEY")
    request = desk.server.asked[0].request
    assert [m["role"] for m in request["messages"]] == ["system", *["user", "assistant"] * 3, "user"]
    assert desk.server.asked[0].title == "tench"
    assert "Also called: Tinca tinca\n" in desk.server.asked[0].last
    assert request["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
    assert desk.server.headers["authorization"] == "Bearer secret"
    for message in request["messages"][2:-1:2]:  # the examples obey the schema
        assert read_json(message["content"], Categories)


def test_categories_that_are_target_classes_are_rejected_whatever_they_are_called(desk):
    desk.classes("tench, Tinca tinca\t500\ngreat_white_shark\t500\n")
    answers = {
        "tench": ["Tenches", "tinca  TINCA", "Doctor Fish (Tinca tinca)", "Great White-Sharks", "the carp", "rudd"],
        "great white shark": [
            "mako shark",
            "mako sharks",
            "Great white shark",
            "tiger shark",
            "blue shark",
            "lemon shark",
        ],
    }
    told = []

    def answer(question):
        told.append(question.known)
        return names("crucian carp", "bream") if "rudd" in question.known else names(*answers[question.title])

    desk.server.answer = answer
    assert desk.discover("--concurrency", 1).code == 0
    assert desk.neighbors() == {
        "tench, Tinca tinca": ["crucian_carp", "rudd", "the_carp"],
        "great_white_shark": ["blue_shark", "mako_shark", "tiger_shark"],
    }
    assert desk.rows("SELECT title, reason FROM category WHERE state = 'rejected' ORDER BY id") == [
        ("Tenches", "is the target class 'tench'"),
        ("tinca TINCA", "is the target class 'tench'"),
        ("Doctor Fish", "is the target class 'tench'"),
        ("Great White-Sharks", "is the target class 'great white shark'"),
    ]
    # The second question about the tench tells what it has and what was no good.
    assert told[1] == ["rudd", "the carp", "Tenches", "tinca TINCA", "Doctor Fish", "Great White-Sharks"]


def test_targets_are_known_by_their_plain_names_whatever_their_folders_are_called(desk):
    worm = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"
    desk.classes(f"001.Black_footed_Albatross\t500\nn02085620-Chihuahua\t500\n{worm}\t500\n")
    own = {"Black footed Albatross": "Black-footed Albatross", "Chihuahua": "chihuahuas"}
    own["Lumbricus terrestris"] = "Lumbricus Terrestris"
    others = ("petrel", "pug", "leech")
    desk.server.answer = lambda question: names(own.get(question.title, "?"), *others)
    assert desk.discover("--concurrency", 1).code == 0
    assert sorted(question.title for question in desk.server.asked) == sorted(own)
    assert desk.neighbors() == {
        name: sorted(others) for name in ("001.Black_footed_Albatross", "n02085620-Chihuahua", worm)
    }
    assert {reason for _, reason in desk.rows("SELECT title, reason FROM category WHERE state = 'rejected'")} == {
        f"is the target class {title!r}" for title in own
    }


def test_a_target_that_a_list_gives_another_title_is_known_by_its_folder_too(desk):
    desk.classes(json.dumps({"001.Black_footed_Albatross": {"count": 500, "title": "Phoebastria nigripes"}}))
    desk.server.answer = lambda question: names("Black-footed Albatross", "petrel", "gull", "tern")
    assert desk.discover().code == 0
    assert desk.neighbors() == {"001.Black_footed_Albatross": ["gull", "petrel", "tern"]}


def test_a_category_of_several_targets_is_one(desk):
    desk.classes("violin\t500\nviola\t500\n")
    spellings = {"violin": ["Viola da Gamba", "baryton", "fiddle"], "viola": ["viola-da-gamba", "Barytons", "rebec"]}
    desk.server.answer = lambda question: names(*spellings[question.title])
    assert desk.discover("--concurrency", 1).code == 0
    assert desk.neighbors() == {
        "violin": ["baryton", "fiddle", "viola_da_gamba"],
        "viola": ["baryton", "rebec", "viola_da_gamba"],
    }
    assert desk.rows("SELECT count(*) FROM category") == [(4,)]


def test_asks_again_while_a_class_lacks_categories_then_stops_and_says_so(desk):
    desk.classes("shark\t5\ncello\t5\nowl\t5\n")

    def answer(question):
        if question.title == "shark":  # one at a time
            return names(f"ray {len(question.known)}")
        return names("viola", "rebec") if question.title == "cello" else names("owl")

    desk.server.answer = answer
    done = desk.discover("--rounds", 3)
    assert done.code == 0
    assert "(3 short of what was wanted)" in done.out
    assert "1 of 3 target classes have NO category: owl" in done.err
    assert desk.states() == [
        ("shark", "short", "limit of 3 rounds"),
        ("cello", "short", "a round brought nothing new"),
        ("owl", "short", "a round brought nothing new"),
    ]
    number_asked = len(desk.server.asked)
    assert number_asked == 3 + 2 + 2
    assert desk.discover("--rounds", 3).code == 0
    assert len(desk.server.asked) == number_asked

    # Other options: goes on from what there is, and asks only what was not answered yet.
    assert desk.discover("--rounds", 5).code == 0
    assert [(q.title, q.number, len(q.known)) for q in desk.server.asked[number_asked:]] == [
        ("shark", 8 - have, have) for have in range(3, 8)
    ]
    assert desk.states()[0] == ("shark", "done", "")


def test_more_categories_wanted_later(desk):
    desk.discover("--categories", "2")
    asked = len(desk.server.asked)
    assert desk.discover("--categories", 2, 2, 4).code == 0
    assert [(q.title, q.number, len(q.known)) for q in desk.server.asked[asked:]] == [("grey owl", 2, 2)]
    assert len(desk.neighbors()["grey_owl"]) == 4


def test_a_category_rejected_by_hand_stays_rejected_and_is_replaced(desk):
    desk.classes("shark\t500\n")
    desk.discover()
    with Catalog(desk.folder / "c.db") as catalog:
        catalog.connection.execute("UPDATE category SET state = 'rejected' WHERE name = 'shark_cousin_1'")
    desk.server.answer = lambda question: names("shark cousin 1", "ray")
    assert desk.discover().code == 0
    assert desk.server.asked[-1].known == ["shark cousin 0", "shark cousin 1", "shark cousin 2"]
    assert desk.neighbors() == {"shark": ["ray", "shark_cousin_0", "shark_cousin_2"]}


def test_classes_that_come_and_go(desk):
    desk.classes("shark\t500\n")
    desk.discover()
    desk.classes("shark\t500\nShark Cousin 1\t500\n")
    assert desk.discover().code == 0
    found = desk.neighbors()
    assert "shark_cousin_1" not in found["shark"]
    assert [len(categories) for categories in found.values()] == [3, 3]
    reason = desk.rows("SELECT reason FROM category WHERE name = 'shark_cousin_1'")
    assert reason == [("is the target class 'Shark Cousin 1'",)]
    desk.classes("cello\t500\n")
    assert "has target class 'shark', which the class list lacks" in desk.refusal()
    assert desk.neighbors() == found


def test_nothing_for_anyone_is_an_error(desk):
    desk.server.answer = lambda question: names()
    assert "no target class has any category after 3 answers" in desk.refusal()
    desk.server.answer = lambda question: completion("I would rather talk about the weather.")
    assert "no target class has any category after 9 answers" in desk.refusal(catalog="prose.db")


# What a model says


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"categories": ["a", "b"]}', ["a", "b"]),
        ('Sure! Here they are:\n```json\n{"categories": ["a"]}\n```\nAnything else?', ["a"]),
        ('<think>{"categories": ["no"]} [hm</think>{"categories": ["a"], "note": "x"}', ["a"]),
        ('["a", "b"]', ["a", "b"]),
        ('{"categories": [{"name": "a", "why": "alike"}]}', ["a"]),
        ('For example {"categories": ["no"]}. So: {"categories": ["a"]} [1]', ["a"]),
        ('{"categories": []}', []),
        ('{"categories": ["a", "b', None),
        ('{"categories": [1, 2]}', None),
        ("a\nb\nc", None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_answers_with_and_without_a_schema(said, found):
    answer = read_json(said, Categories)
    assert (answer.categories if answer else None) == found


@pytest.mark.parametrize("bad", ['{"categories": ["ray", "sk', "Rays, skates and guitarfish!", "", "\ud800 {"])
def test_a_model_that_answers_no_json_is_told_so(desk, bad):
    desk.classes("shark\t500\n")
    desk.server.answer = lambda q: obliging(q) if q.last.startswith("That was not") else completion(bad)
    assert desk.discover().code == 0
    assert [len(question.request["messages"]) for question in desk.server.asked] == [8, 10]
    assert len(desk.neighbors()["shark"]) == 3


def test_a_model_that_never_answers_json_leaves_its_class_short(desk):
    desk.server.answer = lambda q: completion("prose") if q.title == "cello" else obliging(q)
    done = desk.discover()
    assert done.code == 0
    assert "1 of 3 target classes have NO category: cello" in done.err
    assert desk.states()[1] == ("cello", "short", "the model does not answer with the JSON that it was asked for")
    desk.server.answer = obliging
    assert desk.discover("--model", "better").code == 0
    assert desk.states()[1] == ("cello", "done", "")


def test_odd_names_neither_break_anything_nor_become_categories(desk):
    desk.classes("shark\t5\n")
    sentence = "a ray which is the kind of fish that many people take for one"
    odd = ["", "...", "  ", "\ud83d", "1. sawfish", "'guitarfish'", "Mönchs_rochen", sentence, "魚\x00", "a/b/../c"]
    desk.server.answer = lambda question: completion(json.dumps({"categories": odd}))
    assert desk.discover("--rounds", 1).code == 0
    assert desk.neighbors() == {"shark": ["a_b_c", "guitarfish", "monchs_rochen", "sawfish", "魚"]}
    assert desk.rows("SELECT reason FROM category WHERE state = 'rejected'") == [("is not a name: more than 8 words",)]


# What a user gets wrong


def test_nobody_to_ask(desk, monkeypatch):
    words = [word for word in desk.words() if word not in ("--base-url", desk.server.url)]
    assert main(words) == 1
    assert "set OPENAI_API_KEY to the key of a hosted model, or give --base-url" in desk.capsys.readouterr().err
    assert not (desk.folder / "c.db").exists()
    monkeypatch.setenv("OPENAI_BASE_URL", desk.server.url)
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--base-url", "localhost:8000"], "is not an http URL"),
        (["--categories", "8", "5", "3"], "must not fall"),
        (["--categories", "0"], "must not fall"),
        (["--categories", "3", "5"], "neither one whole number nor three"),
        (["--categories", "3", "-5", "8"], "must not fall"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--concurrency", "0"], "--concurrency is 0"),
        (["--max-tokens-total", "0"], "--max-tokens-total is 0"),
        (["--prompt", "missing.md"], "the prompt missing.md cannot be read"),
        (["--classes", "missing.txt"], "the class list missing.txt cannot be read"),
    ],
)
def test_options_that_make_no_sense(desk, words, sentence):
    assert sentence in desk.refusal(*words)
    assert not (desk.folder / "c.db").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "", "must be an optional # system"),
        (lambda text: text.replace("$title", "$titel"), "has the placeholder $titel; there are $known, $number"),
        (lambda text: text.replace("$number", "many"), "lacks $number in its last section"),
        (lambda text: text.replace("photographs:", "photographs for $5:"), "has a lone $ in its section '# system'"),
        (lambda text: text.replace("\n# assistant", "\n# asistant", 1), "has a section '# asistant'"),
        (lambda text: text.replace("\n# assistant", "\n# user", 1), "in turn"),
        (lambda text: text + "\n# assistant\n{}\n", "with a # user at the end"),
    ],
)
def test_broken_prompts(desk, change, sentence):
    prompt = desk.folder / "prompt.md"
    prompt.write_text(change(DEFAULT_PROMPT.read_text()))
    said = desk.refusal("--prompt", prompt)
    assert f"the prompt {prompt} " in said
    assert sentence in said


def test_a_prompt_of_ones_own(desk):
    prompt = desk.folder / "prompt.md"
    prompt.write_text("# user\n## Task\n$number things like $title for $$1, none of [$targets] or $known.\n")
    assert [m["role"] for m in Prompt.read(prompt).messages(title="a", number=1, targets="b", known="c")] == ["user"]
    desk.server.answer = lambda question: names("a", "b", "c", "d", "e", "f", "g", "h")
    desk.discover("--prompt", prompt, "--concurrency", 1)
    assert desk.server.asked[0].request["messages"] == [
        {"role": "user", "content": "## Task\n3 things like shark for $1, none of [shark, cello, grey owl] or none."}
    ]
