"""`fastlt status`: the counts of a catalog, for people and for scripts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastlt.foreign import without_credentials
from fastlt.messages import one_line

_TITLES = {
    "target": "target classes",
    "category": "auxiliary categories",
    "search": "searches",
    "candidate": "candidate URLs",
    "image": "images",
}
_MANY = {"category": "categories", "image": "images", "pair": "pairs", "title": "titles"}


def as_shown(found: dict[str, Any]) -> dict[str, Any]:
    """A catalog's status, with reasons that may be shown; an older fastlt kept the words of others as they were."""
    tables = {table: {state: _shown(reasons) for state, reasons in found[table].items()} for table in _TITLES}
    return found | tables | {"answer": found["answer"] | {"unusable": _shown(found["answer"]["unusable"])}}


def shown(reason: str) -> str:
    """A reason that may be shown."""
    return one_line(without_credentials(reason), 300)


def _shown(reasons: dict[str, int]) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for reason, number in reasons.items():
        numbers[shown(reason)] += number
    return dict(numbers)


def status_text(found: dict[str, Any]) -> str:
    """A line for each stage, below it the reasons, most frequent first."""
    lines = []
    for table, title in _TITLES.items():
        states = {state: sum(reasons.values()) for state, reasons in found[table].items()}
        counts = ", ".join(f"{number:,} {state}" for state, number in states.items()) or "none"
        lines.append(f"{title:<21}{sum(states.values()):>10,}   {counts}")
        for state, reasons in found[table].items():
            if set(reasons) != {""}:
                lines += [f"{'':<21}{number:>10,}     {state}: {why or '-'}" for why, number in reasons.items()]
        if table == "category":
            lines.append(f"{'neighbor pairs':<21}{found['neighbor']:>10,}")
            answer = found["answer"]
            tokens = f"{answer['prompt_tokens']:,} tokens asked, {answer['completion_tokens']:,} answered"
            lines.append(f"{'answers of the LLM':<21}{answer['answers']:>10,}   {tokens}")
            lines += [f"{'':<21}{number:>10,}     unusable: {why}" for why, number in answer["unusable"].items()]
    if decided := found.get("decision"):
        counts = ", ".join(f"{number:,} {_MANY[kind] if number > 1 else kind}" for kind, number in decided.items())
        lines.append(f"{'decided by people':<21}{sum(decided.values()):>10,}   {counts}")
        lines.append(f"{'taken by encode':<21}{found['taken']:>10,}   images, by filter and people")
    shards = ", ".join(f"{number:,} {state}" for state, number in found["shard"].items()) or "none"
    lines.append(f"{'shards':<21}{sum(found['shard'].values()):>10,}   {shards}")
    return "\n".join(lines)


def without_empty_reasons(found: dict[str, Any]) -> dict[str, Any]:
    """For scripts: a state's number where it has no reasons, {reason: number} where it has."""
    return found | {
        table: {state: reasons[""] if set(reasons) == {""} else reasons for state, reasons in found[table].items()}
        for table in _TITLES
    }
