"""The instruction that starts a query.

Harrier is trained with `Instruct: {task}\\nQuery: ` before every query, the trailing space
included, and with nothing before a document. The presets travel with the package.
"""

from __future__ import annotations

from collections.abc import Mapping

from harrier_edge.errors import UsageError


def named_prompt(presets: Mapping[str, str], name: str) -> str:
    """The preset called `name`. Raises UsageError."""
    if name not in presets:
        known = ", ".join(sorted(presets)) or "none"
        raise UsageError(f"prompt {name!r} is unknown to this model; it has: {known}.")
    return presets[name]


def task_prompt(task: str) -> str:
    """The instruction for a task told in one sentence."""
    if not task.strip():
        raise UsageError(
            "the task is empty; wanted a sentence such as 'Retrieve parallel sentences'."
        )
    return f"Instruct: {task.strip()}\nQuery: "


def choose_prompt(
    presets: Mapping[str, str],
    default: str,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    task: str | None = None,
) -> str:
    """The one prompt that is meant: `prompt` verbatim, a preset, a task, else the `default` preset.

    An empty `default` stands for no prompt. Raises UsageError where two are given or the preset
    is unknown.
    """
    if sum(choice is not None for choice in (prompt, prompt_name, task)) > 1:
        raise UsageError("give one of prompt, prompt_name and task; got more than one.")
    if prompt is not None:
        return prompt
    if task is not None:
        return task_prompt(task)
    name = default if prompt_name is None else prompt_name
    return named_prompt(presets, name) if name else ""
