"""The store's admit with a long queue against a short one."""

from __future__ import annotations

from bench import admit
from bench.figures import Row, median, p95, ratio


def run() -> list[Row]:
    samples = admit.run()
    found = ratio(samples["value"], samples["baseline"])
    slow = p95(samples["value"])
    measured = (
        f"{found:.2f}x ({median(samples['value']):.2f} / {median(samples['baseline']):.2f} ms), p95 {slow:.2f} ms"
    )
    return [Row("`admit` with 100,000 ready jobs / with 1,000", "≤ 2x, p95 ≤ 5 ms", measured, found <= 2 and slow <= 5)]
