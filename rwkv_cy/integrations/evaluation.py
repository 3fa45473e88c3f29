"""Scores by the tasks of lm-eval (EleutherAI): contexts run once, and states are forked for continuations."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_cy.engine.likelihoods import loglikelihoods, read_contexts
from rwkv_cy.errors import ConfigError, MissingDependencyError, StorageError, TokenizerError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import dataclass
from rwkv_cy.text import Tokenizer
from rwkv_cy.toolkit.schema_names import named

try:
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise MissingDependencyError(
        f'lm-eval is needed ({error}): pip install "rwkv-cy[eval]", or pip install "lm_eval>=0.4.9,<0.6"'
    ) from None

__all__ = ["RWKVLM", "EvaluationReport", "Score", "evaluate"]

#: Tokens of an answer where the task says nothing.
_MAX_TOKENS = 256
#: What a task may say about generation: its name there, and here.
_SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
_OTHER = {"until", "max_gen_toks", "max_new_tokens", "max_tokens", "do_sample"}


class RWKVLM(LM):
    """A model of this package as lm-eval's tasks use it.

    Parameters
    ----------
    model : LanguageModel
        With a tokenizer.
    num_threads : int, optional
        Threads to use; the results are the same for every number.

    Raises
    ------
    TokenizerError
        If the model does not have a tokenizer.
    """

    def __init__(self, model: LanguageModel, num_threads: int | None = None) -> None:
        super().__init__()
        if model.tokenizer is None:
            raise TokenizerError("evaluation: the model has no tokenizer; load it with tokenizer=")
        self.model = model
        self.num_threads = num_threads
        self._encoder: Tokenizer = model.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's caches of requests tell models apart by."""
        return f"rwkv-cy-{self.model.fingerprint}"

    @property
    def prefix(self) -> list[int]:
        """The tokens before a text that begins a document: the end of a text, or a line end without one."""
        end = self._encoder.end_of_text
        return self._encoder.encode("\n") if end is None else [end]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation after its context, and whether greedy decoding gives it."""
        pairs = [self.split(*request.args) for request in requests]
        scored = [number for number, (_, continuation) in enumerate(pairs) if continuation]
        likelihoods = loglikelihoods(self.model, [pairs[number] for number in scored], num_threads=self.num_threads)
        results = [(0.0, True)] * len(pairs)  # of an empty continuation
        for number, likelihood in zip(scored, likelihoods, strict=True):
            results[number] = (likelihood.logprob, likelihood.greedy)
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Return the log-likelihood of each text, whole: a state has no longest context."""
        results = []
        for request in requests:
            tokens = [*self.prefix, *self._encoder.encode(request.args[0])]
            scores = self.model.score(tokens, num_threads=self.num_threads)
            results.append(float(np.sum(scores[len(self.prefix) :])))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, results[-1])
        return results

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Return the continuation of each context, up to the first of the task's stop strings."""
        contexts = [self._encoder.encode(request.args[0]) or self.prefix for request in requests]
        settings = [_generation(request.args[1]) for request in requests]
        results = [""] * len(requests)
        for numbers, logits, state in read_contexts(self.model, contexts, num_threads=self.num_threads):
            for number in numbers:
                results[number] = "".join(self.model.generate(state=state, logits=logits, **settings[number]))
                self.cache_hook.add_partial("generate_until", requests[number].args, results[number])
        return results

    def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context, at least one, and those to score after it.

        Both texts are encoded as one, and divided where the tokens of the context alone end to be the same: a token
        that joins the last characters of the context with the continuation is scored. Spaces that end a context belong
        to the continuation, as in lm-eval.
        """
        stripped = context.rstrip()
        whole = self._encoder.encode(context + continuation)
        alone = self._encoder.encode(stripped)
        length = 0
        while length < min(len(alone), len(whole)) and alone[length] == whole[length]:
            length += 1
        return (whole[:length], whole[length:]) if length else (self.prefix, whole)


def _generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``LanguageModel.generate`` for what a task says about generation."""
    unknown = sorted(set(settings) - set(_SAMPLING) - _OTHER)
    if unknown:
        raise ConfigError(
            f"generation_kwargs: expected names among {', '.join(sorted({*_SAMPLING, *_OTHER}))}, "
            f"got {', '.join(unknown)}"
        )
    until = settings.get("until") or []
    limits = (settings.get(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    sampling = {ours: settings[name] for name, ours in _SAMPLING.items() if settings.get(name) is not None}
    if not settings.get("do_sample", sampling.get("temperature", 0) > 0):
        sampling = {"temperature": 0.0}
    return {
        "max_tokens": next((limit for limit in limits if limit is not None), _MAX_TOKENS),
        "stop": [stop for stop in ([until] if isinstance(until, str) else until) if stop],
        **sampling,
    }


@dataclass(frozen=True)
class Score:
    """One number of a task.

    Attributes
    ----------
    task : str
    metric : str
        For example ``"acc"``.
    filter : str
        How lm-eval reads answers before they are compared; ``"none"`` for log-likelihoods.
    value : float
    stderr : float or None
        Its standard error, where there is one.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None


@dataclass(frozen=True)
class EvaluationReport:
    """Results of an evaluation.

    Attributes
    ----------
    scores : sequence of Score
    samples : mapping of str to int
        Documents by task.
    versions : mapping of str to str
        Version of each task.
    lm_eval : str
        Version of lm-eval.
    """

    scores: Sequence[Score]
    samples: Mapping[str, int]
    versions: Mapping[str, str]
    lm_eval: str

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        names = ("task", "metric", "filter", "value", "stderr")
        scores = [{name: getattr(score, name) for name in names} for score in self.scores]
        return named(
            "eval",
            {
                "scores": scores,
                "samples": dict(self.samples),
                "versions": dict(self.versions),
                "lm_eval": self.lm_eval,
            },
        )


def evaluate(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    include: str | os.PathLike[str] | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    num_threads: int | None = None,
) -> EvaluationReport:
    """Run tasks of lm-eval.

    Parameters
    ----------
    model : LanguageModel
        With a tokenizer.
    tasks : sequence of str
        Names of tasks or groups, or patterns such as ``"mmlu_*"``.
    include : path-like, optional
        A folder with definitions of more tasks.
    num_fewshot : int, optional
        Examples before each question; by default as many as the task says.
    limit : int, optional
        Use the first documents of each task only.
    num_threads : int, optional
        Threads to use; the results are the same for every number.

    Raises
    ------
    ConfigError
        If a task is unknown, or asks for generation in a way that is not supported.
    StorageError
        If `include` is not a folder.
    TokenizerError
        If the model does not have a tokenizer.
    """
    if include is not None and not Path(include).is_dir():
        raise StorageError(f"{include}: expected a folder with definitions of tasks")
    adapter = RWKVLM(model, num_threads)
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown or not tasks:
        raise ConfigError(
            f"tasks: expected names of lm-eval's tasks, got {', '.join(unknown) or 'none'}; lm-eval ls tasks lists them"
        )
    results = lm_eval.simple_evaluate(
        model=adapter,
        tasks=manager.match_tasks(list(tasks)),
        num_fewshot=num_fewshot,
        limit=limit,
        task_manager=manager,
        log_samples=False,
        torch_random_seed=None,
    )
    return EvaluationReport(
        scores=[score for task, values in results["results"].items() for score in _scores(task, values)],
        samples={task: int(counts["effective"]) for task, counts in results.get("n-samples", {}).items()},
        versions={task: str(version) for task, version in results.get("versions", {}).items()},
        lm_eval=str(lm_eval.__version__),
    )


def _scores(task: str, values: Mapping[str, Any]) -> list[Score]:
    """Return the metrics of a task; lm-eval names them ``acc,none`` and their errors ``acc_stderr,none``."""
    scores = []
    for key, value in values.items():
        metric, comma, used = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = values.get(f"{metric}_stderr,{used}")
            number = stderr if isinstance(stderr, (int, float)) and np.isfinite(stderr) else None
            scores.append(Score(task, metric, used, float(value), None if number is None else float(number)))
    return scores
