"""A loopback API that speaks the providers' wire formats from a script, for demos, tests and dry runs of a fan-out.

A prefix of the URL names the provider: /anthropic, /openai, /xai, /dashscope/compatible-mode, /gemini, /ollama;
without one it is Anthropic's, or what the path can only mean.

The first that matches decides the answer: a directive in the prompt in force, a rule of the script, the default.
A prompt stays in force over tool results, "Continue." and what Claude Code adds by itself, so over a resume too.

A directive is an action behind `rehearse:`, anywhere in the prompt:

    rehearse: {"tools": [{"name": "Bash", "input": {"command": "date"}}], "reply": "It is {result}", "duration_s": 2}
    rehearse: {"fault": "529", "times": 1, "reply": "second time lucky"}
    rehearse: {"fault": "usage_limit", "step": 1, "times": 1, "resets_in_s": 60, "tool": {"name": "Bash", "input": {}}}

A script is JSON; each key may be left out:

    {"tokens": [{"name": "one", "quota": {"requests": 5, "window": "five_hour", "resets_in_s": 60}},
                {"name": "two", "secret": "sk-ant-oat01-two", "always": "401", "utilization": 0.9}],
     "keys": [{"name": "k", "secret": "sk-k", "rate": {"requests": 60, "tokens": 100000, "per_s": 60}}],
     "rules": [{"when": {"prompt": "about (?P<what>[a-z]+)", "token": "one", "model": "opus", "request": 1, "overall": 4, "times": 1},
                "do": {"reply": "{what}: {prompt}", "delay_s": 1}}],
     "default": {"reply": "Rehearsed: {head}"}}

`script.py`, `figures.py` and `faults.py` say what each key means.
"""
