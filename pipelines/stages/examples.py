"""The rows of table ``examples``: what was asked, written by the first stage of a run that knows the prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipelines.data.questions import Question, QuestionSet
from pipelines.stages import Columns


def example_columns(
    item: QuestionSet, questions: Sequence[Question], prompts: Sequence[str], n_tokens: Sequence[int], store_text: bool
) -> Columns:
    """Return the columns for some questions of a set; texts only with ``store_text``."""
    return {
        "dataset": item.name,
        "example_id": [question.id for question in questions],
        "role": item.role,
        "text_sha256": [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts],
        "prompt": list(prompts) if store_text else None,
        "choices": [list(question.choices) for question in questions] if store_text else None,
        "answer_index": [question.answer if question.answered else None for question in questions],
        "n_tokens": list(n_tokens),
    }
