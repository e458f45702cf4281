"""`admit` with 1,000 and with 100,000 ready jobs, interleaved. Times in milliseconds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from claude_jobs.domain.job import JobSpec, Outcome, Submission
from claude_jobs.domain.token import TokenKind
from claude_jobs.policy.retry import Disposition
from claude_jobs.policy.transitions import Trigger
from claude_jobs.stores.base import AdmitRequest, Limits, SubmitRequest
from claude_jobs.stores.sqlite import SqliteStore, open_sqlite

SMALL, LARGE = 1_000, 100_000
PAIRS = 300
TOKENS = ("aaa", "bbb", "ccc")


def run() -> dict[str, list[float]]:
    """One job admitted at a time, and finished before the next, so that the queue is worked through."""
    with tempfile.TemporaryDirectory() as directory:
        small, large = filled(Path(directory) / "small", SMALL), filled(Path(directory) / "large", LARGE)
        pairs = [(admit_ms(small), admit_ms(large)) for _ in range(PAIRS)]
        small.close()
        large.close()
    return {"baseline": [pair[0] for pair in pairs], "value": [pair[1] for pair in pairs]}


def filled(directory: Path, jobs: int) -> SqliteStore:
    """A store with ready jobs of several kinds, single ones and batches of one at a time."""
    store = open_sqlite(directory)
    store.register_tokens([(token, token, TokenKind.OAUTH) for token in TOKENS], 0)
    for start in range(0, jobs, 500):
        items = tuple(_item(start + n) for n in range(500))
        batch_id = f"batch {start}" if start % 1_000 else ""
        store.submit(SubmitRequest(submissions=items, now_ms=start, batch_id=batch_id, max_parallel=1, queue_size=jobs))
    return store


def _item(n: int) -> Submission:
    spec = JobSpec(prompt=f"job {n}", model=("opus", "sonnet", "haiku")[n % 3], cwd="/")
    return Submission(spec=spec, offers=TOKENS, submitter="bench", pool="here", priority=n % 4)


def admit_ms(store: SqliteStore) -> float:
    """One admission of one job."""
    request = AdmitRequest(
        owner="bench", free=1, pools=("here",), held=frozenset(TOKENS), limits=Limits(), now_ms=10**9
    )
    begun = time.perf_counter()
    (grant,) = store.admit(request).grants
    took_ms = (time.perf_counter() - begun) * 1_000
    store.begin(grant.job.id, grant.epoch, None, 10**9)
    store.finish(grant.job.id, grant.epoch, Outcome(text="x"), Disposition(trigger=Trigger.SUCCEED), None, 10**9)
    return took_ms


def main() -> None:
    """Print both medians, the ratio and the 95th percentile."""
    for name, times in run().items():
        ordered = sorted(times)
        print(f"{name}: p50 {ordered[len(ordered) // 2]:.2f} ms, p95 {ordered[len(ordered) * 95 // 100]:.2f} ms")


if __name__ == "__main__":
    main()
