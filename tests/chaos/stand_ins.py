"""What runs in claude's place in a storm: a shell script for one job, or a program that holds conversations and may be started ahead."""

from __future__ import annotations

import sys
from pathlib import Path

KINDS = (
    *("quick", "quick", "plain", "plain", "slow", "leaves-a-child", "leaves-a-stranger", "crashes-once"),
    *("falls-silent-once", "always-fails", "tree-2", "tree-1"),
)
SPAWN = ("tree-1", "tree-2")
"""Kinds that need our server."""
SERVED = "served"
"""File in which a talker notes each conversation: "ahead" or "now", and the how manyeth of its process."""

ONE_JOB = r"""
once() {{ [ -e "{root}/$1.$CLAUDE_JOBS_JOB_ID" ] && return 1; touch "{root}/$1.$CLAUDE_JOBS_JOB_ID"; }}
case "$line" in *leaves-a-child*) setsid sleep 600 & ;; esac
case "$line" in *leaves-a-stranger*) ( env -i setsid sleep {stranger_s} & ) ;; esac
case "$line" in *slow*) sleep 0.7;; *quick*) ;; *) sleep 0.15;; esac
case "$line" in *crashes-once*) once crashed && exit 3;; esac
case "$line" in *falls-silent-once*) once silent && sleep 600;; esac
case "$line" in *always-fails*)
    echo '{{"type":"result","subtype":"success","is_error":true,"result":"API Error: 400","api_error_status":400}}'
    exit 1;;
esac
case "$line" in
    *tree-2*) claude-jobs spawn --wait "tree-1 below $CLAUDE_JOBS_JOB_ID" > /dev/null 2>&1;;
    *tree-1*) claude-jobs spawn "quick leaf below $CLAUDE_JOBS_JOB_ID" > /dev/null 2>&1;;
esac
"""

# Speaks as the CLI does (tests/runner/warm_support.py): its version makes it one that is started ahead.
TALKER = """#!{python} -SE
import hashlib, json, os, subprocess, sys, time, uuid
if sys.argv[1:2] == ["--version"]: print("9.9.9 (stand-in)"); sys.exit()
if sys.argv[1:2] == ["auth"]: print('{{"loggedIn":false}}'); sys.exit(1)
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
job = os.environ.get("CLAUDE_JOBS_JOB_ID", "")
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
def once(what, text):
    name = "{root}/" + what + "." + hashlib.sha256(text.encode()).hexdigest()[:16]
    if os.path.exists(name): return False
    return not open(name, "x").close()
def work(text):
    if "leaves-a-child" in text: subprocess.Popen(["setsid", "sleep", "600"], **quiet)
    if "leaves-a-stranger" in text: subprocess.run(["sh", "-c", "env -i setsid sleep {stranger_s} &"], **quiet)
    time.sleep(0.7 if "slow" in text else 0 if "quick" in text else 0.15)
    if "crashes-once" in text and once("crashed", text): sys.exit(3)
    if "falls-silent-once" in text and once("silent", text): time.sleep(600)
    if "always-fails" in text:
        say(type="result", subtype="success", is_error=True, result="API Error: 400", api_error_status=400)
        sys.exit(1)
    if "tree-2" in text: subprocess.run(["claude-jobs", "spawn", "--wait", "tree-1 below " + job], **quiet)
    elif "tree-1" in text: subprocess.run(["claude-jobs", "spawn", "quick leaf below " + job], **quiet)
session = next((word.partition("=")[2] for word in sys.argv if word.startswith("--session-id=")), "s")
start, held = "now", 0
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "control_request":
        if message["request"].get("subtype") == "apply_flag_settings": start = "ahead"
        say(type="control_response", response={{"subtype": "success", "request_id": message["request_id"]}})
    if message["type"] != "user": continue
    text = message["message"]["content"]
    if text == "/clear":
        say(type="conversation_reset", new_conversation_id="x")
        session = str(uuid.uuid4())
        say(type="system", subtype="init", session_id=session, model="m", tools=["Bash"])
        say(type="result", subtype="success", is_error=False, result="", total_cost_usd=0)
        continue
    held += 1
    with open("{root}/{served}", "a") as file: file.write(start + " " + str(held) + "\\n")
    say(type="system", subtype="init", session_id=session, model="m", tools=["Bash"], claude_code_version="9.9.9")
    work(str(text))
    say(type="result", subtype="success", is_error=False, result="done", total_cost_usd=0.01 * held, num_turns=1)
"""


def talker(root: Path, stranger_s: str) -> Path:
    """A program that holds one conversation after another, as a warm claude does."""
    path = root / "talker"
    path.write_text(TALKER.format(python=sys.executable, root=root, served=SERVED, stranger_s=stranger_s))
    path.chmod(0o755)
    return path


def served(root: Path) -> tuple[int, int]:
    """Conversations that a talker held in a process that had held one before; and in one that was started ahead."""
    try:
        lines = [line.split() for line in (root / SERVED).read_text().splitlines()]
    except OSError:
        return 0, 0
    return sum(int(held) > 1 for _, held in lines), sum(start == "ahead" for start, _ in lines)
