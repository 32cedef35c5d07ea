"""What the language model answered, and what that cost."""

from __future__ import annotations

import json
import sqlite3

from fastlt.data_prep.catalog.database import Database


class Answers(Database):
    """The table `answer`."""

    def answer(self, key: str) -> str:
        """The answer to what was asked under that key, "" if there is none."""
        row = self._run("SELECT content FROM answer WHERE key = ?", [key]).fetchone()
        return row[0] if row else ""

    def keep_answer(self, key: str, model: str, content: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Keeps an answer for good, or "" where it was of no use; what was asked again costs the sum."""
        row = [key, model, content, prompt_tokens, completion_tokens]
        self._run(
            "INSERT INTO answer VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET content = excluded.content,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens",
            row,
        )
        cost = prompt_tokens + completion_tokens
        self.remember("dearest answer", str(max(cost, int(self.setting("dearest answer") or 0))))

    def count_unusable_answer(self, why: str) -> None:
        """One more answer was of no use."""
        number = self.unusable_answers()
        self.remember("unusable answers", json.dumps(number | {why: number.get(why, 0) + 1}))

    def unusable_answers(self) -> dict[str, int]:
        """How many answers were of no use, by reason."""
        found = self.json_setting("unusable answers")
        if not all(type(number) is int for number in found.values()):
            raise ValueError(f"{self.path} cannot be used as a catalog: its numbers of unusable answers are damaged.")
        return found

    def answer_costs(self) -> sqlite3.Row:
        """Of all answers: `answers` of use, `prompt_tokens`, `completion_tokens`; `dearest`: tokens of one at most."""
        return self._run(
            "SELECT count(nullif(content, '')) AS answers, ifnull(sum(prompt_tokens), 0) AS prompt_tokens,"
            " ifnull(sum(completion_tokens), 0) AS completion_tokens,"
            " ifnull((SELECT CAST(value AS INTEGER) FROM setting WHERE name = 'dearest answer'),"
            " ifnull(max(prompt_tokens + completion_tokens), 0)) AS dearest FROM answer"  # of an older fastlt
        ).fetchone()
