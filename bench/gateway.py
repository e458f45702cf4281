"""Generation against the bare SDK and against a peer (litellm), all asking the same loopback API in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from bench.figures import Row
from bench.lab import lab
from claude_jobs.stores.gate import LEASE_MS

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".tools" / "peer"
PEER_PACKAGE = "litellm==1.101.0"
PROCESSES = 4


def run() -> list[Row]:
    with _api() as url:
        ours = _ours("path", url)
        peer = _peer(url)
        rows = [*_path(ours, peer), *_http(url), _same(url), *_flaky(_ours("flaky", url))]
        return [*rows, _zipf(_ours("zipf", url)), _quota(url)]


def _path(ours: dict[str, Any], peer: dict[str, Any]) -> list[Row]:
    added, peers = ours["serial"]["added_ms"], peer["serial"]["added_ms"]
    calls, peer_calls = ours["rate"]["openai"], peer["rate"]["openai"]
    rows = [
        Row(
            "added to one call by the whole path / by litellm",
            "≤ 1.0 ms, ≤ 0.33x",
            f"{added:.2f} ms, {added / peers:.2f}x (SDK {ours['serial']['bare_ms']:.2f}; litellm adds {peers:.2f})",
            added <= 1.0 and added * 3 <= peers,
        ),
        Row(
            "calls per second, 50 at once, one process / litellm",
            "≥ 2.5x",
            f"{calls / peer_calls:.1f}x ({calls:.0f} / {peer_calls:.0f})",
            calls >= 2.5 * peer_calls,
        ),
    ]
    for name, theirs in peer["events"].items():
        mine = ours["events"][name]
        measured = f"{mine / theirs:.1f}x ({mine:.0f} / {theirs:.0f})"
        rows.append(Row(f"stream events per second, {name} / litellm", "≥ 4x", measured, mine >= 4 * theirs))
    rows.append(Row("stream events per second, gemini", "reported", f"{ours['events']['gemini']:.0f}", True))
    rows.append(Row("cache hit in process", "≤ 0.4 ms", f"{ours['hit_ms']:.2f} ms", ours["hit_ms"] <= 0.4))
    return rows


def _http(url: str) -> list[Row]:
    """Through a real worker's HTTP, on kept-alive connections."""
    settings = {
        "OPENAI_BASE_URL": f"{url}/openai/v1",
        "OPENAI_API_KEY": "sk-rehearsal-1",
        "MAX_CONCURRENT_REQUESTS": "50",
    }
    with lab(tokens=1, **settings) as place:
        answer = cast("dict[str, Any]", place.client().call("http", {"port": 0}, 60))
        token = Path(answer["token_file"]).read_text().strip()
        place.settle()
        command = [sys.executable, "-m", "bench.gateway_http", answer["url"], token]
        figures = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return [
        Row("cache hit over HTTP", "≤ 3 ms", f"{figures['hit_ms']:.2f} ms", figures["hit_ms"] <= 3),
        Row(
            "our share of a request over HTTP, 50 at once, p95",
            "≤ 50 ms",
            f"{figures['share_p95_ms']:.0f} ms",
            figures["share_p95_ms"] <= 50,
        ),
    ]


def _quota(url: str) -> Row:
    """Eight processes on one quota; four are killed while they ask."""
    with tempfile.TemporaryDirectory() as home:
        processes = [_start("quota", url, home) for _ in range(8)]
        for process in processes:
            assert cast("IO[str]", process.stdout).readline().strip() == "ready"
        for process in processes:
            cast("IO[str]", process.stdin).write("go\n")
            cast("IO[str]", process.stdin).flush()
        for process in processes[:4]:
            cast("IO[str]", process.stdout).readline()  # it has got its first answers
            process.kill()
        for process in processes:
            process.communicate()
        time.sleep(LEASE_MS / 1_000 + 1)
        figures = json.loads(_start("counters", url, home).communicate()[0].splitlines()[-1])
    is_right = figures["held"] == 0 and figures["used"] == figures["settled"] <= figures["limit"]
    return Row(
        "8 processes x 200 calls on one quota, 4 killed with -9",
        "spent ≤ quota; counters = settled",
        f"{figures['used']:,} of {figures['limit']:,} used, {figures['settled']:,} settled, {figures['held']} held",
        is_right,
    )


def _same(url: str) -> Row:
    """Four processes on one home; the API counts what reaches it."""
    before = _asked(url, "the same")
    with tempfile.TemporaryDirectory() as home:
        processes = [_start("same", url, home) for _ in range(PROCESSES)]
        for process in processes:
            assert cast("IO[str]", process.stdout).readline().strip() == "ready"
        for process in processes:
            cast("IO[str]", process.stdin).write("go\n")
            cast("IO[str]", process.stdin).flush()
        for process in processes:
            process.communicate()
    calls = _asked(url, "the same") - before
    return Row("100 identical requests at once from 4 processes", "1 upstream call", f"{calls}", calls == 1)


def _flaky(figures: dict[str, Any]) -> list[Row]:
    slower = figures["around_ms"] / figures["healthy_ms"]
    return [
        Row(
            "a provider that fails 20 %, one fallback: errors seen",
            "< 1 %",
            f"{figures['error_rate']:.1%}",
            figures["error_rate"] < 0.01,
        ),
        Row(
            "provider down, circuit open: fallback / healthy call",
            "≤ 1.2x",
            f"{slower:.2f}x ({figures['around_ms']:.2f} / {figures['healthy_ms']:.2f} ms)",
            slower <= 1.2,
        ),
        Row(
            "recovery noticed (CIRCUIT_RECOVERY_TIMEOUT=3)",
            "< 5 s",
            f"{figures['recovered_s']:.1f} s",
            figures["recovered_s"] < 5,
        ),
    ]


def _zipf(figures: dict[str, Any]) -> Row:
    share = figures["hits"] / figures["ideal"]
    measured = f"{share:.3f}x ({figures['hits']} / {figures['ideal']} of 20,000)"
    return Row(
        "hits of a Zipf load (s=1.1, 5,000 prompts, cache of 1,000) / ideal LRU", "≥ 0.95x", measured, share >= 0.95
    )


@contextmanager
def _api() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.gateway_api"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield cast("IO[str]", process.stdout).readline().strip()
    finally:
        process.terminate()
        process.communicate()


def _asked(url: str, prompt: str) -> int:
    import httpx2

    requests = httpx2.get(f"{url}/rehearsal/requests").json()["requests"]
    return sum(one["prompt"].startswith(prompt) for one in requests)


def _start(what: str, url: str, home: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.gateway_ours", what, url, home]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ours(what: str, url: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        out, _ = _start(what, url, home).communicate()
        return json.loads(out.splitlines()[-1])


def _peer(url: str) -> dict[str, Any]:
    python = PEER / "bin" / "python"
    if not python.exists():
        venv.create(PEER, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER_PACKAGE], check=True)
    done = subprocess.run(
        [python, ROOT / "bench" / "gateway_peer.py", url],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT / "bench",
    )
    return json.loads(done.stdout.splitlines()[-1])
