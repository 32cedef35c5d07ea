"""`fastlt discover --plan`: how many questions there are, how many tokens they take, and what that costs at most."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from fastlt.data_prep.catalog import Catalog
from fastlt.data_prep.discover.answers import Categories
from fastlt.data_prep.discover.llm import REPAIRS, key_of
from fastlt.data_prep.discover.options import DiscoverOptions, EndpointOptions
from fastlt.data_prep.discover.progress import Progress, named, settings_of
from fastlt.data_prep.discover.prompt import Prompt
from fastlt.data_prep.discover.synonyms import MOST, chat_about, read_prompt
from fastlt.data_prep.inputs.class_lists import TargetClass

_BYTES_OF_TOKEN = 3  # rather few: English text has four, names in Latin and other scripts have fewer
_AROUND = 200  # tokens of a question beside its text: roles, and the schema of the answer
_NAME = 12  # tokens of a category in an answer, with quotes and comma
_FRAME = 15  # of the JSON around them
_KNOWN = 20  # answers in the catalog whose mean is taken for what is to come


@dataclass(frozen=True)
class _Question:
    """One class: tokens of its first question, and categories that it lacks."""

    tokens: float
    lacks: int


def plan(
    catalog: Catalog | None,
    classes: Sequence[TargetClass],
    endpoint: EndpointOptions,
    options: DiscoverOptions,
    price: tuple[float, float] | None,
    synonyms: bool = False,
) -> str:
    """What is to be asked, in a few lines; asks nobody and writes nothing.

    Args:
        catalog: with what was answered before, None where there is none yet.
        classes: all target classes.
        endpoint: who would be asked; its model decides which answers are there.
        options: for how much.
        price: of a million tokens asked and of a million answered.
        synonyms: whether categories are asked about, too.
    """
    prompt = Prompt.read(options.prompt)
    rows = {row["name"]: row for row in catalog.targets()} if catalog else {}
    targets = ", ".join(target.title for target in classes)
    questions = []
    for target in classes:
        lacks, known = options.wanted(target.count), list[str]()
        if catalog and target.name in rows:
            lacks, known = _lacking(catalog, rows[target.name], lacks, endpoint, prompt, options)
        if lacks > 0:
            values = {"title": target.title, "known": ", ".join(known), "number": str(lacks), "targets": targets}
            values["synonyms"] = ", ".join(target.synonyms)
            questions.append(_Question(prompt.num_bytes(values) / _BYTES_OF_TOKEN + _AROUND, lacks))
    others = _about_categories(catalog, sum(question.lacks for question in questions), endpoint) if synonyms else []
    if not questions and not others:
        return f"nothing is to be asked: all {len(classes):,} classes have been."
    costs = catalog.answer_costs() if catalog else None
    mean = costs["completion_tokens"] / costs["answers"] if costs and costs["answers"] >= _KNOWN else 0.0
    answers = [mean or _FRAME + _NAME * question.lacks for question in questions]
    once = sum(question.tokens for question in questions), sum(answers)
    most = _at_most(questions, answers, endpoint, options.rounds)
    source = f"the mean of {costs['answers']:,} in the catalog" if costs and mean else f"{_NAME} a category"
    thinks = (
        f"an answer, thoughts included, has at most {endpoint.max_tokens:,} (--max-tokens)"
        if endpoint.max_tokens
        else "thoughts come on top, and only --max-tokens makes these upper bounds for a model that thinks"
    )
    tries = f"at most: {options.rounds} rounds of {1 + REPAIRS} tries"
    lines = [
        f"{len(questions):,} of {len(classes):,} classes are to be asked about, which lack "
        f"{sum(question.lacks for question in questions):,} categories",
        f"{'':<34}{'questions':>11}{'tokens in':>15}{'tokens out':>15}{_priced('cost', price)}",
        _line("one question a class", len(questions), once, price),
        _line(tries, len(questions) * options.rounds * (1 + REPAIRS), most, price),
        *_lines_of_synonyms(others, mean, endpoint, price),
        f"Tokens asked are the prompt's bytes / {_BYTES_OF_TOKEN} + {_AROUND} a question, rather too many; tokens "
        f"answered are {source}; {thinks}.",
    ]
    if endpoint.max_tokens_total is not None:
        lines.append(
            f"--max-tokens-total stops at {endpoint.max_tokens_total:,} tokens, those of earlier runs included."
        )
    if price is None:
        lines.append("For what that costs, give --price IN OUT, the prices of a million tokens asked and answered.")
    return "\n".join(lines)


def _lacking(
    catalog: Catalog,
    target: sqlite3.Row,
    wanted: int,
    endpoint: EndpointOptions,
    prompt: Prompt,
    options: DiscoverOptions,
) -> tuple[int, list[str]]:
    """How many categories a class still has to be asked for, and the titles that the question would name."""
    progress, names = Progress.of(catalog, target), named(catalog, target)
    kept = sum(state == "kept" for _, state in names)
    if progress.settles(target, settings_of(endpoint.model, prompt, options.rounds, wanted), kept, wanted):
        return 0, []
    return wanted - kept, [title for title, _ in names] + progress.refused


def _about_categories(catalog: Catalog | None, to_come: int, endpoint: EndpointOptions) -> list[_Question]:
    """A question for each category whose other names are not known, and for each that is to come."""
    prompt = read_prompt()
    titles = [""] * to_come
    if catalog:
        for category in catalog.categories(kept=True):
            key = key_of(endpoint.model, chat_about(prompt, category), Categories)
            titles += [category["title"]] * (not catalog.answer(key))
    return [_Question(prompt.num_bytes({"title": title}) / _BYTES_OF_TOKEN + _AROUND, MOST) for title in titles]


def _lines_of_synonyms(
    questions: Sequence[_Question], mean: float, endpoint: EndpointOptions, price: tuple[float, float] | None
) -> list[str]:
    if not questions:
        return []
    answers = [mean or _FRAME + _NAME * question.lacks for question in questions]
    once = sum(question.tokens for question in questions), sum(answers)
    most = _at_most(questions, answers, endpoint, 1)
    return [
        _line("other names of each category", len(questions), once, price),
        _line(f"at most: {1 + REPAIRS} tries of these", len(questions) * (1 + REPAIRS), most, price),
    ]


def _at_most(
    questions: Sequence[_Question], answers: Sequence[float], endpoint: EndpointOptions, rounds: int
) -> tuple[float, float]:
    """Tokens asked and answered where every class takes all rounds, and in each no answer can be read but the last."""
    asked = answered = 0.0
    for question, answer in zip(questions, answers, strict=True):
        said = float(endpoint.max_tokens or answer)
        answered += said * rounds * (1 + REPAIRS)
        for number in range(rounds):  # names that were found, and unreadable answers, are told the next time
            tokens = question.tokens + number * said
            asked += sum(tokens + repair * (min(said, 2000) + _AROUND) for repair in range(1 + REPAIRS))
    return asked, answered


def _line(what: str, questions: int, tokens: tuple[float, float], price: tuple[float, float] | None) -> str:
    cost = f"{sum(p * t for p, t in zip(price, tokens, strict=True)) / 1e6:,.4f}" if price else ""
    return f"{what:<34}{questions:>11,}{tokens[0]:>15,.0f}{tokens[1]:>15,.0f}{_priced(cost, price)}"


def _priced(text: str, price: tuple[float, float] | None) -> str:
    return f"{text:>12}" if price else ""
