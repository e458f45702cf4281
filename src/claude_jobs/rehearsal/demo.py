"""The jobs, the question and the script of the demo: one of three tokens meets its limit on the way, one request meets an overload,
and the first provider of the question is down. Data only."""

from __future__ import annotations

from dataclasses import replace

from claude_jobs.rehearsal.script import DEFAULT_TOKENS, Action, Fault, Quota, Rule, Script, ToolCall

DEMO_PROMPTS = (
    "Write a haiku about the sea into sea.txt",
    "Write a haiku about queues into queues.txt",
    "Write a haiku about patience into patience.txt",
    "Check with the shell which machine this is",
    "Explain in one sentence why a queue should be durable",
    "Write a haiku about rain into rain.txt",
    "Write a haiku about tokens into tokens.txt",
    "Check with the shell what day it is",
    "Explain in one sentence what a lease is",
    "Write a haiku about crashes into crashes.txt",
    "Write a haiku about resuming into resuming.txt",
    "Explain in one sentence why retries need jitter",
)

DEMO_QUESTION = "Why should a question have a second place to go?"
DEMO_PROVIDERS = ("openai", "grok")
"""Who is asked it, in this order; the first one fails. Both by one SDK, which takes its time to load."""

_HAIKU = Action(
    rounds=(
        (
            ToolCall(
                name="Write",
                input={
                    "file_path": "{cwd}/{file}",
                    "content": "{topic}, they said,\nnobody is really here:\nan echo writes this\n",
                },
            ),
        ),
    ),
    reply="The haiku about {topic} is in {file}.",
    delay_s=0.4,
    duration_s=1.0,
)
_CHECK = Action(
    rounds=((ToolCall(name="Bash", input={"command": "uname -sm; date +%A", "description": "Look"}),),),
    reply="Asked {what} it is, the shell says: {result}",
    delay_s=0.3,
    duration_s=0.8,
)

_QUESTION = r"second place to go"

DEMO_SCRIPT = Script(
    tokens=(
        replace(DEFAULT_TOKENS[0], utilization=0.22),
        replace(DEFAULT_TOKENS[1], quota=Quota(requests=3)),
        replace(DEFAULT_TOKENS[2], utilization=0.41),
    ),
    rules=(
        Rule(provider=DEMO_PROVIDERS[0], prompt=_QUESTION, action=Action(fault=Fault.SERVER_ERROR)),
        Rule(
            prompt=_QUESTION, action=Action(reply="Because the first one is down right now, and you have your answer.")
        ),
        Rule(prompt="about rain", times=1, action=Action(fault=Fault.OVERLOADED)),
        Rule(prompt=r"haiku about (?P<topic>.+) into (?P<file>[\w.-]+)", action=_HAIKU),
        Rule(prompt=r"Check with the shell (?P<what>which machine|what day)", action=_CHECK),
    ),
    default=Action(reply="Rehearsed, so without much thought: {prompt}? It depends.", duration_s=2.0),
)
